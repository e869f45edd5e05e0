"""Certificates in the database: their labels, what they do with an admin's permission, and their end.

A certificate in use moves the cases of its zone in the reviewers' queue: clear ones come later, likely ones sooner. No
case is skipped, because all age alike. With an admin's permission a certificate of the clear zone also closes its
cases, as bona fide, in the name of a rule (`moderation.review`). It never touches cases that are judged before their
verdict is shown (`BONAFIDE_BLIND_FIRST_SHARE`): they are its audit. When the audit no longer agrees, the sweeper
revokes the certificate. Every step of a certificate is an event, chained like those of cases.
"""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, insert, select, text
from sqlalchemy.orm import Session

from moderation.analysis import Analysis, Label
from moderation.cases import CaseState, Stage
from moderation.database.events import EventChain, as_hashed, verified
from moderation.database.queue import unclaimed
from moderation.database.review import in_blind_share
from moderation.database.shapes import as_value, change_rows, seconds
from moderation.database.tables import (
    AnalysisRow,
    BlindJudgementRow,
    CaseRow,
    CertificateEventRow,
    CertificateRow,
    EvidenceRow,
)
from moderation.decisions import BLIND_STAGES, Outcome, is_blind_first
from moderation.errors import RequestRefused
from moderation.evidence.certify import (
    UNDECIDED_AT_MOST,
    BlindSample,
    Found,
    Promise,
    Zone,
    certify,
    holds,
    inside,
)
from moderation.evidence.words import ClaimedOrigin

#: Seconds of age that a case in a certified zone loses or gains: half a day.
MOVED_SECONDS = 12 * 3600
#: A certificate holds for traffic like that of its days. After this time an admin must ask for a new one.
VALID = timedelta(days=90)
#: A case drawn for blind judgement that waits longer counts as undecided.
PATIENCE = timedelta(days=3)
#: Newest labels that an audit uses at most. Old ones say nothing about today.
AUDITED_AT_MOST = 1000

#: Seconds after which an audit is too old for closing cases: three audits were missed.
AUDIT_AT_MOST_OLD = 2000
#: Cases closed in one go, at most.
CLOSED_AT_ONCE = 500


class CertificateStep(enum.StrEnum):
    """A step of a certificate. It is also the kind of the event that records it."""

    ISSUE = "issued"
    USE = "used"
    #: It may also close the cases of its zone.
    CLOSE = "closing_allowed"
    HOLD = "closing_stopped"
    STOP = "stopped"
    REVOKE = "revoked"


#: The first judgement for each group of similar pictures. If another person later said otherwise about the case, in an
#: appeal or a second review, that is the truth.
_JUDGED = text("""
    SELECT DISTINCT ON (coalesce(c.campaign::text, c.id::text)) a.score, d.created_at,
           coalesce(later.outcome, d.blind_outcome) AS outcome
    FROM decisions d
    JOIN cases c ON c.id = d.case_id
    JOIN analyses a ON a.id = d.analysis_id
    LEFT JOIN LATERAL (
        SELECT t.outcome FROM decisions t
        WHERE t.case_id = d.case_id AND t.person_id <> d.person_id AND t.created_at > d.created_at
          AND t.undone_at IS NULL AND t.outcome IN ('deepfake', 'bona_fide')
        ORDER BY t.created_at DESC, t.id DESC LIMIT 1
    ) AS later ON true
    WHERE d.created_at >= :since AND d.created_at < :until AND d.undone_at IS NULL AND d.blind_outcome IS NOT NULL
      AND d.stage = 'first' AND a.fingerprint = :fingerprint AND a.score IS NOT NULL
      AND (CAST(:source AS text) IS NULL OR c.source = :source)
    ORDER BY coalesce(c.campaign::text, c.id::text), d.created_at
""")


@dataclass(frozen=True)
class Certificate:
    """A promise that was found to hold, and its state."""

    id: int
    source: str | None
    fingerprint: str
    promise: Promise
    threshold: float
    n: int
    errors: int
    bound: float
    since: datetime
    until: datetime
    issued_at: datetime
    issued_by: str
    expires_at: datetime
    used_since: datetime | None
    #: When it began to close the cases of its zone. None: people decide them.
    closes_since: datetime | None
    audited_n: int | None
    audited_errors: int | None
    audited_at: datetime | None
    revoked_at: datetime | None
    revoked_because: str | None

    @property
    def words(self) -> str:
        """The promise as a sentence."""
        low = self.promise.zone is Zone.CLEAR
        where = f"scored {'below' if low else 'above'} {self.threshold:g}"
        wrong = "are not bona fide" if low else "are no deepfakes"
        whose = "all sources" if self.source is None else self.source
        return (
            f"Of cases of {whose} {where}, at most {100 * self.promise.error:g} % {wrong},"
            f" with {100 * self.promise.confidence:g} % confidence."
        )


