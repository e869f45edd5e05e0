"""What the settings say about the model, for whoever loads one: workers, and the commands that ask it in process."""

from moderation.dfa.gpt.detector import Policy
from moderation.dfa.gpt.pixels import PixelLimits
from moderation.settings import Settings


def policy_of(chosen: Settings) -> Policy:
    """What is asked and how its score is read. The same for all, so that a bundle has one fingerprint everywhere."""
    return Policy(
        early_exit=chosen.early_exit,
        threshold=chosen.threshold,
        band=chosen.band,
        float8=chosen.float8,
        max_faces=chosen.faces_at_most,
    )


def limits_of(chosen: Settings) -> PixelLimits:
    """What of a picture is decoded, and what is refused before."""
    return PixelLimits(
        max_bytes=chosen.image_max_bytes, max_pixels=chosen.image_max_pixels, heic=chosen.image_heic
    )
