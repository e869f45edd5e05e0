"""Lists of hashes are read in the forms that others write, and written so that they are read back."""

import pytest

from moderation.errors import RequestRefused
from moderation.evidence.hash_lists import HashListForm, read_hashes, write_hashes
from moderation.likeness import to_hex

ONE, TWO = to_hex(1), to_hex(2**255)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        pytest.param([f"pdq {ONE}\n", f"pdq {TWO}\n"], [(1, None), (2**255, None)], id="HMA"),
        pytest.param(["video_md5 d41d8cd9\n", f"pdq {ONE}"], [(1, None)], id="HMA: signals of videos"),
        pytest.param(["hash,reference\n", f"{ONE},case 7\n"], [(1, "case 7")], id="CSV with a header"),
        pytest.param([f"{ONE}\n", f"{TWO.upper()},x,y\n"], [(1, None), (2**255, "x")], id="CSV without one"),
        pytest.param([f"\ufeff{ONE}\n"], [(1, None)], id="a byte order mark"),
        pytest.param([f'{ONE},"a, ""b"""\n'], [(1, 'a, "b"')], id="quotes"),
        pytest.param([f"{ONE},two words\n"], [(1, "two words")], id="a space in a reference"),
        pytest.param(["# a list\n", "\n", f"{ONE}\n"], [(1, None)], id="remarks and empty lines"),
    ],
)
def test_a_list_is_read(lines: list[str], found: list[tuple[int, str | None]]) -> None:
    assert list(read_hashes(lines)) == found


def test_a_line_that_holds_no_hash_is_named() -> None:
    with pytest.raises(RequestRefused, match="line 2"):
        list(read_hashes([ONE, "ffff"]))


def test_what_is_written_is_read_back() -> None:
    listed = [(1, "a"), (2**255, None), (5, 'with, "quotes"')]

    assert list(read_hashes(write_hashes(listed, HashListForm.CSV))) == listed
    assert list(read_hashes(write_hashes(listed, HashListForm.HMA))) == [(value, None) for value, _ in listed]
