"""Shapes that many queries share: seconds as an interval, filters, rows that change or go, a row as a frozen value."""

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, CursorResult, Delete, Update, delete, func, update
from sqlalchemy.orm import Session

from moderation.database.tables import Table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Value = TypeVar("Value", bound="DataclassInstance")


def seconds(value: ColumnElement[Any] | float) -> ColumnElement[Any]:
    """A number of seconds as an interval."""
    return func.make_interval(0, 0, 0, 0, 0, 0, value)


def equal_to(wanted: Mapping[Any, Any]) -> list[ColumnElement[bool]]:
    """The conditions that these columns have these values. A column for which None is wanted may have any."""
    return [column == value for column, value in wanted.items() if value is not None]


def known_sources(fits: str) -> str:
    """SQL of a recursive CTE: every source of the cases `c` that fit, and a null at the end.

    A loose index scan (PostgreSQL wiki) steps from source to source: one look into an index for each, however many
    cases it has.
    """
    return f"""known AS (
        (SELECT c.source FROM cases c WHERE {fits} ORDER BY c.source LIMIT 1)
        UNION ALL
        SELECT (SELECT c.source FROM cases c WHERE {fits} AND c.source > known.source ORDER BY c.source LIMIT 1)
        FROM known WHERE known.source IS NOT NULL
    )"""  # noqa: S608  of our own words alone


def change_rows(session: Session, table: type[Table], *where: ColumnElement[bool], **changes: Any) -> int:
    """Change the rows that fit; return how many. Rows that the session has read before stay as they were read."""
    return _count(session, update(table).where(*where).values(**changes))


def delete_rows(session: Session, table: type[Table], *where: ColumnElement[bool]) -> int:
    """Delete the rows that fit; return how many."""
    return _count(session, delete(table).where(*where))


def as_value(kind: type[Value], row: Any, **others: Any) -> Value:
    """A frozen value whose fields have the names of the row's columns. Texts become enums, and lists tuples.

    `others` are the fields that have other names, or are made otherwise.
    """
    copied = {field.name: getattr(row, field.name) for field in fields(kind) if field.name not in others}
    return _reader(kind).validate_python({**copied, **others})


@lru_cache
def _reader(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _count(session: Session, statement: Update | Delete) -> int:
    done = session.execute(statement.execution_options(synchronize_session=False))
    assert isinstance(done, CursorResult)
    return done.rowcount
