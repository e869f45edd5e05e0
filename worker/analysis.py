"""One case through the worker: lease, fetch, decode, faces, model, record. It never turns back.

Nothing is caught here: errors rise to the task's one handler, which asks `retries.py`.
"""

import dataclasses
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from moderation import traces
from moderation.analysis import Analysis, Verdict
from moderation.cases import ImageRef
from moderation.database.analyses import find_analysis_of_bytes, record_analysis
from moderation.database.cases import mark_unrung
from moderation.database.ids import new_id
from moderation.database.moves import begin_analysis, hand_back, must_be_alone
from moderation.database.renditions import Renditions, record_renditions, renditions_of
from moderation.database.reruns import insert_shadow
from moderation.dfa.gpt.crops import Prepared
from moderation.dfa.gpt.pixels import Picture
from moderation.errors import DatabaseUnavailable, ImageChanged
from moderation.evidence.pdq import with_faces
from moderation.evidence.related import likeness_of, record_likeness, with_lists
from moderation.evidence.rows import evidence_of, record_evidence
from moderation.evidence.words import Evidence, contradicts
from moderation.evidence.zones import apply_certificates
from moderation.likeness import Likeness
from moderation.rollout import shadowed
from moderation.storage import FetchedImage
from worker.effects import measured
from worker.station import Pipeline, Station
from worker.telemetry import ATTEMPTS, STAGE_SECONDS, count_analysis

#: Seconds that a worker which takes no work keeps each bell.
STOPPED_SECONDS = 5.0


@dataclasses.dataclass
class Begun:
    """A case under our lease, and what has become of it so far."""

    case_id: UUID
    token: int
    image: ImageRef
    source: str
    postponements: int
    #: Seconds from acceptance to this lease.
    waited: float
    #: What makes its analysis.
    pipeline: Pipeline
    #: The version of the image that was fetched. None until then, and where the bucket keeps none.
    version_id: str | None = None
    #: Of the picture that was decoded. None until then, and where none are made.
    renditions: Renditions | None = None


@dataclasses.dataclass(frozen=True)
class Seen:
    """What became of one image: what the model says, and what was found beside it."""

    analysis: Analysis
    #: None: none was gathered.
    evidence: Evidence | None
    #: None: none are made.
    renditions: Renditions | None = None
    #: What it looks like. None: evidence is not gathered, or there is too little in the picture.
    likeness: Likeness | None = None

    @property
    def conflict(self) -> bool:
        """Whether what the image is declared to be and the verdict do not fit together."""
        return self.conflicts(self.analysis.verdict)

    def conflicts(self, verdict: Verdict) -> bool:
        return self.evidence is not None and contradicts(self.evidence, verdict)


@contextmanager
def begin(station: Station, case_id: UUID) -> Generator[Begun | None]:
    """A lease on the case for the length of the block; None when there is nothing to do.

    A case whose lease ever ran out is begun only once every other case in this process is finished, and none begins
    before it ends.
    """
    if station.draining.is_set():
        _leave_to_others(station, case_id)
        yield None
        return
    if not station.serving.breaker.allows():
        # Slowly: whoever answers bells at once and does nothing takes them all from the other workers.
        station.draining.wait(STOPPED_SECONDS)
        _leave_to_others(station, case_id)
        yield None
        return
    with station.solitude.together():
        begun = _lease(station, case_id, alone=False)
        if begun is not None:
            with station.leases.hold(case_id, begun.token):
                yield begun
            return
        alone = _wants_solitude(station, case_id)
    if not alone:
        yield None
        return
    with station.solitude.alone():
        begun = _lease(station, case_id, alone=True)
        if begun is None:
            yield None
            return
        with station.leases.hold(case_id, begun.token):
            yield begun


def _lease(station: Station, case_id: UUID, *, alone: bool) -> Begun | None:
    with station.database.transaction() as session:
        row: Any = begin_analysis(
            session, case_id, owner=station.owner, lease_seconds=station.settings.lease_seconds, alone=alone
        )
    if row is None:
        return None
    # A lease that was handed back counts here too: whatever was in the way may have been the candidate.
    pipeline = station.route(case_id, row.attempts + row.postponements)
    if pipeline is None:
        _leave(station, case_id, row.lease_token)
        return None
    ATTEMPTS.observe(row.attempts)
    waited = (row.lease_expires_at - row.created_at).total_seconds() - station.settings.lease_seconds
    image = ImageRef(row.bucket, row.key, row.version_id)
    return Begun(case_id, row.lease_token, image, row.source, row.postponements, waited, pipeline)


def _leave_to_others(station: Station, case_id: UUID) -> None:
    """We took its bell and do nothing for it: the sweeper rings again at its next look."""
    with station.database.transaction() as session:
        mark_unrung(session, [case_id])


def _leave(station: Station, case_id: UUID, token: int) -> None:
    """Another thread began the one case that a stopped model is tried with."""
    pause = station.settings.breaker_seconds
    with station.database.transaction() as session:
        hand_back(session, case_id, token, actor=station.actor, why="breaker_open", due_in=pause)


def _wants_solitude(station: Station, case_id: UUID) -> bool:
    with station.database.transaction() as session:
        return must_be_alone(session, case_id)


