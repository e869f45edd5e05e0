"""What the database knows of archives: the cases that may leave, their records, and the objects that hold them.

Postgres itself makes a case's record, as JSON of its rows: it equals what was stored, to the last digit, and
`restore_case` restores exactly that. It holds an event's body as the text that was hashed.
"""

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, false, func, insert, or_, select, text
from sqlalchemy.orm import Session

from moderation.archive.erasure import Kept, all_past
from moderation.cases import Case, CaseState
from moderation.database.connection import Database
from moderation.database.ids import first_id_at
from moderation.database.shapes import change_rows, delete_rows, seconds
from moderation.database.tables import (
    AppealRow,
    ArchiveRow,
    CaseRow,
    DecisionRow,
    DeliveryRow,
    EndpointRow,
    QuestionRow,
    RerunRow,
)
from moderation.errors import ArchiveBusy

#: The lock of the one archiver. Any unused constant will do.
_ARCHIVE_LOCK = 7_301_004
#: A batch of thousands of cases takes longer than one case.
_PATIENCE = "5min"


def _rows(table: str, order: str, joined: str = "", owner: str = "t") -> str:
    """SQL of one entry of a record: a table's rows of case `c`, in a fixed order: the same case is the same line."""
    return f"""'{table}', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY {order}), '[]')
            FROM {table} t {joined} WHERE {owner}.case_id = c.id)"""  # noqa: S608  of our own words alone


_BY_ARTIFACT = ("t.analysis_id, t.face, t.ordinal", "JOIN analyses a ON a.id = t.analysis_id", "a")
_BY_ANSWER = ("t.decision_id, t.face, t.ordinal", "JOIN decisions d ON d.id = t.decision_id", "d")
_ENTRIES = (
    *(_rows(table, "t.id") for table in ("analyses", "decisions", "appeals", "questions", "skips", "views")),
    *(_rows(table, "t.id") for table in ("deliveries", "reruns")),
    *(_rows(table, *_BY_ARTIFACT) for table in ("artifacts", "effects")),
    _rows("artifact_answers", *_BY_ANSWER),
    _rows("blind_judgements", "t.person_id"),
    _rows("evidence", "t.case_id"),
)
_RECORDS = text(f"""
    SELECT jsonb_build_object(
        'case', to_jsonb(c),
        'events', (SELECT coalesce(jsonb_agg(to_jsonb(t) || jsonb_build_object('body', t.body::text) ORDER BY t.seq),
                                   '[]')
            FROM events t WHERE t.case_id = c.id),
        {", ".join(_ENTRIES)}
    )::text
    FROM cases c WHERE c.id = ANY (:ids) ORDER BY c.id
""")  # noqa: S608  of our own words alone


@dataclass(frozen=True)
class Archive:
    """An object that holds cases."""

    id: int
    bucket: str
    key: str
    #: Digest of the cases' unpacked lines, in hexadecimal.
    sha256: str
    cases: int


@dataclass(frozen=True)
class Archived:
    """What the database still knows of a case whose analyses and events lie in an archive."""

    at: datetime
    #: "s3://BUCKET/KEY".
    place: str
    #: Label of the verdict that was on show. None: there was none.
    label: str | None
    technique: str | None


@contextmanager
def only_archiver(database: Database) -> Generator[None]:
    """Be the only archiver until the block ends. Raise ArchiveBusy when another one works.

    A transaction that does nothing else holds the lock. So it works through a transaction pooler too, and it ends with
    this process in any case.
    """
    with database.transaction() as session:
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        if not session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _ARCHIVE_LOCK}):
            raise ArchiveBusy("another `bonafide archive` is working on this database")
        yield


