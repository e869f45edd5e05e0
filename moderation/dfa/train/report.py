"""A trained bundle judged on its test split, through the engine that serves it. Numbers beside their controls.

DFA-Bench is wider; this is what a model card needs at once: DF-D per source and technique, DF-C, AD against the
facts of the lab with a blind template and a shuffled picture beside it, invented regions, the evidence map against
masks, and the shortcuts that a number of a file alone would find.
"""

import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from moderation.analysis import Technique
from moderation.dfa.bench.estimates import (
    Estimate,
    auc_estimate,
    blind_regions,
    estimate,
    macro_f1,
    region_f1,
)
from moderation.dfa.bench.maps import Mapped, MapScores, by_kind, mapped
from moderation.dfa.gpt.bundle import Bundle
from moderation.dfa.gpt.detector import reply_of
from moderation.dfa.gpt.engine.engine import Answers, Engine, Plan, Route
from moderation.dfa.gpt.replies import read_reply
from moderation.dfa.gpt.scoring import technique_shares
from moderation.dfa.instruct.examples import Example, Examples, pooled_examples
from moderation.dfa.instruct.pool import Pool
from moderation.dfa.instruct.sources import kinds_of_two


@dataclass(frozen=True, eq=False)
class Judged:
    """One example and what the model said about it."""

    example: Example
    margin: float
    mass: float
    technique: Technique | None  # as served; None when not asked
    regions: frozenset[str] | None  # None when the reply could not be read, or was not asked for
    #: The verdict head's logit. None for a bundle without heads.
    opinion: float | None = None
    #: (G, G) in [0, 1]: where pixels look foreign. None for a bundle without heads.
    foreign: np.ndarray | None = None


@dataclass(frozen=True)
class Report:
    """What a bundle reached. `None` where there was nothing to measure."""

    #: DF-D AUC against the bona fide of the same source, by source or lab technique.
    detection: dict[str, Estimate]
    #: Share called deepfake at the threshold: bona fide by source (FPR), forged by source (TPR).
    called_deepfake: dict[str, Estimate]
    technique_macro_f1: Estimate | None
    #: Rows are the truth, columns the answer, in the order of `Technique`.
    confusion: list[list[int]]
    region_f1: Estimate | None
    blind_region_f1: float
    shuffled_region_f1: float
    #: Mean regions named per bona fide face that is called a deepfake or not, as served.
    invented_regions: Estimate | None
    unread_replies: int
    #: AUC of numbers of the file alone, after normalisation: .5 is what we want.
    shortcuts: dict[str, Estimate]
    #: Seconds per face on this machine, eight at once: detection alone, and full analysis.
    seconds: dict[str, float]
    #: DF-D AUC by what was judged: of the language model's margin, and of the tower's own head.
    spoken_and_seen: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    #: The evidence map against masks, by lab technique and by source of pixel-aligned pairs.
    maps: dict[str, MapScores] = field(default_factory=dict[str, MapScores])


def judge(
    bundle: Bundle, examples: Sequence[Example], *, threshold: float = 0.0, describe: bool = True
) -> list[Judged]:
    """Ask the engine everything, in order. A margin above `threshold` goes on as a deepfake, others as bona fide.

    Without `describe` only the verdict is asked for.
    """
    engine = Engine(
        bundle.model,
        bundle.script,
        bundle.spec.image,
        route=lambda margin, _: _route(margin > threshold) if describe else Route.LEAVE,
        plan=Plan(max_batch=16, slots=32),
        heads=bundle.heads,
    )
    answered = engine.answer([example.pixels for example in examples])
    return [_judged(bundle, example, answers) for example, answers in zip(examples, answered, strict=True)]


def _route(deepfake: bool) -> Route:  # noqa: FBT001  there is nothing else to say
    return Route.DEEPFAKE if deepfake else Route.BONA_FIDE


def _judged(bundle: Bundle, example: Example, answers: Answers) -> Judged:
    technique = None
    if answers.names_technique:
        lengths = {name: len(tokens) for name, tokens in bundle.script.options.items()}
        head = answers.seen and answers.seen.technique
        technique = technique_shares(answers.options or {}, lengths, head=head).technique
    regions = None
    text = reply_of(answers, bundle)
    if text is not None:
        reply = read_reply(text, complete=answers.complete)
        if reply is not None:
            regions = frozenset(region for artifact in reply.artifacts for region in artifact.regions)
    seen = answers.seen
    return Judged(
        example,
        answers.margin,
        answers.mass,
        technique,
        regions,
        opinion=seen and seen.opinion,
        foreign=None if seen is None else seen.foreign,
    )


def examples_to_judge(
    pool: Pool, *, split: str, lab: int, pooled: int | None, seed: int
) -> Iterator[Example]:
    """`lab` twos of each technique, and up to `pooled` pictures of every origin and label as they are."""
    rng = np.random.default_rng([seed, 11])
    examples = Examples(pool, split)
    for technique in Technique:
        for _ in range(lab):
            yield from examples.lab_two(technique, rng)
    counts: dict[tuple[str, bool], int] = {}
    for example in pooled_examples(pool, split, rng):
        key = (example.origin, example.deepfake)
        counts[key] = counts.get(key, 0) + 1
        if pooled is None or counts[key] <= pooled:
            yield example


