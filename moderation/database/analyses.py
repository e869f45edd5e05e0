"""Analyses with their artifacts and effects: written once, under a lease, and never changed."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import and_, insert, literal, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from moderation.analysis import Analysis, Artifact, Effect, FaceAnalysis, PictureFacts
from moderation.cases import Move
from moderation.database.moves import end_lease, now_ready, pinned
from moderation.database.outbox import Kind, enqueue
from moderation.database.shapes import as_value
from moderation.database.tables import AnalysisRow, ArtifactRow, CaseRow, EffectRow
from moderation.errors import ImageChanged
from moderation.presentation import face_from_json, face_json, verdict_from_json, verdict_json
from moderation.triage import uncertainty


def record_analysis(
    session: Session,
    case_id: UUID,
    token: int,
    analysis: Analysis,
    *,
    actor: str,
    new_id: UUID,
    version_id: str | None = None,
    conflict: bool = False,
) -> None:
    """Make the case ready with this analysis, all in the caller's transaction. Raise LeaseLost or ImageChanged.

    `version_id` is the version of the fetched image; the case is pinned to it. `conflict`: the verdict contradicts what
    the image is declared to be, so a person should see it sooner.

    Only the holder of the lease can write. The analysis is inserted first, because the case points at it; LeaseLost
    rolls it back. A second try after an unclear commit finds the case ready: it raises LeaseLost, and nothing is left
    to do. If this pipeline has analysed the same bytes before, in the shadow, that analysis is shown.
    """
    shown = insert_analysis(session, case_id, analysis, new_id=new_id)
    verdict = shown.analysis.verdict
    end_lease(
        session,
        Move.RECORD,
        case_id,
        token,
        actor=actor,
        body={
            "analysis": str(shown.id),
            "fingerprint": analysis.fingerprint,
            "label": verdict.label,
            "score": verdict.score,
            "reused_from": shown.analysis.reused_from,
        },
        changes={
            "analysis_id": shown.id,
            "label": verdict.label,
            "technique": verdict.technique,
            **pinned(version_id),
            **now_ready(uncertainty(verdict), conflict=conflict),
        },
    )
    enqueue(session, Kind.ANALYZED, case_id)


def insert_analysis(session: Session, case_id: UUID, analysis: Analysis, *, new_id: UUID) -> "StoredAnalysis":
    """Add the analysis with its artifacts and return it, or the earlier one by this pipeline of the same bytes.

    Raise ImageChanged when the earlier one is of other bytes: a case has one analysis per pipeline, and it never
    changes.
    """
    verdict = analysis.verdict
    written = session.execute(
        upsert(AnalysisRow)
        .values(
            id=new_id,
            case_id=case_id,
            fingerprint=analysis.fingerprint,
            bundle=analysis.bundle,
            image_sha256=bytes.fromhex(analysis.picture.sha256),
            picture=dataclasses.asdict(analysis.picture),
            label=verdict.label,
            score=verdict.score,
            calibrated=verdict.calibrated,
            technique=verdict.technique,
            abstain=verdict.abstain,
            verdict=verdict_json(verdict),
            faces=[face_json(face) | {"rationale": [], "view": face.view} for face in analysis.faces],
            faces_found=analysis.faces_found,
            faces_judged=analysis.faces_judged,
            seconds=dict(analysis.seconds),
            reused_from=None if analysis.reused_from is None else UUID(analysis.reused_from),
        )
        .on_conflict_do_nothing(constraint="analyses_once")
        .returning(literal(1))
    ).first()
    if written is None:
        before = analysis_by(session, case_id, analysis.fingerprint)
        assert before is not None, "an analysis is never deleted while its case is here"
        if before.analysis.picture.sha256 != analysis.picture.sha256:
            raise ImageChanged(
                "The image was replaced after this case was first looked at. What was said of the earlier one is not"
                " shown; please judge this one unaided."
            )
        return before
    artifacts = [
        {
            **place,
            "heading": artifact.heading,
            "regions": [region.value for region in artifact.regions],
            "text": artifact.text,
            "polygon": None if artifact.polygon is None else [list(point) for point in artifact.polygon],
        }
        for place, artifact in _placed(new_id, analysis.faces)
    ]
    if artifacts:
        session.execute(insert(ArtifactRow), artifacts)
    insert_effects(session, new_id, analysis.faces)
    return StoredAnalysis(new_id, case_id, analysis)


def _placed(analysis_id: UUID, faces: Sequence[FaceAnalysis]) -> Iterator[tuple[dict[str, Any], Artifact]]:
    """Every artifact with the key of its row."""
    for index, face in enumerate(faces):
        for ordinal, artifact in enumerate(face.rationale, start=1):
            yield {"analysis_id": analysis_id, "face": index, "ordinal": ordinal}, artifact


def insert_effects(session: Session, analysis_id: UUID, faces: Sequence[FaceAnalysis]) -> None:
    """Add the measured effects of an analysis's artifacts. Earlier measurements stay."""
    rows = [
        {**place, **dataclasses.asdict(artifact.effect)}
        for place, artifact in _placed(analysis_id, faces)
        if artifact.effect is not None
    ]
    if rows:
        session.execute(upsert(EffectRow).on_conflict_do_nothing(), rows)


