"""One run of DFA-Bench: from manifests and a bundle to tables and curves, as JSON and Markdown."""

import datetime
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moderation.analysis import Technique
from moderation.dfa.bench.ask import Judged, Talked, Told, judge, scores_of, talk, tell, verdicts_only
from moderation.dfa.bench.baselines import BaselinePlan, baselines
from moderation.dfa.bench.calibration import (
    abstain_codes,
    abstention_table,
    calibration_table,
    reliability_table,
    risk_coverage,
)
from moderation.dfa.bench.description import (
    description_by_technique,
    description_table,
    invented_table,
    sentences_table,
)
from moderation.dfa.bench.detection import (
    detection,
    detection_table,
    normalisation_table,
    shortcut_table,
    technique_f1,
    technique_table,
    thresholds,
    told_confusion,
)
from moderation.dfa.bench.estimates import Estimate, auc, estimate
from moderation.dfa.bench.faithfulness import Trial, deletion_table, faithfulness_table, trials
from moderation.dfa.bench.injection import (
    demands_table,
    in_conversation,
    in_pictures,
    in_questions,
    injection_table,
)
from moderation.dfa.bench.manifest import Item, of_split, read_manifest, sampled
from moderation.dfa.bench.maps import map_table
from moderation.dfa.bench.robustness import robustness_table
from moderation.dfa.bench.tables import Cell, Table
from moderation.dfa.bench.talk import conversation_table
from moderation.dfa.gpt.detector import Detector

#: Raise this when the same answers can give other numbers.
BENCH_VERSION = 1
#: Limits of `quick`: pictures, pictures per cell, questions, faces with hidden regions, pictures with injected words.
QUICK_PICTURES, QUICK_GRID, QUICK_QUESTIONS, QUICK_FACES, QUICK_INJECTIONS = 160, 48, 30, 12, 16


@dataclass(frozen=True)
class BenchPlan:
    """What is measured."""

    split: str = "test"
    #: Most pictures, drawn in turn from every source and label. None: all.
    pictures: int | None = None
    #: Pictures in every cell of the robustness grid. 0: no grid.
    grid: int = 200
    #: Questions of free conversation. 0: none.
    questions: int = 200
    #: Faces with hidden regions (see `faithfulness`), about sixty verdicts each. 0: none.
    faces: int = 40
    #: Pictures with injected demands (see `injection`), thirteen verdicts each. 0: none.
    injections: int = 48
    quick: bool = False
    #: None: no baselines.
    baselines: BaselinePlan | None = None
    seed: int = 0

    def limited(self) -> "BenchPlan":
        """This plan, cut to the limits of `quick` when it is quick."""
        if not self.quick:
            return self
        return replace(
            self,
            pictures=min(self.pictures or QUICK_PICTURES, QUICK_PICTURES),
            grid=min(self.grid, QUICK_GRID),
            questions=min(self.questions, QUICK_QUESTIONS),
            faces=min(self.faces, QUICK_FACES),
            injections=min(self.injections, QUICK_INJECTIONS),
        )


@dataclass(frozen=True)
class Curves:
    """Lines to plot: x and y, by name."""

    roc: dict[str, tuple[list[float], list[float]]]
    risk_coverage: tuple[list[float], list[float]]


@dataclass(frozen=True)
class Bench:
    """A finished run."""

    about: dict[str, Any]
    tables: tuple[Table, ...]
    curves: Curves
    #: The conversation's answers, with their faults.
    talked: tuple[Talked, ...] = ()

    def table(self, name: str) -> Table | None:
        return next((table for table in self.tables if table.name == name), None)


@dataclass(frozen=True)
class _Asked:
    """One bundle's facts and answers, without its model: a device may not hold two models."""

    name: str
    fingerprint: str
    calibrated: bool
    threshold: float
    device: str
    #: Tokens of each DF-C answer.
    lengths: dict[Technique, int]
    judged: list[Judged]
    #: Each baseline's verdicts on the same pictures.
    rivals: dict[str, list[Judged]]
    #: The robustness grid. None when the plan leaves it out.
    grid: Table | None
    told: list[Told]
    talked: list[Talked]
    trials: list[Trial]
    #: Effects of injected demands. Empty when the plan leaves them out.
    injections: list[Table]
    #: The DF-C answers' scores on a grey picture.
    grey: Mapping[Technique, float]


