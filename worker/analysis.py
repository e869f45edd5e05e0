"""One case in the worker: fetch, decode, find faces, ask the model, record. It never turns back.

Nothing is caught here: errors rise to `worker.run`, which asks `retries.py`.
"""

import dataclasses
import time
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from moderation import traces
from moderation.analysis import Analysis, Verdict
from moderation.cases import ImageRef, Refusal, place_of
from moderation.database.analyses import find_analysis_of_bytes, record_analysis
from moderation.database.ids import new_id
from moderation.database.moves import begin_analysis, must_be_quarantined, refuse_case, release_case
from moderation.database.renditions import Renditions, record_renditions, renditions_of
from moderation.database.work import CASES
from moderation.dfa.gpt.crops import Prepared
from moderation.dfa.gpt.pixels import Picture
from moderation.errors import ImageChanged
from moderation.evidence.pdq import with_faces
from moderation.evidence.related import likeness_of, record_likeness, with_lists
from moderation.evidence.rows import evidence_of, record_evidence
from moderation.evidence.words import Evidence, contradicts
from moderation.evidence.zones import apply_certificates
from moderation.likeness import Likeness
from moderation.rollout import shadowed
from moderation.rollouts.rerun_rows import insert_shadow
from moderation.storage import FetchedImage
from worker.effects import measured
from worker.retries import CANDIDATES, FAULT, Fail, Forget, Release, reaction
from worker.run import Job, write
from worker.station import Pipeline, Station
from worker.telemetry import (
    ATTEMPTS,
    LEASES_LOST,
    LINE_SECONDS,
    REFUSALS,
    RELEASES,
    STAGE_SECONDS,
    count_analysis,
)

#: Seconds for which a stopped worker keeps each message.
STOPPED_SECONDS = 5.0


@dataclasses.dataclass
class HeldCase:
    """A case under our lease, and what we know of its picture so far."""

    case_id: UUID
    token: int
    image: ImageRef
    source: str
    postponements: int
    #: The pipeline that analyses it.
    pipeline: Pipeline
    #: The version of the image that was fetched. None before that, and in buckets without versions.
    version_id: str | None = None
    #: Renditions of the decoded picture. None before that, and when none are made.
    renditions: Renditions | None = None


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was found about one image: the model's analysis and what stands beside it."""

    analysis: Analysis
    #: None: no evidence was gathered.
    evidence: Evidence | None
    #: None: no renditions are made.
    renditions: Renditions | None = None
    #: What it looks like. None: no evidence is gathered, or the picture shows too little.
    likeness: Likeness | None = None

    def conflicts(self, verdict: Verdict) -> bool:
        """Whether this verdict contradicts what the image is declared to be."""
        return self.evidence is not None and contradicts(self.evidence, verdict)


