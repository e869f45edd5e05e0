"""Suggested questions beside the box: those that the model answers well, chosen by what it said of the face.

Each is, word for word, a question that the model learnt to answer (`dfa/instruct/questions.toml`). A test checks this.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from moderation.analysis import FaceAnalysis, Label, Region, Technique

#: Suggestions at most.
AT_MOST = 6


@dataclass(frozen=True)
class Suggestion:
    question: str
    #: The short text on its button.
    short: str


WHY = Suggestion("Why do you say so?", "Why?")
SURE = Suggestion("How sure are you?", "How sure?")
MOST = Suggestion("What stands out most?", "What stands out?")
USER = Suggestion("What should I tell the user?", "What to tell the user?")
#: Questions about a face without a verdict: nothing can be said of its parts.
UNDECIDED = (
    SURE,
    Suggestion("What is the score?", "The score?"),
    Suggestion("What would change your mind?", "What would help?"),
    Suggestion("What other checks do you suggest?", "What to check?"),
    Suggestion("What are your limits?", "Your limits?"),
    USER,
)

#: Questions whether a part is sound, for parts without a listed artifact.
SOUND: Mapping[Region, Suggestion] = {
    Region.EYES: Suggestion("Do the eyes look natural?", "The eyes?"),
    Region.MOUTH: Suggestion("Does the mouth look natural?", "The mouth?"),
    Region.SKIN: Suggestion("Does the skin look natural?", "The skin?"),
    Region.FACE_BOUNDARY: Suggestion("Is the edge of the face clean?", "The edge?"),
    Region.LIGHTING: Suggestion("Is the light natural?", "The light?"),
}

#: Questions what is wrong with a part, for parts with a listed artifact. There is none for the whole picture.
WRONG: Mapping[Region, Suggestion] = {
    **{
        region: Suggestion(f"What is wrong with the {word}?", f"The {word}: what is wrong?")
        for region, word in (
            (Region.FOREHEAD, "forehead"),
            (Region.HAIRLINE, "hairline"),
            (Region.EYES, "eyes"),
            (Region.NOSE, "nose"),
            (Region.CHEEKS, "cheeks"),
            (Region.MOUTH, "mouth"),
            (Region.JAWLINE, "jaw"),
            (Region.EARS, "ears"),
            (Region.NECK, "neck"),
            (Region.BACKGROUND, "background"),
        )
    },
    Region.FACE_BOUNDARY: Suggestion("Is there a visible seam around the face?", "A seam?"),
    Region.SKIN: Suggestion("Is anything wrong with the skin?", "The skin: what is wrong?"),
    Region.LIGHTING: Suggestion("Is anything wrong with the light?", "The light: what is wrong?"),
}

MEANT: Mapping[Technique, Suggestion] = {
    technique: Suggestion(f"What does {technique.words} mean?", f"{technique.words.capitalize()}?")
    for technique in Technique
}


def suggestions(face: FaceAnalysis) -> tuple[Suggestion, ...]:
    """Suggestions about a judged face.

    A bona fide face gets no question about artifacts. For a deepfake the listed parts come first.
    """
    if face.verdict.label is Label.UNDETERMINED:
        return UNDECIDED
    if face.verdict.label is Label.BONA_FIDE:
        return (WHY, SURE, SOUND[Region.EYES], SOUND[Region.MOUTH], SOUND[Region.SKIN], USER)
    return (*_of_deepfake(face)[: AT_MOST - 1], USER)


def _of_deepfake(face: FaceAnalysis) -> tuple[Suggestion, ...]:
    listed = dict.fromkeys(region for artifact in face.rationale for region in artifact.regions)
    wrong = [WRONG[region] for region in listed if region in WRONG][:2]
    sound = [asked for region, asked in SOUND.items() if wrong and region not in listed][:1]
    technique = face.verdict.technique
    meant = [] if technique is None else [MEANT[technique]]
    return (*wrong, *([MOST] if len(wrong) > 1 else []), WHY, *meant, *sound, SURE)
