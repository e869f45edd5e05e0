"""What the settings say about the model, for all who load one: workers, and commands that run it in process."""

from moderation.dfa.gpt.pixels import PixelLimits
from moderation.dfa.gpt.policy import Policy
from moderation.settings import Settings


def policy_of(settings: Settings) -> Policy:
    """What the model is asked and how its score is read. All use it, so that a bundle has one fingerprint."""
    return Policy(
        early_exit=settings.early_exit,
        threshold=settings.threshold,
        band=settings.band,
        float8=settings.float8,
        max_faces=settings.faces_at_most,
    )


def limits_of(settings: Settings) -> PixelLimits:
    """The limits within which pictures are decoded."""
    return PixelLimits(
        max_bytes=settings.image_max_bytes, max_pixels=settings.image_max_pixels, heic=settings.image_heic
    )
