"""What the database knows of archives: which cases may leave, what they consist of, and in which object they lie.

A case's record is made by Postgres itself, as JSON of its rows: what is written is what was stored, to the last digit,
and `restore_case` puts it back as it was. An event's body is in it as the text that its hash was made of.
"""

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, exists, false, func, insert, or_, select, text, update
from sqlalchemy.orm import Session

from moderation.cases import Case, CaseState
from moderation.database.connection import Database
from moderation.database.erasure import Kept, cases_past
from moderation.database.ids import first_id_at
from moderation.database.moves import seconds
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

#: One archiver at a time. Any constant that nobody else uses will do.
_ARCHIVE_LOCK = 7_301_004
#: A batch of thousands of cases is longer work than a case.
_PATIENCE = "5min"

#: In a fixed order throughout, so that the same case is the same line.
_RECORDS = text("""
    SELECT jsonb_build_object(
        'case', to_jsonb(c),
        'events', (SELECT coalesce(jsonb_agg(to_jsonb(t) || jsonb_build_object('body', t.body::text) ORDER BY t.seq),
                                   '[]')
            FROM events t WHERE t.case_id = c.id),
        'analyses', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.id), '[]')
            FROM analyses t WHERE t.case_id = c.id),
        'artifacts', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.analysis_id, t.face, t.ordinal), '[]')
            FROM artifacts t JOIN analyses a ON a.id = t.analysis_id WHERE a.case_id = c.id),
        'effects', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.analysis_id, t.face, t.ordinal), '[]')
            FROM effects t JOIN analyses a ON a.id = t.analysis_id WHERE a.case_id = c.id),
        'evidence', (SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') FROM evidence t WHERE t.case_id = c.id),
        'decisions', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.id), '[]')
            FROM decisions t WHERE t.case_id = c.id),
        'artifact_answers', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.decision_id, t.face, t.ordinal), '[]')
            FROM artifact_answers t JOIN decisions d ON d.id = t.decision_id WHERE d.case_id = c.id),
        'blind_judgements', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.person_id), '[]')
            FROM blind_judgements t WHERE t.case_id = c.id),
        'appeals', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.id), '[]')
            FROM appeals t WHERE t.case_id = c.id),
        'questions', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.id), '[]')
            FROM questions t WHERE t.case_id = c.id),
        'skips', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.id), '[]')
            FROM skips t WHERE t.case_id = c.id),
        'views', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.id), '[]')
            FROM views t WHERE t.case_id = c.id),
        'deliveries', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.id), '[]')
            FROM deliveries t WHERE t.case_id = c.id),
        'reruns', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.id), '[]')
            FROM reruns t WHERE t.case_id = c.id)
    )::text
    FROM cases c WHERE c.id = ANY (:ids) ORDER BY c.id
""")


@dataclass(frozen=True)
class Archive:
    """An object that holds cases."""

    id: int
    bucket: str
    key: str
    #: Of the cases' lines, unpacked, in hexadecimal.
    sha256: str
    cases: int


@dataclass(frozen=True)
class Archived:
    """What is still known here of a case whose analyses and events lie in an archive."""

    at: datetime
    #: "s3://BUCKET/KEY".
    place: str
    #: Of the verdict that was on show. None when there was none.
    label: str | None
    technique: str | None


@contextmanager
def only_archiver(database: Database) -> Generator[None]:
    """Be the one that archives until the block ends. Raise ArchiveBusy when another is.

    The lock is a transaction's that does nothing else: it holds through a pooler of transactions too, and it ends with
    this process however that ends.
    """
    with database.transaction() as session:
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        if not session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _ARCHIVE_LOCK}):
            raise ArchiveBusy("another `bonafide archive` is at work on this database")
        yield


