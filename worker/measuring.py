"""Measures effects when somebody opens a case: fetch the picture, crop the same faces, hide regions, ask the model.

Only the message asks for this. When the message or the work is lost, the next person who opens the case asks again.
"""

import time
from uuid import UUID

from sqlalchemy.orm import Session

from moderation.cases import ImageRef
from moderation.database.analyses import StoredAnalysis, insert_effects, shown_analyses
from moderation.database.cases import find_case
from moderation.database.review import lock_case
from worker.analysis import fetch_again
from worker.effects import measured
from worker.run import write
from worker.station import Pipeline, Station
from worker.telemetry import STAGE_SECONDS, about_case


def measure(station: Station, case_id: UUID) -> None:
    """Measure what the score on show depends on, unless it is known. Safe to run twice for the same case.

    Only the bundle that gave the score can do it. Nothing happens when it is not here or takes no work.
    """
    if station.draining.is_set() or station.settings.effect == "never":
        return
    with station.database.transaction() as session:
        case = find_case(session, case_id)
        stored = shown_analyses(session, [case_id]).get(case_id)
    if case is None or case.erased_at is not None or stored is None or _is_measured(stored):
        return
    pipeline = station.pipelines.get(stored.analysis.fingerprint)
    if pipeline is None or pipeline.stopped:
        return
    with station.quarantine.shared(), about_case(str(case_id)):
        _work(station, pipeline, case.flag.image, stored)


def _is_measured(stored: StoredAnalysis) -> bool:
    return any(artifact.effect is not None for face in stored.analysis.faces for artifact in face.rationale)


def _work(station: Station, pipeline: Pipeline, image: ImageRef, stored: StoredAnalysis) -> None:
    started = time.monotonic()
    fetched = fetch_again(station, image, stored.analysis.picture.sha256)
    with station.cores:
        prepared = pipeline.analyzer.prepare(fetched.data)
    crops = {crop.face.box: crop for crop in prepared.crops}
    places = [
        place for place, face in enumerate(stored.analysis.faces) if face.rationale and face.face.box in crops
    ]
    faces = list(stored.analysis.faces)
    told = measured(
        station, pipeline, [crops[faces[place].face.box] for place in places], [faces[p] for p in places]
    )
    for place, face in zip(places, told, strict=True):
        faces[place] = face

    def record(session: Session) -> None:
        # Locked, so that the archiver does not move the analysis away now.
        row = lock_case(session, stored.case_id)
        if row.erased_at is None and row.archive_id is None:
            insert_effects(session, stored.id, faces)

    write(station, record)
    STAGE_SECONDS.labels("effect").observe(time.monotonic() - started)
