"""A case is one flagged image, from flag to decision. Here are its words and the one table of its moves.

Nothing here knows the database: `moderation.database` stores what this module allows.
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
    #: A worker holds a lease on it. Returns to WAITING when the lease runs out or is released.
    ANALYZING = "analyzing"
    #: In front of, or waiting for, a reviewer. It may carry no verdict: see `Case.refusal`.
    READY = "ready"
    #: A reviewer decided. An appeal reopens it, or the same reviewer within the undo window; nothing else does.
    DECIDED = "decided"
    #: The platform took the image back before a decision stood. The case ends: nobody sees its picture any more.
    WITHDRAWN = "withdrawn"


class Stage(enum.StrEnum):
    """The review that a READY case waits for, or the last review of a DECIDED case."""

    #: Nobody has decided yet.
    FIRST = "first"
    #: Somebody decided. Another person reviews the case and is not told the decision.
    SECOND = "second"
    #: A lead decides: a reviewer asked for it, or two reviews differ.
    ESCALATED = "escalated"
    #: The uploader asked for another decision, by another person.
    APPEAL = "appeal"


class Move(enum.StrEnum):
    """Everything that can happen to a case. It is also the kind of the event that records it."""

    #: A platform flagged the image, and we promised to look at it.
    ACCEPT = "accepted"
    #: A worker took a lease. The attempt counts from now on, before the model runs.
    BEGIN = "analysis_begun"
    #: The worker released its lease: it is stopping, or storage did not answer.
    RELEASE = "lease_handed_back"
    #: The lease ran out: the worker died, froze or lost its connection.
    EXPIRE = "lease_expired"
    #: The model said something.
    RECORD = "analyzed"
    #: The image cannot be analysed: a person must look unaided.
    REFUSE = "refused"
    #: An operator asks for one more attempt at a case without a verdict.
    RETRY = "retried"
    #: An operator asked for another analysis, and it is now on show. The state stays.
    REANALYZE = "reanalyzed"
    #: A person decided, and that ends the case.
    DECIDE = "decided"
    #: A person decided, and the case is in the sample that another person reviews too.
    SECOND = "second_review_asked"
    #: A reviewer passes the case to a lead, or two reviews differ.
    ESCALATE = "escalated"
    #: The reviewer takes the decision back, within the undo window.
    UNDO = "decision_undone"
    #: The same for a decision that sent the case to another reviewer.
    WITHDRAW = "decision_withdrawn"
    #: The uploader asks for another decision.
    APPEAL = "appealed"
    #: The platform takes the image back.
    RECALL = "withdrawn"


_S = CaseState
#: The whole life-cycle. A move that is not listed cannot happen.
TRANSITIONS: Mapping[tuple[CaseState | None, Move], CaseState] = {
    (None, Move.ACCEPT): _S.WAITING,
    (_S.WAITING, Move.BEGIN): _S.ANALYZING,
    (_S.ANALYZING, Move.RELEASE): _S.WAITING,
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
    """The state of a case after `move`. Raise TransitionRefused when the life-cycle has no such move."""
    try:
        return TRANSITIONS[state, move]
    except KeyError:
        raise TransitionRefused(f"a case that is {state or 'new'} cannot be {move}") from None


def before(move: Move) -> CaseState:
    """The one state in which `move` is allowed. ACCEPT has none; REANALYZE and RECALL have several."""
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
    #: 0 to 100. A case of a higher priority comes first.
    priority: int = 0
    #: Opaque to us, echoed back. At most 4 KB as JSON.
    context: Mapping[str, Any] | None = None

    def digest(self) -> bytes:
        """Two flags that ask for the same have the same digest. An idempotency key is checked against it."""
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

    #: A code of `errors.ImageRejected`, or `storage_unavailable` or `attempts_exhausted`: then nothing wrong with the
    #: image is known.
    code: str
    #: A sentence a reviewer understands.
    message: str


@dataclass(frozen=True)
class Lease:
    """A worker's exclusive hold on a case, until `expires_at` by the database's clock."""

    token: int
    owner: str
    expires_at: datetime


@dataclass(frozen=True)
class Case:
    """One flagged image, from flag to decision."""

    id: UUID
    flag: Flag
    state: CaseState
    #: Every move adds one. A write that names an old version is refused.
    version: int
    created_at: datetime
    #: Leases on it that count against the limit.
    attempts: int = 0
    #: Leases that ran out. A case with any is analysed in quarantine, so that it can harm no other case.
    expired_leases: int = 0
    lease: Lease | None = None  # None unless ANALYZING
    refusal: Refusal | None = None  # None before READY, and never beside an analysis
    #: When it began to wait for a person. An appeal sets it again. None until READY for the first time.
    ready_at: datetime | None = None
    stage: Stage = Stage.FIRST
    decided_at: datetime | None = None  # None unless DECIDED
    withdrawn_at: datetime | None = None  # None unless WITHDRAWN
    #: The archive that holds its rows. None: the database holds them.
    archive_id: int | None = None
    #: When its picture's place and all texts were erased for good. None: they are still here.
    erased_at: datetime | None = None


def place_of(case_id: UUID, purpose: str) -> float:
    """A number in [0, 1) for a case: evenly spread, always the same, and independent for each purpose."""
    digest = hashlib.sha256(f"{purpose}:{case_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
