"""A trained bundle judged on its test split, through the engine that serves it. Numbers beside their controls.

DFA-Bench is wider; this is what a model card needs at once: DF-D per source and technique, DF-C, AD against the
facts of the lab with a blind template and a shuffled picture beside it, invented regions, the evidence map against
masks, and the shortcuts that a number of a file alone would find.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from moderation.analysis import Technique
from moderation.dfa.bench.ask import regions_in
from moderation.dfa.bench.estimates import (
    Estimate,
    another,
    auc_estimate,
    blind_regions,
    estimate,
    macro_f1,
    mean_estimate,
    region_f1,
)
from moderation.dfa.bench.maps import Mapped, MapScores, by_kind, mapped
from moderation.dfa.bench.robustness import as_png
from moderation.dfa.bench.tables import markdown
from moderation.dfa.gpt.bundle import Bundle
from moderation.dfa.gpt.detector import reply_of
from moderation.dfa.gpt.engine.engine import Answers, Engine, Plan, Route
from moderation.dfa.gpt.replies import read_reply
from moderation.dfa.gpt.scoring import technique_shares
from moderation.dfa.instruct.examples import Example, Examples, pooled_examples
from moderation.dfa.instruct.pool import Pool
from moderation.dfa.instruct.sources import SHIPPED, Table


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

    def route(margin: float, _mass: float) -> Route:
        if not describe:
            return Route.LEAVE
        return Route.DEEPFAKE if margin > threshold else Route.BONA_FIDE

    engine = Engine.of(bundle, route=route, plan=Plan(max_batch=16, slots=32))
    answered = engine.answer([example.pixels for example in examples])
    return [_judged(bundle, example, answers) for example, answers in zip(examples, answered, strict=True)]


def _judged(bundle: Bundle, example: Example, answers: Answers) -> Judged:
    seen, technique = answers.seen, None
    if answers.names_technique:
        lengths = {name: len(tokens) for name, tokens in bundle.script.options.items()}
        head = seen and seen.technique
        technique = technique_shares(answers.options or {}, lengths, head=head).technique
    reply = read_reply(reply_of(answers, bundle) or "", complete=answers.complete)
    return Judged(
        example,
        answers.margin,
        answers.mass,
        technique,
        regions=reply and regions_in(reply.artifacts),
        opinion=seen and seen.opinion,
        foreign=seen and seen.foreign,
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
    counts = Counter[tuple[str, bool]]()
    for example in pooled_examples(pool, split, rng):
        kind = (example.origin, example.deepfake)
        counts[kind] += 1
        if pooled is None or counts[kind] <= pooled:
            yield example


def report(
    judged: Sequence[Judged],
    *,
    lab: int,
    threshold: float,
    seconds: dict[str, float],
    table: Table = SHIPPED,
) -> Report:
    """Score what `judge` returned for `examples_to_judge`: the first 8 × `lab` examples are the lab's twos."""
    lab_judged, called = judged[: 8 * lab], _called(judged, threshold)
    forged = [j for j in judged if j.example.deepfake and j.example.technique and j.technique]
    described = [j for j in lab_judged if j.example.facts and j.margin > threshold]
    truth = [{touch.region.value for touch in j.example.facts or ()} for j in described]
    said = [set(j.regions or ()) for j in described]
    bona_fide = [j for j in judged if not j.example.deepfake]
    return Report(
        detection=detection(judged, table, lab=lab),
        called_deepfake=called,
        technique_macro_f1=_technique_f1(forged),
        confusion=_confusion(forged),
        region_f1=_regions(described, truth, said),
        # The one answer that is best without looking, chosen on these very pictures: a hard control.
        blind_region_f1=region_f1(truth, [blind_regions(truth)] * len(truth)),
        shuffled_region_f1=region_f1(truth, [said[other] for other in another(len(said), seed=5)]),
        invented_regions=_mean([len(j.regions or ()) for j in bona_fide], bona_fide) if bona_fide else None,
        unread_replies=sum(j.regions is None for j in judged),
        shortcuts=_shortcuts(judged),
        seconds=seconds,
        spoken_and_seen=_spoken_and_seen(judged, table, lab=lab),
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


def _spoken_and_seen(judged: Sequence[Judged], table: Table, *, lab: int) -> dict[str, tuple[float, float]]:
    """Does the language model say what the tower sees? Nothing for a bundle without heads."""
    if any(j.opinion is None for j in judged):
        return {}
    seen = detection([replace(j, margin=j.opinion or 0.0) for j in judged], table, lab=lab)
    spoken = detection(judged, table, lab=lab)
    return {name: (value.value, seen[name].value) for name, value in spoken.items()}


def detection(judged: Sequence[Judged], table: Table, *, lab: int) -> dict[str, Estimate]:
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
        beside = {place for kind in table.kinds if kind.forged == origin for place in kind.beside}
        result[origin] = _auc(
            [
                j
                for j in pooled
                if j.example.origin == origin or (not j.example.deepfake and j.example.origin in beside)
            ]
        )
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
    return {name: _mean([j.margin > threshold for j in rows], rows) for name, rows in sorted(names.items())}


def _mean(values: Sequence[float], rows: Sequence[Judged]) -> Estimate:
    return mean_estimate(values, [j.example.group for j in rows])


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
    counts = Counter((j.example.technique, j.technique) for j in forged)
    return [[counts[truth, said] for said in Technique] for truth in Technique]


def _regions(
    described: Sequence[Judged], truth: Sequence[set[str]], said: Sequence[set[str]]
) -> Estimate | None:
    if not described:
        return None
    return estimate(
        lambda rows: region_f1([truth[row] for row in rows], [said[row] for row in rows]),
        [j.example.group for j in described],
    )


def _shortcuts(judged: Sequence[Judged]) -> dict[str, Estimate]:
    """What the size of the file and its sharpness alone would say, by the same PNG for all."""
    labels = [j.example.deepfake for j in judged]
    groups = [j.example.group for j in judged]
    sizes = [len(as_png(Image.fromarray(j.example.pixels))) for j in judged]
    sharpness = [_sharpness(j.example.pixels) for j in judged]
    return {
        "bytes": auc_estimate(sizes, labels, groups),
        "sharpness": auc_estimate(sharpness, labels, groups),
    }


def _sharpness(pixels: np.ndarray) -> float:
    grey = pixels.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(grey, axis=1)).mean())


