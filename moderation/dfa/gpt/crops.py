"""What goes into the model: face crops, and a picture that is ready to be asked about. No model is known here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from moderation.analysis import Face, FaceAnalysis, PictureFacts


@dataclass(frozen=True)
class FaceCrop:
    """One face, cut out for the model."""

    face: Face
    pixels: np.ndarray  # (S, S, 3) uint8 RGB
    #: Ask whether it is a deepfake and nothing else.
    verdict_only: bool = False


@dataclass(frozen=True)
class Prepared:
    """A picture on its way to the model."""

    facts: PictureFacts
    crops: tuple[FaceCrop, ...]
    #: Faces that nobody could judge, with the reason.
    judged: tuple[FaceAnalysis, ...] = ()
    #: Seconds spent: decode, faces, crop.
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    #: As they came with the picture: see `pixels.Picture`.
    evidence: object = None
    renditions: object = None
