"""What a fact is: the origin that a picture claims, and what its file and pixels show.

A fact is never a verdict and changes no score. The maker of the file may have written it, so each fact has a strength.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moderation.analysis import Label, Verdict
from moderation.likeness import ENOUGH_QUALITY, Likeness, from_hex, to_hex

#: It rises when the same bytes may give other facts. `gatherer` includes it.
VERSION = 2

#: A value in a fact: one value, or a few words.
Value = str | int | float | bool | tuple[str, ...]

#: Characters kept of one text from a file, and texts kept of one list.
LONGEST_TEXT, LONGEST_LIST = 200, 20
#: Values in one fact, and facts about one picture. We never make more, and we do not trust a child.
_MOST_VALUES, _MOST_FACTS = 24, 40


class FactKind(enum.StrEnum):
    """What a fact is about. A kind without a fact was searched for and not found."""

    #: A C2PA manifest: its signer and what they say about the picture.
    CONTENT_CREDENTIALS = "content_credentials"
    #: The IPTC digital source type in XMP.
    SOURCE_TYPE = "source_type"
    #: Settings of an image generator in a text chunk, EXIF or XMP.
    GENERATOR = "generator"
    #: EXIF make, model and time.
    CAMERA = "camera"
    #: Programs named by EXIF, XMP or PNG.
    SOFTWARE = "software"
    #: XMP's list of changes to the file.
    HISTORY = "history"
    #: The file holds a place or names of people. The values are there only if the installation keeps them.
    PERSONAL = "personal"
    #: The thumbnail inside the file.
    THUMBNAIL = "thumbnail"
    #: JPEG: tables, estimated quality, encoder.
    JPEG = "jpeg"
    #: Signs of an earlier JPEG with another quality.
    RECOMPRESSION = "recompression"
    #: Signs of enlarging.
    RESAMPLING = "resampling"
    #: The size of pictures on a known platform or by a generator.
    PLATFORM = "platform"
    #: An imported list has a picture like this one. This fact comes from the database, never from a child.
    KNOWN_PICTURE = "known_picture"
    #: Gathering evidence failed or took too long. The picture itself was decoded.
    GATHERING = "gathering"


class Status(enum.StrEnum):
    FOUND = "found"
    #: It exists but cannot be read.
    UNREADABLE = "unreadable"


class Strength(enum.StrEnum):
    """How strong a fact is, the strongest first."""

    #: Signed by somebody on the installation's trust list.
    CRYPTOGRAPHIC = "cryptographic"
    #: Anybody who held the file could have written it.
    DECLARED = "declared"
    #: Something does not fit. Ordinary tools cause this too.
    ANOMALY = "anomaly"
    #: Only background for people; alone it proves nothing.
    CONTEXT = "context"


class ClaimedOrigin(enum.StrEnum):
    """The origin of the picture, as a fact claims."""

    SYNTHETIC = "synthetic"
    CAPTURED = "captured"


@dataclass(frozen=True)
class Fact:
    kind: FactKind
    strength: Strength
    #: Values by names that `sentences` knows. Texts come from the file and are cut.
    data: Mapping[str, Value] = field(default_factory=dict[str, Value])
    points_to: ClaimedOrigin | None = None  # None: neither
    status: Status = Status.FOUND


@dataclass(frozen=True)
class Evidence:
    """All facts about one picture, by one version of the code and one trust list."""

    facts: tuple[Fact, ...] = ()
    #: CPU seconds for gathering it.
    seconds: float = 0.0
    #: The picture's likeness. It is no fact and is stored separately for searches. None: the picture shows too little.
    likeness: Likeness | None = None

    def fact(self, kind: FactKind) -> Fact | None:
        return next((fact for fact in self.facts if fact.kind is kind), None)


def ordered(facts: Sequence[Fact]) -> list[Fact]:
    """The strongest first, and synthetic before captured."""
    kinds, strengths = list(FactKind), list(Strength)

    def place(fact: Fact) -> tuple[int, bool, int]:
        synthetic = fact.points_to is ClaimedOrigin.SYNTHETIC
        return strengths.index(fact.strength), not synthetic, kinds.index(fact.kind)

    return sorted(facts, key=place)


def declared(evidence: Evidence) -> Fact | None:
    """The strongest fact that declares the picture synthetic or captured. None: there is none."""
    declaring = (Strength.CRYPTOGRAPHIC, Strength.DECLARED)
    pointing = (fact for fact in ordered(evidence.facts) if fact.points_to and fact.strength in declaring)
    return next(pointing, None)


def conflicts(origin: ClaimedOrigin | None, strength: Strength | None, label: Label | None) -> bool:
    """Whether the declaration contradicts the model, so that a person should look soon.

    Two cases: anybody declares it AI-made, and the model calls it bona fide; or a signer on the trust list says it was
    captured, and the model calls it a deepfake. An unsigned "captured" counts for nothing.
    """
    if origin is ClaimedOrigin.SYNTHETIC:
        return label is Label.BONA_FIDE
    signed = origin is ClaimedOrigin.CAPTURED and strength is Strength.CRYPTOGRAPHIC
    return signed and label is Label.DEEPFAKE


def contradicts(evidence: Evidence, verdict: Verdict | None) -> bool:
    """`conflicts` for gathered evidence."""
    strongest = declared(evidence)
    if strongest is None or verdict is None:
        return False
    return conflicts(strongest.points_to, strongest.strength, verdict.label)


# --- as JSON: from the child that decodes, and in the database


def evidence_json(evidence: Evidence) -> dict[str, Any]:
    return {
        "facts": [fact_json(fact) for fact in evidence.facts],
        "seconds": evidence.seconds,
        "likeness": None if evidence.likeness is None else likeness_json(evidence.likeness),
    }


def likeness_json(likeness: Likeness) -> dict[str, Any]:
    """Without its faces, which are added elsewhere."""
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
    """Raise ValueError for another form, or a larger one than we make: a hostile file may have written it."""
    try:
        facts = tuple(fact_from_json(fact) for fact in data["facts"][: _MOST_FACTS + 1])
        seconds = float(data["seconds"])
        alike = data.get("likeness")
        likeness = None if alike is None else likeness_from_json(alike)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not evidence: {type(error).__name__}") from error
    if len(facts) > _MOST_FACTS:
        raise ValueError("more facts than are ever gathered")
    if any(fact.kind is FactKind.KNOWN_PICTURE for fact in facts):
        raise ValueError("a child knows no lists")
    return Evidence(facts, seconds, likeness)


def fact_from_json(data: Mapping[str, Any]) -> Fact:
    """Raise ValueError, KeyError or TypeError for what is not of this form."""
    values: Mapping[str, Any] = data["data"]
    if len(values) > _MOST_VALUES:
        raise ValueError("more values than a fact has")
    return Fact(
        kind=FactKind(data["kind"]),
        status=Status(data["status"]),
        strength=Strength(data["strength"]),
        points_to=None if data["points_to"] is None else ClaimedOrigin(data["points_to"]),
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
    """Text from a file on one line, cut, without control characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in value[: 4 * LONGEST_TEXT])
    return " ".join(printable.split())[:LONGEST_TEXT]


def texts(values: Sequence[object]) -> tuple[str, ...]:
    """The first few texts, each once."""
    found = dict.fromkeys(text(str(value)) for value in values[: 10 * LONGEST_LIST])
    return tuple(value for value in found if value)[:LONGEST_LIST]
