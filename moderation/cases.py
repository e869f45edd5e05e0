"""A case: one flagged image, from flag to decision. The words and the one table of moves.

Nothing here knows a database: `moderation.database` stores what this module allows.
"""

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from moderation.errors import TransitionRefused


class CaseState(enum.StrEnum):
    #: Committed to the database. Its id is on the queue, or the sweeper will put it there.
    WAITING = "waiting"
    #: A worker holds a lease on it. Returns to WAITING when the lease runs out or is handed back.
    ANALYZING = "analyzing"
    #: In front of, or waiting for, a reviewer. It may carry no verdict: see `Case.refusal`.
    READY = "ready"
    #: A reviewer decided. Only an appeal reopens it, or the reviewer within the undo window.
    DECIDED = "decided"
    #: The platform took the image back before a decision stood. It ends there: nobody looks at its picture any more.
    WITHDRAWN = "withdrawn"


class Stage(enum.StrEnum):
    """Which review a READY case waits for, or that a DECIDED one had last."""

    #: Nobody has decided yet.
    FIRST = "first"
    #: Somebody decided, and another person reads the case without being told what.
    SECOND = "second"
    #: A lead decides: a reviewer asked for it, or two readings differ.
    ESCALATED = "escalated"
    #: The uploader asked for another decision, by another person.
    APPEAL = "appeal"


class Move(enum.StrEnum):
    """Everything that can happen to a case; also the kind of the event that records it."""

    #: A platform flagged the image and we promised to look.
    ACCEPT = "accepted"
    #: A worker took a lease. The attempt counts from here, before the model runs.
    BEGIN = "analysis_begun"
    #: The worker gave the lease back: it is stopping, or storage did not answer.
    HAND_BACK = "lease_handed_back"
    #: The lease ran out: the worker died, froze or lost its connection.
    EXPIRE = "lease_expired"
    #: The model said something.
    RECORD = "analyzed"
    #: The image cannot be analysed: a person must look unaided.
    REFUSE = "refused"
    #: An operator asks for one more try of a case without a verdict.
    RETRY = "retried"
    #: Another analysis, that an operator asked for, is shown in the place of the one before. The state stays.
    REANALYZE = "reanalyzed"
    #: A person decided, and that ends the case.
    DECIDE = "decided"
    #: A person decided, and another reads the case too: by sample.
    SECOND = "second_review_asked"
    #: A person decided that somebody with more authority should, or two readings differ.
    ESCALATE = "escalated"
    #: Whoever decided takes it back, within the undo window.
    UNDO = "decision_undone"
    #: The same of a decision that sent the case on to another reviewer.
    WITHDRAW = "decision_withdrawn"
    #: The uploader asks for another decision.
    APPEAL = "appealed"
    #: The platform takes the image back.
    RECALL = "withdrawn"


_S = CaseState
#: The whole life-cycle. What is not here cannot happen, on any path.
TRANSITIONS: Mapping[tuple[CaseState | None, Move], CaseState] = {
    (None, Move.ACCEPT): _S.WAITING,
    (_S.WAITING, Move.BEGIN): _S.ANALYZING,
    (_S.ANALYZING, Move.HAND_BACK): _S.WAITING,
    (_S.ANALYZING, Move.EXPIRE): _S.WAITING,
    (_S.ANALYZING, Move.RECORD): _S.READY,
    (_S.ANALYZING, Move.REFUSE): _S.READY,
    (_S.READY, Move.RETRY): _S.WAITING,
    (_S.READY, Move.REANALYZE): _S.READY,
    (_S.DECIDED, Move.REANALYZE): _S.DECIDED,
    (_S.READY, Move.DECIDE): _S.DECIDED,
    (_S.READY, Move.SECOND): _S.READY,
    (_S.READY, Move.ESCALATE): _S.READY,
    (_S.READY, Move.WITHDRAW): _S.READY,
    (_S.DECIDED, Move.UNDO): _S.READY,
    (_S.DECIDED, Move.APPEAL): _S.READY,
    (_S.WAITING, Move.RECALL): _S.WITHDRAWN,
    (_S.ANALYZING, Move.RECALL): _S.WITHDRAWN,
    (_S.READY, Move.RECALL): _S.WITHDRAWN,
}


