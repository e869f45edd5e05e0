"""Words from facts: what is wrong with a face, as artifacts (AD) and as answers to questions (FC).

`facts` are typed, `sentences` words one of them, and `known` holds all that may be said about a face. `intent` reads
what a question asks for, from the words that `named` and `put` find in it too. `answers` answers it from what is known,
with `parts` for regions, `beside` for what is not about the face, and `phrases` that they share.
"""
