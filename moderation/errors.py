"""Everything that can go wrong, sorted by what the caller does next.

    BonafideError
    ├── Unavailable        try again later, the image is not at fault
    ├── ImageRejected      never try again, a person must look unaided
    ├── BundleMismatch     refuse to start
    ├── RequestRefused     tell the caller, change nothing
    ├── ReviewConflict     tell the reviewer what has happened, change nothing
    ├── LeaseLost          another worker has the case now: throw the work away
    ├── ArchiveBroken      an object does not hold what we wrote: nothing was deleted, tell an engineer
    └── SetupProblem       the installation cannot start; the message says what to change

Each class has a stable `code` for machines: its name in snake case. The message is for people.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar


class BonafideError(Exception):
    """The root. `code` is stable, `str(error)` is a sentence for a person."""

    code: ClassVar[str] = "internal"

    def __init_subclass__(cls) -> None:
        """A class that says no code of its own gets its name in snake case."""
        cls.code = vars(cls).get("code") or re.sub(r"(?<=.)(?=[A-Z])", "_", cls.__name__.lstrip("_")).lower()


class Unavailable(BonafideError):
    """Try again later, the image is not at fault. `inside` is for our log: platforms do not read it."""

    def __init__(self, message: str = "", *, inside: str = "") -> None:
        super().__init__(f"{message}: {inside}" if inside else message)
        #: What platforms and reviewers may read. It names none of our servers.
        self.outside = message


class StorageUnavailable(Unavailable):
    """The bucket does not answer, or answers with a fault of its own."""


class StorageTooSlow(StorageUnavailable):
    """An image took too long to arrive."""


class BucketNotRead(StorageUnavailable):
    """This worker may not read a bucket that intake accepts."""


class DatabaseUnavailable(Unavailable):
    """Postgres does not answer."""


class DatabaseNotUtf8(DatabaseUnavailable):
    """It answers but cannot store all that people write. Cases wait until the address leads to another database."""


class BrokerUnavailable(Unavailable):
    """Redis does not answer: nothing was published."""


class ArchiveBusy(Unavailable):
    """Another archiver is at work on this database."""


class EngineUnavailable(Unavailable):
    """The model is stopping, too slow, or out of memory."""


class DecoderKilled(EngineUnavailable):
    """Something other than the picture ended its decoder, twice."""


class ImageRejected(BonafideError):
    """Never try again: the case becomes ready for a person, without a verdict and with this reason."""


class ImageMissing(ImageRejected):
    """No such key or version, or the store keeps no versions."""


class ImageTooLarge(ImageRejected):
    """The file has more bytes than we read."""


class NotAnImage(ImageRejected):
    """The file is something else."""


class ImageCorrupt(ImageRejected):
    """An image that does not decode."""


class UnsupportedFormat(ImageRejected):
    """An image of a kind we do not decode."""


class TooManyPixels(ImageRejected):
    """Decoding it would take too much memory or time."""


class ImageChanged(ImageRejected):
    """The key holds other bytes than at the first analysis, so the two analyses would not compare."""


class BundleMismatch(BonafideError):
    """The model may not be the one that was asked for. Refuse to start."""


class BaseMissing(BundleMismatch):
    """The base of a bundle is not here and cannot be fetched: fetch it by hand, or use the bundle `mini`."""


class RequestRefused(BonafideError):
    """The caller asked for something we will not do. Nothing was changed."""


class BucketNotAllowed(RequestRefused):
    """This installation does not read that bucket."""


class IdempotencyConflict(RequestRefused):
    """The same key came with another body."""


class NotificationUnreadable(RequestRefused):
    """A store's notification has a form that we do not know."""


class CursorUnreadable(RequestRefused):
    """The cursor of a page is not one of ours."""


class TextTooLong(RequestRefused):
    """Somebody wrote more than is kept. We cut nothing off: they shorten it."""

    def __init__(self, field: str, length: int, at_most: int) -> None:
        super().__init__(f"the {field} has {length:,} characters; at most {at_most:,} are kept. Shorten it")
        #: The form's field.
        self.field = field


