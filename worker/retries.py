"""What to do with a case when its analysis ends in an error. One table, read by the one handler in `tasks.py`."""

from dataclasses import dataclass

from moderation.cases import Refusal
from moderation.errors import ImageRejected, LeaseLost, Unavailable
from moderation.triage import postponed_for, retry_delay


@dataclass(frozen=True)
class HandBack:
    """Return the case to the line: something else was at fault."""

    why: str
    due_in: float  # seconds


@dataclass(frozen=True)
class Refuse:
    """Put the case before a person, without a verdict."""

    refusal: Refusal


@dataclass(frozen=True)
class Forget:
    """Somebody else has the case: nothing is to be done."""


#: Shown to a reviewer when the fault is in our own code. The engineer finds it in the log by the case's id.
FAULT_OF_OURS = (
    "A fault of ours stopped the analysis. It was logged for an engineer; please judge the image unaided."
)

#: What becomes of a case whose analysis ended in such a fault: when the bundle that serves made it, and when the
#: candidate did.
OURS = Refuse(Refusal("attempts_exhausted", FAULT_OF_OURS))
CANDIDATES = HandBack("candidate_failed", 0)


def reaction(
    error: BaseException,
    *,
    postponements: int,
    patience_seconds: float,
    random: float,
    on_trial: bool = False,
) -> HandBack | Refuse | Forget:
    """What becomes of the case. `on_trial`: its analysis was the candidate's, and not that of the bundle that serves.

    error                  what happens to the case
    LeaseLost              nothing: it went on without us
    ImageRejected          ready, with the error's code and words
    Unavailable            back into the line with a growing delay; after `patience_seconds` of delays, ready
    MemoryError            the same: the next worker may have more, and the delay lets others finish first
    anything else          ready at once: a bug is not retried; a candidate's is no reason to give a case up, and back
                           into the line it goes at once, for the bundle that serves
    """
    match error:
        case LeaseLost():
            return Forget()
        case ImageRejected():
            return Refuse(Refusal(error.code, str(error)))
        case Unavailable() | MemoryError():
            if postponed_for(postponements) >= patience_seconds:
                return Refuse(
                    Refusal("attempts_exhausted", f"This could not be analysed for long: {_words(error)}.")
                )
            code = error.code if isinstance(error, Unavailable) else "out_of_memory"
            return HandBack(code, retry_delay(postponements + 1, random=random))
        case _ if on_trial:
            return CANDIDATES
        case _:
            return OURS


def _words(error: BaseException) -> str:
    return str(error).rstrip(".") or "the worker ran out of memory"
