"""Training: the small base end to end, and the paper's LoRA recipe on any LLaVA-layout base."""
