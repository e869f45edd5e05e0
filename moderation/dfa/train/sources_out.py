"""How well the tower's way of looking carries over: trained with one source left out, judged on that source.

Nobody knows tomorrow's generators. A source that was left out is the nearest thing to one that we can measure: its
bona fide and its forged pictures, and forgeries made from its faces, were never shown. The runs are short and equal,
so their figures compare with each other and with the run that left nothing out, not with the shipped bundle.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from moderation.analysis import Technique
from moderation.dfa.bench.estimates import Estimate
from moderation.dfa.gpt.tower import Tower
from moderation.dfa.instruct.examples import Example
from moderation.dfa.instruct.pool import open_pool
from moderation.dfa.train.report import Judged, detection, examples_to_judge
from moderation.dfa.train.sight import Heads, SightPlan, as_batch, load_sight, train_tower

#: What is left out in turn: folders of the pool, and techniques of the lab.
LEFT_OUT: tuple[str, ...] = ("dfdc_faces224", "lfw_faceswap", "ifg_gan_faces", *Technique)
#: Twos of each technique of the lab, and pictures of each origin and label, that every run is judged on.
LAB, POOLED = 40, 150


def look_at(tower: Tower, heads: Heads, examples: Sequence[Example], *, batch: int = 32) -> list[Judged]:
    """What the tower's own head says, without a language model: a margin for each example."""
    margins: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(examples), batch):
            tokens = tower(as_batch(examples[start : start + batch]).pixels).last_hidden_state
            margins += heads(tokens)[0].tolist()
    return [
        Judged(example, margin, mass=1.0, technique=None, regions=None)
        for example, margin in zip(examples, margins, strict=True)
    ]


def leave_out(
    fresh: Callable[[], Tower],
    pool: Path,
    work: Path,
    plan: SightPlan,
    names: Sequence[str],
    *,
    say: Callable[[str], None],
) -> dict[str, dict[str, Estimate]]:
    """Train once with everything (named "") and once without each name; DF-D AUCs on the same test pictures."""
    examples = list(examples_to_judge(open_pool(pool), split="test", lab=LAB, pooled=POOLED, seed=3))
    results: dict[str, dict[str, Estimate]] = {}
    for name in ("", *names):
        say(f"Without {name} …" if name else "With everything …")
        folder = work / (name or "everything")
        tower = fresh()
        train_tower(tower, pool, folder, replace(plan, without=(name,) if name else ()))
        results[name] = detection(look_at(*load_sight(folder, tower.config), examples), lab=LAB)
    return results


def as_json(results: dict[str, dict[str, Estimate]]) -> dict[str, object]:
    return {
        name or "everything": {key: asdict(value) for key, value in scores.items()}
        for name, scores in results.items()
    }


def as_table(results: dict[str, dict[str, Estimate]]) -> str:
    """Markdown: for every name left out, the scores of what was left out beside those of the run with everything."""
    lines = ["| judged on | trained with everything | trained without it |", "|---|---|---|"]
    for name, scores in results.items():
        if name:
            concerned = [key for key in scores if key.startswith(name) or key == f"lab {name}"]
            lines += [f"| {key} | {results[''][key]} | {scores[key]} |" for key in concerned]
    return "\n".join(lines) + "\n"
