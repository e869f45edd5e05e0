"""The paper's three parts (arXiv 2501.01164): the model, its data, its score. No queue, database or bucket is known."""
