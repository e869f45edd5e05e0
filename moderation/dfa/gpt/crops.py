"""The model's input: face crops, and a picture that is ready for the model. No model is known here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from moderation.analysis import Face, FaceAnalysis, PictureFacts


@dataclass(frozen=True)
class FaceCrop:
    """One face, cropped for the model."""

    face: Face
    pixels: np.ndarray  # (S, S, 3) uint8 RGB
    #: Ask only DF-D: deepfake or not.
    verdict_only: bool = False
    #: (S, S) bool: pixels that were replaced. A tower of patches does not look at them. None: it looks at everything.
    hidden: np.ndarray | None = None


@dataclass(frozen=True)
class Prepared:
    """A picture on its way to the model."""

    facts: PictureFacts
    crops: tuple[FaceCrop, ...]
    #: Faces that the model is not asked about, with the reason.
    judged: tuple[FaceAnalysis, ...] = ()
    #: Seconds spent: decode, faces, crop.
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    #: From the picture: see `pixels.Picture`.
    evidence: object = None
    renditions: object = None
