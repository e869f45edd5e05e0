import pytest

from moderation.errors import (
    BonafideError,
    BrokerUnavailable,
    BucketNotRead,
    DatabaseUnavailable,
    EngineUnavailable,
    ImageCorrupt,
    ImageRejected,
    LeaseLost,
    StorageTooSlow,
    StorageUnavailable,
    Unavailable,
)
from worker.retries import FAULT, Fail, Forget, Release, reaction


def _react(
    error: BaseException, postponements: int = 0, *, on_trial: bool = False
) -> Release | Fail | Forget:
    return reaction(error, postponements=postponements, patience_seconds=3600, jitter=0.5, on_trial=on_trial)


@pytest.mark.parametrize("error", ImageRejected.__subclasses__(), ids=lambda error: error.code)
def test_an_image_at_fault_goes_to_a_person_at_once(error: type[ImageRejected]) -> None:
    what = _react(error("the reason in words"))

    assert isinstance(what, Fail)
    assert (what.code, what.words) == (error.code, "the reason in words")


@pytest.mark.parametrize(
    "error",
    [
        StorageUnavailable("s"),
        StorageTooSlow("s"),
        BucketNotRead("b"),
        DatabaseUnavailable("d"),
        BrokerUnavailable("b"),
        EngineUnavailable("e"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_when_something_else_is_at_fault_the_case_waits(error: Exception) -> None:
    what = _react(error)

    assert isinstance(what, Release)
    assert 0 < what.due_in <= 1


def test_the_delay_grows_with_every_try() -> None:
    delays = [
        what.due_in for n in range(8) if isinstance(what := _react(StorageUnavailable("s"), n), Release)
    ]

    assert delays == sorted(delays)
    assert delays[-1] > 60


def test_patience_ends_with_what_was_missing() -> None:
    what = _react(StorageUnavailable("storage answered SlowDown"), postponements=40)

    assert isinstance(what, Fail)
    assert what.code == "storage_unavailable"
    assert "SlowDown" in what.words


@pytest.mark.parametrize(
    ("error", "end"),
    [
        pytest.param(
            StorageUnavailable("storage does not answer", inside="http://minio:9000/flagged/a.jpg"),
            Fail("storage_unavailable", "This could not be analysed for long: storage does not answer."),
            id="an address",
        ),
        pytest.param(
            MemoryError("at /srv/worker"),
            Fail("out_of_memory", "This could not be analysed for long: the worker ran out of memory."),
            id="a library's words",
        ),
    ],
)
def test_a_refusal_says_what_happened_and_not_where(error: Exception, end: Fail) -> None:
    assert _react(error, postponements=40) == end


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.99])
def test_patience_is_as_long_as_it_says_whatever_the_jitter(jitter: float) -> None:
    waited, postponements = 0.0, 0
    while isinstance(
        what := reaction(
            StorageUnavailable("s"), postponements=postponements, patience_seconds=3600, jitter=jitter
        ),
        Release,
    ):
        waited, postponements = waited + what.due_in, postponements + 1

    assert 3600 <= waited < 3900  # the last delay begins before the end of it


def test_a_lost_lease_is_nobodys_business() -> None:
    assert isinstance(_react(LeaseLost("gone")), Forget)


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("bug"), SystemExit(1)], ids=repr)
def test_a_bug_is_not_retried_and_its_words_are_not_shown(error: BaseException) -> None:
    what = _react(error)

    assert what == FAULT
    assert "bug" not in FAULT.words


def test_a_bug_of_the_candidate_sends_the_case_to_what_serves_and_a_bad_image_is_a_bad_image() -> None:
    assert _react(KeyError("bug"), on_trial=True) == Release("candidate_failed", 0)
    assert isinstance(_react(ImageCorrupt("it ends in the middle"), on_trial=True), Fail)


def test_what_is_final_for_one_kind_of_work_is_waited_for_by_the_others() -> None:
    error = BucketNotRead("it answers 403")

    assert reaction(error, final=(BucketNotRead,)) == Fail("bucket_not_read", "it answers 403")
    assert isinstance(reaction(error, postponements=40), Release)


def test_every_unavailable_thing_is_waited_for() -> None:
    for kind in Unavailable.__subclasses__():
        assert isinstance(_react(kind("x")), Release)


def test_every_error_of_ours_has_a_code_of_its_own() -> None:
    def below(kind: type[BonafideError]) -> list[type[BonafideError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    codes = [kind.code for kind in below(BonafideError) if kind.__module__ == "moderation.errors"]

    assert len(codes) == len(set(codes))
