"""One case: look, claim, judge, ask, decide."""

import contextlib
import dataclasses
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session
from starlette.datastructures import FormData

from moderation.analysis import Technique
from moderation.cases import Case, CaseState
from moderation.database.cases import find_case, require_case
from moderation.database.drafts import Draft, Form, drafts_of, drop_draft, save_draft
from moderation.database.renditions import find_thumbnail, find_viewable
from moderation.database.review import find_holder, insert_sending, insert_view
from moderation.decisions import Answer, ArtifactAnswer, Judgement, Outcome
from moderation.dispatch import WorkKind
from moderation.errors import (
    AlreadyClaimed,
    BonafideError,
    CaseNotFound,
    ClaimLost,
    JudgeFirst,
    JudgementIncomplete,
    QuestionRefused,
    ReasonRequired,
    ReviewConflict,
    StaleCase,
    TextTooLong,
    TooManyQuestions,
)
from moderation.people import Person
from moderation.questions import LONGEST_QUESTION
from moderation.web.console import words
from moderation.web.console.access import FormDep, OpenPageDep, VisitorDep, field, member, number
from moderation.web.console.case_view import CaseView, log_in_words, read_case
from moderation.web.console.face_maps import LEVELS
from moderation.web.console.pages import PageRoute, Visitor, case_path, go, page, render
from moderation.web.console.queue import next_case
from moderation.web.console.resume import filled_in
from moderation.web.problems import status_of
from moderation.web.services import Services, ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

KEYS = (
    ("Hold to look at the picture", "Space"),
    ("Blur, greyscale, outlines", "b g o"),
    ("Map of foreign pixels", "m"),
    ("Zoom in, out, fit", "+ - 0"),
    ("Look at artifact 1 to 9", "1 … 9"),
    ("I see it, I do not, unclear", "a d s"),
    ("Deepfake, bona fide", "f r"),
    ("Cannot tell, escalate", "u e"),
    ("Technique, reason (why)", "t w"),
    ("Decide, and next", "Enter"),
    ("The same while typing", "Ctrl Enter"),
    ("Skip with a reason", "k"),
    ("Claim, release", "c l"),
    ("Ask DFA-GPT", "/"),
    ("Undo your last decision", "z"),
    ("Leave a field, close the lens", "Esc"),
)

#: How often a page asks for a measurement, every two seconds.
LOOKS = 60
#: Characters of the reason to skip a case.
SKIP_AT_MOST = 500

From = Annotated[str, Query(alias="from", max_length=1000)]


@router.get("/cases/{case_id}")
def show_case(
    case_id: UUID,
    services: ServicesDep,
    visitor: VisitorDep,
    from_: From = "",
    revealed: bool = False,  # noqa: FBT001, FBT002  a query parameter
) -> Response:
    preferences = visitor.person.preferences
    blurred = preferences.blur and not revealed
    case = _read(services, visitor.person, case_id)
    if not blurred:
        with services.database.transaction() as session:
            insert_view(session, case_id, visitor.person.id, "shown")
    return _page(services, visitor, _measuring(services, case), back=from_, blurred=blurred)


def _measuring(services: Services, case: CaseView) -> CaseView:
    """Ask a worker to measure what the score depends on, if the settings say so and it was not measured."""
    wanted = case.unmeasured and not case.worker_away and services.settings.effect == "on_open"
    if not wanted or not services.publisher.publish(WorkKind.MEASUREMENT, [case.id]):
        return case
    return dataclasses.replace(case, measuring=1)


@router.get("/cases/{case_id}/effects")
def show_effects(
    case_id: UUID, services: ServicesDep, visitor: VisitorDep, look: Annotated[int, Query(ge=1, le=LOOKS)] = 1
) -> Response:
    """The measurement so far, for a page that shows it as it comes."""
    case = _read(services, visitor.person, case_id)
    if case.unmeasured:
        case = dataclasses.replace(case, measuring=look + 1 if look < LOOKS else 0)
    return render("effects.html", visitor=visitor, case=case)


def _read(services: Services, person: Person, case_id: UUID) -> CaseView:
    visibility = services.review.visibility(person, case_id)
    with services.database.transaction() as session:
        return read_case(
            session,
            person,
            case_id,
            visibility=visibility,
            worker_away=not services.questions.worker_is_there(),
            reason_policy=services.settings.reason_required,
            blind_share=services.settings.blind_first_share,
        )


def _page(
    services: Services, visitor: Visitor, case: CaseView, *, back: str, blurred: bool, status: int = 200
) -> Response:
    return page(
        services,
        visitor,
        "case.html",
        status=status,
        case=case,
        blurred=blurred,
        grey=visitor.person.preferences.greyscale,
        case_keys=KEYS,
        map_levels=LEVELS,
        # There the key takes a judgement back.
        undo_key=not case.takes_back,
        back=back,
    )


