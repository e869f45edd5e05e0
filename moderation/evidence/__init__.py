"""Evidence: facts about a picture that do not come from the model. They stand beside the verdict, never in its score.

    words        what a fact is, and what facts say together
    sentences    facts as a reviewer, a platform and a statement of reasons read them
    gather       bytes and pixels to facts; runs where pictures are decoded, in a process that may be killed
    rows         facts in the database

Nothing that the web imports from here (`words`, `sentences`, `rows`) needs NumPy or a parser of pictures.
"""
