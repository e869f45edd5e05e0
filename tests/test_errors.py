"""Platforms read the codes of errors: a class that gets another name gets another code."""

import pytest

from moderation import errors
from moderation.errors import BonafideError, CaseNotFound, DatabaseNotUtf8, RequestRefused
from worker.answers import NoAnswer

CODES = """
    already_appealed already_claimed already_decided archive_broken archive_busy base_missing
    broker_unavailable bucket_not_allowed bucket_not_read bundle_mismatch case_archived case_erased
    case_not_found case_withdrawn claim_lost cursor_unreadable database_not_utf8
    database_unavailable decision_not_found decoder_killed delivery_not_found endpoint_not_found
    endpoint_refused engine_unavailable face_not_judged idempotency_conflict image_changed
    image_corrupt image_missing image_rejected image_too_large internal judge_first
    judgement_incomplete lease_lost not_allowed not_an_image nothing_decided notification_unreadable
    password_refused person_exists person_not_found plan_refused question_refused reason_required
    request_refused review_conflict rollout_refused same_reviewer setup_problem sign_in_refused
    sign_in_throttled stale_case storage_too_slow storage_unavailable text_too_long throttled
    too_many_cases too_many_pixels too_many_questions transition_refused unavailable undo_closed
    unsupported_format
"""


class Odd(RequestRefused):
    code = "strange"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(CaseNotFound, "case_not_found", id="the name in snake case"),
        pytest.param(DatabaseNotUtf8, "database_not_utf8", id="a digit begins no word"),
        pytest.param(Odd, "strange", id="a class may say another one"),
        pytest.param(NoAnswer, "unreadable", id="also outside of errors.py"),
        pytest.param(BonafideError, "internal", id="the root is nobody's fault but ours"),
    ],
)
def test_the_code_of_an_error_is_its_name(error: type[BonafideError], code: str) -> None:
    assert error.code == code


def test_no_code_goes_and_none_comes_unnoticed() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BonafideError)
    ]

    assert sorted(kind.code for kind in kinds) == CODES.split()