def read_judged(
    session: Session, fingerprint: str, source: str | None, since: datetime, until: datetime
) -> list[BlindSample]:
    """People's judgements before they saw the verdict, the oldest first."""
    values = {"fingerprint": fingerprint, "source": source, "since": since, "until": until}
    rows = sorted(session.execute(_JUDGED, values), key=lambda row: row.created_at)
    return [
        BlindSample(row.score, row.outcome == Outcome.DEEPFAKE, row.outcome == Outcome.BONA_FIDE)
        for row in rows
    ]


def count_undecided(
    session: Session,
    fingerprint: str,
    source: str | None,
    since: datetime,
    until: datetime,
    *,
    blind_share: float,
) -> int:
    """The number of cases of these days that were drawn for blind judgement and have waited too long."""
    judged = select(BlindJudgementRow.case_id).where(BlindJudgementRow.case_id == CaseRow.id).exists()
    conditions = [
        CaseRow.state == CaseState.READY,
        CaseRow.stage.in_(BLIND_STAGES),
        CaseRow.ready_at >= since,
        CaseRow.ready_at < until - PATIENCE,
        AnalysisRow.fingerprint == fingerprint,
        AnalysisRow.score.is_not(None),
        in_blind_share(CaseRow.id, blind_share),
        ~judged,
    ]
    if source is not None:
        conditions.append(CaseRow.source == source)
    counted = (
        select(func.count())
        .select_from(CaseRow)
        .join(AnalysisRow, AnalysisRow.id == CaseRow.analysis_id)
        .where(*conditions)
    )
    return session.scalar(counted) or 0


def seek(
    session: Session,
    fingerprint: str,
    source: str | None,
    promise: Promise,
    *,
    since: datetime,
    until: datetime,
    blind_share: float,
) -> Found:
    """The zone that the labels of these days support. Nothing is stored."""
    judged = read_judged(session, fingerprint, source, since, until)
    undecided = count_undecided(session, fingerprint, source, since, until, blind_share=blind_share)
    return certify(judged, promise, undecided=undecided)


def issue(
    session: Session,
    fingerprint: str,
    source: str | None,
    found: Found,
    *,
    since: datetime,
    until: datetime,
    actor: str,
) -> int:
    """Store a certificate; return its id. It has no effect until an admin turns it on. Raise RequestRefused."""
    certified, promise = found.certified, found.promise
    if certified is None:
        raise RequestRefused(found.refused)
    body = {
        "zone": promise.zone,
        "source": source,
        "fingerprint": fingerprint,
        "threshold": certified.threshold,
        "error": promise.error,
        "confidence": promise.confidence,
        "n": certified.n,
        "errors": certified.errors,
    }
    days = {"since": since, "until": until, "expires_at": until + VALID}
    row = insert(CertificateRow).values(**body, **days, bound=certified.bound, issued_by=actor, version=1)
    number = session.scalars(row.returning(CertificateRow.id)).one()
    _note(session, number, CertificateStep.ISSUE, actor, body)
    return number


def certificates(session: Session, *, at_most: int = 50) -> list[Certificate]:
    """All certificates, also revoked ones, the newest first."""
    return _read(session, select(CertificateRow).order_by(CertificateRow.id.desc()).limit(at_most))


def _read(session: Session, query: Select[CertificateRow]) -> list[Certificate]:
    return [_certificate(row) for row in session.scalars(query.execution_options(populate_existing=True))]


def _certificate(row: CertificateRow) -> Certificate:
    return as_value(Certificate, row, promise=Promise(Zone(row.zone), row.error, row.confidence))


def use(session: Session, certificate_id: int, *, actor: str, blind_share: float) -> None:
    """Let a certificate move cases from now on. Raise RequestRefused when it may not."""
    row = _held(session, certificate_id)
    _refuse_unless_alive(session, row, blind_share)
    if row.used_since is None:
        _change(session, row, CertificateStep.USE, actor, used_since=func.now(), used_by=actor)


def stop_using(session: Session, certificate_id: int, *, actor: str) -> None:
    """Stop a certificate from moving and closing cases. Moved cases stay where they are."""
    row = _held(session, certificate_id)
    if row.used_since is not None:
        nothing = dict.fromkeys(("used_since", "used_by", "closes_since", "closes_by"))
        _change(session, row, CertificateStep.STOP, actor, **nothing)


