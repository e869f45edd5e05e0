"""Everything that can go wrong, sorted by what the caller does next.

    BonafideError
    ├── Unavailable             try again later, the image is not at fault
    │   ├── StorageUnavailable      the bucket does not answer, or answers with a fault of its own
    │   │   ├── StorageTooSlow          an image took too long to arrive
    │   │   └── BucketNotRead           this worker may not read a bucket that intake accepts
    │   ├── DatabaseUnavailable     Postgres does not answer
    │   ├── BrokerUnavailable       Redis does not answer: nothing was published
    │   ├── ArchiveBusy             another archiver is at work on this database
    │   └── EngineUnavailable       the model is stopping, too slow, or out of memory
    │       └── DecoderKilled           something other than the picture ended its decoder, twice
    ├── ImageRejected           never try again, a person must look unaided
    │   ├── ImageMissing            no such key or version, or the store keeps no versions
    │   ├── ImageTooLarge           the file has more bytes than we read
    │   ├── NotAnImage              the file is something else
    │   ├── ImageCorrupt            an image that does not decode
    │   ├── UnsupportedFormat       an image of a kind we do not decode
    │   └── TooManyPixels           decoding it would take too much memory or time
    ├── BundleMismatch          refuse to start
    ├── RequestRefused          tell the caller, change nothing
    │   ├── BucketNotAllowed        this installation does not read that bucket
    │   ├── IdempotencyConflict     the same key came with another body
    │   ├── NotificationUnreadable  a store's notification has a form that we do not know
    │   ├── CursorUnreadable        the cursor of a page is not one of ours
    │   ├── CaseNotFound            no case has this id
    │   ├── QuestionRefused         we do not put this question to the model
    │   ├── TooManyCases            this platform is over its rate: wait
    │   ├── TooManyQuestions        the case has too many open questions
    │   ├── DecisionNotFound        no decision has this id
    │   ├── NotAllowed              this person's role does not allow it
    │   ├── JudgementIncomplete     the judgement lacks something or contradicts itself
    │   │   └── ReasonRequired          this installation asks for a reason
    │   ├── SignInRefused           the email or the password is wrong; we never say which
    │   ├── SignInThrottled         too many wrong passwords: wait
    │   ├── PasswordRefused         the password is too short, or too long to hash
    │   ├── PersonNotFound          nobody has this id or email
    │   ├── PersonExists            somebody has this email already
    │   ├── EndpointRefused         a webhook may not go to this address
    │   ├── EndpointNotFound        no webhook endpoint has this id
    │   ├── DeliveryNotFound        no delivery has this id
    │   ├── RolloutRefused          a bundle cannot be tried, promoted or rolled back now
    │   ├── NothingDecided          the case has no decision yet
    │   └── TransitionRefused       the case's state does not allow this
    │       └── CaseArchived            its rows lie in an archive: restore it first
    ├── ReviewConflict          tell the reviewer what has happened, change nothing
    │   ├── AlreadyClaimed          somebody else has claimed the case
    │   ├── ClaimLost               the claim ran out or was taken over
    │   ├── StaleCase               the case has changed since it was shown
    │   ├── SameReviewer            nobody reviews their own decision
    │   ├── JudgeFirst              the reviewer judges this case before they see the verdict
    │   ├── UndoClosed              the undo window is over, or the case has moved on
    │   └── AlreadyAppealed         the decision has been appealed before
    ├── LeaseLost               another worker has the case now: throw the work away
    ├── ArchiveBroken           an object does not hold what we wrote: nothing was deleted, tell an engineer
    └── SetupProblem            the installation cannot start; the message says what to change

Each class has a stable `code` for machines; the message is for people.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar


class BonafideError(Exception):
    """The root. `code` is stable, `str(error)` is a sentence for a person."""

    code: ClassVar[str] = "internal"


class Unavailable(BonafideError):
    """Try again later, the image is not at fault."""

    code = "unavailable"


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"


class StorageTooSlow(StorageUnavailable):
    code = "storage_too_slow"


class BucketNotRead(StorageUnavailable):
    code = "bucket_not_read"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class DatabaseNotUtf8(DatabaseUnavailable):
    """It answers but cannot store all that people write. Cases wait until the address leads to another database."""

    code = "database_not_utf8"


class BrokerUnavailable(Unavailable):
    code = "broker_unavailable"


class ArchiveBusy(Unavailable):
    code = "archive_busy"


class EngineUnavailable(Unavailable):
    code = "engine_unavailable"


class DecoderKilled(EngineUnavailable):
    code = "decoder_killed"


class ImageRejected(BonafideError):
    """Never try again: the case becomes ready for a person, without a verdict and with this reason."""

    code = "image_rejected"


class ImageMissing(ImageRejected):
    code = "image_missing"


class ImageTooLarge(ImageRejected):
    code = "image_too_large"


class NotAnImage(ImageRejected):
    code = "not_an_image"


class ImageCorrupt(ImageRejected):
    code = "image_corrupt"


class UnsupportedFormat(ImageRejected):
    code = "unsupported_format"


class TooManyPixels(ImageRejected):
    code = "too_many_pixels"


class ImageChanged(ImageRejected):
    """The key holds other bytes than at the first analysis, so the two analyses would not compare."""

    code = "image_changed"


class BundleMismatch(BonafideError):
    """The model may not be the one that was asked for. Refuse to start."""

    code = "bundle_mismatch"


class BaseMissing(BundleMismatch):
    """The base of a bundle is not here and cannot be fetched: fetch it by hand, or use the bundle `mini`."""

    code = "base_missing"


class RequestRefused(BonafideError):
    """The caller asked for something we will not do. Nothing was changed."""

    code = "request_refused"


class BucketNotAllowed(RequestRefused):
    code = "bucket_not_allowed"


class IdempotencyConflict(RequestRefused):
    code = "idempotency_conflict"


class NotificationUnreadable(RequestRefused):
    code = "notification_unreadable"


class CursorUnreadable(RequestRefused):
    code = "cursor_unreadable"


class TextTooLong(RequestRefused):
    """Somebody wrote more than is kept. We cut nothing off: they shorten it."""

    code = "text_too_long"

    def __init__(self, field: str, length: int, at_most: int) -> None:
        super().__init__(f"the {field} has {length:,} characters; at most {at_most:,} are kept. Shorten it")
        #: The form's field.
        self.field = field


class CaseNotFound(RequestRefused):
    code = "case_not_found"


class SignInRefused(RequestRefused):
    """The same words whether the email is unknown, the password wrong or the person disabled."""

    code = "sign_in_refused"


class SignInThrottled(RequestRefused):
    code = "sign_in_throttled"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        #: Seconds until the next try is allowed.
        self.retry_after = retry_after


class PasswordRefused(RequestRefused):
    code = "password_refused"


class PersonNotFound(RequestRefused):
    code = "person_not_found"


class PersonExists(RequestRefused):
    code = "person_exists"


class EndpointRefused(RequestRefused):
    code = "endpoint_refused"


class EndpointNotFound(RequestRefused):
    code = "endpoint_not_found"


class DeliveryNotFound(RequestRefused):
    code = "delivery_not_found"


class RolloutRefused(RequestRefused):
    code = "rollout_refused"


class NothingDecided(RequestRefused):
    code = "nothing_decided"


class TransitionRefused(RequestRefused):
    code = "transition_refused"


class CaseArchived(TransitionRefused):
    code = "case_archived"


class CaseErased(TransitionRefused):
    code = "case_erased"


class CaseWithdrawn(TransitionRefused):
    code = "case_withdrawn"


class AlreadyDecided(TransitionRefused):
    """A decision stands: the platform can appeal it, but cannot withdraw the case."""

    code = "already_decided"


class QuestionRefused(RequestRefused):
    code = "question_refused"


class FaceNotJudged(QuestionRefused):
    """A question names a face that is not in the picture or was not judged."""

    code = "face_not_judged"


class TooManyCases(RequestRefused):
    code = "too_many_cases"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        #: Seconds until more cases are accepted.
        self.retry_after = retry_after


class TooManyQuestions(RequestRefused):
    code = "too_many_questions"


class DecisionNotFound(RequestRefused):
    code = "decision_not_found"


class NotAllowed(RequestRefused):
    code = "not_allowed"


class JudgementIncomplete(RequestRefused):
    code = "judgement_incomplete"


class ReasonRequired(JudgementIncomplete):
    code = "reason_required"


class ReviewConflict(BonafideError):
    """Something happened that the reviewer should see before they go on. Nothing was changed."""

    code = "review_conflict"


class AlreadyClaimed(ReviewConflict):
    """`by` is the name of the person who has the case. `until` is when their claim ends unless they renew it."""

    code = "already_claimed"

    def __init__(self, by: str, until: datetime) -> None:
        super().__init__(f"{by} has this case until {until:%H:%M:%S} UTC")
        self.by = by
        self.until = until


class ClaimLost(ReviewConflict):
    """`by` is the name of the person who has the case now, `until` the end of their claim. None: nobody has it.

    `own`: it is the very person who was refused, because they named another claim than the one they hold.
    """

    code = "claim_lost"

    def __init__(self, by: str | None = None, until: datetime | None = None, *, own: bool = False) -> None:
        said = "you do not hold this case any more; claim it again"
        if by is not None:
            said = f"{by} has this case now"
        if own:
            said = "you hold this case, but not by the claim that was named; claim it again"
        super().__init__(said)
        self.by = by
        self.until = until
        self.own = own


class StaleCase(ReviewConflict):
    """`changes` are the moves since the version that was named: kind, actor and time, oldest first."""

    code = "stale_case"

    def __init__(self, version: int, changes: Sequence[tuple[str, str, datetime]]) -> None:
        what = (
            ", ".join(kind.replace("_", " ") for kind, _, _ in changes)
            or "nothing: that version is yet to be"
        )
        super().__init__(f"the case is at version {version} now. What happened since: {what}")
        self.version = version
        self.changes = tuple(changes)


class SameReviewer(ReviewConflict):
    code = "same_reviewer"


class JudgeFirst(ReviewConflict):
    code = "judge_first"


class UndoClosed(ReviewConflict):
    code = "undo_closed"


class AlreadyAppealed(ReviewConflict):
    code = "already_appealed"


class LeaseLost(BonafideError):
    """The lease ran out or another worker took it: all work under it is thrown away."""

    code = "lease_lost"


class ArchiveBroken(BonafideError):
    """An archive's object is gone, or does not hold what we wrote. Nothing was deleted."""

    code = "archive_broken"


class SetupProblem(BonafideError):
    """The installation cannot start. The message is one sentence that says what to change."""

    code = "setup_problem"


class PlanRefused(SetupProblem):
    """A plan of a training says something that cannot be done, or too little."""

    code = "plan_refused"
