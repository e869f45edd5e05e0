"""What the settings say about the model, for whoever loads one: workers, and the commands that ask it in process."""

from moderation.dfa.gpt.detector import Policy
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
