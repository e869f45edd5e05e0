"""Platforms read the codes of errors: a class that gets another name gets another code."""

import pytest

from moderation.errors import BonafideError, CaseNotFound, DatabaseNotUtf8, RequestRefused
from worker.answers import NoAnswer


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