def cases_to_archive(
    session: Session,
    decided_before: datetime,
    *,
    erased_first: Collection[str],
    after: UUID | None,
    limit: int,
) -> list[UUID]:
    """Decided cases that are old enough to archive, in the order of their ids, after `after`.

    Nothing about them may be open: no undo, question, analysis or webhook to be sent. Cases of the sources
    `erased_first` (`*`: of all) may leave only once they are erased.
    """
    query = (
        select(CaseRow.id)
        .where(
            *_may_leave(),
            CaseRow.decided_at < decided_before,
            # A case is decided after it is accepted. This tells the planner at which id to stop.
            CaseRow.id < first_id_at(decided_before),
        )
        .order_by(CaseRow.id)
        .limit(limit)
    )
    if "*" in erased_first:
        query = query.where(CaseRow.erased_at.is_not(None))
    elif erased_first:
        query = query.where(or_(CaseRow.erased_at.is_not(None), CaseRow.source.not_in(erased_first)))
    if after is not None:
        query = query.where(CaseRow.id > after)
    return list(session.scalars(query))


def _may_leave() -> tuple[ColumnElement[bool], ...]:
    return (
        CaseRow.state == CaseState.DECIDED,
        CaseRow.archive_id.is_(None),
        ~exists().where(DecisionRow.case_id == CaseRow.id, DecisionRow.final_at > func.now()),
        ~exists().where(AppealRow.case_id == CaseRow.id, AppealRow.resolved_by.is_(None)),
        ~exists().where(QuestionRow.case_id == CaseRow.id, QuestionRow.answered_at.is_(None)),
        ~exists().where(RerunRow.case_id == CaseRow.id, RerunRow.done_at.is_(None)),
        # By column: an archiver may not read every column of endpoints.
        ~exists(EndpointRow.id).where(
            DeliveryRow.case_id == CaseRow.id,
            DeliveryRow.delivered_at.is_(None),
            DeliveryRow.dead_at.is_(None),
            # Webhooks for a disabled endpoint leave with the case, and wait again after a restore.
            EndpointRow.id == DeliveryRow.endpoint_id,
            EndpointRow.disabled_at.is_(None),
        ),
    )


def lock_cases(session: Session, case_ids: Sequence[UUID]) -> bool:
    """Lock these cases, with the rows that refer to them, until the transaction ends. False: one may not leave."""
    session.execute(select(CaseRow.id).where(CaseRow.id.in_(case_ids)).order_by(CaseRow.id).with_for_update())
    # After the lock, to see what was committed while we waited for it.
    fit = session.scalar(select(func.count()).where(CaseRow.id.in_(case_ids), *_may_leave()))
    return fit == len(case_ids)


def read_records(session: Session, case_ids: Sequence[UUID]) -> list[str]:
    """The whole record of each case as one line of JSON, in the order of their ids."""
    session.execute(text(f"SET LOCAL statement_timeout = '{_PATIENCE}'"))
    session.execute(text("SET LOCAL timezone = 'UTC'"))  # so that the same case is the same line anywhere
    return list(session.scalars(_RECORDS, {"ids": list(case_ids)}))


def schema_revision(session: Session) -> str:
    """The revision of the schema, which says which columns a record has."""
    return str(session.scalar(text("SELECT version_num FROM alembic_version")))


def begin_archive(session: Session, bucket: str, key: str, *, cases: int, size: int, sha256: str) -> int:
    """Note an object before it is written, so that it can be found after any failure; return its id."""
    return session.scalars(
        insert(ArchiveRow)
        .values(bucket=bucket, key=key, cases=cases, size=size, sha256=bytes.fromhex(sha256))
        .returning(ArchiveRow.id)
    ).one()


def move_into_archive(session: Session, archive_id: int, case_ids: Sequence[UUID]) -> None:
    """Delete the rows that the object holds. The caller has locked the cases. Raise ArchiveBusy: the object is gone."""
    session.execute(text(f"SET LOCAL statement_timeout = '{_PATIENCE}'"))
    _finish(session, archive_id)
    session.execute(select(func.archive_cases(list(case_ids), archive_id)))


