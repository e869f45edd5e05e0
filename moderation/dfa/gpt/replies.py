"""The model's artifact descriptions, read into typed values.

The form is the paper's: a numbered list; each line has a bold region, a colon and one sentence. This module decides no
verdict and searches no sentence for words such as "real", which "unreal" contains too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moderation.analysis import Artifact, Region
from moderation.dfa.gpt.claims import claims, is_plain, parts_named, sharpness_claimed, verdict_stated

_LINE = re.compile(
    r"""^\s*
    (?:\(?\d{1,2}[.):]\)?\s+|[-*•–]\s+)?          # an optional number or bullet
    (?P<bold>\*\*|__)?\s*
    (?P<heading>[^:*_.\n]{1,60}?)
    \s*(?::\s*(?(bold)(?:\*\*|__))|(?(bold)(?:\*\*|__))\s*:)   # the colon inside or after the bold
    \s*(?P<text>\S.*?)\s*$""",
    re.VERBOSE,
)
_NONE = re.compile(
    r"^\s*(?:there are|there're|i see|i can see)?\s*no (?:visible |evident )?artifacts?\b[^:]{0,60}$", re.I
)

#: Words of a heading and the regions they name. They match whole words: "early" names no ear.
_WORDS: Mapping[str, Region] = {
    word: region
    for region, words in {
        Region.FOREHEAD: "forehead brow",
        Region.HAIRLINE: "hairline hair",
        Region.EYES: "eye eyes eyebrow eyebrows eyelid eyelids eyelashes iris irises pupil pupils gaze",
        Region.NOSE: "nose nostril nostrils",
        Region.CHEEKS: "cheek cheeks cheekbones",
        Region.MOUTH: "mouth lip lips teeth tooth smile",
        Region.JAWLINE: "jaw jawline chin",
        Region.FACE_BOUNDARY: "boundary boundaries contour outline edge edges seam",
        Region.SKIN: "skin texture complexion wrinkles",
        Region.EARS: "ear ears earring earrings",
        Region.NECK: "neck throat",
        Region.BACKGROUND: "background surroundings",
        Region.LIGHTING: "lighting light shadow shadows illumination color colour",
    }.items()
    for word in words.split()
}


@dataclass(frozen=True)
class Reply:
    """A readable AD reply."""

    #: Empty when the model wrote that there are no artifacts.
    artifacts: tuple[Artifact, ...]


def read_reply(text: str, *, complete: bool = True) -> Reply | None:
    """The artifacts of a reply, without polygons. None when it cannot be read.

    Every line must be an artifact; the first line may introduce the list instead. An incomplete reply loses its last
    line, which may be half a sentence, unless it is the only line.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if _NONE.match(text.strip()):
        return Reply(())
    read = [_artifact(line) for line in lines]
    if read[0] is None and lines[0].endswith(":") and len(lines) > 1:
        read = read[1:]
    if not complete and len(read) > 1:
        read = read[:-1]
    artifacts = [artifact for artifact in read if artifact is not None]
    if not artifacts or len(artifacts) < len(read):
        return None
    return Reply(tuple(dict.fromkeys(artifacts)))  # without repeats


def _artifact(line: str) -> Artifact | None:
    match = _LINE.match(line)
    if match is None:
        return None
    heading = match["heading"].strip()
    return Artifact(heading=heading, text=match["text"], regions=regions_of(heading))


def regions_of(heading: str) -> tuple[Region, ...]:
    """The regions that a heading names, in its order: "Cheek and Jawline" -> cheeks, jawline. UNMAPPED when none.

    "Face" and "Overall" name no region. "Skin texture of the nose" names two; both are shown.
    """
    words = re.findall(r"[a-z]+", heading.lower())
    named = dict.fromkeys(_WORDS[word] for word in words if word in _WORDS)
    return tuple(named) or (Region.UNMAPPED,)


# --- the artifacts that may be shown ---

#: Regions that a text may name besides its own: surfaces that every part has, and bordering parts.
_EVERYWHERE = frozenset(
    {Region.SKIN, Region.LIGHTING, Region.BACKGROUND, Region.FACE_BOUNDARY, Region.UNMAPPED}
)
_BORDERS: Mapping[Region, frozenset[Region]] = {
    Region.FACE_BOUNDARY: frozenset(
        {Region.FOREHEAD, Region.HAIRLINE, Region.CHEEKS, Region.JAWLINE, Region.EARS, Region.NECK}
    ),
    Region.HAIRLINE: frozenset({Region.FOREHEAD}),
    # Artifacts of these regions may show in every part.
    **{region: frozenset(Region) for region in _EVERYWHERE - {Region.FACE_BOUNDARY}},
}


@dataclass(frozen=True)
class Sound:
    """The artifacts of one face that may be shown, and the number of those left out."""

    artifacts: tuple[Artifact, ...]
    dropped: int


def sound(artifacts: Sequence[Artifact]) -> Sound:
    """Leave out artifacts that a reviewer could not rely on.

    These are: text with markup, a text about another region than its heading names, a text that finds nothing or calls
    the face bona fide, a region named before, and a contradiction of an earlier artifact.
    """
    kept: list[Artifact] = []
    for artifact in artifacts:
        if _about_itself(artifact) and not any(_clash(artifact, other) for other in kept):
            kept.append(artifact)
    return Sound(tuple(kept), len(artifacts) - len(kept))


def _about_itself(artifact: Artifact) -> bool:
    own = frozenset(artifact.regions)
    allowed = own.union(_EVERYWHERE, *(_BORDERS.get(region, frozenset[Region]()) for region in own))
    made = claims(artifact.text)
    denied = any(claim.finds is False for claim in made) and not any(claim.finds for claim in made)
    return (
        is_plain(artifact.text)
        and parts_named(artifact.text) <= allowed
        and not denied
        and verdict_stated(artifact.text) is not False
    )


def _clash(artifact: Artifact, other: Artifact) -> bool:
    """True for the same region twice, or when one is sharper than outside the seam and the other softer."""
    if set(artifact.regions) & set(other.regions):
        return True
    sides = sharpness_claimed(artifact.text), sharpness_claimed(other.text)
    outside = all(re.search(r"\b(?:in|out)side\b", text, re.I) for text in (artifact.text, other.text))
    return outside and sides in {(1, -1), (-1, 1)}
