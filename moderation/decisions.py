"""What a person says about a case. Models give verdicts; only people make decisions."""

import enum


class Outcome(enum.StrEnum):
    DEEPFAKE = "deepfake"
    BONA_FIDE = "bona_fide"
    #: A person looked and cannot tell. That is an answer.
    CANNOT_TELL = "cannot_tell"
    #: Somebody with more authority or knowledge should look.
    ESCALATE = "escalate"