class CaseNotFound(RequestRefused):
    """No case has this id."""


class SignInRefused(RequestRefused):
    """The same words whether the email is unknown, the password wrong or the person disabled."""


class Throttled(RequestRefused):
    """Too often: wait."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        #: Seconds until the next try is allowed.
        self.retry_after = retry_after


class SignInThrottled(Throttled):
    """Too many wrong passwords."""


class PasswordRefused(RequestRefused):
    """The password is too short, or too long to hash."""


class PersonNotFound(RequestRefused):
    """Nobody has this id or email."""


class PersonExists(RequestRefused):
    """Somebody has this email already."""


class EndpointRefused(RequestRefused):
    """A webhook may not go to this address."""


class EndpointNotFound(RequestRefused):
    """No webhook endpoint has this id."""


class DeliveryNotFound(RequestRefused):
    """No delivery has this id."""


class RolloutRefused(RequestRefused):
    """A bundle cannot be tried, promoted or rolled back now."""


class NothingDecided(RequestRefused):
    """The case has no decision yet."""


class TransitionRefused(RequestRefused):
    """The case's state does not allow this."""


class CaseArchived(TransitionRefused):
    """Its rows lie in an archive: restore it first."""


class CaseErased(TransitionRefused):
    """Its texts and the place of its image were erased for good."""


class CaseWithdrawn(TransitionRefused):
    """Its platform took the image back."""


class AlreadyDecided(TransitionRefused):
    """A decision stands: the platform can appeal it, but cannot withdraw the case."""


class QuestionRefused(RequestRefused):
    """We do not put this question to the model."""


class FaceNotJudged(QuestionRefused):
    """A question names a face that is not in the picture or was not judged."""


class TooManyCases(Throttled):
    """This platform is over its rate."""


class TooManyQuestions(RequestRefused):
    """The case has too many open questions."""


class DecisionNotFound(RequestRefused):
    """No decision has this id."""


class NotAllowed(RequestRefused):
    """This person's role does not allow it."""


class JudgementIncomplete(RequestRefused):
    """The judgement lacks something or contradicts itself."""


class ReasonRequired(JudgementIncomplete):
    """This installation asks for a reason."""


class ReviewConflict(BonafideError):
    """Something happened that the reviewer should see before they go on. Nothing was changed."""


class AlreadyClaimed(ReviewConflict):
    """`by` is the name of the person who has the case. `until` is when their claim ends unless they renew it."""

    def __init__(self, by: str, until: datetime) -> None:
        super().__init__(f"{by} has this case until {until:%H:%M:%S} UTC")
        self.by = by
        self.until = until


class ClaimLost(ReviewConflict):
    """`by` is the name of the person who has the case now, `until` the end of their claim. None: nobody has it.

    `own`: it is the very person who was refused, because they named another claim than the one they hold.
    """

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

    def __init__(self, version: int, changes: Sequence[tuple[str, str, datetime]]) -> None:
        what = (
            ", ".join(kind.replace("_", " ") for kind, _, _ in changes)
            or "nothing: that version is yet to be"
        )
        super().__init__(f"the case is at version {version} now. What happened since: {what}")
        self.version = version
        self.changes = tuple(changes)


class SameReviewer(ReviewConflict):
    """Nobody reviews their own decision."""


class JudgeFirst(ReviewConflict):
    """The reviewer judges this case before they see the verdict."""


class UndoClosed(ReviewConflict):
    """The undo window is over, or the case has moved on."""


class AlreadyAppealed(ReviewConflict):
    """The decision has been appealed before."""


class LeaseLost(BonafideError):
    """The lease ran out or another worker took it: all work under it is thrown away."""


class ArchiveBroken(BonafideError):
    """An archive's object is gone, or does not hold what we wrote. Nothing was deleted."""


class SetupProblem(BonafideError):
    """The installation cannot start. The message is one sentence that says what to change."""


class PlanRefused(SetupProblem):
    """A plan of a training says something that cannot be done, or too little."""
