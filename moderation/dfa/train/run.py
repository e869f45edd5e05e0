"""A training run's metrics, the course of its learning rates, and its optimiser's state as tensors with names."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


def log(file: Path, entry: Mapping[str, Any]) -> None:
    """Append one line of JSON."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry) + "\n")


def warmed_cosine(step: int, steps: int, *, warm: int, floor: float = 0.0) -> float:
    """In [0, 1]: a linear warm-up of `warm` steps, then a cosine down to `floor`."""
    if step < warm:
        return (step + 1) / warm
    along = (step - warm) / max(steps - warm, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along))


def state_tensors(optimiser: Any) -> dict[str, Tensor]:
    """The optimiser's state, by "index.key"."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def state_of(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The state that `state_tensors` named."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    return state