@router.get("/cases/{case_id}/picture")
def show_picture(
    case_id: UUID,
    services: ServicesDep,
    visitor: VisitorDep,
    original: bool = False,  # noqa: FBT001, FBT002  a query parameter
) -> Response:
    """Redirect to the picture, by a URL that is signed now and valid for minutes. Note for whom it was signed.

    If browsers do not show its kind, it is the worker's copy, unless the file itself is requested.
    """
    with services.database.transaction() as session:
        case = _with_picture(session, case_id)
        shown = None if original else find_viewable(session, case_id)
        url = services.storage.sign_view(case.flag.image)
        insert_sending(session, case_id, visitor.person.id)
    if shown is not None:
        return Response(shown, media_type="image/jpeg")
    return RedirectResponse(url, status_code=302)


@router.get("/cases/{case_id}/picture/bytes")
def show_bytes(case_id: UUID, services: ServicesDep, visitor: VisitorDep) -> Response:
    """The picture's bytes from our server instead of its store, so that our script may read the pixels.

    It is the file, or the worker's copy of a file that browsers do not show. It has no media type, so that browsers
    show it nowhere by themselves.
    """
    with services.database.transaction() as session:
        case = _with_picture(session, case_id)
        shown = find_viewable(session, case_id)
        insert_sending(session, case_id, visitor.person.id)
    data = services.storage.fetch_image(case.flag.image).data if shown is None else shown
    return Response(
        data,
        media_type="application/octet-stream",
        headers={"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"},
    )


def _with_picture(session: Session, case_id: UUID) -> Case:
    """The case. Raise CaseNotFound when nobody may look at its picture any more."""
    case = find_case(session, case_id)
    if case is None or case.erased_at is not None or case.state is CaseState.WITHDRAWN:
        raise CaseNotFound(f"no case that has a picture has the id {case_id}")
    return case


@router.get("/cases/{case_id}/thumbnail")
def show_thumbnail(case_id: UUID, services: ServicesDep, visitor: VisitorDep) -> Response:
    """A thumbnail for lists. Note to whom it was sent."""
    with services.database.transaction() as session:
        thumbnail = find_thumbnail(session, case_id)
        if thumbnail is None:
            raise CaseNotFound(f"no case that has a thumbnail has the id {case_id}")
        insert_sending(session, case_id, visitor.person.id, kind="thumbnail")
    return Response(thumbnail, media_type="image/jpeg")