#: Batches that are timed. The first one warms up.
ROUNDS = 4


def seconds_per_face(bundle: Bundle, examples: Sequence[Example]) -> dict[str, float]:
    """Seconds of a face among these, in one batch: detection, and the full analysis of faces called deepfakes."""
    results: dict[str, float] = {}
    plan = Plan(max_batch=len(examples), slots=len(examples))
    for name, route in (("detection", Route.LEAVE), ("full", Route.DEEPFAKE)):
        engine = Engine.of(bundle, route=lambda _margin, _mass, route=route: route, plan=plan)
        times = [_timed(engine, [example.pixels for example in examples]) for _ in range(ROUNDS)]
        engine.close()
        results[name] = float(np.median(times[1:])) / len(examples)
    return results


def _timed(engine: Engine, pictures: Sequence[np.ndarray]) -> float:
    began = time.perf_counter()
    engine.answer(pictures)
    return time.perf_counter() - began


def as_text(result: Report) -> str:
    """For people and for the model card: Markdown."""
    tables = [
        markdown(["DF-D AUC", "value [95 % interval], n"], result.detection.items()),
        markdown(["called a deepfake", "share [95 % interval], n"], result.called_deepfake.items()),
        markdown(["other", ""], _other_numbers(result)),
    ]
    if result.spoken_and_seen:
        rows = [(name, f"{said:.3f}", f"{seen:.3f}") for name, (said, seen) in result.spoken_and_seen.items()]
        tables.append(markdown(["DF-D AUC", "of the answer", "of the tower's head"], rows))
    if result.maps:
        rows = [
            (name, str(each.model), f"{each.blind.value:.3f}", f"{each.shuffled.value:.3f}")
            for name, each in result.maps.items()
        ]
        columns = ["evidence map, pixel AUC", "of the map", "of a blind map", "maps shuffled"]
        tables.append(markdown(columns, rows))
    names = [str(technique) for technique in Technique]
    rows = [(name, *row) for name, row in zip(names, result.confusion, strict=True)]
    tables.append(markdown(["DF-C truth ╲ answer", *names], rows))
    return "\n\n".join("\n".join(table) for table in tables) + "\n"


def _other_numbers(result: Report) -> Iterator[tuple[str, object]]:
    yield "DF-C macro-F1, forged faces called deepfakes", result.technique_macro_f1
    yield "AD region F1, lab forgeries called deepfakes", result.region_f1
    yield "– the best answer without looking", f"{result.blind_region_f1:.3f}"
    yield "– answers beside other pictures", f"{result.shuffled_region_f1:.3f}"
    yield "invented regions per bona fide face", result.invented_regions
    yield "replies that could not be read", result.unread_replies
    for name, value in result.shortcuts.items():
        yield f"shortcut AUC of {name} alone", value
    for name, seconds in result.seconds.items():
        yield f"seconds per face, eight at once, {name}", f"{seconds:.3f}"
