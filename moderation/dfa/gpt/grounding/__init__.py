"""Words from facts: what is wrong with a face, as artifacts (AD) and as answers to questions (FC).

`facts` are typed, `sentences` words one of them, `answers` answers a question from all that is known of a face, and
`intent` reads what a question asks for, with what `named` finds in its words.
"""
