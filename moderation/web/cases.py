"""Submitting and reading cases."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from sqlalchemy.orm import Session

from moderation.analysis import Analysis, Basis, Label, Technique
from moderation.archive.archived import Archived, archived_cases
from moderation.archive.erasure import erase_case, not_erased
from moderation.cases import Case, CaseState
from moderation.database.analyses import StoredAnalysis, shown_analyses
from moderation.database.cases import (
    Filter,
    Opening,
    find_cases,
    page_of_cases,
    page_of_decided,
    require_case,
)
from moderation.database.queue import PageEnd
from moderation.database.queue import read_cursor as read_place
from moderation.database.review import appealed_decisions, last_appeals, standing_decisions
from moderation.database.search import Search, SearchField, search_cases
from moderation.decisions import Appeal, Decision, Outcome
from moderation.errors import CursorUnreadable, RequestRefused
from moderation.evidence.related import Related, lists_with, related_to
from moderation.evidence.rows import StoredEvidence, evidence_of
from moderation.evidence.sentences import evidence_view
from moderation.evidence.words import contradicts
from moderation.intake import Accepted
from moderation.presentation import appeal_json, artifact_json, decision_json, told_analysis
from moderation.rollouts.rollout_rows import bases_of
from moderation.web.callers import Eraser, OnlyJson, OnlyKnownParameters, Reader, Submitter
from moderation.web.problems import NO_CASE, RESPONSES, TOO_MANY, documented, invalid, problem_of
from moderation.web.services import ServicesDep
from moderation.wire import (
    PRINTABLE,
    SOUGHT,
    BatchIn,
    BatchOut,
    BatchOutcome,
    CaseAccepted,
    CaseIn,
    CaseOut,
    CasePage,
    ImageIn,
    Links,
    ListedOut,
    Moment,
    RelatedOut,
    RelatedPage,
    UploadIn,
    UploadOut,
)

router = APIRouter(prefix="/v1", responses=RESPONSES, dependencies=[OnlyKnownParameters, OnlyJson])

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=PRINTABLE,
        description="Any text of yours. The same key with the same body answers the same case.",
    ),
]


@router.post(
    "/cases",
    status_code=202,
    responses={
        200: {"model": CaseAccepted, "description": "The same request had opened this case before"},
        **documented({409: "The same key or external id came with another body"}),
        **TOO_MANY,
    },
    summary="Open a case",
)
def post_case(
    body: CaseIn,
    response: Response,
    services: ServicesDep,
    key: Submitter,
    idempotency_key: IdempotencyKey = None,
) -> CaseAccepted:
    """Flag one image. After a 202 we answer for it: it reaches a reviewer, whatever happens to us."""
    opening = Opening(body.flag(key.name), idempotency_key)
    services.rates.take(key.name, 1)
    accepted = services.intake.receive(opening, actor=f"platform:{key.name}")
    response.status_code = _status(accepted)
    response.headers["Location"] = _link(accepted.id)
    return _accepted(accepted)


@router.post(
    "/cases/batch",
    status_code=207,
    response_model=BatchOut,
    responses=TOO_MANY,
    summary="Open up to a thousand cases",
)
def post_cases(
    body: BatchIn, services: ServicesDep, key: Submitter, idempotency_key: IdempotencyKey = None
) -> Response:
    """One outcome per item, in order. A bad item harms no other.

    With an Idempotency-Key the whole call may be repeated: item n gives the same case again.
    """
    at_most = services.settings.batch_items_at_most
    if len(body.cases) > at_most:
        said = f"has {len(body.cases):,} items; at most {at_most:,} are taken in one call"
        raise RequestValidationError(
            [{"type": "value_error", "loc": ("body", "cases"), "ctx": {"error": said}}]
        )
    read = [_read_item(item) for item in body.cases]
    openings = [
        Opening(item.flag(key.name), f"{idempotency_key}#{index}" if idempotency_key else None)
        for index, item in enumerate(read)
        if isinstance(item, CaseIn)
    ]
    services.rates.take(key.name, len(openings))
    received = iter(services.intake.receive_many(openings, actor=f"platform:{key.name}"))
    outcomes = [item if isinstance(item, BatchOutcome) else _outcome(next(received)) for item in read]
    answer = BatchOut(
        accepted=sum(outcome.status == 202 for outcome in outcomes),
        repeated=sum(outcome.status == 200 for outcome in outcomes),
        refused=sum(outcome.problem is not None for outcome in outcomes),
        outcomes=outcomes,
    )
    # Serialised here, because FastAPI would first validate a thousand outcomes that we have just made.
    return Response(answer.model_dump_json(), status_code=207, media_type="application/json")


@router.post("/uploads", status_code=201, summary="Get a signed PUT for one image")
def post_upload(body: UploadIn, services: ServicesDep, key: Submitter) -> UploadOut:
    """For platforms without their own bucket: PUT the bytes, then open a case with this image."""
    upload = services.storage.sign_upload(body.media_type, owner=key.prefix, sha256=body.sha256)
    image = ImageIn(bucket=upload.image.bucket, key=upload.image.key)
    return UploadOut(url=upload.url, headers=dict(upload.headers), image=image, expires_at=upload.expires_at)


@router.get(
    "/cases/{case_id}",
    response_model=CaseOut,
    responses={304: {"description": "It is as it was when you last asked"}, **NO_CASE},
    summary="Read a case",
)
def get_case(
    case_id: UUID, services: ServicesDep, key: Reader, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    with services.database.transaction() as session:
        shown = _show_cases(session, [require_case(session, case_id)])[0].model_dump_json()
    # Of the answer itself: erasing, archiving, new evidence and measured effects are no moves of the case, and its
    # version does not show them.
    tag = f'"{hashlib.sha256(shown.encode()).hexdigest()[:32]}"'
    if _is_known(tag, if_none_match):
        return Response(status_code=304, headers={"ETag": tag})
    return Response(shown, media_type="application/json", headers={"ETag": tag})


#: Entity tags of a list, without the mark of weak ones. A tag may hold a comma.
_TAGS = re.compile(r'(?:W/)?("[^"]*")')


def _is_known(tag: str, if_none_match: str | None) -> bool:
    """Whether the header If-None-Match names this tag, strong or weak, in a list or as `*` (RFC 9110, 13.1.2)."""
    given = (if_none_match or "").strip()
    return given == "*" or tag in _TAGS.findall(given)


@router.get(
    "/cases/{case_id}/related",
    responses=NO_CASE,
    summary="Read which cases and lists have a picture that looks like this one",
)
def get_related(case_id: UUID, services: ServicesDep, key: Reader) -> RelatedPage:
    """The current related cases. Empty where no evidence is gathered, and for a picture that shows too little."""
    with services.database.transaction() as session:
        require_case(session, case_id)
        found = related_to(session, case_id)
        lists = lists_with(session, case_id)
        ids = [other.case_id for other in found]
        cases = {case.id: case for case in find_cases(session, ids)}
        analyses, decisions = shown_analyses(session, ids), standing_decisions(session, ids)
    return RelatedPage(
        cases=[
            _related(other, cases[other.case_id], analyses.get(other.case_id), decisions.get(other.case_id))
            for other in found
            if other.case_id in cases
        ],
        lists=[ListedOut(**vars(listed)) for listed in lists],
    )


def _related(
    related: Related, case: Case, stored: StoredAnalysis | None, decision: Decision | None
) -> RelatedOut:
    analysis = stored.analysis if stored is not None and case.refusal is None else None
    return RelatedOut(
        id=related.case_id,
        distance=related.distance,
        mirrored=related.mirrored,
        faces=related.faces,
        face_distance=related.face_distance,
        state=case.state,
        source=case.flag.source,
        created_at=case.created_at,
        verdict=None if analysis is None else analysis.verdict.label,
        outcome=decision.outcome if decision is not None and case.state is CaseState.DECIDED else None,
        links=Links(self=_link(related.case_id)),
    )


_Sought = Annotated[str | None, Query(max_length=200, pattern=SOUGHT)]
_Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]
_Limit = Annotated[int, Query(ge=1, le=200, description="At most so many.")]


def _moment(meaning: str) -> Any:
    return Query(description=f"{meaning} this time, RFC 3339, with its zone.")


@router.get("/cases", summary="Read a page of cases, the newest first")
def get_cases(
    services: ServicesDep,
    key: Reader,
    state: CaseState | None = None,
    source: _Sought = None,
    external_id: _Sought = None,
    since: Annotated[Moment | None, _moment("Opened at or after")] = None,
    until: Annotated[Moment | None, _moment("Opened before")] = None,
    verdict: Annotated[
        Label | Literal["none"] | None,
        Query(description="What the model says; `none`: it ended without a verdict."),
    ] = None,
    technique: Annotated[Technique | None, Query(description="Of the verdict.")] = None,
    outcome: Annotated[Outcome | None, Query(description="Of the decision that stands.")] = None,
    decided_since: Annotated[Moment | None, _moment("Decided at or after")] = None,
    decided_until: Annotated[Moment | None, _moment("Decided before")] = None,
    cursor: _Cursor = None,
    limit: _Limit = 50,
) -> CasePage:
    """With `outcome`, `decided_since` or `decided_until`: only decided cases, the last decided ones first."""
    wanted = Filter(
        state=state,
        # An external id is unique within its source: the caller's, unless another is named.
        source=key.name if external_id is not None and source is None else source,
        external_id=external_id,
        since=since,
        until=until,
        label=None if verdict == "none" else verdict,
        technique=technique,
        without_verdict=verdict == "none",
        outcome=outcome,
        decided_since=decided_since,
        decided_until=decided_until,
    )
    with services.database.transaction() as session:
        if wanted.by_decision:
            place = None if cursor is None else read_place(cursor)
            after = None if place is None else (place.at, place.id)
            found = page_of_decided(session, wanted, after=after, limit=limit + 1)
        else:
            found = page_of_cases(session, wanted, older_than=_read_cursor(cursor), limit=limit + 1)
        cases = found[:limit]
        shown = _show_cases(session, cases)
    more = len(found) > limit
    return CasePage(cases=shown, next_cursor=_cursor_after(cases[-1], wanted) if more else None)


def _cursor_after(last: Case, wanted: Filter) -> str:
    if not wanted.by_decision:
        return _cursor(last.id)
    assert last.decided_at is not None, "it is on a page of decided cases"
    return PageEnd(last.decided_at, last.id).cursor()


@router.get("/search", summary="Find cases by what is known of them")
def get_found(
    services: ServicesDep,
    key: Reader,
    q: Annotated[
        str,
        Query(
            min_length=1,
            max_length=1024,
            pattern=SOUGHT,
            description="A case's id or its beginning, your own id, the image's key or `s3://bucket/key`, the sha256 "
            "of its bytes or its beginning, a source, or a text or number of the context.",
        ),
    ],
    field: Annotated[
        SearchField | None, Query(description="Only as this. Unset: as all that it could be.")
    ] = None,
    source: Annotated[
        str | None, Query(max_length=200, pattern=SOUGHT, description="Only of this source.")
    ] = None,
    cursor: _Cursor = None,
    limit: _Limit = 50,
) -> CasePage:
    """The newest first. An erased case is found only by its id."""
    wanted = Search(q, field, source)
    with services.database.transaction() as session:
        found = search_cases(session, wanted, older_than=_read_cursor(cursor), limit=limit + 1)
        ids = found[:limit]
        shown = _show_cases(session, find_cases(session, ids))
    return CasePage(cases=shown, next_cursor=_cursor(ids[-1]) if len(found) > limit else None)


def _show_cases(session: Session, cases: Sequence[Case]) -> list[CaseOut]:
    ids = [case.id for case in cases]
    analyses, decisions = shown_analyses(session, ids), standing_decisions(session, ids)
    archived, evidence = archived_cases(session, cases), evidence_of(session, ids)
    appeals = last_appeals(session, ids)
    appealed = appealed_decisions(session, appeals.values())
    bases = bases_of(session, {stored.analysis.fingerprint for stored in analyses.values()})
    return [
        _show_case(
            case,
            analyses.get(case.id),
            bases,
            decisions.get(case.id),
            archived.get(case.id),
            evidence.get(case.id),
            appeals.get(case.id),
            appealed.get(case.id),
        )
        for case in cases
    ]


@router.post(
    "/cases/{case_id}/withdraw",
    responses={**NO_CASE, **documented({409: "`already_decided`, `case_erased`"})},
    summary="Take an image back: its case ends without a decision",
)
def post_withdrawal(case_id: UUID, services: ServicesDep, key: Submitter) -> CaseOut:
    """For an upload that its owner removed. Neither the model nor a person looks at it any more.

    Its log of events stays. Its texts are kept as long as those of a decided case, or until it is erased. The second
    call does nothing.
    """
    services.intake.withdraw(case_id, actor=f"platform:{key.name}")
    with services.database.transaction() as session:
        return _show_cases(session, find_cases(session, [case_id]))[0]


@router.post(
    "/cases/{case_id}/erase",
    responses={
        **NO_CASE,
        **documented({409: "It cannot be erased yet, or not from here: the detail says why"}),
    },
    summary="Take the texts of a case that ended and the place of its image away, for ever",
)
def post_erasure(case_id: UUID, services: ServicesDep, key: Eraser) -> CaseOut:
    """The verdict, the outcome and the log of events stay. The second call does nothing."""
    with services.database.transaction() as session:
        erase_case(session, case_id, actor=f"platform:{key.name}")
        case = require_case(session, case_id)
        if case.erased_at is None:
            raise not_erased(case)
        return _show_cases(session, [case])[0]


def _show_case(
    case: Case,
    stored: StoredAnalysis | None,
    bases: Mapping[str, Basis],
    decision: Decision | None,
    archived: Archived | None,
    beside: StoredEvidence | None,
    appeal: Appeal | None,
    appealed: Decision | None,
) -> CaseOut:
    """A case for platforms. A case that is not ready shows no analysis, even if it had one before."""
    flag, refusal = case.flag, case.refusal
    analysis = stored.analysis if stored is not None and refusal is None else None
    told = told_analysis(analysis, analysis and bases.get(analysis.fingerprint), source=flag.source)
    deciding = analysis.faces[:1] if analysis else ()
    shown: dict[str, Any] = {
        **vars(case),
        **vars(flag),
        **told,
        "image": vars(flag.image),
        "verdict": told["verdict"] or _kept_verdict(archived),
        "rationale": [artifact_json(artifact) for face in deciding for artifact in face.rationale],
        "picture": analysis and vars(analysis.picture),
        "refusal": refusal and refusal.code,
        "refusal_message": refusal and refusal.message,
        "bundle": analysis and analysis.bundle,
        "timings": analysis and analysis.seconds,
        "reused_from": analysis and analysis.reused_from,
        "decision": decision and decision_json(decision),
        "appeal": appeal and appeal_json(appeal),
        "appealed_decision": appealed and decision_json(appealed),
        "archived": archived and vars(archived),
        "evidence": beside and _evidence(beside, analysis),
        "links": {"self": _link(case.id)},
    }
    return CaseOut.model_validate(shown)


def _evidence(beside: StoredEvidence, analysis: Analysis | None) -> dict[str, Any]:
    conflict = analysis is not None and contradicts(beside.evidence, analysis.verdict)
    return evidence_view(beside.evidence, conflict=conflict)


def _kept_verdict(archived: Archived | None) -> dict[str, Any] | None:
    """The label and technique of an archived case. Its numbers lie in the archive, with its analysis."""
    if archived is None or archived.label is None:
        return None
    numbers = dict.fromkeys(("score", "margin", "answer_mass", "technique_scores", "abstain"))
    return {"label": archived.label, "technique": archived.technique, "calibrated": False, **numbers}


def _read_item(item: Any) -> CaseIn | BatchOutcome:
    try:
        return CaseIn.model_validate(item)
    except ValidationError as error:
        places = [{**place, "loc": ("body", *place["loc"])} for place in error.errors(include_url=False)]
        return BatchOutcome(status=422, problem=invalid(places))


def _outcome(received: Accepted | RequestRefused) -> BatchOutcome:
    if isinstance(received, RequestRefused):
        problem = problem_of(received)
        return BatchOutcome(status=problem.status, problem=problem)
    return BatchOutcome(status=_status(received), case=_accepted(received))


def _status(accepted: Accepted) -> int:
    return 202 if accepted.created else 200


def _accepted(accepted: Accepted) -> CaseAccepted:
    return CaseAccepted(id=accepted.id, state=accepted.state, links=Links(self=_link(accepted.id)))


def _link(case_id: UUID) -> str:
    return f"/v1/cases/{case_id}"


def _cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _read_cursor(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error) as error:
        raise CursorUnreadable("this cursor is unknown; start again without one") from error
