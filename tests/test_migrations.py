"""Migrations run while the release before serves, on tables of a hundred million rows: none may hold it up."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrations

VERSIONS = sorted((Path(migrations.__file__).parent / "versions").glob("[0-9]*.py"))
#: Each reads a whole table while nobody may write it, unless told otherwise by this.
OTHERWISE = {
    "create_index": "postgresql_concurrently",
    "drop_index": "postgresql_concurrently",
    "create_foreign_key": "postgresql_not_valid",
    "create_check_constraint": "postgresql_not_valid",
    # None is: make the index first, concurrently, and the constraint of it.
    "create_unique_constraint": "",
}


def holds_up(migration: str) -> list[str]:
    """What of a migration's upgrade would stop who uses its tables. A table that it makes itself nobody uses yet."""
    calls = [call for call in ast.walk(ast.parse(migration)) if isinstance(call, ast.Call)]
    made = {_text(call.args[0]) for call in calls if _name(call) == "create_table"}
    return [
        f"line {call.lineno}: {_name(call)}"
        for call in calls
        if (_name(call) in OTHERWISE and _text(call.args[1]) not in made and not _told_otherwise(call))
        or (_name(call) == "execute" and any(_builds_an_index(words) for words in _texts(call)))
    ]


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _told_otherwise(call: ast.Call) -> bool:
    return any(keyword.arg == OTHERWISE[_name(call)] for keyword in call.keywords)


def _text(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _texts(call: ast.Call) -> Iterator[str]:
    return (_text(node) for node in ast.walk(call) if isinstance(node, ast.Constant))


def _builds_an_index(words: str) -> bool:
    return re.search(r"\bCREATE\s+(UNIQUE\s+)?INDEX\s+(?!CONCURRENTLY)", words, re.IGNORECASE) is not None


@pytest.mark.parametrize("version", VERSIONS[1:], ids=lambda path: path.stem)
def test_no_migration_after_the_first_holds_up_who_serves(version: Path) -> None:
    assert holds_up(version.read_text()) == []


@pytest.mark.parametrize(
    ("migration", "found"),
    [
        pytest.param('op.create_index("i", "cases", ["x"])', 1, id="an index of a table in use"),
        pytest.param('op.create_index("i", "cases", ["x"], postgresql_concurrently=True)', 0, id="beside it"),
        pytest.param('op.create_table("new")\nop.create_index("i", "new", ["x"])', 0, id="of a table of its own"),
        pytest.param('op.create_foreign_key("k", "cases", "new", ["x"], ["id"])', 1, id="a key, checked at once"),
        pytest.param('op.execute("CREATE UNIQUE INDEX i ON cases (x)")', 1, id="an index in words"),
        pytest.param('op.execute("CREATE INDEX CONCURRENTLY i ON cases (x)")', 0, id="in words, beside it"),
    ],
)  # fmt: skip
def test_what_would_hold_it_up_is_found(migration: str, found: int) -> None:
    assert len(holds_up(migration)) == found
