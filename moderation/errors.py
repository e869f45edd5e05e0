"""Everything that can go wrong, sorted by what the caller does next.

    BonafideError
    ├── Unavailable             try again later, the image is not at fault
    │   ├── StorageUnavailable      the bucket does not answer, or answers with a fault of its own
    │   ├── DatabaseUnavailable     Postgres does not answer
    │   ├── BrokerUnavailable       Redis does not answer: the bell was not rung
    │   └── EngineUnavailable       the model is stopping, too slow, or out of memory
    ├── ImageRejected           never try again, a person must look unaided
    │   ├── ImageMissing            no such bucket, key or version
    │   ├── ImageTooLarge           more bytes than we read
    │   ├── NotAnImage              the bytes are of something else
    │   ├── ImageCorrupt            an image that does not decode
    │   ├── UnsupportedFormat       an image of a kind we do not decode
    │   ├── TooManyPixels           decoding it would take too much memory or time
    │   └── AttemptsExhausted       it was tried as often as we try
    ├── BundleMismatch          refuse to start
    ├── RequestRefused          tell the caller, change nothing
    │   ├── BucketNotAllowed        this installation does not read that bucket
    │   ├── IdempotencyConflict     the same key came with another body
    │   ├── CaseNotFound            no case has this id
    │   └── TransitionRefused       the case is not in a state that allows this
    ├── LeaseLost               somebody else has the case now: throw the work away
    └── SetupProblem            the installation cannot start; the message says what to change

Each class has a stable `code` for machines; the message is for people.
"""

from typing import ClassVar


class BonafideError(Exception):
    """The root. `code` is stable, `str(error)` is a sentence for a person."""

    code: ClassVar[str] = "internal"


class Unavailable(BonafideError):
    """Try again later, the image is not at fault."""

    code = "unavailable"


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class BrokerUnavailable(Unavailable):
    code = "broker_unavailable"


class EngineUnavailable(Unavailable):
    code = "engine_unavailable"


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


class AttemptsExhausted(ImageRejected):
    code = "attempts_exhausted"


class BundleMismatch(BonafideError):
    """The model cannot be trusted to be the one that was asked for. Refuse to start."""

    code = "bundle_mismatch"


class RequestRefused(BonafideError):
    """The caller asked for something we will not do. Nothing was changed."""

    code = "request_refused"


class BucketNotAllowed(RequestRefused):
    code = "bucket_not_allowed"


class IdempotencyConflict(RequestRefused):
    code = "idempotency_conflict"


class CaseNotFound(RequestRefused):
    code = "case_not_found"


class TransitionRefused(RequestRefused):
    code = "transition_refused"


class LeaseLost(BonafideError):
    """The lease ran out or was taken: whatever was made under it is thrown away."""

    code = "lease_lost"


class SetupProblem(BonafideError):
    """The installation cannot start. The message is one sentence that says what to change."""

    code = "setup_problem"
