"""What the console reads out of forms and addresses that somebody else may have written."""

import pytest

from moderation.web.console.access import number


@pytest.mark.parametrize(
    ("text", "read"),
    [
        pytest.param("12", 12, id="a number"),
        pytest.param(None, None, id="the field is missing"),
        pytest.param("", None, id="the field is empty"),
        pytest.param("-1", None, id="a sign"),
        pytest.param("²", None, id="a digit that Python does not read"),
        pytest.param("9" * 10, None, id="more than an integer of Postgres holds"),
        pytest.param("9" * 5000, None, id="more digits than Python reads"),
    ],
)
def test_a_text_that_is_no_number_of_ours_is_none(text: str | None, read: int | None) -> None:
    assert number(text) == read