def analyze(station: Station, begun: Begun) -> None:
    """Fetch the image, give it an analysis and record it. Raises what `retries.reaction` knows."""
    started = time.monotonic()
    with traces.span("fetch"):
        fetched = station.storage.fetch_image(begun.image)
    begun.version_id = fetched.version_id
    fetch = time.monotonic() - started
    seen = analysis_of(station, begun.pipeline, fetched, begun)
    analysis = dataclasses.replace(seen.analysis, seconds={"fetch": fetch, **seen.analysis.seconds})
    analysis_id = new_id()
    shadow = _shadow(station, begun)

    def record(session: Session) -> None:
        record_analysis(
            session,
            begun.case_id,
            begun.token,
            analysis,
            actor=station.actor,
            new_id=analysis_id,
            version_id=fetched.version_id,
            conflict=seen.conflict,
        )
        record_beside(station, session, begun.case_id, seen)
        apply_certificates(
            session, begun.case_id, begun.source, analysis, blind_share=station.settings.blind_first_share
        )
        if shadow is not None:
            insert_shadow(session, begun.case_id, shadow)

    with STAGE_SECONDS.labels("record").time(), traces.span("record"):
        write(station, record)
    count_analysis(analysis)


def record_beside(station: Station, session: Session, case_id: UUID, seen: Seen) -> None:
    """Store the evidence, the likeness and the renditions in the transaction that stored the analysis."""
    sha256 = seen.analysis.picture.sha256
    if seen.evidence is not None and station.gatherer is not None:
        if seen.likeness is not None:
            record_likeness(session, case_id, seen.likeness)
        evidence = with_lists(session, case_id, seen.evidence)
        record_evidence(session, case_id, sha256, evidence, gatherer=station.gatherer)
    if seen.renditions is not None:
        record_renditions(session, case_id, seen.renditions, sha256=sha256)


def _shadow(station: Station, begun: Begun) -> str | None:
    """Fingerprint of the candidate that is to look at this case as well. None: it is not of those, or it just did."""
    rollout = station.orders.known
    if rollout.candidate == begun.pipeline.fingerprint or not shadowed(rollout, begun.case_id):
        return None
    return rollout.candidate


def write(station: Station, work: Callable[[Session], None]) -> None:
    """Do `work` in a transaction; while Postgres does not answer, again, for as long as a lease.

    Called under a lease that is being renewed, and fenced by it: a commit that happened without our knowing makes the
    next try raise LeaseLost, and that is the end of it.
    """
    for attempt in Retrying(
        retry=retry_if_exception_type(DatabaseUnavailable),
        stop=stop_after_delay(station.settings.lease_seconds),
        wait=wait_random_exponential(multiplier=0.2, max=3),
        reraise=True,
    ):
        with attempt, station.database.transaction() as session:
            work(session)


def fetch_again(station: Station, image: ImageRef, sha256: str | None) -> FetchedImage:
    """An image whose analysis is on show, made of the bytes with this digest; None: none is. Raise ImageChanged."""
    fetched = station.storage.fetch_image(image)
    if sha256 not in (None, fetched.sha256):
        raise ImageChanged(f"{image} holds another image now")
    return fetched


def analysis_of(
    station: Station, pipeline: Pipeline, fetched: FetchedImage, begun: Begun | None = None
) -> Seen:
    """What this pipeline says of the image; what it said before of the very same bytes is said again.

    `begun` learns of the renditions as soon as there are some: the model may still fail.
    """
    return _reused(station, pipeline, fetched) or _made(station, pipeline, fetched, begun)


def _reused(station: Station, pipeline: Pipeline, fetched: FetchedImage) -> Seen | None:
    """The analysis that this very pipeline made of these very bytes, marked as reused. A likeness is never enough."""
    with station.database.reading() as session:
        known = find_analysis_of_bytes(session, fetched.sha256, pipeline.fingerprint)
        beside = None if known is None else evidence_of(session, [known.case_id]).get(known.case_id)
        rendered = None if known is None else renditions_of(session, known.case_id)
        likeness = None if known is None else likeness_of(session, known.case_id)
    if known is None:
        return None
    analysis = dataclasses.replace(known.analysis, reused_from=str(known.id), seconds={})
    evidence = beside.evidence if beside is not None and beside.gatherer == station.gatherer else None
    lacking = (evidence is None and station.gatherer is not None) or (
        rendered is None and station.settings.image_renditions
    )
    if station.decode is None or not lacking:
        return Seen(analysis, evidence, rendered, likeness)
    # The image is decoded again for what lies beside its pixels, although no model need look at them.
    with station.cores:
        picture = station.decode(fetched.data)
    evidence = _evidence(picture)
    return Seen(analysis, evidence, _renditions(picture), likeness or (evidence and evidence.likeness))


def _evidence(found: Picture | Prepared) -> Evidence | None:
    return found.evidence if isinstance(found.evidence, Evidence) else None


def _renditions(found: Picture | Prepared) -> Renditions | None:
    return found.renditions if isinstance(found.renditions, Renditions) else None


def _made(station: Station, pipeline: Pipeline, fetched: FetchedImage, begun: Begun | None) -> Seen:
    with station.cores, traces.span("prepare"):
        prepared = pipeline.analyzer.prepare(fetched.data)
    if begun is not None:
        begun.renditions = _renditions(prepared)
    started = time.monotonic()
    asked = [
        pipeline.batcher.submit(crop, timeout=station.settings.engine_timeout_seconds)
        for crop in prepared.crops
    ]
    evidence = _evidence(prepared)
    likeness = evidence and evidence.likeness
    if likeness is not None:  # while the engine is at it
        likeness = with_faces(likeness, (crop.pixels for crop in prepared.crops))
    # Without a limit of its own: an engine or an image that is stuck ends the process (`watchdog.py`), so that the
    # attempt counts and the next one is made alone. A timeout here would hand the picture to the next worker to hang.
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
    seconds = {**analysis.seconds, **seconds}
    return Seen(
        dataclasses.replace(analysis, seconds=seconds), _evidence(prepared), _renditions(prepared), likeness
    )