def let_close(session: Session, certificate_id: int, *, actor: str, blind_share: float) -> None:
    """Let a certificate in use close the cases of its zone from now on. Raise RequestRefused when it may not.

    Only the clear zone may be closed: only a person may decide that a case is a deepfake.
    """
    row = _held(session, certificate_id)
    _refuse_unless_alive(session, row, blind_share)
    if row.zone != Zone.CLEAR:
        raise RequestRefused("only a certificate of the clear zone closes cases: a deepfake is for a person")
    if row.used_since is None:
        raise RequestRefused("turn the certificate on first, and watch its audit for a while")
    if row.closes_since is None:
        _change(session, row, CertificateStep.CLOSE, actor, closes_since=func.now(), closes_by=actor)


def stop_closing(session: Session, certificate_id: int, *, actor: str) -> None:
    """Stop a certificate from closing cases: people decide them again. It still moves them."""
    row = _held(session, certificate_id)
    if row.closes_since is not None:
        _change(session, row, CertificateStep.HOLD, actor, closes_since=None, closes_by=None)


def _held(session: Session, certificate_id: int) -> CertificateRow:
    """Lock a certificate. Raise RequestRefused when there is none."""
    row = session.scalars(
        select(CertificateRow)
        .where(CertificateRow.id == certificate_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        raise RequestRefused("there is no such certificate")
    return row


def _refuse_unless_alive(session: Session, row: CertificateRow, blind_share: float) -> None:
    if blind_share <= 0:
        raise RequestRefused(
            "nothing is judged blind here (BONAFIDE_BLIND_FIRST_SHARE is 0), so a certificate could not be audited"
        )
    if row.revoked_at is not None or row.expires_at <= session.execute(select(func.now())).scalar_one():
        raise RequestRefused("this certificate was revoked or has expired: ask for a new one")


def _change(
    session: Session,
    row: CertificateRow,
    step: CertificateStep,
    actor: str,
    body: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Change a locked certificate and write its event. A trigger chains the event to the one before."""
    this = CertificateRow.id == row.id
    change_rows(session, CertificateRow, this, version=CertificateRow.version + 1, **changes)
    _note(session, row.id, step, actor, body or {})


def _note(
    session: Session, certificate_id: int, step: CertificateStep, actor: str, body: dict[str, Any]
) -> None:
    session.execute(
        insert(CertificateEventRow).values(
            certificate_id=certificate_id, kind=step, actor=actor, body=body, seq=0, previous=b"", hash=b""
        )
    )


def log_of(session: Session, certificate_id: int) -> EventChain:
    """The events of a certificate, in order, with their chain verified."""
    found = session.execute(
        select(CertificateEventRow, *as_hashed(CertificateEventRow), CertificateRow.version)
        .join(CertificateRow, CertificateRow.id == CertificateEventRow.certificate_id)
        .where(CertificateRow.id == certificate_id)
        .order_by(CertificateEventRow.seq)
    ).all()
    rows = [(row, at, body) for row, at, body, _ in found]
    return verified(certificate_id, rows, found[0][3] if found else 0)


def _in_use(session: Session) -> list[Certificate]:
    used = select(CertificateRow).where(CertificateRow.used_since.is_not(None), *_alive())
    return _read(session, used.order_by(CertificateRow.id))


def _alive() -> tuple[ColumnElement[bool], ...]:
    return CertificateRow.revoked_at.is_(None), CertificateRow.expires_at > func.now()


def apply_certificates(
    session: Session, case_id: UUID, source: str, analysis: Analysis, *, blind_share: float
) -> int | None:
    """Move a case that just became ready, if its verdict lies in a zone in use; return the certificate's id.

    A certificate of the case's own source wins over one of all sources. Cases of the audit are not moved.
    """
    score = analysis.verdict.score
    if score is None or is_blind_first(case_id, blind_share):
        return None
    fit = [
        certificate
        for certificate in _in_use(session)
        if certificate.fingerprint == analysis.fingerprint
        and certificate.source in (None, source)
        and inside(certificate.promise.zone, score, certificate.threshold)
    ]
    if not fit:
        return None
    certificate = max(fit, key=lambda fitting: (fitting.source is not None, fitting.id))
    later = MOVED_SECONDS if certificate.promise.zone is Zone.CLEAR else -MOVED_SECONDS
    moved = {"queued_at": CaseRow.queued_at + seconds(later), "certificate_id": certificate.id}
    change_rows(session, CaseRow, CaseRow.id == case_id, **moved)
    return certificate.id


@dataclass(frozen=True)
class Closing:
    """Cases that one certificate may close now."""

    certificate: Certificate
    case_ids: tuple[UUID, ...]


def to_close(session: Session, *, blind_share: float) -> list[Closing]:
    """The cases that each closing certificate may close now, the oldest first.

    There are none while its audit is too old or too many audit cases wait: without a check it closes nothing.
    """
    return [
        Closing(certificate, _closable(session, certificate, blind_share))
        for certificate in _in_use(session)
        if certificate.closes_since is not None and _checked(session, certificate, blind_share)
    ]


def closes(session: Session, certificate_id: int) -> bool:
    """Whether it may close cases now. This stays true until the transaction ends: stopping or revoking it waits."""
    closing = select(CertificateRow.id).where(
        CertificateRow.id == certificate_id, CertificateRow.closes_since.is_not(None), *_alive()
    )
    return session.scalar(closing.with_for_update(read=True)) is not None


def _checked(session: Session, certificate: Certificate, blind_share: float) -> bool:
    now = session.execute(select(func.now())).scalar_one()
    if (
        blind_share <= 0
        or certificate.audited_at is None
        or now - certificate.audited_at > timedelta(seconds=AUDIT_AT_MOST_OLD)
    ):
        return False
    whose = (certificate.fingerprint, certificate.source, certificate.since, now)
    undecided = count_undecided(session, *whose, blind_share=blind_share)
    drawn = undecided + len(read_judged(session, *whose))
    return undecided <= UNDECIDED_AT_MOST * drawn


def _closable(session: Session, certificate: Certificate, blind_share: float) -> tuple[UUID, ...]:
    """Unclaimed ready cases of its zone that nothing contradicts, and that came after it began to close."""
    declared = select(EvidenceRow.case_id).where(
        EvidenceRow.case_id == CaseRow.id, EvidenceRow.declared == ClaimedOrigin.SYNTHETIC
    )
    return tuple(
        session.scalars(
            select(CaseRow.id)
            .join(AnalysisRow, AnalysisRow.id == CaseRow.analysis_id)
            .where(
                CaseRow.state == CaseState.READY,
                CaseRow.stage == Stage.FIRST,
                CaseRow.certificate_id == certificate.id,
                CaseRow.ready_at >= certificate.closes_since,
                CaseRow.label == Label.BONA_FIDE,
                AnalysisRow.fingerprint == certificate.fingerprint,
                AnalysisRow.score < certificate.threshold,
                ~in_blind_share(CaseRow.id, blind_share),
                ~declared.exists(),
                unclaimed(),
            )
            .order_by(CaseRow.ready_at)
            .limit(CLOSED_AT_ONCE)
        )
    )


def audit(session: Session, *, now: datetime) -> list[Certificate]:
    """Compare every certificate in use with recent blind judgements; return those that it revokes.

    Recent: since its own labels began, the newest `AUDITED_AT_MOST`. Expired certificates are revoked too.
    """
    revoked: list[Certificate] = []
    rows = session.scalars(
        select(CertificateRow)
        .where(CertificateRow.used_since.is_not(None), CertificateRow.revoked_at.is_(None))
        .order_by(CertificateRow.id)
        .with_for_update(skip_locked=True)
    ).all()
    for row, certificate in [(row, _certificate(row)) for row in rows]:
        judged = read_judged(session, certificate.fingerprint, certificate.source, certificate.since, now)
        seen = [
            case for case in judged if inside(certificate.promise.zone, case.score, certificate.threshold)
        ]
        seen = seen[-AUDITED_AT_MOST:]
        errors = sum(case.errs(certificate.promise.zone) for case in seen)
        found: dict[str, Any] = {"audited_n": len(seen), "audited_errors": errors, "audited_at": func.now()}
        change_rows(session, CertificateRow, CertificateRow.id == certificate.id, **found)
        because = _because(certificate, len(seen), errors, now)
        if because is not None:
            body = {"because": because, "audited": len(seen), "errors": errors}
            ended = {"revoked_at": func.now(), "revoked_because": because}
            _change(session, row, CertificateStep.REVOKE, "sweeper", body, **ended)
            revoked.append(certificate)
    return revoked


def _because(certificate: Certificate, n: int, errors: int, now: datetime) -> str | None:
    if now >= certificate.expires_at:
        return "its time is over"
    if not holds(n, errors, certificate.promise):
        return (
            f"of {n} pictures judged blind in its zone lately {errors} were errors: the bound does not hold"
        )
    return None