@router.post("/cases/{case_id}/reveal")
def reveal(case_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Note that a person looks. A script says at what; without a script the page is shown again, unblurred."""
    kind = field(form, "kind")
    with services.database.transaction() as session:
        require_case(session, case_id)
        insert_view(session, case_id, visitor.person.id, "artifact" if kind == "artifact" else "revealed")
    return go(f"/cases/{case_id}?revealed=1") if kind is None else Response(status_code=204)


# --- claiming it


@router.post("/cases/{case_id}/claim")
def claim(case_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    try:
        services.review.claim(visitor.person, case_id)
    except ReviewConflict as error:
        return _conflict(services, visitor, case_id, error, form)
    return go(_address(case_id, form))


@router.post("/cases/{case_id}/renew")
def renew(case_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Renew the claim while a person works on the case. The answer is the part of the page that names the holder."""
    with contextlib.suppress(ReviewConflict):  # that part of the page names the new holder
        services.review.renew(visitor.person, case_id, _int(form, "token"))
    return render("claim.html", visitor=visitor, case=_read(services, visitor.person, case_id))


@router.post("/cases/{case_id}/release")
def release(case_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    services.review.release(visitor.person, case_id, _int(form, "token"))
    return go("/queue")


@router.post("/cases/{case_id}/skip")
def skip(case_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    try:
        reason = field(form, "reason", at_most=SKIP_AT_MOST) or ""
        services.review.skip(visitor.person, case_id, _int(form, "token"), reason)
    except (JudgementIncomplete, TextTooLong) as error:
        return _again(services, visitor, case_id, form, Form.SKIP, error)
    except ReviewConflict as error:
        return _conflict(services, visitor, case_id, error, form, Form.SKIP)
    _drop(services, visitor, case_id, Form.SKIP)
    return go(next_case(services, visitor.person, field(form, "from") or ""))


# --- judging


@router.post("/cases/{case_id}/judge")
def judge(case_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Keep a judgement before the verdict is shown. Until then it is a draft, and the person may take it back."""
    try:
        judged = _first_judgement({name: field(form, name) or "" for name in ("outcome", "technique")})
    except JudgementIncomplete as error:
        return _again(services, visitor, case_id, form, Form.JUDGE, error)
    said = {"outcome": judged.outcome.value, "technique": judged.technique or "", "said": "yes"}
    _save(services, visitor, case_id, Form.JUDGE, said)
    return go(_address(case_id, form))


@router.post("/cases/{case_id}/judge/{what}")
def settle_judgement(
    case_id: UUID, what: str, services: ServicesDep, visitor: VisitorDep, form: FormDep
) -> Response:
    """Show the verdict, which makes the judgement final, or take the judgement back."""
    with services.database.transaction() as session:
        said = drafts_of(session, case_id, visitor.person.id).get(Form.JUDGE, {})
    if what == "show" and "said" in said:
        judged = _first_judgement(said)
        services.review.judge_blind(visitor.person, case_id, judged.outcome, judged.technique)
        _drop(services, visitor, case_id, Form.JUDGE)
    elif what == "back":
        kept = {name: value for name, value in said.items() if name != "said"}
        _save(services, visitor, case_id, Form.JUDGE, kept)
    return go(_address(case_id, form))


@router.post("/cases/{case_id}/decide")
def decide(case_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    try:
        services.review.decide(
            visitor.person,
            case_id,
            token=_int(form, "token"),
            version=_version(form),
            judgement=read_judgement(form),
            unseen=bool(form.get("unseen")),
        )
    except (JudgementIncomplete, TextTooLong) as error:
        return _again(services, visitor, case_id, form, Form.DECIDE, error)
    except JudgeFirst:
        return go(_address(case_id, form))
    except ReviewConflict as error:
        return _conflict(services, visitor, case_id, error, form, Form.DECIDE)
    return go(next_case(services, visitor.person, field(form, "from") or ""))


@router.post("/cases/{case_id}/appeal")
def appeal(case_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    try:
        services.review.appeal(
            case_id, field(form, "reason") or "", actor=visitor.person.actor, person=visitor.person
        )
    except (JudgementIncomplete, TextTooLong) as error:
        return _again(services, visitor, case_id, form, Form.APPEAL, error)
    except ReviewConflict as error:
        return _conflict(services, visitor, case_id, error, form, Form.APPEAL)
    _drop(services, visitor, case_id, Form.APPEAL)
    return go(case_path(case_id))


# --- asking


@router.post("/cases/{case_id}/ask")
def ask(
    case_id: UUID, request: Request, services: ServicesDep, visitor: VisitorDep, form: FormDep
) -> Response:
    # Questions must not reveal what is hidden until the first judgement.
    if services.review.visibility(visitor.person, case_id).judge_first:
        raise JudgeFirst("say what the picture is before its verdict is shown")
    refused = ""
    try:
        question = field(form, "suggested", at_most=LONGEST_QUESTION)
        question = question or field(form, "question", at_most=LONGEST_QUESTION) or ""
        services.questions.ask(
            case_id, question, actor=visitor.person.actor, person=visitor.person, face=_face(form)
        )
        if not form.get("suggested"):
            _drop(services, visitor, case_id, Form.ASK)
    except (QuestionRefused, TextTooLong, TooManyQuestions) as error:
        if "hx-request" not in request.headers:
            return _again(services, visitor, case_id, form, Form.ASK, error)
        refused = words.sentence(str(error))
    if "hx-request" in request.headers:
        case = _read(services, visitor.person, case_id)
        return render("turns.html", visitor=visitor, case=dataclasses.replace(case, question_refused=refused))
    return go(_address(case_id, form))


@router.get("/cases/{case_id}/questions")
def show_turns(case_id: UUID, services: ServicesDep, visitor: OpenPageDep) -> Response:
    """Only the questions and answers. The page asks again until every question has its answer."""
    return render("turns.html", visitor=visitor, case=_read(services, visitor.person, case_id))


@router.get("/cases/{case_id}/suggestions")
def show_suggestions(
    case_id: UUID, services: ServicesDep, visitor: OpenPageDep, face: Annotated[int, Query(ge=1)] = 1
) -> Response:
    """The suggested questions about one face, for a page on which another face was chosen."""
    case = dataclasses.replace(_read(services, visitor.person, case_id), asking=face)
    return render("suggestions.html", visitor=visitor, case=case)


# --- drafts


@router.post("/cases/{case_id}/draft")
def keep_draft(case_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Keep a draft of a form. A script sends it now and then."""
    kind = member(Form, field(form, "form"))
    if kind is not None:
        _save(services, visitor, case_id, kind, filled_in(form))
    return Response(status_code=204)


def _save(services: Services, visitor: Visitor, case_id: UUID, form: Form, said: Draft) -> None:
    with services.database.transaction() as session:
        require_case(session, case_id)
        save_draft(session, case_id, visitor.person.id, form, said)


def _drop(services: Services, visitor: Visitor, case_id: UUID, form: Form) -> None:
    with services.database.transaction() as session:
        drop_draft(session, case_id, visitor.person.id, form)


# --- reading a form


def _first_judgement(said: Draft) -> Judgement:
    outcome, technique = member(Outcome, said.get("outcome")), member(Technique, said.get("technique"))
    if outcome in (None, Outcome.ESCALATE):
        raise JudgementIncomplete("choose what you see, or say that you cannot tell")
    return Judgement(outcome, technique if outcome is Outcome.DEEPFAKE else None)


def read_judgement(form: FormData) -> Judgement:
    outcome = member(Outcome, field(form, "outcome"))
    if outcome is None:
        raise JudgementIncomplete("choose what you decide")
    technique = member(Technique, field(form, "technique"))
    return Judgement(
        outcome=outcome,
        technique=technique if outcome is Outcome.DEEPFAKE else None,
        reason=field(form, "reason"),
        policy=field(form, "policy", at_most=200),
        feedback=tuple(_answers(form)),
    )


def _answers(form: FormData) -> list[ArtifactAnswer]:
    """Read the fields `answer-FACE-ORDINAL` without unreadable ones. `review` refuses artifacts that were not shown."""
    found: list[ArtifactAnswer] = []
    for name in form:
        kind, *place = name.split("-")
        answer = member(Answer, field(form, name)) if kind == "answer" else None
        match answer, [number(part, digits=3) for part in place]:
            case Answer(), [int(face), int(ordinal)]:
                found.append(ArtifactAnswer(face, ordinal, answer))
            case _:
                pass
    return found


def _int(form: FormData, name: str) -> int:
    """A number that our page had put into the form. Without one 0, which belongs to nobody."""
    return number(field(form, name, at_most=19), digits=18) or 0  # a bigint


def _face(form: FormData) -> int | None:
    """The face of a question. None: the form names none."""
    return None if field(form, "face", at_most=19) is None else _int(form, "face")


def _version(form: FormData) -> int:
    """The same for a version, which must fit an integer of Postgres."""
    version = _int(form, "version")
    return version if version < 2**31 else 0


def _address(case_id: UUID, form: FormData) -> str:
    return case_path(case_id, field(form, "from", at_most=1000))


# --- when it failed


def _again(
    services: Services, visitor: Visitor, case_id: UUID, form: FormData, kind: Form, error: BonafideError
) -> Response:
    """The same page with the filled-in form, the complaint, and the focus on its field."""
    case = _read(services, visitor.person, case_id)
    said = filled_in(form)
    case = dataclasses.replace(
        case,
        kept={**case.kept, kind: said},
        complaint=words.sentence(str(error)),
        complained=kind,
        missing=_missing(kind, error),
    )
    return _page(
        services,
        visitor,
        case,
        back=field(form, "from", at_most=1000) or "",
        blurred=visitor.person.preferences.blur,
        status=status_of(error),
    )


def _missing(kind: Form, error: BonafideError) -> str:
    """The field that a complaint is about."""
    if isinstance(error, TextTooLong):
        return error.field
    if kind is Form.ASK:
        return "question"
    return "reason" if isinstance(error, ReasonRequired) or kind in (Form.SKIP, Form.APPEAL) else "outcome"


def _conflict(
    services: Services,
    visitor: Visitor,
    case_id: UUID,
    error: ReviewConflict,
    form: FormData,
    kind: Form | None = None,
) -> Response:
    """A page with what has happened, by whom, and what the reviewer had written. Their text is kept for later."""
    said = filled_in(form)
    if kind is not None:
        _save(services, visitor, case_id, kind, said)
    with services.database.transaction() as session:
        version = _version(form)
        since = log_in_words(session, case_id, version) if version else []
        holder = find_holder(session, case_id)
    message = words.sentence(str(error))
    if isinstance(error, AlreadyClaimed):
        title = "Somebody else has this case"
    elif isinstance(error, StaleCase):
        title = "The case moved on while you looked at it"
        message = "It is not as it was when its page was shown to you."
    elif isinstance(error, ClaimLost) and error.own:
        title = "You claimed this case again"
    else:
        title = "This case is not yours any more"
        if holder is not None and holder.person_id != visitor.person.id:
            message = f"{holder.name} has this case until {words.clock(holder.expires_at)}."
    return page(
        services,
        visitor,
        "conflict.html",
        status=409,
        title=title,
        message=message,
        since=since,
        written=said.get("reason"),
        case_id=case_id,
    )
