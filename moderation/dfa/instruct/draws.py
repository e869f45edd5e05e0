"""Random draws. Random numbers come from the caller, so that equal seeds give equal data."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

Rng = np.random.Generator
Drawn = TypeVar("Drawn")


def picked(choices: Sequence[Drawn], rng: Rng) -> Drawn:
    """One of the choices, each as often."""
    return choices[int(rng.integers(len(choices)))]


def weighted(shares: Mapping[Drawn, float], rng: Rng) -> Drawn:
    """One of the keys, each as often as its share says. Shares need not sum to 1."""
    weights = np.array(list(shares.values()))
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]
