"""What the small model is shown: faces with everything that is known about them, drawn afresh at every step.

Bona fide and forged always come in twos that share one chain of shift, light and compression: forgeries of the lab
with the face they were made from, DFDC crops with the crop of the same moment, generated faces with bona fide ones of
the same origin. So in every batch the label is the only thing that the two halves differ in on purpose.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from moderation.analysis import Label, Region, Technique
from moderation.dfa.instruct.filters import supported, visible
from moderation.dfa.instruct.forgery.facts import Forgery, Kind, Rng, Touch
from moderation.dfa.instruct.forgery.masks import Portrait, geometry
from moderation.dfa.instruct.forgery.pairs import (
    Chain,
    delivered,
    drawn_chain,
    forge,
    mask_through,
    null_edit,
)
from moderation.dfa.instruct.pool import CROP, MARGIN, Pool, Pooled

#: The model's picture, pixels, and the share of a pooled crop that its 1.3 margin covers.
SIZE, UNIT = 224, 1.3 / MARGIN
#: Side of the grid on which masks are learnt: one cell per visual token of the small tower.
GRID = 7

#: Shares of the kinds of twos. Lab forgeries dominate: they are endless, and nothing but the forgery tells them apart.
KINDS: Mapping[str, float] = {"lab": 0.58, "dfdc": 0.28, "lfw": 0.07, "gan": 0.07}
#: Shares of the techniques among the lab's forgeries. FR and FE exist nowhere else in the pool.
TECHNIQUES: Mapping[Technique, float] = {
    Technique.FS: 0.34,
    Technique.FR: 0.25,
    Technique.FE: 0.25,
    Technique.EFS: 0.16,
}
#: Shares of the sources whose bona fide faces are forged.
TARGETS: Mapping[str, float] = {
    "dfdc_faces224": 0.40,
    "lfw_faceswap": 0.25,
    "congress_portraits": 0.20,
    "ifg_gan_faces": 0.15,
}
#: Which bona fide origin a generated one is shown with.
GAN_TWOS: Mapping[str, str] = {
    "ifg_gan_faces/celebahq_gan": "ifg_gan_faces/celebahq",
    "ifg_gan_faces/stylegan_tight": "ifg_gan_faces/lfw_tight",
}


@dataclass(frozen=True, eq=False)
class Example:
    """One face as the model sees it, and what is known about it."""

    pixels: np.ndarray  # (SIZE, SIZE, 3) uint8 RGB
    deepfake: bool
    technique: Technique | None  # None when bona fide or not known
    #: Share of each cell that is forged, (GRID, GRID). None when not known.
    grid: np.ndarray | None
    #: What was done. None when not known; empty when bona fide.
    facts: tuple[Touch, ...] | None
    #: Where it comes from: "lab/FS/self_blend", "dfdc_faces224" …
    origin: str
    #: The person or source picture, as the pool knows it.
    group: str


class Examples:
    """Draws twos of examples from one split of a pool. The same seed draws the same."""

    def __init__(
        self, pool: Pool, split: str, *, kinds: Mapping[str, float] = KINDS, without: Sequence[str] = ()
    ) -> None:
        """`without` leaves out sources by folder name, and lab recipes by technique ("FS")."""
        rows = [row for row in pool.where(split=split) if row.found and row.source not in without]
        self.crops = pool.crops
        self.kinds = {kind: share for kind, share in kinds.items() if _available(kind, rows)}
        self.techniques = {name: share for name, share in TECHNIQUES.items() if name not in without}
        self.bona_fide = _by(rows, Label.BONA_FIDE, "source")
        self.bona_fide_origins = _by(rows, Label.BONA_FIDE, "origin")
        self.forged_origins = _by(rows, Label.DEEPFAKE, "origin")
        self.pairs = _pairs(rows)
        #: Forgeries drawn again because nothing could be seen, and facts left out because the mask did not reach.
        self.invisible = 0
        self.unsupported = 0

    def two(self, rng: Rng) -> tuple[Example, Example]:
        """A bona fide example and a forged one that share their chain."""
        kind = _drawn(self.kinds, rng)
        chain = drawn_chain(rng, crop=CROP, size=SIZE, unit=UNIT)
        if kind == "lab":
            return self._lab_two(chain, rng)
        if kind == "dfdc":
            return self._pooled_two(*self.pairs[rng.integers(len(self.pairs))], chain, rng)
        if kind == "lfw":
            origin = partner = "lfw_faceswap"
        else:
            origin = _drawn({name: 1.0 for name in GAN_TWOS if name in self.forged_origins}, rng)
            partner = GAN_TWOS[origin]
        bona_fide, forged = self.bona_fide_origins[partner], self.forged_origins[origin]
        return self._pooled_two(
            bona_fide[rng.integers(len(bona_fide))], forged[rng.integers(len(forged))], chain, rng
        )

    def lab_two(self, technique: Technique, rng: Rng) -> tuple[Example, Example]:
        """A two of the lab by one technique, for evaluation."""
        return self._lab_two(drawn_chain(rng, crop=CROP, size=SIZE, unit=UNIT), rng, technique)

    def _lab_two(self, chain: Chain, rng: Rng, technique: Technique | None = None) -> tuple[Example, Example]:
        technique = technique or _drawn(self.techniques, rng)
        rows = self.bona_fide[_drawn({name: TARGETS[name] for name in self.bona_fide}, rng)]
        row, other = rows[rng.integers(len(rows))], rows[rng.integers(len(rows))]
        target, source = self._portrait(row), self._portrait(other)
        forgery = self._visible_forgery(technique, target, source, rng)
        facts = supported(forgery, target.face)
        self.unsupported += len(forgery.facts) - len(facts)
        pixels = null_edit(target, rng) if rng.random() < 0.5 else target.pixels
        forged = Example(
            pixels=delivered(chain, forgery.pixels, SIZE),
            deepfake=True,
            technique=technique,
            grid=_cells(mask_through(chain, forgery.mask, SIZE)),
            facts=facts or None,
            origin=f"lab/{technique}/{forgery.recipe}",
            group=row.group,
        )
        return self._bona_fide(pixels, row, chain), forged

    def _visible_forgery(self, technique: Technique, target: Portrait, source: Portrait, rng: Rng) -> Forgery:
        """What nobody can see teaches that bona fide is forged: such a draw is drawn again, a few times."""
        forgery = forge(technique, target, source, rng)
        for _ in range(3):
            if visible(forgery, target.pixels):
                break
            self.invisible += 1
            forgery = forge(technique, target, source, rng)
        return forgery

    def _pooled_two(
        self, bona_fide: Pooled, forged: Pooled, chain: Chain, rng: Rng
    ) -> tuple[Example, Example]:
        target = self._portrait(bona_fide)
        pixels = null_edit(target, rng) if rng.random() < 0.25 else target.pixels
        whole = forged.technique is Technique.EFS
        example = Example(
            pixels=delivered(chain, np.asarray(self.crops[forged.row]), SIZE),
            deepfake=True,
            technique=forged.technique,
            grid=np.ones((GRID, GRID), np.float32) if whole else None,
            facts=(Touch(Region.UNMAPPED, Kind.PATTERN, 0.5),) if whole else None,
            origin=forged.origin,
            group=forged.group,
        )
        return self._bona_fide(pixels, bona_fide, chain), example

    def _bona_fide(self, pixels: np.ndarray, row: Pooled, chain: Chain) -> Example:
        return Example(
            pixels=delivered(chain, pixels, SIZE),
            deepfake=False,
            technique=None,
            grid=np.zeros((GRID, GRID), np.float32),
            facts=(),
            origin=row.origin,
            group=row.group,
        )

    def _portrait(self, row: Pooled) -> Portrait:
        return Portrait(np.array(self.crops[row.row]), geometry(np.array(row.landmarks), CROP))


def pooled_examples(pool: Pool, split: str, rng: Rng) -> Iterator[Example]:
    """Every picture of a split once, as it is, through a chain of its own: for calibration and evaluation."""
    for row in pool.where(split=split):
        if row.found:
            chain = drawn_chain(rng, crop=CROP, size=SIZE, unit=UNIT)
            forged = row.label is Label.DEEPFAKE
            yield Example(
                pixels=delivered(chain, np.asarray(pool.crops[row.row]), SIZE),
                deepfake=forged,
                technique=row.technique,
                grid=None,
                facts=None if forged else (),
                origin=row.origin,
                group=row.group,
            )


def _available(kind: str, rows: Sequence[Pooled]) -> bool:
    if kind == "gan":
        return any(row.origin in GAN_TWOS for row in rows)
    return kind == "lab" or any(row.source.startswith(kind) for row in rows)


def _by(rows: Sequence[Pooled], label: Label, key: str) -> dict[str, list[Pooled]]:
    groups: dict[str, list[Pooled]] = {}
    for row in rows:
        if row.label is label:
            groups.setdefault(getattr(row, key), []).append(row)
    return groups


def _pairs(rows: Sequence[Pooled]) -> list[tuple[Pooled, Pooled]]:
    """DFDC's pairs: a bona fide crop and the forged one of the same moment."""
    bona_fide = {row.group: row for row in rows if row.label is Label.BONA_FIDE}
    forged = [row for row in rows if row.label is Label.DEEPFAKE and row.source == "dfdc_faces224"]
    return [(bona_fide[row.group], row) for row in forged if row.group in bona_fide]


Name = TypeVar("Name", bound=str)


def _drawn(shares: Mapping[Name, float], rng: Rng) -> Name:
    names = list(shares)
    weights = np.array([shares[name] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def _cells(mask: np.ndarray) -> np.ndarray:
    """Mean of a (SIZE, SIZE) mask in each cell of the grid."""
    side = SIZE // GRID
    return mask.reshape(GRID, side, GRID, side).mean(axis=(1, 3))
