"""What may be said about one face, and what a question about it asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moderation.analysis import Effect, FaceAnalysis, Label, Region, Technique, Verdict, shorter_side
from moderation.dfa.gpt.grounding.facts import MOST_ARTIFACTS, Kind, Touch
from moderation.dfa.gpt.grounding.sentences import Noun, touch_of, worded
from moderation.dfa.gpt.prompts import PromptSet


@dataclass(frozen=True)
class Unjudged:
    """Something that a person sees and the model does not judge by itself."""

    #: As the question calls it.
    word: str
    #: A detail on the face, such as a mole; otherwise something worn or beside the face.
    on_face: bool


@dataclass(frozen=True)
class Question:
    """One question, and everything that its answer depends on."""

    text: str
    #: Its table in the grammar: "region", "verdict", "who" …
    family: str
    #: The kind of question within its family, which decides the kind of answer: "natural", "forged", "open" …
    form: str
    #: Index of its wording within the form. Questions with the same wording get the same answer.
    wording: int
    region: Region | None = None
    #: The question's name for the region.
    noun: Noun | None = None
    #: The other regions of a comparison, and their names.
    others: tuple[tuple[Region, Noun], ...] = ()
    #: The technique that the question names, in the families of techniques.
    technique: Technique | None = None
    #: The second technique of a comparison.
    second_technique: Technique | None = None
    #: It was read with little certainty.
    unsure: bool = False
    #: The first thing that it names and that is never judged.
    unjudged: Unjudged | None = None
    #: What it asks for and the model never measures, in words: "how parts line up".
    unmeasured: str | None = None
    #: It asks about colours.
    colours: bool = False
    #: It asks which of two, or what or why, or has a "not": a yes or a no would say something else.
    sideless: bool = False


@dataclass(frozen=True)
class Shown:
    """One artifact and its sentence."""

    touch: Touch
    sentence: str
    #: What the score is without the region. None when that was not measured.
    effect: Effect | None = None


@dataclass(frozen=True)
class Known:
    """What may be said about one face."""

    deepfake: bool | None  # None when undecided
    technique: Technique | None  # None unless a deepfake of a known technique
    #: The named artifacts, in order. None when the changes are unknown, or the face is undecided; empty when bona fide.
    artifacts: tuple[Shown, ...] | None
    #: Touched regions that are not among the artifacts. No question asks about them.
    untold: frozenset[Region] = frozenset()
    #: In [0, 1], as reviewers see it. None when it is not known.
    score: float | None = None
    #: The score was fitted on labelled pictures: among such it is a probability.
    calibrated: bool = False
    #: Share of each technique, summing to 1. None when it is not known.
    shares: Mapping[Technique, float] | None = None
    #: Why it is undecided, in words. None when it is not, or when that is not known.
    why_undecided: str | None = None
    #: Below the first score a face is bona fide, from the second on a deepfake. None when that is not known.
    zone: tuple[float, float] | None = None
    #: Pixels of the face's shorter side in the picture. None when no face was searched for.
    size: int | None = None
    #: Where the map of foreign patches is highest. None when there is no map.
    highest: tuple[Region, ...] | None = None

    @property
    def whole(self) -> bool:
        """True when the whole picture is synthesised: no region is special."""
        named = {shown.touch.region for shown in self.artifacts or ()}
        return bool(self.deepfake) and (
            named == {Region.UNMAPPED} or (not named and self.technique is Technique.EFS)
        )

    @property
    def regional(self) -> bool:
        """True for a deepfake with artifacts in single regions."""
        return bool(self.deepfake) and bool(self.artifacts) and not self.whole


def artifacts(facts: Sequence[Touch], prompts: PromptSet) -> list[tuple[str, str]]:
    """(heading, sentence) for each touched region once: seams first, then by strength, at most `MOST_ARTIFACTS`."""
    named = named_touches(facts)
    return [(prompts.headings[touch.region][0], worded(touch, named)) for touch in named]


def named_touches(facts: Sequence[Touch]) -> list[Touch]:
    """The changes that an answer names, in its order."""
    strongest: dict[Region, Touch] = {}
    for touch in sorted(facts, key=lambda touch: (touch.kind is not Kind.SEAM, -touch.strength)):
        strongest.setdefault(touch.region, touch)
    return list(strongest.values())[:MOST_ARTIFACTS]


def description(facts: Sequence[Touch], prompts: PromptSet) -> str:
    """The AD answer."""
    return prompts.artifacts_answer(artifacts(facts, prompts))


def known_from(face: FaceAnalysis, zone: tuple[float, float] | None = None) -> Known | None:
    """What an analysis allows to say about its face. None when an artifact is in other words than `sentences`.

    Scores within `zone` decide nothing. It is not told when the verdict was made by another one.
    """
    verdict, searched = face.verdict, face.face.landmarks is not None
    decided = verdict.label is not Label.UNDETERMINED
    shown: list[Shown] = []
    for artifact in face.rationale if decided else ():
        touch = touch_of(artifact.regions, artifact.text)
        if touch is None:
            return None
        shown.append(Shown(touch, artifact.text, artifact.effect))
    deepfake = verdict.label is Label.DEEPFAKE if decided else None
    return Known(
        deepfake,
        verdict.technique,
        tuple(shown) if shown or deepfake is False else None,
        score=verdict.score,
        calibrated=verdict.calibrated,
        shares=verdict.technique_scores if decided else None,
        why_undecided=verdict.abstain.words if verdict.abstain else None,
        zone=zone if zone and _made_by(zone, verdict) else None,
        size=round(shorter_side(face.face)) if searched else None,
        highest=face.foreign and face.foreign.highest,
    )


def _made_by(zone: tuple[float, float], verdict: Verdict) -> bool:
    """Whether the verdict is the one that its score has with this zone.

    A bundle since then may have another, and a face that is unlike the training is undecided at any score.
    """
    score, (low, high) = verdict.score, zone
    if score is None:
        return False
    match verdict.label:
        case Label.DEEPFAKE:
            return score >= high
        case Label.BONA_FIDE:
            return score <= low
        case _:
            return low < score < high


def known(*, deepfake: bool, technique: Technique | None, facts: Sequence[Touch] | None) -> Known:
    """What a conversation may say about a face."""
    if facts is None:
        return Known(deepfake, technique, None)
    named = named_touches(facts)
    shown = tuple(Shown(touch, worded(touch, named)) for touch in named)
    return Known(deepfake, technique, shown, frozenset(touch.region for touch in facts if touch not in named))