class AnalyzeCase(Job[HeldCase, Findings]):
    """Give one waiting case an analysis. Its lease is renewed for as long as it is held."""

    name, action = "analysis", "analyze"

    def accepts(self, station: Station, row_id: UUID) -> bool:
        if station.draining.is_set():
            _leave_to_others(station, row_id)
            return False
        if not station.serving.breaker.allows():
            # Slowly: a stopped worker that took messages at full speed would take them all from the others.
            station.draining.wait(STOPPED_SECONDS)
            _leave_to_others(station, row_id)
            return False
        return True

    def take(self, station: Station, row_id: UUID, *, quarantined: bool) -> HeldCase | None:
        seconds = station.settings.lease_seconds
        with station.database.transaction() as session:
            row: Any = begin_analysis(
                session, row_id, owner=station.owner, lease_seconds=seconds, quarantined=quarantined
            )
        if row is None:
            return None
        # Released leases count too: the candidate may have been the cause.
        pipeline = station.route(row_id, row.attempts + row.postponements)
        if pipeline is None:
            # A stopped model is tried with one case, and another thread has begun it.
            with station.database.transaction() as session:
                _release(station, session, row_id, row.lease_token, _breaker_open(station))
            return None
        ATTEMPTS.observe(row.attempts)
        waited = (row.lease_expires_at - row.created_at).total_seconds() - seconds
        LINE_SECONDS.observe(max(0.0, waited))
        image = ImageRef(row.bucket, row.key, row.version_id)
        return HeldCase(row_id, row.lease_token, image, row.source, row.postponements, pipeline)

    def is_suspect(self, station: Station, row_id: UUID) -> bool:
        with station.database.transaction() as session:
            return must_be_quarantined(session, row_id)

    def holding(self, station: Station, held: HeldCase) -> AbstractContextManager[None]:
        return station.leases.hold(held.case_id, held.token)

    def do(self, station: Station, held: HeldCase) -> Findings:
        started = time.monotonic()
        with traces.span("fetch"):
            fetched = station.storage.fetch_image(held.image)
        held.version_id = fetched.version_id
        fetch = time.monotonic() - started
        seen = analysis_of(station, held.pipeline, fetched, held)
        seconds = {"fetch": fetch, **seen.analysis.seconds}
        return dataclasses.replace(seen, analysis=dataclasses.replace(seen.analysis, seconds=seconds))

    def record(self, station: Station, held: HeldCase, done: Findings) -> None:
        analysis_id = new_id()
        shadow = _shadow(station, held)

        def record(session: Session) -> None:
            record_analysis(
                session,
                held.case_id,
                held.token,
                done.analysis,
                actor=station.actor,
                new_id=analysis_id,
                version_id=held.version_id,
                conflict=done.conflicts(done.analysis.verdict),
            )
            record_beside(station, session, held.case_id, done)
            blind_share = station.settings.blind_first_share
            apply_certificates(session, held.case_id, held.source, done.analysis, blind_share=blind_share)
            if shadow is not None:
                insert_shadow(session, held.case_id, shadow)

        with STAGE_SECONDS.labels("record").time(), traces.span("record"):
            write(station, record)
        count_analysis(done.analysis)

    def react(self, station: Station, held: HeldCase, error: BaseException) -> Release | Fail | Forget:
        end = reaction(
            error,
            postponements=held.postponements,
            patience_seconds=station.settings.patience_seconds,
            jitter=place_of(held.case_id, "retry"),
            on_trial=held.pipeline is not station.serving,
        )
        if end in (FAULT, CANDIDATES):
            held.pipeline.breaker.failed(f"every analysis ends in a fault: {type(error).__name__}")
        if end == FAULT and held.pipeline.breaker.why is not None:
            return _breaker_open(station)
        return end

    def release(self, station: Station, session: Session, held: HeldCase, end: Release) -> None:
        _release(station, session, held.case_id, held.token, end)

    def fail(self, station: Station, session: Session, held: HeldCase, end: Fail) -> None:
        """Send the case to a person without a verdict, with what can be shown of its picture."""
        refuse_case(
            session,
            held.case_id,
            held.token,
            Refusal(_code_of(end), end.words),
            actor=station.actor,
            version_id=held.version_id,
        )
        if held.renditions is not None:
            record_renditions(session, held.case_id, held.renditions)

    def count(self, station: Station, held: HeldCase, end: Release | Fail | Forget) -> None:
        match end:
            case Release(why, _):
                RELEASES.labels(why).inc()
            case Fail():
                REFUSALS.labels(_code_of(end)).inc()
            case Forget():
                LEASES_LOST.inc()


ANALYZE = AnalyzeCase()


def _breaker_open(station: Station) -> Release:
    return Release("breaker_open", station.settings.breaker_seconds)


def _release(station: Station, session: Session, case_id: UUID, token: int, end: Release) -> None:
    release_case(session, case_id, token, actor=station.actor, why=end.why, due_in=end.due_in)


def _code_of(end: Fail) -> str:
    """The refusal's code. After a fault of ours reviewers read that the attempts are exhausted."""
    return "attempts_exhausted" if end == FAULT else end.code


def _leave_to_others(station: Station, case_id: UUID) -> None:
    """Mark a case whose message we took in vain: the sweeper publishes it again at its next look."""
    with station.database.transaction() as session:
        CASES.mark_unpublished(session, [case_id])


def record_beside(station: Station, session: Session, case_id: UUID, seen: Findings) -> None:
    """Store the evidence, the likeness and the renditions in the transaction that stored the analysis."""
    sha256 = seen.analysis.picture.sha256
    if seen.evidence is not None and station.gatherer is not None:
        if seen.likeness is not None:
            record_likeness(session, case_id, seen.likeness)
        evidence = with_lists(session, case_id, seen.evidence)
        record_evidence(session, case_id, sha256, evidence, gatherer=station.gatherer)
    if seen.renditions is not None:
        record_renditions(session, case_id, seen.renditions, sha256=sha256)


