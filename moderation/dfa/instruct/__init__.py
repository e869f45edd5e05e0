"""DFA-Instruct: from bona fide faces and labelled pictures to conversations a model can learn from."""