def cases_to_archive(
    session: Session,
    decided_before: datetime,
    *,
    erased_first: Collection[str],
    after: UUID | None,
    limit: int,
) -> list[UUID]:
    """Decided cases whose time here is over, in the order of their ids, from the one after `after` on.

    Nothing may be open about them: no undo, question, analysis or webhook that will be sent. Cases of the sources
    `erased_first` (`*`: of all) leave erased or not at all.
    """
    query = (
        select(CaseRow.id)
        .where(
            *_may_leave(),
            CaseRow.decided_at < decided_before,
            # A case is decided after it is accepted: says to the planner where in the ids to stop.
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
        # By its name: of endpoints an archiver may not read every column.
        ~exists(EndpointRow.id).where(
            DeliveryRow.case_id == CaseRow.id,
            DeliveryRow.delivered_at.is_(None),
            DeliveryRow.dead_at.is_(None),
            # What waits for one that is disabled leaves with the case, and waits again when that is brought back.
            EndpointRow.id == DeliveryRow.endpoint_id,
            EndpointRow.disabled_at.is_(None),
        ),
    )


def lock_cases(session: Session, case_ids: Sequence[UUID]) -> bool:
    """Keep these cases as they are until the transaction ends, with what refers to them. False: one may not leave."""
    session.execute(select(CaseRow.id).where(CaseRow.id.in_(case_ids)).order_by(CaseRow.id).with_for_update())
    # Asked after the lock: what was committed while we waited for it is seen.
    fit = session.scalar(select(func.count()).where(CaseRow.id.in_(case_ids), *_may_leave()))
    return fit == len(case_ids)


def read_records(session: Session, case_ids: Sequence[UUID]) -> list[str]:
    """All that each case consists of, as one line of JSON, in the order of their ids."""
    session.execute(text(f"SET LOCAL statement_timeout = '{_PATIENCE}'"))
    session.execute(text("SET LOCAL timezone = 'UTC'"))  # so that the same case is the same line everywhere
    return list(session.scalars(_RECORDS, {"ids": list(case_ids)}))


def schema_revision(session: Session) -> str:
    """Which columns a record has."""
    return str(session.scalar(text("SELECT version_num FROM alembic_version")))


def begin_archive(session: Session, bucket: str, key: str, *, cases: int, size: int, sha256: str) -> int:
    """Note an object that is about to be written, so that it is found whatever happens; return its id."""
    return session.scalars(
        insert(ArchiveRow)
        .values(bucket=bucket, key=key, cases=cases, size=size, sha256=bytes.fromhex(sha256))
        .returning(ArchiveRow.id)
    ).one()


def move_into_archive(session: Session, archive_id: int, case_ids: Sequence[UUID]) -> None:
    """Delete here what the object holds. The caller has locked the cases. Raise ArchiveBusy: the object is gone."""
    session.execute(text(f"SET LOCAL statement_timeout = '{_PATIENCE}'"))
    _finish(session, archive_id)
    session.execute(select(func.archive_cases(list(case_ids), archive_id)))


def replace_archive(session: Session, old: Archive, new_id: int) -> None:
    """The cases that lay in `old` lie in the new one; `old` is left over."""
    _finish(session, new_id)
    session.execute(
        update(CaseRow)
        .where(CaseRow.archive_id == old.id)
        .values(archive_id=new_id)
        .execution_options(synchronize_session=False)
    )
    abandon_archive(session, old.id)


def abandon_archive(session: Session, archive_id: int) -> None:
    """No case lies in it any more: the object is to be removed."""
    session.execute(update(ArchiveRow).where(ArchiveRow.id == archive_id).values(finished_at=None))


def _finish(session: Session, archive_id: int) -> None:
    finished = session.execute(
        update(ArchiveRow)
        .where(ArchiveRow.id == archive_id, ArchiveRow.finished_at.is_(None))
        .values(finished_at=func.now())
        .returning(ArchiveRow.id)
    ).first()
    if finished is None:
        raise ArchiveBusy("another archiver took this one's place")


def restore_case(session: Session, record: str) -> bool:
    """Put a case's record back. False: it is not archived."""
    return bool(session.scalar(select(func.restore_case(text("CAST(:record AS jsonb)"))), {"record": record}))


def lock_leftover(session: Session) -> Archive | None:
    """An object that no case lies in, locked: of a run that was cut off, or replaced. None: there is none."""
    row = session.scalars(
        select(ArchiveRow)
        .where(ArchiveRow.finished_at.is_(None))
        .order_by(ArchiveRow.id)
        .limit(1)
        .with_for_update()
    ).first()
    return None if row is None else _archive(row)


def forget_archive(session: Session, archive_id: int) -> None:
    """The object is gone."""
    session.execute(delete(ArchiveRow).where(ArchiveRow.id == archive_id))


def archive_of(session: Session, case_id: UUID) -> Archive | None:
    """The object in which the case lies; None when it lies here."""
    row = session.scalars(
        select(ArchiveRow).join(CaseRow, CaseRow.archive_id == ArchiveRow.id).where(CaseRow.id == case_id)
    ).first()
    return None if row is None else _archive(row)


def archive_past(
    session: Session, retention: Sequence[tuple[str, float]]
) -> tuple[Archive, list[UUID]] | None:
    """An object with cases that are not erased though their time is over, and which these are; None: there is none.

    `retention` as in `erasure`.
    """
    named = [source for source, _ in retention if source != "*"]
    for source, days in retention:
        wanted = None if source == "*" else source
        first = cases_past(session, days, source=wanted, but=named, kept=Kept.ARCHIVED, limit=1)
        archive = archive_of(session, first[0]) if first else None
        if archive is not None:
            return archive, _past_in(session, archive.id, retention)
    return None


def _past_in(session: Session, archive_id: int, retention: Sequence[tuple[str, float]]) -> list[UUID]:
    """All of an object whose time is over: it is written anew once for them."""
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
    """Those of these cases that are archived."""
    case_ids = [case.id for case in cases if case.archive_id is not None]
    if not case_ids:
        return {}
    rows = session.execute(
        select(
            CaseRow.id,
            CaseRow.label,
            CaseRow.technique,
            ArchiveRow.finished_at,
            ArchiveRow.bucket,
            ArchiveRow.key,
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
