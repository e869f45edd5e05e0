import pytest

from moderation.writing import as_written


@pytest.mark.parametrize(
    "said",
    [
        pytest.param("می\u200cبینم", id="a zero-width non-joiner, without which Persian is misspelt"),
        pytest.param("क्\u200dष", id="a zero-width joiner"),
        pytest.param(
            "👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f 🇺🇦",
            id="families and flags",
        ),
        pytest.param("10\u00a0000\u00a0€", id="a no-break space"),
        pytest.param("«\u202foui\u202f»", id="narrow no-break spaces"),
        pytest.param("全角\u3000空白", id="an ideographic space"),
        pytest.param("שלום\u200e!\u200f", id="marks of direction"),
        pytest.param("\u2066abc\u2069", id="isolates"),
        pytest.param("co\u00adop", id="a soft hyphen"),
        pytest.param("e\u0301", id="as it was composed"),
        pytest.param("two\n\tlines", id="lines and tabs"),
        pytest.param("\u3000begins with an ideographic space", id="a blank that belongs to it"),
    ],
)
def test_what_people_write_stays_as_they_wrote_it(said: str) -> None:
    assert as_written(said) == said


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        pytest.param("a\x00b\x07c\x1bd\x7fe\x85f", "abcdef", id="controls of both sets"),
        pytest.param("a\ud800b", "ab", id="half of a surrogate pair"),
        pytest.param("a\ufffeb\ufdd0c\U0001ffffd", "abcd", id="what is no character"),
        pytest.param("  \n around \t ", "around", id="blanks around it"),
        pytest.param("one\r\ntwo\rthree", "one\ntwo\nthree", id="line ends of other systems"),
        pytest.param("", None, id="nothing"),
        pytest.param(" \u00a0\u3000 ", None, id="blanks alone"),
        pytest.param("\u200b\u200e\u2060", None, id="nothing that can be seen"),
    ],
)
def test_only_what_is_no_character_is_left_out(said: str, kept: str | None) -> None:
    assert as_written(said) == kept
