"""Mutated files against the decoding that workers use: what became of each, by kind."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from moderation.dfa.gpt.pixels import Picture, PixelLimits
from moderation.errors import ImageRejected
from moderation.evidence.options import Options
from moderation.evidence.words import Evidence, FactKind
from tests.fuzz.corpus import mutated, seeds
from worker.decoding import DecodePool


@dataclass
class Tally:
    """Of one kind."""

    tried: int = 0
    decoded: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    #: Decoders that died or were too slow, and anything but a refusal that came out. Each with the seed of its file.
    bad: list[str] = field(default_factory=list[str])
    slowest: float = 0.0
    #: A sample of what decoded, for the face finder.
    pictures: list[Picture] = field(default_factory=list[Picture])


def fuzz(kind: str, count: int, *, seed: int, pool: DecodePool, threads: int, keep: int = 0) -> Tally:
    """Try `count` mutations of one kind. The file of number n is `a_file(kind, seed, n)` again."""
    tally = Tally()
    bases = seeds(kind)
    with ThreadPoolExecutor(threads) as workers:
        for outcome in workers.map(lambda n: _try(kind, a_file(bases, seed, n), n, pool), range(count)):
            _count(tally, outcome, keep)
    return tally


def a_file(bases: Sequence[bytes], seed: int, number: int) -> bytes:
    chance = random.Random(f"{seed} {number}")
    return mutated(chance.choice(bases), list(bases), chance)


@dataclass(frozen=True)
class _Outcome:
    seconds: float
    picture: Picture | None = None
    refusal: str | None = None
    bad: str | None = None


def _try(kind: str, data: bytes, number: int, pool: DecodePool) -> _Outcome:
    began = time.monotonic()
    try:
        picture = pool.decode(data)
    except ImageRejected as error:
        seconds = time.monotonic() - began
        # What a child's death is called by `worker.decoding`: a refusal for the picture, a finding for us.
        died = "ended the decoder" in str(error) or "and was stopped" in str(error)
        bad = f"{kind} {number}: {error}" if died else None
        return _Outcome(seconds, refusal=error.code, bad=bad)
    except Exception as error:  # noqa: BLE001  nothing else may come out
        return _Outcome(time.monotonic() - began, bad=f"{kind} {number}: {type(error).__name__}: {error}")
    lost = _lost(picture)
    bad = None if lost is None else f"{kind} {number}: evidence: {lost}"
    return _Outcome(time.monotonic() - began, picture=picture, bad=bad)


def _lost(picture: Picture) -> str | None:
    """Why the whole evidence is missing. A parser that tripped over its own part of the file is no finding."""
    assert isinstance(picture.evidence, Evidence)
    missing = picture.evidence.fact(FactKind.GATHERING)
    whole = missing is not None and len(picture.evidence.facts) == 1 and ":" not in str(missing.data["why"])
    return str(missing.data["why"]) if missing is not None and whole else None


def _count(tally: Tally, outcome: _Outcome, keep: int) -> None:
    tally.tried += 1
    tally.slowest = max(tally.slowest, outcome.seconds)
    if outcome.bad is not None:
        tally.bad.append(outcome.bad)
    elif outcome.refusal is not None:
        tally.refused[outcome.refusal] += 1
    elif outcome.picture is not None:
        tally.decoded += 1
        if len(tally.pictures) < keep and outcome.picture.pixels.size < 3 * 10**6:
            tally.pictures.append(outcome.picture)


def open_pool(children: int = 2, *, seconds: float = 20) -> DecodePool:
    """As workers have it, where all kinds are asked for."""
    limits, evidence = PixelLimits(heic=True), Options(seconds=seconds)
    pool = DecodePool(limits, children=children, seconds=seconds, evidence=evidence)
    pool.warm()
    return pool
