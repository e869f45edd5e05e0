"""What becomes of leased work that ends in an error. One table, read in one place: `worker.run`."""

from dataclasses import dataclass

from moderation.errors import ImageRejected, LeaseLost, Unavailable
from moderation.triage import postponed_for, retry_delay


@dataclass(frozen=True)
class Release:
    """Release it, to be taken again: something else was at fault."""

    why: str
    due_in: float  # seconds


@dataclass(frozen=True)
class Fail:
    """End it with this reason, a code and words."""

    code: str
    words: str


@dataclass(frozen=True)
class Forget:
    """Somebody else has it: do nothing."""


#: The end after a fault in our own code. An engineer finds it in the log by the case's id.
FAULT = Fail(
    "fault",
    "A fault of ours stopped the analysis. It was logged for an engineer; please judge the image unaided.",
)
#: The same when the bundle on trial has the fault.
CANDIDATES = Release("candidate_failed", 0)


def reaction(
    error: BaseException,
    *,
    final: tuple[type[BaseException], ...] = (),
    postponements: int = 0,
    patience_seconds: float = float("inf"),
    on_trial: bool = False,
    jitter: float = 0.0,
) -> Release | Fail | Forget:
    """How the work ends. `on_trial`: the candidate did it, not the bundle that serves.

    `jitter` is in [0, 1) and the same at every try of a case: `patience_seconds` are delays that it really waited.

    error                  what happens
    LeaseLost              nothing: another worker has it
    ImageRejected          it fails, with the error's code and words
    one of `final`         the same: a retry would end the same
    Unavailable            it is released, for a growing delay; after `patience_seconds` of delays it fails, with the
                           error's code
    MemoryError            the same: another worker may have more memory, and the delay lets others finish
    anything else          it fails at once: a bug is not retried; a candidate's is no reason to give a case up, and it
                           is released at once, for the bundle that serves
    """
    if isinstance(error, LeaseLost):
        return Forget()
    if isinstance(error, (ImageRejected, *final)):
        return Fail(getattr(error, "code", FAULT.code), str(error))
    if isinstance(error, (Unavailable, MemoryError)):
        code = error.code if isinstance(error, Unavailable) else "out_of_memory"
        if postponed_for(postponements, random=jitter) >= patience_seconds:
            return Fail(code, f"This could not be analysed for long: {_outside(error)}.")
        return Release(code, retry_delay(postponements + 1, random=jitter))
    return CANDIDATES if on_trial else FAULT


def _outside(error: Unavailable | MemoryError) -> str:
    """What happened, without where our servers are. The log has the rest."""
    return error.outside.rstrip(".") if isinstance(error, Unavailable) else "the worker ran out of memory"
