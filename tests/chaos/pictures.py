"""The pictures of a campaign: what each is, and what a case of it must end as."""

import enum
import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

#: How a healthy picture's case ends: with exactly one analysis.
VERDICT = "verdict"
#: Fingerprint of the bundle that is on trial meanwhile.
CANDIDATE = "chaos-next"


class Mark(enum.IntEnum):
    """Widths in pixels by which a picture tells `marked_worker` what to do. At most 255: one byte carries it."""

    #: The process dies, every time.
    POISON = 201
    #: The process dies, once.
    DIES_PREPARING = 202
    DIES_ANALYZING = 203
    DIES_CONCLUDING = 204
    DIES_BEFORE_COMMIT = 205
    DIES_AFTER_COMMIT = 206
    #: The commit happens, and the worker is told that the database is away. Once.
    AMBIGUOUS = 207
    #: The model hangs, once.
    HANGS = 208
    #: A MemoryError rises out of preparing, once.
    OUT_OF_MEMORY = 209
    #: Taken out of the store right after it was flagged.
    VANISHES = 210
    #: Another picture takes its place in the store right after it was flagged.
    CHANGES = 211

    @classmethod
    def of_width(cls, width: int) -> "Mark | None":
        return next((mark for mark in cls if mark.value == width), None)


@dataclass(frozen=True)
class Planned:
    """One picture to submit."""

    kind: str
    #: None: nothing is put into the store.
    data: bytes | None
    #: VERDICT, or the code of a refusal: any of these.
    ends_as: tuple[str, ...] = (VERDICT,)
    mark: Mark | None = None


def plan(count: int, marks: tuple[Mark, ...], chance: random.Random) -> list[Planned]:
    """`count` pictures in random order: these marked ones, a sprinkle of broken ones, and healthy ones."""
    made = [marked(mark, chance) for mark in marks]
    while len(made) < count:
        made.append(_unmarked(chance))
    chance.shuffle(made)
    return made


def marked(mark: Mark, chance: random.Random) -> Planned:
    ends_as = {Mark.POISON: ("attempts_exhausted",), Mark.VANISHES: (VERDICT, "image_missing")}
    return Planned(mark.name.lower(), a_picture(mark, chance), ends_as.get(mark, (VERDICT,)), mark)


def _unmarked(chance: random.Random) -> Planned:
    match chance.randrange(20):
        case 0:
            whole = a_picture(80, chance)
            return Planned("truncated", whole[: len(whole) // 3], ("image_corrupt",))
        case 1:
            return Planned("text", f"hello {chance.random()}".encode(), ("not_an_image",))
        case 2:
            return Planned("missing", None, ("image_missing",))
        case 3 | 4:
            return Planned("duplicate", a_picture(90, random.Random(chance.randrange(5))))
        case _:
            return Planned("healthy", a_picture(80 + chance.randrange(40), chance))


def a_picture(width: int, chance: random.Random) -> bytes:
    """Noise of this width: no two are alike."""
    grain = np.random.default_rng(chance.randrange(2**32)).integers(0, 256, (24, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grain).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()