def after(state: CaseState | None, move: Move) -> CaseState:
    """The state a case is in after `move`. Raise TransitionRefused when the life-cycle has no such move."""
    try:
        return TRANSITIONS[state, move]
    except KeyError:
        raise TransitionRefused(f"a case that is {state or 'new'} cannot be {move}") from None


def before(move: Move) -> CaseState:
    """The one state from which `move` is allowed. ACCEPT has none; REANALYZE and RECALL have several."""
    (state,) = (origin for origin, candidate in TRANSITIONS if candidate is move)
    if state is None:
        raise TransitionRefused(f"{move} starts a case")
    return state


@dataclass(frozen=True)
class ImageRef:
    """Where the platform's image lies. We never take a URL."""

    bucket: str
    key: str
    version_id: str | None = None  # None: whatever the key holds when it is fetched

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}" + (f"?versionId={self.version_id}" if self.version_id else "")


@dataclass(frozen=True)
class Flag:
    """Why we were asked to look at an image, and by whom."""

    image: ImageRef
    #: The platform, or the part of it, that flagged: "profile-photos".
    source: str
    #: The platform's own id, unique within its source. None when it has none.
    external_id: str | None = None
    #: In the platform's words. None when it gave none.
    reason: str | None = None
    #: 0 to 100; the higher is looked at sooner.
    priority: int = 0
    #: Opaque to us, echoed back. At most 4 KB as JSON.
    context: Mapping[str, Any] | None = None

    def digest(self) -> bytes:
        """Equal for two flags that ask for the same thing: what an idempotency key is checked against."""
        fields = {
            "image": [self.image.bucket, self.image.key, self.image.version_id],
            "source": self.source,
            "external_id": self.external_id,
            "reason": self.reason,
            "priority": self.priority,
            "context": self.context,
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).digest()


@dataclass(frozen=True)
class Refusal:
    """Why a case is ready without an analysis."""

    #: One of the codes of `errors.ImageRejected`, or `attempts_exhausted`: nothing wrong with it is known.
    code: str
    #: A sentence a reviewer understands.
    message: str


@dataclass(frozen=True)
class Lease:
    """A worker's exclusive hold on a case until `expires_at` by the database's clock."""

    token: int
    owner: str
    expires_at: datetime


@dataclass(frozen=True)
class Case:
    """One flagged image, from flag to decision."""

    id: UUID
    flag: Flag
    state: CaseState
    #: Raised by one with every move; a write that names an old version is refused.
    version: int
    created_at: datetime
    #: Leases taken on it that count against the cap.
    attempts: int = 0
    #: Leases that ran out. A case with any is analysed alone, so that it can harm no other.
    expired_leases: int = 0
    lease: Lease | None = None  # None unless ANALYZING
    refusal: Refusal | None = None  # None before READY, and never beside an analysis
    #: Since when it waits for a person; an appeal sets it anew. None until READY for the first time.
    ready_at: datetime | None = None
    stage: Stage = Stage.FIRST
    decided_at: datetime | None = None  # None unless DECIDED
    withdrawn_at: datetime | None = None  # None unless WITHDRAWN
    #: The archive that what it consists of lies in. None: it lies in the database.
    archive_id: int | None = None
    #: When its picture's place and everybody's words were taken out of it, for good. None: they are here.
    erased_at: datetime | None = None


def place_of(case_id: UUID, purpose: str) -> float:
    """Where a case falls in [0, 1): evenly, for good, and independently for each purpose."""
    digest = hashlib.sha256(f"{purpose}:{case_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