def _shadow(station: Station, held: HeldCase) -> str | None:
    """Fingerprint of the candidate that analyses this case too. None: it does not, or it just did."""
    rollout = station.orders.known
    if rollout.candidate == held.pipeline.fingerprint or not shadowed(rollout, held.case_id):
        return None
    return rollout.candidate


def fetch_again(station: Station, image: ImageRef, sha256: str | None) -> FetchedImage:
    """Fetch an image again. Raise ImageChanged when its digest is another one; None accepts any."""
    fetched = station.storage.fetch_image(image)
    if sha256 not in (None, fetched.sha256):
        raise ImageChanged(f"The key of {image} holds another image now.")
    return fetched


def analysis_of(
    station: Station, pipeline: Pipeline, fetched: FetchedImage, held: HeldCase | None = None
) -> Findings:
    """Analyse the image with this pipeline. Its earlier analysis of the same bytes is used again.

    `held` gets the renditions as soon as there are some, because the model may still fail.
    """
    return _reused(station, pipeline, fetched) or _made(station, pipeline, fetched, held)


def _reused(station: Station, pipeline: Pipeline, fetched: FetchedImage) -> Findings | None:
    """The analysis that this same pipeline made of these same bytes, marked as reused. Similar bytes do not count."""
    with station.database.reading() as session:
        known = find_analysis_of_bytes(session, fetched.sha256, pipeline.fingerprint)
        if known is None:
            return None
        beside = evidence_of(session, [known.case_id]).get(known.case_id)
        rendered = renditions_of(session, known.case_id)
        likeness = likeness_of(session, known.case_id)
    analysis = dataclasses.replace(known.analysis, reused_from=str(known.id), seconds={})
    evidence = beside.evidence if beside is not None and beside.gatherer == station.gatherer else None
    lacking = (evidence is None and station.gatherer is not None) or (
        rendered is None and station.settings.image_renditions
    )
    if station.decode is None or not lacking:
        return Findings(analysis, evidence, rendered, likeness)
    # Decode again, only for the evidence and the renditions: no model looks.
    with station.cores:
        picture = station.decode(fetched.data)
    evidence = _evidence(picture)
    return Findings(analysis, evidence, _renditions(picture), likeness or (evidence and evidence.likeness))


def _evidence(found: Picture | Prepared) -> Evidence | None:
    return found.evidence if isinstance(found.evidence, Evidence) else None


def _renditions(found: Picture | Prepared) -> Renditions | None:
    return found.renditions if isinstance(found.renditions, Renditions) else None


def _made(station: Station, pipeline: Pipeline, fetched: FetchedImage, held: HeldCase | None) -> Findings:
    with station.cores, traces.span("prepare"):
        prepared = pipeline.analyzer.prepare(fetched.data)
    if held is not None:
        held.renditions = _renditions(prepared)
    started = time.monotonic()
    asked = [
        pipeline.batcher.submit(crop, timeout=station.settings.engine_timeout_seconds)
        for crop in prepared.crops
    ]
    evidence = _evidence(prepared)
    likeness = evidence and evidence.likeness
    if likeness is not None:  # while the engine works
        likeness = with_faces(likeness, (crop.pixels for crop in prepared.crops))
    # No timeout here: it would pass the picture on, and the next worker would hang. A stuck engine or image ends the
    # process (`watchdog.py`), so that the attempt counts and the next one is quarantined.
    with traces.span("engine", attributes={"bonafide.faces": len(asked)}):
        faces = [face.answer.result() for face in asked]
    spent = time.monotonic() - started
    pipeline.breaker.answered(faces)
    queued = max((face.waited for face in asked), default=0.0)
    seconds = {"queue": queued, "engine": max(0.0, spent - queued)}
    if station.settings.effect == "always":
        started = time.monotonic()
        with traces.span("effect"):
            faces = measured(station, pipeline, prepared.crops, faces)
        seconds["effect"] = time.monotonic() - started
    analysis = pipeline.analyzer.conclude(prepared, faces)
    analysis = dataclasses.replace(analysis, seconds={**analysis.seconds, **seconds})
    return Findings(analysis, evidence, _renditions(prepared), likeness)