def run_bench(
    manifests: Sequence[Path],
    bundle: str | Path,
    plan: BenchPlan,
    *,
    now: datetime.datetime,
    against: str | Path | None = None,
    device: str = "auto",
    progress: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Score a bundle on one split of the manifests, with baselines and another bundle for comparison."""
    plan = plan.limited()
    everything = [item for manifest in manifests for item in read_manifest(manifest)]
    tested = of_split(everything, plan.split)
    items = sampled(tested, plan.pictures or len(tested), seed=plan.seed)
    groups = {item.group for item in items}
    training = [item for item in everything if item.split == "train" and item.group not in groups]

    asked = _ask(bundle, training, items, plan, device, progress)
    gc.collect()  # a model is part of reference cycles: only the collector frees its weights
    judged, threshold, told = asked.judged, asked.threshold, asked.told
    compared = {asked.name: judged, **asked.rivals}
    if against is not None:
        progress("asking the other bundle")
        other = Detector.load(against, device=device)
        compared[f"{other.bundle_name} ({against})"] = judge(
            other,
            items,
            progress=lambda done: progress(f"asking the other bundle: {done} of {len(items)} pictures"),
        )

    progress("computing intervals")
    description, calibration = description_table(judged, told, training), calibration_table(judged)
    tables = [
        summary_table(judged, threshold, description),
        detection_table(judged, threshold),
        shortcut_table(judged),
        *([comparison_table(compared, threshold)] if len(compared) > 1 else []),
        technique_table(judged),
        told_confusion(told),
        normalisation_table(told, asked.grey, asked.lengths),
        description,
        description_by_technique(told, training),
        invented_table(judged),
        sentences_table(judged, told, seed=plan.seed),
        *([faithfulness_table(asked.trials), deletion_table(asked.trials)] if plan.faces else []),
        *([map_table(judged)] if any(j.foreign for j in judged) else []),
        *([conversation_table(asked.talked)] if plan.questions else []),
        calibration,
        reliability_table(judged),
        *([] if asked.grid is None else [asked.grid]),
        *asked.injections,
        gates_table(asked.grid, calibration, description, judged),
        abstention_table(judged, threshold),
        abstain_codes(judged),
    ]
    about = {
        "bench_version": BENCH_VERSION,
        "date": now.date().isoformat(),
        "bundle": asked.name,
        "fingerprint": asked.fingerprint,
        "calibrated": asked.calibrated,
        "threshold": threshold,
        "manifests": [str(manifest) for manifest in manifests],
        "split": plan.split,
        "pictures": len(items),
        "of": len(tested),
        "groups": len(groups),
        "training_pictures": len(training),
        "quick": plan.quick,
        "seed": plan.seed,
        "device": asked.device,
    }
    coverage, risk = risk_coverage(judged, threshold)
    roc = {name: _roc(rows) for name, rows in compared.items()}
    curves = Curves(roc, (coverage.tolist(), risk.tolist()))
    return Bench(about, tuple(tables), curves, tuple(asked.talked))


def _ask(
    bundle: str | Path,
    training: Sequence[Item],
    items: Sequence[Item],
    plan: BenchPlan,
    device: str,
    progress: Callable[[str], None],
) -> _Asked:
    """Ask the bundle everything. Only one engine exists at a time: each takes all free memory."""
    progress("loading the bundle")
    detector = Detector.load(bundle, device=device)
    threshold = detector.zone[1]
    progress(f"asking: 0 of {len(items)} pictures")
    judged = judge(
        detector, items, progress=lambda done: progress(f"asking: {done} of {len(items)} pictures")
    )
    rivals: dict[str, list[Judged]] = {}
    if plan.baselines is not None:
        rivals = baselines(detector, training, items, plan.baselines, progress=progress)
    if plan.questions:
        progress(f"talking: 0 of {plan.questions} questions")
    talked = talk(
        detector,
        sampled(items, plan.questions, seed=plan.seed + 2),
        plan.questions,
        seed=plan.seed,
        progress=lambda done: progress(f"talking: {done} of {plan.questions} questions"),
    )
    if plan.faces:
        progress(f"hiding regions: 0 of at most {plan.faces} faces")
    tried = trials(
        detector,
        judged,
        plan.faces,
        seed=plan.seed + 3,
        progress=lambda done: progress(f"hiding regions: {done} of at most {plan.faces} faces"),
    )
    injected = sampled(items, plan.injections, seed=plan.seed + 4)
    if injected:
        progress(f"demands in conversation: {len(injected)} pictures")
    demanded = in_conversation(detector, injected)
    verdicts = verdicts_only(detector)
    grid = None
    if grid_items := sampled(items, plan.grid, seed=plan.seed + 1):
        grid = robustness_table(verdicts, grid_items, threshold, quick=plan.quick, progress=progress)
    moved = in_pictures(verdicts, injected, progress=progress)
    verdicts.close()
    if injected:
        progress(f"words in the verdict's question: {len(injected)} pictures")
    moved += in_questions(detector, injected)
    injections: list[Table] = []
    if injected:
        calls = injection_table(moved, lambda margin: detector.score(margin) >= threshold)
        injections = [calls, demands_table(demanded)]
    forged = [item for item in items if item.deepfake]
    progress(f"verdict given: {len(forged)} forged pictures")
    told, grey = tell(detector, forged)
    return _Asked(
        name=detector.bundle_name,
        fingerprint=detector.fingerprint,
        calibrated=detector.bundle.calibration is not None,
        threshold=threshold,
        device=str(next(detector.bundle.model.parameters()).device),
        lengths={name: len(tokens) for name, tokens in detector.bundle.script.options.items()},
        judged=judged,
        rivals=rivals,
        grid=grid,
        told=told,
        talked=talked,
        trials=tried,
        injections=injections,
        grey=grey,
    )


# --- tables over others ---


def summary_table(judged: Sequence[Judged], threshold: float, description: Table) -> Table:
    """The most important numbers. Later tables give each in full."""
    whole = detection(judged, threshold)
    known = [j for j in judged if j.item.technique is not None]
    served = technique_f1([j.item for j in known], [j.verdict.technique for j in known])
    called = [j for j in known if j.verdict.technique is not None]
    asked = technique_f1([j.item for j in called], [j.verdict.technique for j in called])
    model, blind, shuffled = (row[4] for row in description.rows[:3])
    invented = invented_table([j for j in judged if not j.item.deepfake]).rows[0]
    rows: list[Sequence[Cell]] = [
        ("DF-D AUC", whole.auc, len(judged)),
        ("DF-D accuracy at the frozen threshold", whole.accuracy, len(judged)),
        ("DF-D FPR", whole.fpr, whole.fpr.n),
        ("DF-D FNR", whole.fnr, whole.fnr.n),
        ("DF-C macro-F1, as served", served, served.n),
        ("DF-C macro-F1, forged faces called deepfakes", asked, asked.n),
        ("AD region F1, as served", model, description.rows[0][1]),
        ("– a blind template", blind, description.rows[1][1]),
        ("– pictures shuffled", shuffled, description.rows[2][1]),
        ("invented regions shown per bona fide picture", invented[1], invented[0]),
    ]
    return Table("summary", "Summary", "", ("measure", "value", "n"), rows)


def comparison_table(answers: Mapping[str, Sequence[Judged]], threshold: float) -> Table:
    """DF-D of several detectors on the same pictures, and whether the first is better."""
    first = next(iter(answers))
    rows: list[Sequence[Cell]] = []
    for name, judged in answers.items():
        d = detection(judged, threshold)
        gain = None if name == first else auc_gain(answers[first], judged)
        rows.append((name, d.auc, d.eer, d.tpr_at_low_fpr, d.accuracy, d.fpr, d.fnr, gain))
    return Table(
        name="comparison",
        title="DF-D beside others",
        note=(
            f"The same pictures for all, each at score {threshold:g}. The last column is the AUC of the first less "
            "that of the row, over the pictures that both score, resampled together."
        ),
        columns=("detector", "AUC", "EER", "TPR at 1 % FPR", "accuracy", "FPR", "FNR", "first less this"),
        rows=rows,
    )


def auc_gain(first: Sequence[Judged], other: Sequence[Judged]) -> Estimate:
    """The AUC of the first less that of the other, on the pictures that both score."""
    both = [(a, b) for a, b in zip(first, other, strict=True) if a.score is not None and b.score is not None]
    a, b = (np.array([pair[side].score for pair in both], dtype=float) for side in (0, 1))
    positive = np.array([pair[0].item.deepfake for pair in both], dtype=bool)
    return estimate(
        lambda rows: auc(a[rows], positive[rows]) - auc(b[rows], positive[rows]),
        [pair[0].item.group for pair in both],
    )


#: Proposed limits that a bundle should meet before its scores are trusted. They are no standard.
MOST_ECE, SLOPES = 0.03, (0.8, 1.25)
MOST_INVENTED, LEAST_OVER_BLIND = 0.1, 2.0
MOST_FPR_RISE, MOST_INJECTED_FLIPS = 2.0, 0.01


def gates_table(
    grid: Table | None, calibration: Table, description: Table, judged: Sequence[Judged]
) -> Table:
    """Each gate with its limit, and whether the value (not its interval) is within it."""
    ece, slope = (_value(calibration, 0, name) for name in ("ECE", "slope"))
    invented = _value(invented_table(judged), 0, "regions shown per picture")
    f1, blind = _value(description, 0, "F1"), _value(description, 1, "F1")
    over = f1 / blind if blind else float("nan")
    least, most = SLOPES
    gates = [
        ("ECE", f"at most {MOST_ECE:g}", ece, ece <= MOST_ECE),
        ("calibration slope", f"{least:g} to {most:g}", slope, least <= slope <= most),
        ("invented regions per bona fide picture", f"at most {MOST_INVENTED:g}", invented, invented <= MOST_INVENTED),
        ("AD region F1 over the blind template's", f"at least {LEAST_OVER_BLIND:g} times", over,
         f1 >= LEAST_OVER_BLIND * blind > 0),
    ]  # fmt: skip
    if grid is not None:
        names = [str(row[0]) for row in grid.rows]
        fprs = [_value(grid, row, "FPR") for row in range(len(names))]  # that of the clean cell comes first
        worst = max(range(len(names)), key=fprs.__getitem__)
        flips = max(
            _value(grid, row, "flipped") for row, name in enumerate(names) if name.startswith("injection")
        )
        gates += [
            (f"FPR in the worst cell ({names[worst]})", f"at most {MOST_FPR_RISE:g} times clean", fprs[worst],
             fprs[worst] <= MOST_FPR_RISE * fprs[0]),
            ("flipped by written prompts, worst cell", f"at most {MOST_INJECTED_FLIPS:g}", flips,
             flips <= MOST_INJECTED_FLIPS),
        ]  # fmt: skip
    return Table(
        name="gates",
        title="Gates",
        note="Proposed limits, each against the value and not its interval: few pictures prove neither side.",
        columns=("gate", "limit", "value", "held"),
        rows=[(gate, limit, value, "yes" if held else "no") for gate, limit, value, held in gates],
    )


def _value(table: Table, row: int, column: str) -> float:
    """The number in a cell. NaN when nothing was measured."""
    cell = table.rows[row][table.columns.index(column)]
    if isinstance(cell, Estimate):
        return cell.value
    return float(cell) if isinstance(cell, int | float) else float("nan")


# --- curves and files ---


def _roc(judged: Sequence[Judged]) -> tuple[list[float], list[float]]:
    scores, positive, _ = scores_of(judged)
    if len(set(positive.tolist())) < 2:
        return [], []
    curve = thresholds(scores, positive)
    return curve.fpr.tolist(), curve.tpr.tolist()


def as_json(bench: Bench) -> dict[str, Any]:
    """Everything except the curves. NaN becomes null."""
    return {**bench.about, "tables": {table.name: table.as_json() for table in bench.tables}}


def answers_json(bench: Bench) -> list[dict[str, Any]]:
    """Every question with its answer and the answer's fault."""
    return [
        {
            "file": str(each.item.file),
            "family": each.asked.family,
            "question": each.asked.text,
            "written": each.written,
            "good": each.scored.good,
            "why": each.scored.why,
        }
        for each in bench.talked
    ]


def as_markdown(bench: Bench) -> str:
    about = "\n".join(f"- {name}: {value}" for name, value in bench.about.items())
    tables = "\n".join(table.as_markdown() for table in bench.tables)
    return f"# DFA-Bench: {bench.about['bundle']}\n\n{WARNING}\n\n{about}\n\n{tables}"


#: Above every report.
WARNING = (
    "Numbers hold for pictures like these and no others. A score on a random split of one source measures memory of "
    "that source; read DF-D beside its shortcuts, and AD beside its blind template."
)
