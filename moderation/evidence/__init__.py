"""Evidence: facts about a picture that do not come from the model. They stand beside the verdict, never in its score.

    words        what a fact is, and what facts say together
    sentences    facts as a reviewer, a platform and a statement of reasons read them
    gather       bytes and pixels to facts; runs where pictures are decoded, in a process that may be killed
    rows         facts in the database
    pdq          pixels to what a picture looks like (`moderation.likeness`)
    related      other cases, and lists, whose pictures look alike
    hash_lists   such lists as files
    certify      how far the model may be trusted, from blind judgements: arithmetic
    zones        certificates in the database: their labels, what they do, their audit
    drift, watch whether a source's pictures changed: arithmetic, and the numbers it is about

Nothing that the web imports from here (`words`, `sentences`, `rows`, `related`, `zones`) needs NumPy or a parser of
pictures.
"""
