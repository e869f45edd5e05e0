"""The faces of a DFA-Instruct folder as training examples: drawn and forged once, and read as often as wanted.

Forging a two costs more than a step of a small tower. So a long training reads what `build` wrote.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from moderation.analysis import Label, Technique
from moderation.dfa.gpt.grounding.facts import read_touches
from moderation.dfa.instruct.builder import Entry, read_picture
from moderation.dfa.instruct.examples import SIZE, Example, Examples
from moderation.dfa.instruct.pool import open_pool
from moderation.errors import SetupProblem


class Twos(Protocol):
    """Twos by their numbers: the same number and seed give the same two in every process."""

    def number(self, number: int, seed: int) -> tuple[Example, Example]:
        """A bona fide and a forged example with the same quality and chain."""
        ...


def twos_in(folder: Path, split: str, *, without: Collection[str] = ()) -> Twos:
    """The twos of a folder: of a pool they are forged when they are asked for, a DFA-Instruct folder holds them.

    `without` names folders of sources, or lab techniques ("lab/FS"). Raise SetupProblem when the folder is neither, or
    when nothing is left.
    """
    if (folder / "manifest.jsonl").is_file():
        return StoredTwos(folder, split, without=without)
    return Examples(open_pool(folder), split, without=without)


class StoredTwos:
    """The twos of one split of a DFA-Instruct folder. Each comes once before one comes again, mirrored by chance.

    A two whose other half was left out as repeated is not used. A mask that lies wholly on one side of a half was not
    stored, and is unknown.
    """

    def __init__(self, folder: Path, split: str, *, without: Collection[str] = ()) -> None:
        self.folder = folder
        found: dict[str, list[Entry]] = {}
        for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            entry = Entry(**json.loads(line))
            if entry.split == split:
                found.setdefault(entry.id.rpartition("-")[0], []).append(entry)
        out = set(without)
        if any(len(two) > 2 for two in found.values()):
            raise SetupProblem(f"{folder} holds two pictures of one name: folders were put together.")
        self.entries = [
            (two[0], two[1])
            for two in found.values()
            if len(two) == 2 and not any(out & _places(entry) for entry in two)
        ]
        if not self.entries:
            raise SetupProblem(f"{folder} holds no bona fide and forged two of the split {split}.")

    def number(self, number: int, seed: int) -> tuple[Example, Example]:
        turn, place = divmod(number, len(self.entries))
        order = np.random.default_rng([seed, turn]).permutation(len(self.entries))
        bona_fide, forged = self.entries[order[place]]
        mirrored = bool(np.random.default_rng([seed, turn, place]).integers(2))
        return self._example(bona_fide, mirrored=mirrored), self._example(forged, mirrored=mirrored)

    def _example(self, entry: Entry, *, mirrored: bool) -> Example:
        pixels, mask = read_picture(self.folder / entry.image, SIZE), self._mask(entry)
        if mirrored:
            pixels, mask = pixels[:, ::-1].copy(), None if mask is None else mask[:, ::-1].copy()
        facts = entry.facts
        return Example(
            pixels=pixels,
            deepfake=entry.label == Label.DEEPFAKE,
            technique=Technique(entry.technique) if entry.technique else None,
            mask=mask,
            facts=None if facts is None else read_touches(facts),
            origin=entry.origin,
            group=entry.group,
        )

    def _mask(self, entry: Entry) -> np.ndarray | None:
        if entry.mask is not None:
            return np.asarray(Image.open(self.folder / entry.mask).convert("L"), np.float32) / 255
        if entry.label == Label.BONA_FIDE:
            return np.zeros((SIZE, SIZE), np.float32)
        return np.ones((SIZE, SIZE), np.float32) if entry.technique == Technique.EFS else None


def _places(entry: Entry) -> set[str]:
    """The names by which this face can be left out: its source's folder, and for the lab also the technique."""
    return {entry.group.split("/")[0], "/".join(entry.origin.split("/")[:2])}
