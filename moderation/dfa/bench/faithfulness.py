"""AD: does the score depend on the named regions, and more than on others?

A model can name what it was taught to name, but judge by something else. So each listed artifact's region is hidden
and compared with a hidden control of equal area, as a reviewer is shown it. The same is done with regions that the
model did not name. The first regions of the list are also hidden together, and compared with as many random regions
of the same total area.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from moderation.analysis import Artifact, Effect, FaceAnalysis, Label, Region
from moderation.dfa.bench.ask import Judged, first_faces, placed
from moderation.dfa.bench.estimates import mean_estimates
from moderation.dfa.bench.manifest import Item, sampled
from moderation.dfa.bench.tables import Cell, Table
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.effect import (
    around,
    face_mask,
    fills_of,
    hide,
    margin_of,
    mask_of,
    most_like,
    variants,
    with_effects,
)
from moderation.dfa.gpt.heads import PARTS

#: Most artifacts of a face whose effect is measured, and most regions hidden together.
MOST = 3
#: Random draws for every set of hidden regions.
DRAWS = 2


@dataclass(frozen=True)
class Asking:
    """What is asked of the model."""

    #: From a margin to a score.
    score: Callable[[float], float]
    #: From pictures to margins.
    ask: Callable[[Sequence[FaceCrop]], list[float]]
    #: False when its tower leaves hidden pixels out.
    filled: bool = True


@dataclass(frozen=True)
class Step:
    """The first `count` regions of a face's list hidden together, and as many random ones."""

    count: int
    #: Share of the face's pixels that is hidden.
    part: float
    #: The fall of the margin. Means over the ways to hide, and over the draws.
    named_fall: float
    random_fall: float
    #: The score with these regions hidden.
    named_score: float
    random_score: float


@dataclass(frozen=True)
class Trial:
    """The measurements on one face with the verdict deepfake."""

    item: Item
    #: Number of listed artifacts.
    listed: int
    #: Effects of the listed artifacts that have room for a control.
    named: tuple[Effect, ...]
    #: Effects of regions that the model did not name, as many or fewer.
    others: tuple[Effect, ...]
    #: Effects of the regions with the highest evidence map, named or not.
    mapped: tuple[Effect, ...]
    steps: tuple[Step, ...]


def trials(
    detector: Detector,
    judged: Sequence[Judged],
    most: int,
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Trial]:
    """Measure the first faces of about `most` pictures with the verdict deepfake and listed artifacts."""
    called = [j.item for j in judged if j.verdict.label is Label.DEEPFAKE and j.rationale]
    asked = first_faces(detector, sampled(called, most, seed=seed))
    crops = [crop if crop.face.landmarks is not None else placed(crop) for _, crop in asked]
    found: list[Trial] = []
    for (item, _), crop, face in zip(asked, crops, detector.analyze(crops), strict=True):
        rng = np.random.default_rng([seed, len(found)])
        asking = Asking(detector.score, partial(_margins, detector), filled=not detector.leaves_out_hidden)
        found.append(trial(item, crop, face, asking, rng))
        progress(len(found))
    return found


def _margins(detector: Detector, crops: Sequence[FaceCrop]) -> list[float]:
    return [margin_of(answer) for answer in detector.analyze(crops)]


def trial(item: Item, crop: FaceCrop, face: FaceAnalysis, model: Asking, rng: np.random.Generator) -> Trial:
    """Measure one face."""
    listed = {region for artifact in face.rationale for region in artifact.regions}
    unnamed = [region for region in PARTS if region not in listed]
    drawn = [unnamed[index] for index in rng.permutation(len(unnamed))[: min(MOST, len(face.rationale))]]
    highest = () if face.foreign is None else face.foreign.highest

    def effects(regions: Sequence[Region]) -> tuple[Effect, ...]:
        """The effects of these regions, put first in the list, so that their controls avoid the listed ones too."""
        first = tuple(Artifact(region, region, (region,)) for region in regions)
        return _effects(crop, replace(face, rationale=first + face.rationale), len(first), model)

    return Trial(
        item,
        listed=len(face.rationale),
        named=_effects(crop, face, len(face.rationale), model),
        others=effects(drawn),
        mapped=effects(highest),
        steps=tuple(_steps(crop, face, model, rng)),
    )


def _effects(crop: FaceCrop, face: FaceAnalysis, first: int, model: Asking) -> tuple[Effect, ...]:
    """The effects of the `first` artifacts of the face's list."""
    found = hide(crop, face, at_most=MOST, filled=model.filled)
    regions = [hidden for hidden in found if hidden.place < first]
    measured = with_effects(face, regions, iter(model.ask(variants(crop, regions))), model.score)
    return tuple(artifact.effect for artifact in measured.rationale if artifact.effect is not None)


# --- deletion


