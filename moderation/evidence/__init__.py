"""Evidence: facts about a picture that do not come from the model. They stand beside the verdict, not in its score.

    words        what a fact is, and what facts say together
    sentences    facts in words for reviewers, platforms and statements of reasons
    gather       bytes and pixels to facts; runs in the child process that decodes pictures
    rows         facts in the database
    pdq          pixels to hashes of a picture's likeness (`moderation.likeness`)
    related      other cases and lists with similar pictures
    hash_lists   these lists as files
    certify      how far the model can be trusted, computed from blind judgements
    zones        certificates in the database: their labels, what they do, their audit
    drift, watch whether a source's pictures changed: the computation, and its numbers

The modules that the web imports (`words`, `sentences`, `rows`, `related`, `zones`) need neither NumPy nor a parser of
pictures.
"""