def report(judged: Sequence[Judged], *, lab: int, threshold: float, seconds: dict[str, float]) -> Report:
    """Score what `judge` returned for `examples_to_judge`: the first 8 × `lab` examples are the lab's twos."""
    lab_judged, called = judged[: 8 * lab], _called(judged, threshold)
    forged = [j for j in judged if j.example.deepfake and j.example.technique and j.technique]
    described = [j for j in lab_judged if j.example.facts and j.margin > threshold]
    truth = [{touch.region.value for touch in j.example.facts or ()} for j in described]
    said = [set(j.regions or ()) for j in described]
    bona_fide = [j for j in judged if not j.example.deepfake]
    return Report(
        detection=detection(judged, lab=lab),
        called_deepfake=called,
        technique_macro_f1=_technique_f1(forged),
        confusion=_confusion(forged),
        region_f1=_regions(described, truth, said),
        blind_region_f1=_blind_f1(truth),
        shuffled_region_f1=_shuffled_f1(truth, said),
        invented_regions=_mean([len(j.regions or ()) for j in bona_fide], bona_fide),
        unread_replies=sum(j.regions is None for j in judged),
        shortcuts=_shortcuts(judged),
        seconds=seconds,
        spoken_and_seen=_spoken_and_seen(judged, lab=lab),
        maps=_maps(judged),
    )


def _maps(judged: Sequence[Judged]) -> dict[str, MapScores]:
    """Of all faces that are forged in part, as their masks say, and by where they come from. Nothing without heads."""
    faces: dict[str, list[Mapped]] = {}
    for j in judged:
        example = j.example
        if example.technique is Technique.EFS or example.mask is None or j.foreign is None:
            continue
        found = mapped(example.group, j.foreign, example.mask)
        if found is not None:
            for place in ("all", "/".join(example.origin.split("/")[:2])):
                faces.setdefault(place, []).append(found)
    return by_kind(faces)


def _spoken_and_seen(judged: Sequence[Judged], *, lab: int) -> dict[str, tuple[float, float]]:
    """Does the language model say what the tower sees? Nothing for a bundle without heads."""
    if any(j.opinion is None for j in judged):
        return {}
    seen = detection([replace(j, margin=j.opinion or 0.0) for j in judged], lab=lab)
    return {name: (value.value, seen[name].value) for name, value in detection(judged, lab=lab).items()}


def detection(judged: Sequence[Judged], *, lab: int) -> dict[str, Estimate]:
    """DF-D AUC by lab technique and by source, each against its own bona fide; of `examples_to_judge`, in order."""
    lab_judged, pooled = judged[: 8 * lab], judged[8 * lab :]
    result = {
        f"lab {technique}": _auc(lab_judged[2 * lab * index : 2 * lab * (index + 1)])
        for index, technique in enumerate(Technique)
        if lab
    }
    if lab:
        result["lab all"] = _auc(lab_judged)
    for origin in sorted({j.example.origin for j in pooled if j.example.deepfake}):
        beside = {
            place for kind in kinds_of_two() if kind.forged == origin for place in (*kind.beside, origin)
        }
        rows = [
            j
            for j in pooled
            if j.example.origin == origin or (not j.example.deepfake and j.example.origin in beside)
        ]
        result[origin] = _auc(rows)
    if pooled:
        result["pool all"] = _auc(pooled)
    return result


def _auc(rows: Sequence[Judged]) -> Estimate:
    return auc_estimate(
        [j.margin for j in rows], [j.example.deepfake for j in rows], [j.example.group for j in rows]
    )


def _called(judged: Sequence[Judged], threshold: float) -> dict[str, Estimate]:
    """Share above the threshold for every source and label."""
    names: dict[str, list[Judged]] = {}
    for j in judged:
        kind = "/".join(j.example.origin.split("/")[:2])
        names.setdefault(f"{'forged' if j.example.deepfake else 'bona fide'} {kind}", []).append(j)
    return {
        name: result
        for name, rows in sorted(names.items())
        if (result := _mean([float(j.margin > threshold) for j in rows], rows)) is not None
    }


def _mean(values: Sequence[float], rows: Sequence[Judged]) -> Estimate | None:
    if not rows:
        return None
    numbers = np.asarray(values, dtype=float)
    return estimate(lambda chosen: float(numbers[chosen].mean()), [j.example.group for j in rows])


def _technique_f1(forged: Sequence[Judged]) -> Estimate | None:
    """On forged pictures that were taken for deepfakes, so that DF-C was asked."""
    if not forged:
        return None
    truth = np.array([str(j.example.technique) for j in forged])
    said = np.array([str(j.technique) for j in forged])
    classes = [str(technique) for technique in Technique]
    return estimate(
        lambda rows: macro_f1(truth[rows].tolist(), said[rows].tolist(), classes),
        [j.example.group for j in forged],
    )


