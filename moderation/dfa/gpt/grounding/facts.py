"""What is wrong with a face, in typed facts: a region, the kind of its change, and how strong it is.

The lab knows them by construction, the findings head estimates them, and `sentences.py` words them.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from moderation.analysis import Region


class Kind(enum.StrEnum):
    """A region's visible change."""

    #: The border between two pictures runs through it.
    SEAM = "seam"
    #: Its colours come from another light or another skin.
    COLOUR = "colour"
    #: It is softer than the picture around it.
    SOFTER = "softer"
    #: It is sharper than the picture around it.
    SHARPER = "sharper"
    #: It comes from another face.
    REPLACED = "replaced"
    #: Its texture is removed, as by beauty filters.
    SMOOTHED = "smoothed"
    #: Its shape is bent.
    WARPED = "warped"
    #: It shows the regular pattern of a generator's up-sampling.
    PATTERN = "pattern"


@dataclass(frozen=True)
class Touch:
    """One changed region, and the kind of change."""

    region: Region
    kind: Kind
    #: In [0, 1]: the mean change of its pixels. 1 is `FULL_CHANGE` grey levels or more.
    strength: float


def read_touches(rows: Iterable[tuple[str, str, float]]) -> tuple[Touch, ...]:
    """The facts of a manifest, which has each as (region, kind, strength). Raise ValueError for unknown words."""
    return tuple(Touch(Region(region), Kind(kind), strength) for region, kind, strength in rows)


#: What a wholly generated picture shows.
GENERATED = Touch(Region.UNMAPPED, Kind.PATTERN, 0.5)
#: Most artifacts of one face that are named. People read no more.
MOST_ARTIFACTS = 3