def _steps(crop: FaceCrop, face: FaceAnalysis, model: Asking, rng: np.random.Generator) -> Iterator[Step]:
    margin = face.verdict.margin
    if face.verdict.label is not Label.DEEPFAKE or margin is None:
        return
    masks = [mask for artifact in face.rationale if (mask := mask_of(artifact, crop)) is not None]
    fills, whole = fills_of(crop.pixels, filled=model.filled), face_mask(crop)
    for count in range(1, min(MOST, len(masks)) + 1):
        named = np.logical_or.reduce(masks[:count])
        drawn = [_random_regions(named, count, crop, whole, rng) for _ in range(DRAWS)]
        randoms = [mask for mask in drawn if mask is not None]
        if not randoms:
            return  # the named regions are larger than the face, and a longer list is larger still
        hidden = [(mask, ~(named | other)) for other in randoms for mask in (named, other)]
        margins = model.ask(
            [
                FaceCrop(crop.face, pixels, verdict_only=True, hidden=around(mask))
                for mask, spared in hidden
                for pixels in fills(mask, spared)
            ]
        )
        means = np.array(margins).reshape(len(randoms), 2, -1).mean(axis=(0, 2))
        without, control = (float(mean) for mean in means)
        yield Step(
            count,
            part=float((named & whole).sum() / whole.sum()),
            named_fall=margin - without,
            random_fall=margin - control,
            named_score=model.score(without),
            random_score=model.score(control),
        )


def _random_regions(
    named: np.ndarray, count: int, crop: FaceCrop, whole: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """`count` random regions of the face, grown or shrunk to the area of the named ones.

    They avoid the named ones as far as the face has room. None when it has too few pixels.
    """
    regions = tuple(PARTS[index] for index in rng.choice(len(PARTS), count, replace=False))
    mask = mask_of(Artifact("", "", regions), crop)
    wanted = whole if mask is None else mask
    return most_like(wanted, whole, int(named.sum()), spared=around(named))


# --- tables


def faithfulness_table(found: Sequence[Trial]) -> Table:
    """Effects of named regions, compared with those of others."""
    forged = [trial for trial in found if trial.item.deepfake]
    bona_fide = [trial for trial in found if not trial.item.deepfake]
    rows = [
        _row("artifacts that the model lists", found, [trial.named for trial in found]),
        _row("– of forged faces", forged, [trial.named for trial in forged]),
        _row("– of bona fide faces", bona_fide, [trial.named for trial in bona_fide]),
        _row("regions that it does not name", found, [trial.others for trial in found], listed=False),
        _row("regions where the evidence map is highest", found, [t.mapped for t in found], listed=False),
    ]
    return Table(
        name="faithfulness",
        title="AD: whether the score depends on the named regions",
        note=(
            "Faces called deepfakes. A region is hidden, and beside it a control of equal area on the same face: "
            "`supported` is the share whose margin falls by more than the control's and its noise, as "
            "reviewers are shown it; `beyond the control`, by more at all. Regions that the model does not name stand "
            "for what naming by chance would reach, and those of the evidence map for what the tower points to. What "
            "has no place on a face (the whole picture, the light) cannot be hidden."
        ),
        columns=(
            "regions", "faces", "listed", "n", "supported", "beyond the control", "fall", "fall, control", "difference",
        ),
        rows=rows,
    )  # fmt: skip


def _row(
    name: str, found: Sequence[Trial], effects: Sequence[Sequence[Effect]], *, listed: bool = True
) -> Sequence[Cell]:
    """`listed`: the effects are of the model's artifacts, so artifacts without a place are counted too."""
    pairs = [(trial, effect) for trial, of_face in zip(found, effects, strict=True) for effect in of_face]
    number = sum(trial.listed for trial in found) if listed else None
    if not pairs:
        return (name, len(found), number, 0, None, None, None, None, None)
    falls = [
        (e.supported, e.margin_fall > e.control_fall, e.margin_fall, e.control_fall, e.margin_fall - e.control_fall)
        for _, e in pairs
    ]  # fmt: skip
    means = mean_estimates(falls, [trial.item.group for trial, _ in pairs])
    return (name, len(found), number, len(pairs), *means)


def deletion_table(found: Sequence[Trial]) -> Table:
    """The deletion curve: the fall of the margin as more of the list is hidden."""
    steps = [(trial.item.group, step) for trial in found for step in trial.steps]
    counts = sorted({step.count for _, step in steps})
    return Table(
        name="deletion",
        title="AD: the first regions of the list hidden together, beside as many by chance",
        note=(
            "By how much the margin falls. Regions by chance are grown or shrunk to the same area, and lie apart from "
            f"the named ones as far as the face has room; {DRAWS} draws a face. Faces that list fewer leave the curve."
        ),
        columns=(
            "hidden", "faces", "part of the face", "fall, named", "fall, by chance", "difference",
            "faces that fall by more", "score, named", "score, by chance",
        ),
        rows=[_step_row(count, [(group, step) for group, step in steps if step.count == count]) for count in counts],
    )  # fmt: skip


def _measured(step: Step) -> Sequence[float]:
    further = step.named_fall - step.random_fall
    falls = (step.part, step.named_fall, step.random_fall, further, step.named_fall > step.random_fall)
    return (*falls, step.named_score, step.random_score)


def _step_row(count: int, rows: Sequence[tuple[str, Step]]) -> Sequence[Cell]:
    measured = [_measured(step) for _, step in rows]
    return (count, len(rows), *mean_estimates(measured, [group for group, _ in rows]))