@dataclasses.dataclass(frozen=True)
class StoredAnalysis:
    id: UUID
    case_id: UUID
    analysis: Analysis


def find_analysis_of_bytes(session: Session, sha256: str, fingerprint: str) -> StoredAnalysis | None:
    """An analysis by the same pipeline of exactly the same bytes. Similar bytes are never enough."""
    row = session.scalars(
        select(AnalysisRow)
        .where(
            AnalysisRow.image_sha256 == bytes.fromhex(sha256),
            AnalysisRow.fingerprint == fingerprint,
            AnalysisRow.reused_from.is_(None),
        )
        .limit(1)
    ).first()
    return _whole(session, row)


def shown_analyses(session: Session, case_ids: Sequence[UUID]) -> dict[UUID, StoredAnalysis]:
    """The analysis on show for each of these cases that has one."""
    rows = session.scalars(
        select(AnalysisRow)
        .join(CaseRow, CaseRow.analysis_id == AnalysisRow.id)
        .where(CaseRow.id.in_(case_ids))
    ).all()
    artifacts = _artifacts(session, [row.id for row in rows])
    return {row.case_id: _stored(row, artifacts) for row in rows}


def find_analysis(session: Session, analysis_id: UUID) -> StoredAnalysis | None:
    """One analysis, on show or not. None: it is archived or does not exist."""
    return _whole(session, session.get(AnalysisRow, analysis_id))


def analysis_by(session: Session, case_id: UUID, fingerprint: str) -> StoredAnalysis | None:
    """This pipeline's analysis of the case, on show or not."""
    row = session.scalars(
        select(AnalysisRow).where(AnalysisRow.case_id == case_id, AnalysisRow.fingerprint == fingerprint)
    ).first()
    return _whole(session, row)


def _whole(session: Session, row: AnalysisRow | None) -> StoredAnalysis | None:
    return None if row is None else _stored(row, _artifacts(session, [row.id]))


def _artifacts(session: Session, analysis_ids: Sequence[UUID]) -> dict[tuple[UUID, int], list[Artifact]]:
    rows = session.execute(
        select(ArtifactRow, EffectRow)
        .outerjoin(
            EffectRow,
            and_(
                EffectRow.analysis_id == ArtifactRow.analysis_id,
                EffectRow.face == ArtifactRow.face,
                EffectRow.ordinal == ArtifactRow.ordinal,
            ),
        )
        .where(ArtifactRow.analysis_id.in_(analysis_ids))
        .order_by(ArtifactRow.analysis_id, ArtifactRow.face, ArtifactRow.ordinal)
    )
    found: dict[tuple[UUID, int], list[Artifact]] = {}
    for row, effect in rows.tuples():
        measured = as_value(Effect, effect) if effect else None  # joined from outside
        artifact = as_value(Artifact, row, effect=measured)
        found.setdefault((row.analysis_id, row.face), []).append(artifact)
    return found


def _stored(row: AnalysisRow, artifacts: dict[tuple[UUID, int], list[Artifact]]) -> StoredAnalysis:
    faces = tuple(
        dataclasses.replace(face_from_json(face), rationale=tuple(artifacts.get((row.id, index), ())))
        for index, face in enumerate(row.faces)
    )
    facts: dict[str, Any] = {**row.picture, "notes": tuple(row.picture["notes"])}
    analysis = Analysis(
        fingerprint=row.fingerprint,
        bundle=row.bundle,
        verdict=verdict_from_json(row.verdict),
        faces=faces,
        picture=PictureFacts(**facts),
        seconds=row.seconds,
        reused_from=None if row.reused_from is None else str(row.reused_from),
    )
    return StoredAnalysis(row.id, row.case_id, analysis)
