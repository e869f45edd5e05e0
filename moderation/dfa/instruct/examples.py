"""Training examples: faces with all known facts, drawn afresh at every step.

A bona fide and a forged face always come as a two, with the same quality and the same chain of shift, light and
compression: a lab forgery with the face it was made from, a pair of one moment, a generated face with a bona fide one
of similar origin (`sources.toml`). So within a batch, the label is the only intended difference between the halves.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from moderation.analysis import Label, Technique
from moderation.dfa.gpt.grounding.facts import GENERATED, Kind, Touch
from moderation.dfa.instruct.draws import Rng, picked, weighted
from moderation.dfa.instruct.filters import supported, visible
from moderation.dfa.instruct.forgery.forged import LEAST_CHANGE, Forgery, touch
from moderation.dfa.instruct.forgery.masks import Portrait, blurred, geometry, part_mask, region_changes
from moderation.dfa.instruct.forgery.pairs import (
    Chain,
    delivered,
    drawn_chain,
    forge,
    mask_through,
    null_edit,
)
from moderation.dfa.instruct.forgery.photometry import softened
from moderation.dfa.instruct.pool import CROP, MARGIN, Pool, Pooled
from moderation.dfa.instruct.quality import same_light, same_sharpness
from moderation.dfa.instruct.sources import UNKNOWN_TERMS, KindOfTwo
from moderation.errors import SetupProblem

#: The model's picture, pixels, and the share of a pooled crop that its 1.3 margin covers.
SIZE, UNIT = 224, 1.3 / MARGIN
#: Side of the grid for mask training: one cell for each patch of 16 pixels.
GRID = 14

#: Shares of the techniques among the lab's forgeries. Only the lab makes reenactments.
TECHNIQUES: Mapping[Technique, float] = {
    Technique.FS: 0.26,
    Technique.FR: 0.30,
    Technique.FE: 0.18,
    Technique.EFS: 0.26,
}
#: Mean changes in grey levels: a pixel of an aligned pair is changed from the first on, and fully from the second on.
CHANGED = (3.0, 14.0)


@dataclass(frozen=True, eq=False)
class Example:
    """One face as the model sees it, and its known facts."""

    pixels: np.ndarray  # (SIZE, SIZE, 3) uint8 RGB
    deepfake: bool
    technique: Technique | None  # None when bona fide or unknown
    #: The forged share of each pixel, (SIZE, SIZE) float32 in [0, 1]. None when unknown.
    mask: np.ndarray | None
    #: The changes made. None when unknown; empty when bona fide.
    facts: tuple[Touch, ...] | None
    #: Its origin: "lab/FS/self_blend", "dfdc_faces224" …
    origin: str
    #: The person or source picture, as named by the pool.
    group: str

    @property
    def grid(self) -> np.ndarray | None:
        """The forged share of each cell, (GRID, GRID). None when unknown."""
        if self.mask is None:
            return None
        side = SIZE // GRID
        return self.mask.reshape(GRID, side, GRID, side).mean(axis=(1, 3))


class Examples:
    """Draws twos of examples from one split of a pool. Equal random numbers draw equal twos."""

    def __init__(self, pool: Pool, split: str, *, without: Collection[str] = ()) -> None:
        """`without` names folders of sources, or lab techniques ("lab/FS")."""
        rows = [row for row in _found(pool, split) if row.source not in without]
        self.crops = pool.crops
        self.techniques = {name: share for name, share in TECHNIQUES.items() if f"lab/{name}" not in without}
        self.bona_fide = _by_place(rows, Label.BONA_FIDE)
        self.forged = _by_place(rows, Label.DEEPFAKE)
        self.by_file = {row.file: row for row in rows if row.label is Label.BONA_FIDE}
        self.pairs = {kind: self._pairs(kind) for kind in pool.table.kinds if kind.paired}
        self.kinds = {kind: kind.share for kind in pool.table.kinds if self._can_make(kind)}
        if not self.kinds:
            unlisted = sorted({row.source for row in pool.rows if row.terms == UNKNOWN_TERMS})
            no_table = (
                f" There is no table [sources.FOLDER] for {', '.join(unlisted)}: write it and a [[twos]] into a file, "
                "and give that with --sources (docs/models.md)."
                if unlisted
                else ""
            )
            forged = sum(row.label is Label.DEEPFAKE for row in rows)
            raise SetupProblem(
                f"No bona fide and forged two can be made of the {split} split of the pool, which has "
                f"{len(rows) - forged} bona fide and {forged} forged faces of {len(pool.rows)} pictures.{no_table}"
            )
        #: How often faces of each source are forged by the lab, for evaluation.
        self.lab: dict[str, float] = {}
        for kind in pool.table.kinds:
            for source, share in kind.lab.items():
                self.lab[source] = self.lab.get(source, 0) + share
        #: Number of forgeries drawn again because they were invisible, and of facts left out because the mask did not
        #: cover them.
        self.invisible = 0
        self.unsupported = 0

    def _can_make(self, kind: KindOfTwo) -> bool:
        if kind.forged is None:
            return bool(self.techniques) and any(name in self.bona_fide for name in kind.lab)
        if kind.paired:
            return bool(self.pairs[kind])
        return kind.forged in self.forged and any(name in self.bona_fide for name in kind.beside)

    def _pairs(self, kind: KindOfTwo) -> list[Pooled]:
        """The forged pictures of a kind whose bona fide picture is in this split too."""
        return [row for row in self.forged.get(kind.forged or "", []) if row.paired in self.by_file]

    def two(self, rng: Rng) -> tuple[Example, Example]:
        """A bona fide and a forged example with the same quality and chain."""
        return self.two_of(weighted(self.kinds, rng), rng)

    def number(self, number: int, seed: int) -> tuple[Example, Example]:
        """The two of this number. It is the same in every process."""
        return self.two(np.random.default_rng([seed, number]))

    def two_of(self, kind: KindOfTwo, rng: Rng) -> tuple[Example, Example]:
        chain = drawn_chain(rng, crop=CROP, size=SIZE, unit=UNIT)
        if kind.forged is None:
            return self._lab_two(chain, rng, kind.lab)
        if kind.paired:
            forged = picked(self.pairs[kind], rng)
            return self._pooled_two(self.by_file[forged.paired or ""], forged, chain, rng, kind)
        beside = weighted({name: 1.0 for name in kind.beside if name in self.bona_fide}, rng)
        bona_fide, forged = picked(self.bona_fide[beside], rng), picked(self.forged[kind.forged], rng)
        return self._pooled_two(bona_fide, forged, chain, rng, kind)

    def lab_two(self, technique: Technique, rng: Rng) -> tuple[Example, Example]:
        """A two of the lab with one technique, for evaluation."""
        return self._lab_two(drawn_chain(rng, crop=CROP, size=SIZE, unit=UNIT), rng, self.lab, technique)

    def _lab_two(
        self, chain: Chain, rng: Rng, sources: Mapping[str, float], technique: Technique | None = None
    ) -> tuple[Example, Example]:
        technique = technique or weighted(self.techniques, rng)
        known = {name: share for name, share in sources.items() if name in self.bona_fide}
        rows = self.bona_fide[weighted(known, rng)]
        row, other = picked(rows, rng), picked(rows, rng)
        target, source = self._portrait(row), self._portrait(other)
        forgery = self._visible_forgery(technique, target, source, rng)
        facts = supported(forgery, target.face)
        self.unsupported += len(forgery.facts) - len(facts)
        pixels = null_edit(target, rng) if rng.random() < 0.5 else target.pixels
        bona_fide, drawn = same_sharpness(pixels, forgery.pixels)
        forged = Example(
            pixels=delivered(chain, drawn, SIZE),
            deepfake=True,
            technique=technique,
            mask=mask_through(chain, forgery.mask, SIZE),
            facts=facts or None,
            origin=f"lab/{technique}/{forgery.recipe}",
            group=row.group,
        )
        return _bona_fide(bona_fide, row, chain), forged

    def _visible_forgery(self, technique: Technique, target: Portrait, source: Portrait, rng: Rng) -> Forgery:
        """Forge a face, and again up to three times while the forgery is invisible.

        An invisible forgery would teach that bona fide is forged.
        """
        forgery = forge(technique, target, source, rng)
        for _ in range(3):
            if visible(forgery, target.pixels):
                break
            self.invisible += 1
            forgery = forge(technique, target, source, rng)
        return forgery

    def _pooled_two(
        self, bona_fide: Pooled, forged: Pooled, chain: Chain, rng: Rng, kind: KindOfTwo
    ) -> tuple[Example, Example]:
        target = self._portrait(bona_fide)
        pixels, drawn = target.pixels, np.asarray(self.crops[forged.row])
        mask, facts = None, None
        if forged.technique is Technique.EFS:
            mask = np.ones((SIZE, SIZE), np.float32)
            facts = (GENERATED,)
        elif kind.aligned:
            mask = mask_through(chain, changed(pixels, drawn), SIZE)
            facts = facts_of_pair(target, drawn) or None
        if not kind.aligned and rng.random() < 0.25:
            pixels = null_edit(target, rng)
        if not kind.paired and rng.random() < 0.7:
            pixels, drawn = same_light(pixels, drawn, rng)
        pixels, drawn = same_sharpness(pixels, drawn)
        example = example_of(forged, delivered(chain, drawn, SIZE), mask=mask, facts=facts)
        return _bona_fide(pixels, bona_fide, chain), example

    def _portrait(self, row: Pooled) -> Portrait:
        return Portrait(np.array(self.crops[row.row]), geometry(np.array(row.landmarks), CROP))


def example_of(
    row: Pooled,
    pixels: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    facts: tuple[Touch, ...] | None = None,
) -> Example:
    """A picture of a pool as the model sees it."""
    forged = row.label is Label.DEEPFAKE
    technique = row.technique if forged else None
    return Example(pixels, forged, technique, mask, facts, row.origin, row.group)


def _bona_fide(pixels: np.ndarray, row: Pooled, chain: Chain) -> Example:
    return example_of(row, delivered(chain, pixels, SIZE), mask=np.zeros((SIZE, SIZE), np.float32), facts=())


def _found(pool: Pool, split: str) -> list[Pooled]:
    """The pictures of a split in which a face was found."""
    return [row for row in pool.rows if row.split == split and row.found]


def pooled_examples(pool: Pool, split: str, rng: Rng) -> Iterator[Example]:
    """Every picture of a split once, through its own chain: for calibration and evaluation.

    A picture aligned with the bona fide one it was made from has a mask.
    """
    before = _aligned_before(pool)
    for row in _found(pool, split):
        chain = drawn_chain(rng, crop=CROP, size=SIZE, unit=UNIT)
        crop, mask = np.asarray(pool.crops[row.row]), None
        if row.row in before:
            mask = mask_through(chain, changed(np.asarray(pool.crops[before[row.row]]), crop), SIZE)
        facts = None if row.label is Label.DEEPFAKE else ()
        yield example_of(row, delivered(chain, crop, SIZE), mask=mask, facts=facts)


def _aligned_before(pool: Pool) -> dict[int, int]:
    """From the row of each aligned forged picture to the row of the bona fide one it was made from."""
    aligned = {kind.forged for kind in pool.table.kinds if kind.aligned}
    rows = {row.file: row.row for row in pool.rows if row.label is Label.BONA_FIDE}
    return {row.row: rows[row.paired] for row in pool.rows if row.origin in aligned and row.paired in rows}


def as_served(crop: np.ndarray) -> np.ndarray:
    """A pooled crop as the worker would crop it, (SIZE, SIZE, 3): its middle, at the model's own margin."""
    side = crop.shape[0]
    inset = side * (1 - UNIT) / 2
    box = (inset, inset, side - inset, side - inset)
    return np.asarray(Image.fromarray(np.asarray(crop)).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box))


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How much two aligned pictures differ at each pixel, (S, S) float32 in [0, 1]."""
    difference = np.abs(softened(before, 1.5).astype(np.float32) - softened(after, 1.5)).mean(axis=2)
    least, most = CHANGED
    return blurred(np.clip((difference - least) / (most - least), 0, 1), 2.0)


def facts_of_pair(target: Portrait, after: np.ndarray) -> tuple[Touch, ...]:
    """The changes of an aligned pair, strongest first: another colour, or another texture."""
    changes = region_changes(target.pixels, after, target.face)
    shift = softened(after, 4.0).astype(np.float32) - softened(target.pixels, 4.0)
    facts: list[Touch] = []
    for region, change in changes.items():
        if change < LEAST_CHANGE:
            continue
        mask = part_mask(target.face, region)[..., None]
        moved = float(np.abs((shift * mask).sum(axis=(0, 1)) / max(float(mask.sum()), 1.0)).mean())
        facts.append(touch(region, Kind.COLOUR if moved > 0.6 * change else Kind.REPLACED, change))
    return tuple(sorted(facts, key=lambda fact: -fact.strength))


def _by_place(rows: Sequence[Pooled], label: Label) -> dict[str, list[Pooled]]:
    """Rows by source, and also by origin where that is finer."""
    groups: dict[str, list[Pooled]] = {}
    for row in rows:
        if row.label is label:
            for place in {row.source, row.origin}:
                groups.setdefault(place, []).append(row)
    return groups
