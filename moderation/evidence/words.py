"""What a fact is: where a picture says it comes from, and what its file and its pixels show.

A fact is never a verdict and changes no score. Whoever made the file may have written it: each says how strong it is.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moderation.analysis import Label, Verdict
from moderation.likeness import ENOUGH_QUALITY, Likeness, from_hex, to_hex

#: Raised when the same bytes can give other facts. Part of what `gatherer` says.
VERSION = 2

#: What a fact may hold: one value, or a few words.
Value = str | int | float | bool | tuple[str, ...]

#: Characters of one text from a file that are kept, and texts of one list.
LONGEST_TEXT, LONGEST_LIST = 200, 20
#: Values in one fact, and facts about one picture. More than we ever make: what a child says is not believed.
_MOST_VALUES, _MOST_FACTS = 24, 40


class Kind(enum.StrEnum):
    """What a fact is about. A kind that is not among the facts was looked for and not found."""

    #: A C2PA manifest: who signed what about the picture.
    CONTENT_CREDENTIALS = "content_credentials"
    #: The IPTC digital source type in XMP.
    SOURCE_TYPE = "source_type"
    #: Settings of an image generator in a text chunk, EXIF or XMP.
    GENERATOR = "generator"
    #: EXIF make, model and time.
    CAMERA = "camera"
    #: Programs named by EXIF, XMP or PNG.
    SOFTWARE = "software"
    #: XMP's list of what was done to the file.
    HISTORY = "history"
    #: The file holds a place or names of people. Which, only where the installation keeps them.
    PERSONAL = "personal"
    #: The small picture inside the file.
    THUMBNAIL = "thumbnail"
    #: JPEG: tables, estimated quality, whose encoder.
    JPEG = "jpeg"
    #: Signs that it was a JPEG of another quality before.
    RECOMPRESSION = "recompression"
    #: Signs that its pixels were enlarged.
    RESAMPLING = "resampling"
    #: A size that a known platform gives to what is uploaded there, or that generators make.
    PLATFORM = "platform"
    #: A list that somebody imported holds a picture that looks like this one. From the database, never from a child.
    KNOWN_PICTURE = "known_picture"
    #: Looking for evidence failed or took too long. The picture itself was decoded.
    GATHERING = "gathering"


class Status(enum.StrEnum):
    FOUND = "found"
    #: It is there, and cannot be read.
    UNREADABLE = "unreadable"


class Strength(enum.StrEnum):
    """What a fact is worth."""

    #: Signed by somebody on the installation's trust list.
    CRYPTOGRAPHIC = "cryptographic"
    #: Anybody who held the file could have written it.
    DECLARED = "declared"
    #: Something does not fit together. Ordinary tools do that too.
    ANOMALY = "anomaly"
    #: For whoever looks; it points nowhere by itself.
    CONTEXT = "context"


class Origin(enum.StrEnum):
    """What a fact says the picture is."""

    SYNTHETIC = "synthetic"
    CAPTURED = "captured"


@dataclass(frozen=True)
class Fact:
    kind: Kind
    strength: Strength
    #: By names that `sentences` knows. Texts are the file's own, cut short.
    data: Mapping[str, Value] = field(default_factory=dict[str, Value])
    points_to: Origin | None = None  # None: to neither
    status: Status = Status.FOUND


@dataclass(frozen=True)
class Evidence:
    """All that was found beside the pixels of one picture, by one version of the code and one trust list."""

    facts: tuple[Fact, ...] = ()
    #: CPU seconds spent on it.
    seconds: float = 0.0
    #: What the picture looks like. It is no fact: it is stored where it is searched. None: there is too little in it.
    likeness: Likeness | None = None

    def fact(self, kind: Kind) -> Fact | None:
        return next((fact for fact in self.facts if fact.kind is kind), None)


#: The facts from the strongest to the weakest.
_WEIGHT = {
    Strength.CRYPTOGRAPHIC: 0,
    Strength.DECLARED: 1,
    Strength.ANOMALY: 2,
    Strength.CONTEXT: 3,
}


def ordered(facts: Sequence[Fact]) -> list[Fact]:
    """The strongest first, and what says synthetic before what says captured."""
    kinds = list(Kind)
    return sorted(
        facts,
        key=lambda fact: (
            _WEIGHT[fact.strength],
            fact.points_to is not Origin.SYNTHETIC,
            kinds.index(fact.kind),
        ),
    )


def declared(evidence: Evidence) -> Fact | None:
    """The fact by which the picture is declared synthetic or captured: the strongest. None: nothing says so."""
    pointing = [
        fact
        for fact in ordered(evidence.facts)
        if fact.points_to is not None and fact.strength in (Strength.CRYPTOGRAPHIC, Strength.DECLARED)
    ]
    return pointing[0] if pointing else None


def conflicts(origin: Origin | None, strength: Strength | None, label: Label | None) -> bool:
    """Whether what the picture is declared to be and what the model says of it do not fit: a person should look soon.

    Declared AI-made and called bona fide, whoever declares it. Signed as captured, by somebody on the trust list, and
    called a deepfake: unsigned words that it was captured are worth nothing here.
    """
    if origin is Origin.SYNTHETIC:
        return label is Label.BONA_FIDE
    signed = origin is Origin.CAPTURED and strength is Strength.CRYPTOGRAPHIC
    return signed and label is Label.DEEPFAKE


def contradicts(evidence: Evidence, verdict: Verdict | None) -> bool:
    """`conflicts`, for what was gathered."""
    strongest = declared(evidence)
    if strongest is None or verdict is None:
        return False
    return conflicts(strongest.points_to, strongest.strength, verdict.label)


# --- as JSON: from the child that decoded, and in the database


def evidence_json(evidence: Evidence) -> dict[str, Any]:
    return {
        "facts": [fact_json(fact) for fact in evidence.facts],
        "seconds": evidence.seconds,
        "likeness": None if evidence.likeness is None else likeness_json(evidence.likeness),
    }


def likeness_json(likeness: Likeness) -> dict[str, Any]:
    """Without its faces: they are looked at elsewhere."""
    return {
        "frame": to_hex(likeness.frame),
        "mirrored": to_hex(likeness.mirrored),
        "quality": likeness.quality,
    }


def likeness_from_json(data: Mapping[str, Any]) -> Likeness:
    """Raise ValueError, KeyError or TypeError for what is not of this form."""
    quality = int(data["quality"])
    if not ENOUGH_QUALITY <= quality <= 100:
        raise ValueError("a picture with too little in it, or with more than all")
    return Likeness(from_hex(data["frame"]), from_hex(data["mirrored"]), quality)


def fact_json(fact: Fact) -> dict[str, Any]:
    return {
        "kind": fact.kind.value,
        "status": fact.status.value,
        "strength": fact.strength.value,
        "points_to": fact.points_to and fact.points_to.value,
        "data": {
            name: list(value) if isinstance(value, tuple) else value for name, value in fact.data.items()
        },
    }


def evidence_from_json(data: Mapping[str, Any]) -> Evidence:
    """Raise ValueError for what is not of this form, or larger than we make it: a hostile file may have written it."""
    try:
        facts = tuple(fact_from_json(fact) for fact in data["facts"][: _MOST_FACTS + 1])
        seconds = float(data["seconds"])
        alike = data.get("likeness")
        likeness = None if alike is None else likeness_from_json(alike)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not evidence: {type(error).__name__}") from error
    if len(facts) > _MOST_FACTS:
        raise ValueError("more facts than are ever gathered")
    if any(fact.kind is Kind.KNOWN_PICTURE for fact in facts):
        raise ValueError("a child knows no lists")
    return Evidence(facts, seconds, likeness)


def fact_from_json(data: Mapping[str, Any]) -> Fact:
    """Raise ValueError, KeyError or TypeError for what is not of this form."""
    values: Mapping[str, Any] = data["data"]
    if len(values) > _MOST_VALUES:
        raise ValueError("more values than a fact has")
    return Fact(
        kind=Kind(data["kind"]),
        status=Status(data["status"]),
        strength=Strength(data["strength"]),
        points_to=None if data["points_to"] is None else Origin(data["points_to"]),
        data={_name(name): _value(value) for name, value in values.items()},
    )


def _name(name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ValueError("a value without a name of ours")
    return name


def _value(value: object) -> Value:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool | int | float) and abs(value) < 2**53:  # neither NaN nor larger than JSON knows
        return value
    if isinstance(value, list):
        return texts(value)
    raise ValueError(f"a value that is a {type(value).__name__}")


def text(value: str) -> str:
    """Some words of a file: on one line, without control characters, cut short."""
    printable = "".join(letter if letter.isprintable() else " " for letter in value[: 4 * LONGEST_TEXT])
    return " ".join(printable.split())[:LONGEST_TEXT]


def texts(values: Sequence[object]) -> tuple[str, ...]:
    """The first few, each once."""
    found = dict.fromkeys(text(str(value)) for value in values[: 10 * LONGEST_LIST])
    return tuple(value for value in found if value)[:LONGEST_LIST]