def _confusion(forged: Sequence[Judged]) -> list[list[int]]:
    order = list(Technique)
    return [
        [sum(j.example.technique is row and j.technique is column for j in forged) for column in order]
        for row in order
    ]


def _regions(
    described: Sequence[Judged], truth: Sequence[set[str]], said: Sequence[set[str]]
) -> Estimate | None:
    if not described:
        return None
    return estimate(
        lambda rows: region_f1([truth[row] for row in rows], [said[row] for row in rows]),
        [j.example.group for j in described],
    )


def _blind_f1(truth: Sequence[set[str]]) -> float:
    """Of the one answer that is best without looking, chosen on these very pictures: a hard control."""
    return region_f1(truth, [blind_regions(truth)] * len(truth))


def _shuffled_f1(truth: Sequence[set[str]], said: Sequence[set[str]]) -> float:
    """Every answer put beside another picture's facts."""
    order = np.random.default_rng(5).permutation(len(said))
    # Round a ring in a random order, so that none meets its own.
    return region_f1([truth[index] for index in order], [said[index] for index in np.roll(order, 1)])


def _shortcuts(judged: Sequence[Judged]) -> dict[str, Estimate]:
    """What the size of the file and its sharpness alone would say, by the same PNG for all."""
    labels = [j.example.deepfake for j in judged]
    groups = [j.example.group for j in judged]
    sizes = [float(_png_size(j.example.pixels)) for j in judged]
    sharpness = [_sharpness(j.example.pixels) for j in judged]
    return {
        "bytes": auc_estimate(sizes, labels, groups),
        "sharpness": auc_estimate(sharpness, labels, groups),
    }


def _png_size(pixels: np.ndarray) -> int:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return len(buffer.getvalue())


def _sharpness(pixels: np.ndarray) -> float:
    grey = pixels.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(grey, axis=1)).mean())


#: Batches that are timed. The first one warms up.
ROUNDS = 4


def seconds_per_face(bundle: Bundle, examples: Sequence[Example]) -> dict[str, float]:
    """Seconds of a face among these, in one batch: detection, and the full analysis of faces called deepfakes."""
    results: dict[str, float] = {}
    for name, full in (("detection", False), ("full", True)):
        engine = Engine(
            bundle.model,
            bundle.script,
            bundle.spec.image,
            route=lambda _margin, _mass, full=full: Route.DEEPFAKE if full else Route.LEAVE,
            plan=Plan(max_batch=len(examples), slots=len(examples)),
            heads=bundle.heads,
        )
        times = [_timed(engine, [example.pixels for example in examples]) for _ in range(ROUNDS)]
        engine.close()
        results[name] = float(np.median(times[1:])) / len(examples)
    return results


def _timed(engine: Engine, pictures: Sequence[np.ndarray]) -> float:
    began = time.perf_counter()
    engine.answer(pictures)
    return time.perf_counter() - began


def write_report(result: Report, file: Path) -> None:
    file.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


def as_text(result: Report) -> str:
    """For people and for the model card: Markdown."""
    lines = ["| DF-D AUC | value [95 % interval], n |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in result.detection.items()]
    lines += ["", "| called a deepfake | share [95 % interval], n |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in result.called_deepfake.items()]
    lines += ["", "| other | |", "|---|---|"]
    lines += [
        f"| DF-C macro-F1, forged faces called deepfakes | {result.technique_macro_f1} |",
        f"| AD region F1, lab forgeries called deepfakes | {result.region_f1} |",
        f"| – the best answer without looking | {result.blind_region_f1:.3f} |",
        f"| – answers beside other pictures | {result.shuffled_region_f1:.3f} |",
        f"| invented regions per bona fide face | {result.invented_regions} |",
        f"| replies that could not be read | {result.unread_replies} |",
    ]
    lines += [f"| shortcut AUC of {name} alone | {value} |" for name, value in result.shortcuts.items()]
    lines += [
        f"| seconds per face, eight at once, {name} | {value:.3f} |" for name, value in result.seconds.items()
    ]
    if result.spoken_and_seen:
        lines += ["", "| DF-D AUC | of the answer | of the tower's head |", "|---|---|---|"]
        lines += [
            f"| {name} | {said:.3f} | {seen:.3f} |" for name, (said, seen) in result.spoken_and_seen.items()
        ]
    if result.maps:
        lines += [
            "",
            "| evidence map, pixel AUC | of the map | of a blind map | maps shuffled |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {each.model} | {each.blind.value:.3f} | {each.shuffled.value:.3f} |"
            for name, each in result.maps.items()
        ]
    names = [str(technique) for technique in Technique]
    lines += ["", f"| DF-C truth ╲ answer | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [
        f"| {name} | {' | '.join(map(str, row))} |" for name, row in zip(names, result.confusion, strict=True)
    ]
    return "\n".join(lines) + "\n"
