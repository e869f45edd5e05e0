"""What a model is asked, and how its score is read. It loads no model: a process without one starts quickly."""

from dataclasses import dataclass

from moderation.dfa.gpt.scoring import Normalisation


@dataclass(frozen=True)
class Policy:
    """What the model is asked, and how its score is read. Every field can change an analysis: see `fingerprint`."""

    #: Ask DF-C, ask AD. With neither, only DF-D is asked and nothing is generated.
    technique: bool = True
    rationale: bool = True
    #: In [0, 1]: a face with a lower score leaves after DF-D, without technique or rationale.
    early_exit: float = 0.3
    #: In [0, 1]: the score where deepfake begins. None: the zone of the bundle's calibration, or 0.5 without one.
    threshold: float | None = None
    #: In [0, 1]: UNDETERMINED when the score is closer to the threshold than this. Not used with a calibration's zone.
    band: float = 0.02
    #: In [0, 1]: UNDETERMINED when P(Yes) + P(No) is lower: the model was not answering the question.
    minimum_mass: float = 0.5
    normalisation: Normalisation = Normalisation.MEAN
    #: Tokens of a rationale.
    max_new_tokens: int = 120
    #: Compute the decoder's products in eight bits. This changes scores: calibrate again.
    float8: bool = False
    #: Most faces judged in one picture, largest first. All faces found are counted.
    max_faces: int = 32