def replace_archive(session: Session, old: Archive, new_id: int) -> None:
    """Point the cases in `old` to the new object. `old` is left over."""
    _finish(session, new_id)
    change_rows(session, CaseRow, CaseRow.archive_id == old.id, archive_id=new_id)
    abandon_archive(session, old.id)


def abandon_archive(session: Session, archive_id: int) -> None:
    """Mark an object that holds no case any more, so that it is removed."""
    change_rows(session, ArchiveRow, ArchiveRow.id == archive_id, finished_at=None)


def _finish(session: Session, archive_id: int) -> None:
    begun = (ArchiveRow.id == archive_id, ArchiveRow.finished_at.is_(None))
    if not change_rows(session, ArchiveRow, *begun, finished_at=func.now()):
        raise ArchiveBusy("another archiver has taken over")


def restore_case(session: Session, record: str) -> bool:
    """Restore a case's record. False: the case is not archived."""
    return bool(session.scalar(select(func.restore_case(text("CAST(:record AS jsonb)"))), {"record": record}))


def lock_leftover(session: Session) -> Archive | None:
    """A locked object without cases: its run was cut off, or it was replaced. None: there is none."""
    row = session.scalars(
        select(ArchiveRow)
        .where(ArchiveRow.finished_at.is_(None))
        .order_by(ArchiveRow.id)
        .limit(1)
        .with_for_update()
    ).first()
    return None if row is None else _archive(row)


def forget_archive(session: Session, archive_id: int) -> None:
    """Delete an object's row: the object is gone."""
    delete_rows(session, ArchiveRow, ArchiveRow.id == archive_id)


def archive_of(session: Session, case_id: UUID) -> Archive | None:
    """The object that holds the case. None: the database holds it."""
    row = session.scalars(
        select(ArchiveRow).join(CaseRow, CaseRow.archive_id == ArchiveRow.id).where(CaseRow.id == case_id)
    ).first()
    return None if row is None else _archive(row)


def archive_past(
    session: Session, retention: Sequence[tuple[str, float]]
) -> tuple[Archive, list[UUID]] | None:
    """An object with cases whose retention is over and that are not erased, and those cases. None: there is none.

    `retention` is as in `erasure`.
    """
    for case_id in all_past(session, retention, Kept.ARCHIVED, limit=1):
        archive = archive_of(session, case_id)
        if archive is not None:
            return archive, _past_in(session, archive.id, retention)
    return None


def _past_in(session: Session, archive_id: int, retention: Sequence[tuple[str, float]]) -> list[UUID]:
    """All cases of an object whose retention is over, so that it is rewritten only once."""
    named = [source for source, _ in retention if source != "*"]
    over = [
        and_(
            CaseRow.source.not_in(named) if source == "*" else CaseRow.source == source,
            CaseRow.decided_at < func.now() - seconds(days * 86_400),
        )
        for source, days in retention
    ]
    query = select(CaseRow.id).where(
        CaseRow.archive_id == archive_id, CaseRow.erased_at.is_(None), or_(false(), *over)
    )
    return list(session.scalars(query))


def archived_cases(session: Session, cases: Sequence[Case]) -> dict[UUID, Archived]:
    """The cases, of these, that are archived."""
    case_ids = [case.id for case in cases if case.archive_id is not None]
    if not case_ids:
        return {}
    rows = session.execute(
        select(
            *(CaseRow.id, CaseRow.label, CaseRow.technique),
            *(ArchiveRow.finished_at, ArchiveRow.bucket, ArchiveRow.key),
        )
        .join(ArchiveRow, ArchiveRow.id == CaseRow.archive_id)
        .where(CaseRow.id.in_(case_ids))
    )
    return {
        row.id: Archived(row.finished_at, f"s3://{row.bucket}/{row.key}", row.label, row.technique)
        for row in rows
    }


def _archive(row: ArchiveRow) -> Archive:
    return Archive(row.id, row.bucket, row.key, row.sha256.hex(), row.cases)
