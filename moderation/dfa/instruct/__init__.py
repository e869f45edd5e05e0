"""DFA-Instruct: from bona fide faces and labelled pictures to training conversations."""
