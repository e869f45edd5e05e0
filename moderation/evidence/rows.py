"""Evidence in the database: one row for each case whose picture was decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from moderation.database.tables import AnalysisRow, CaseRow, EvidenceRow
from moderation.evidence.words import Evidence, declared, fact_from_json, fact_json


@dataclass(frozen=True)
class StoredEvidence:
    evidence: Evidence
    #: The gatherer's version: see `options.gatherer`.
    gatherer: str


def record_evidence(
    session: Session, case_id: UUID, sha256: str, evidence: Evidence, *, gatherer: str
) -> None:
    """Store the evidence about the bytes with this digest, in the transaction of their analysis.

    Do nothing when the case is erased or archived, when its analyses are of other bytes, or when the same gatherer has
    stored evidence before.
    """
    strongest = declared(evidence)
    values = {
        "gatherer": gatherer,
        "declared": strongest and strongest.points_to,
        "strength": strongest and strongest.strength,
        "facts": [fact_json(fact) for fact in evidence.facts],
        "seconds": evidence.seconds,
    }
    columns = EvidenceRow.__table__.columns
    row = select(CaseRow.id, *(literal(value, columns[name].type) for name, value in values.items())).where(
        CaseRow.id == case_id,
        CaseRow.erased_at.is_(None),
        CaseRow.archive_id.is_(None),
        select(AnalysisRow.id)
        .where(AnalysisRow.case_id == CaseRow.id, AnalysisRow.image_sha256 == bytes.fromhex(sha256))
        .exists(),
    )
    insert = upsert(EvidenceRow).from_select(["case_id", *values], row)
    session.execute(
        insert.on_conflict_do_update(
            index_elements=[EvidenceRow.case_id],
            set_={name: insert.excluded[name] for name in values} | {"created_at": func.now()},
            where=EvidenceRow.gatherer != insert.excluded.gatherer,
        )
    )


def evidence_of(session: Session, case_ids: Sequence[UUID]) -> dict[UUID, StoredEvidence]:
    """The evidence for each of these cases that has some."""
    rows = session.scalars(select(EvidenceRow).where(EvidenceRow.case_id.in_(case_ids)))
    return {
        row.case_id: StoredEvidence(
            Evidence(tuple(map(fact_from_json, row.facts)), row.seconds), row.gatherer
        )
        for row in rows
    }
