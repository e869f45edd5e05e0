"""How well the tower's way of looking carries over: trained with one source left out, judged on that source.

Nobody knows tomorrow's generators. A source that was left out is the nearest thing to one that we can measure: its
bona fide and its forged pictures, and forgeries made from its faces, were never shown. The runs are short and equal,
so their figures compare with each other and with the run that left nothing out, not with the shipped bundle.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moderation.analysis import Technique
from moderation.dfa.bench.estimates import Estimate, auc_estimate, region_f1
from moderation.dfa.gpt.tower import Tower
from moderation.dfa.instruct.examples import Example, Examples, pooled_examples
from moderation.dfa.instruct.pool import Pool, open_pool
from moderation.dfa.train.report import BONA_FIDE_OF
from moderation.dfa.train.sight import REGIONS, Heads, SightPlan, as_batch, load_sight, train_tower

#: What is left out in turn: folders of the pool, and techniques of the lab.
LEFT_OUT: tuple[str, ...] = (
    "dfdc_faces224",
    "lfw_faceswap",
    "ifg_gan_faces",
    Technique.FS,
    Technique.FR,
    Technique.FE,
    Technique.EFS,
)


@dataclass(frozen=True)
class Looked:
    """What the heads said of examples."""

    examples: Sequence[Example]
    verdicts: np.ndarray  # (N,) logits
    regions: np.ndarray  # (N, R) chances


def look_at(tower: Tower, heads: Heads, examples: Sequence[Example], *, batch: int = 32) -> Looked:
    verdicts: list[Tensor] = []
    regions: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(examples), batch):
            tokens = tower(as_batch(examples[start : start + batch]).pixels).last_hidden_state
            verdict, _, region, _ = heads(tokens)
            verdicts.append(verdict)
            regions.append(region.sigmoid())
    return Looked(examples, torch.cat(verdicts).numpy(), torch.cat(regions).numpy())


def held_examples(pool: Pool, *, split: str, lab: int, pooled: int, seed: int) -> list[Example]:
    """`lab` twos of each technique, then up to `pooled` pictures of every origin and label."""
    rng = np.random.default_rng([seed, 13])
    drawn = Examples(pool, split)
    twos = [example for t in Technique for _ in range(lab) for example in drawn.lab_two(t, rng)]
    return [*twos, *_some_of_each(pooled_examples(pool, split, rng), pooled)]


def _some_of_each(examples: Iterator[Example], most: int) -> Iterator[Example]:
    counts: dict[tuple[str, bool], int] = {}
    for example in examples:
        key = (example.origin, example.deepfake)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= most:
            yield example


def aucs(looked: Looked, *, lab: int) -> dict[str, Estimate]:
    """DF-D AUC by lab technique and by source of true forgeries, each against its own bona fide."""
    rows = list(range(len(looked.examples)))
    result = {
        f"lab {technique}": _auc(looked, rows[2 * lab * index : 2 * lab * (index + 1)])
        for index, technique in enumerate(Technique)
    }
    pooled = rows[2 * lab * len(Technique) :]
    for origin in sorted({looked.examples[row].origin for row in pooled if looked.examples[row].deepfake}):
        partner = BONA_FIDE_OF.get(origin, origin)
        chosen = [
            row
            for row in pooled
            if looked.examples[row].origin == (origin if looked.examples[row].deepfake else partner)
        ]
        result[origin] = _auc(looked, chosen)
    return result


def _auc(looked: Looked, rows: Sequence[int]) -> Estimate:
    examples = [looked.examples[row] for row in rows]
    return auc_estimate(
        [float(looked.verdicts[row]) for row in rows],
        [example.deepfake for example in examples],
        [example.group for example in examples],
    )


def best_region_chance(looked: Looked) -> tuple[float, float]:
    """The chance from which on a region should be named, and the F1 it gives, over forged faces with known facts."""
    rows = [row for row, example in enumerate(looked.examples) if example.facts]
    truth = [{touch.region.value for touch in looked.examples[row].facts or ()} for row in rows]
    scored = [(_f1_at(looked, rows, truth, chance), chance) for chance in np.arange(0.1, 0.7, 0.05)]
    f1, chance = max(scored)
    return float(chance), float(f1)


def _f1_at(looked: Looked, rows: Sequence[int], truth: Sequence[set[str]], chance: float) -> float:
    said = [
        {region.value for region, value in zip(REGIONS, looked.regions[row], strict=True) if value >= chance}
        for row in rows
    ]
    return region_f1(truth, said)


def leave_out(
    fresh: Callable[[], Tower],
    pool: Path,
    work: Path,
    plan: SightPlan,
    names: Sequence[str],
    *,
    say: Callable[[str], None],
) -> dict[str, dict[str, Estimate]]:
    """Train once with everything and once without each name; AUCs of each run on the same test pictures."""
    lab, results = 40, {}
    examples = held_examples(open_pool(pool), split="test", lab=lab, pooled=150, seed=3)
    for name in ("", *names):
        say(f"without {name or 'leaving anything out'} …")
        folder = work / (name or "everything")
        without = (name,) if name else ()
        train_tower(tower := fresh(), pool, folder, replace(plan, without=without))
        looked = look_at(*load_sight(folder, tower.config), examples)
        results[name] = aucs(looked, lab=lab)
    return results


def as_json(results: dict[str, dict[str, Estimate]]) -> dict[str, object]:
    return {
        name or "everything": {k: asdict(v) for k, v in scores.items()} for name, scores in results.items()
    }


def as_table(results: dict[str, dict[str, Estimate]]) -> str:
    """Markdown: for every name left out, the scores of what was left out beside those of the run with everything."""
    lines = ["| judged on | trained with everything | trained without it |", "|---|---|---|"]
    for name, scores in results.items():
        if name:
            concerned = [key for key in scores if key.startswith(name) or key == f"lab {name}"]
            lines += [f"| {key} | {results[''][key]} | {scores[key]} |" for key in concerned]
    return "\n".join(lines) + "\n"
