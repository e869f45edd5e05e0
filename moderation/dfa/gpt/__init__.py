"""DFA-GPT: pictures in, analyses out."""
