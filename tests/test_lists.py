"""Lists of flags as spreadsheets and editors write them."""

import codecs
import io
import sys
from pathlib import Path

import pytest

from moderation.cli import lists
from moderation.errors import SetupProblem

ROWS = [
    ["image", "external_id", "reason"],
    ["s3://b/1.jpg", "photo-1", "Gesicht ✓; rot, blau"],
    ["s3://b/2.jpg", "photo-2", ""],
]
READ = [
    (2, {"image": "s3://b/1.jpg", "external_id": "photo-1", "reason": "Gesicht ✓; rot, blau"}),
    (3, {"image": "s3://b/2.jpg", "external_id": "photo-2"}),
]


def written(separator: str, *, rows: list[list[str]] = ROWS) -> str:
    """As a spreadsheet does: what holds a separator or a comma is quoted."""
    return "".join(
        separator.join(f'"{cell}"' if {separator, ","} & set(cell) else cell for cell in row) + "\r\n"
        for row in rows
    )


def read(content: bytes, tmp_path: Path) -> list[tuple[int, dict[str, str]]]:
    file = tmp_path / "flags.csv"
    file.write_bytes(content)
    with lists.opened(file) as lines:
        return list(lists.rows(lines, file))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        pytest.param("utf-8", b"", id="UTF-8"),
        pytest.param("utf-8", codecs.BOM_UTF8, id="UTF-8 with a mark"),
        pytest.param("utf-16-le", codecs.BOM_UTF16_LE, id="UTF-16, as Excel's Unicode text"),
        pytest.param("utf-16-be", codecs.BOM_UTF16_BE, id="UTF-16, the other way round"),
        pytest.param("utf-16-le", b"", id="UTF-16 without a mark"),
        pytest.param("utf-16-be", b"", id="UTF-16 the other way round without a mark"),
    ],
)
def test_a_table_is_read_however_it_was_saved(
    tmp_path: Path, separator: str, encoding: str, mark: bytes
) -> None:
    assert read(mark + written(separator).encode(encoding), tmp_path) == READ


@pytest.mark.parametrize("told", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_line_that_tells_the_separator_is_no_header(tmp_path: Path, told: str) -> None:
    content = f"{told}\r\n{written(';')}"

    assert read(content.encode(), tmp_path) == [(number + 1, cells) for number, cells in READ]


def test_a_header_is_known_in_any_letters_and_empty_columns_and_lines_are_none(tmp_path: Path) -> None:
    content = "Image; External ID ;;\r\ns3://b/1.jpg;photo-1;;\r\n;;;\r\n"

    assert read(content.encode(), tmp_path) == [(2, {"image": "s3://b/1.jpg", "external_id": "photo-1"})]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        pytest.param("imgae,external_id", "lacks image and names imgae", id="a slip"),
        pytest.param("image;id", "lacks external_id and names id", id="another name"),
        pytest.param("image,external_id,context", "names context", id="a column that a table has not"),
        pytest.param("image,external_id,image", "names image twice", id="twice"),
        pytest.param("s3://b/1.jpg,photo-1", "lacks image and external_id", id="none at all"),
        pytest.param("image|external_id", "lacks image and external_id", id="another separator"),
        pytest.param("", "lacks image and external_id", id="an empty file"),
    ],
)
def test_a_wrong_header_is_named_before_any_line_is_read(tmp_path: Path, header: str, said: str) -> None:
    with pytest.raises(SetupProblem, match=said) as refused:
        read(f"{header}\ns3://b/1.jpg,photo-1\n".encode() if header else b"", tmp_path)

    assert str(refused.value).endswith(
        "its first line names image, external_id, and if you like source, reason, priority"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_standard_input_is_read_in_the_same_way(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    typed = io.TextIOWrapper(io.BytesIO('{"external_id": "✓"}\n'.encode(encoding)))
    monkeypatch.setattr(sys, "stdin", typed)

    with lists.opened(Path("-")) as lines:
        assert list(lines) == ['{"external_id": "✓"}\n']
