"""The queue: its cases, their holders, and the next case for me."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from moderation.analysis import Abstain, Label, Technique, Verdict
from moderation.cases import CaseState, Refusal, Stage
from moderation.database.console import judged_by
from moderation.database.queue import (
    COUNT_AT_MOST,
    QueuedCase,
    QueueFilter,
    queue_counts,
    queue_page,
    read_cursor,
    sources_in_queue,
)
from moderation.database.renditions import with_thumbnails
from moderation.database.review import standing_decisions
from moderation.decisions import Decision, verdict_is_hidden
from moderation.evidence.related import campaigns_of
from moderation.people import Act, Person
from moderation.web.console import words
from moderation.web.console.access import FormDep, OpenPageDep, VisitorDep, field, member, number
from moderation.web.console.pages import PageRoute, case_path, go, page, render
from moderation.web.services import Services, ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

PAGE = 50
#: No case is more urgent than this.
PRIORITY_AT_MOST = 100

#: A choice beside the labels of verdicts: there is no verdict.
WITHOUT_VERDICT = "none"
#: Choices of the filters, as (value, words).
CHOICES = {
    "states": tuple((state.value, said.capitalize()) for state, said in words.STATE_WORDS.items()),
    "labels": (*words.LABELS, (WITHOUT_VERDICT, "No verdict")),
    "stages": tuple((stage.value, said.capitalize()) for stage, said in words.STAGE_WORDS.items()),
    "priorities": (("80", "80 and more"), ("50", "50 and more"), ("20", "20 and more")),
    "ages": (("1", "Over an hour"), ("24", "Over a day"), ("48", "Over two days")),
    "holders": (("nobody", "Nobody"), ("me", "Me")),
}


@dataclass(frozen=True)
class QueueLine:
    """One case of the queue in words, without what is hidden from this person."""

    case: QueuedCase
    headline: str
    tone: str
    score: float | None
    hidden: bool
    holder: str
    mine: bool
    #: The current decision. None until the case is decided.
    decision: Decision | None
    #: Whether it has a thumbnail.
    thumbnail: bool = False

    @property
    def decided_words(self) -> str:
        if self.decision is None:
            return ""
        return words.decided_words(self.decision.outcome, self.decision.technique)

    @property
    def may_bulk(self) -> bool:
        return self.case.state is CaseState.READY and not self.why_not_bulk

    @property
    def why_not_bulk(self) -> str:
        """Why the open case cannot be decided with others. Empty when it can."""
        if self.holder:
            return f"This case is held by {self.holder} and cannot be chosen."
        return "You judge this case before you see its verdict: it cannot be chosen." if self.hidden else ""

    @property
    def place_words(self) -> str:
        """Why the open case stands where it does. Empty while its verdict is hidden, which may be one of the causes."""
        if self.case.state is not CaseState.READY or self.case.ready_at is None or self.hidden:
            return ""
        return words.place_words((self.case.ready_at - self.case.place.at).total_seconds())


@router.get("/")
def show_start() -> Response:
    return go("/queue")


@router.get("/queue")
def show_queue(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    filters = {name: value for name, value in request.query_params.items() if name in _NAMES and value}
    wanted = read_filter(filters, visitor.person)
    with services.database.transaction() as session:
        # One line for a picture that was flagged many times, unless the filter asks for its cases.
        collapsed = dataclasses.replace(wanted, collapsed=wanted.campaign is None)
        found = queue_page(session, collapsed, after=read_cursor(cursor) if cursor else None, limit=PAGE + 1)
        campaigns = campaigns_of(session, [case.campaign for case in found if case.campaign is not None])
        counts = queue_counts(session)
        sources = sources_in_queue(session)
        lines = lines_for(session, services, visitor.person, found[:PAGE])
    # A filter by verdict must not reveal the hidden verdict of a case.
    by_verdict = wanted.label is not None or wanted.technique is not None
    shown = [line for line in lines if not (by_verdict and line.hidden)]
    more = urlencode({**filters, "cursor": found[PAGE - 1].place.cursor()}) if len(found) > PAGE else None
    return page(
        services,
        visitor,
        "queue.html",
        section="/queue",
        lines=shown,
        left_out=len(lines) - len(shown),
        counts=counts,
        count_at_most=COUNT_AT_MOST,
        filters=filters,
        wanted=wanted,
        sources=sources,
        query=urlencode(filters),
        aside=wanted.aside,
        places=[
            (f"/queue?{urlencode(_with(filters, 'aside', value))}", said, is_current)
            for value, said, is_current in (
                ("", "To review", wanted.aside is not True),
                ("yes", "Set aside", wanted.aside is True),
            )
        ],
        more=more,
        choices=CHOICES,
        may_bulk=visitor.may(Act.BULK_DECIDE) and wanted.state is CaseState.READY,
        alike={key: campaign.ready for key, campaign in campaigns.items() if campaign.ready > 1},
        nothing=request.query_params.get("nothing"),
    )


@router.get("/queue/counts")
def show_counts(services: ServicesDep, visitor: OpenPageDep) -> Response:
    """Only the counts, for an open page."""
    with services.database.transaction() as session:
        counts = queue_counts(session)
    return render("counts.html", visitor=visitor, counts=counts, count_at_most=COUNT_AT_MOST)


@router.post("/queue/next")
def claim_next(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    return go(next_case(services, visitor.person, field(form, "from") or ""))


def next_case(services: Services, person: Person, query: str) -> str:
    """Claim the next case in this view of the queue; return its path, or the queue's when there is none."""
    filters = {name: value for name, value in parse_qsl(query) if name in _NAMES}
    wanted = read_filter(filters, person)
    if wanted.state is not CaseState.READY:
        wanted, filters = QueueFilter(aside=False), dict[str, str]()
    claim = services.review.claim_next(person, wanted)
    if claim is None:
        return "/queue?" + urlencode({**filters, "nothing": "1"})
    return case_path(claim.case_id, urlencode(filters))


def lines_for(
    session: Session, services: Services, person: Person, found: Sequence[QueuedCase]
) -> list[QueueLine]:
    """Lines of these cases, as this person may see them."""
    ids = [case.id for case in found]
    judged, decisions = judged_by(session, person.id, ids), standing_decisions(session, ids)
    pictured, share = with_thumbnails(session, ids), services.settings.blind_first_share
    return [
        replace(_line(case, person, judged, share, decisions.get(case.id)), thumbnail=case.id in pictured)
        for case in found
    ]


def _with(filters: Mapping[str, str], name: str, value: str) -> dict[str, str]:
    """The same view with one choice changed. Filters by verdict are dropped: they fit only one of the two places."""
    dropped = (name, "verdict", "technique", "state")
    others = {key: said for key, said in filters.items() if key not in dropped}
    return {**others, name: value} if value else others


_NAMES = (
    "aside",
    "state",
    "source",
    "verdict",
    "technique",
    "stage",
    "priority",
    "older",
    "held",
    "campaign",
)


def read_filter(filters: Mapping[str, str], person: Person) -> QueueFilter:
    """The filter that a person chose. Unknown values filter nothing."""
    hours, priority = number(filters.get("older"), digits=5), number(filters.get("priority"), digits=5)
    without_verdict = filters.get("verdict") == WITHOUT_VERDICT
    return QueueFilter(
        state=member(CaseState, filters.get("state")) or CaseState.READY,
        without_verdict=without_verdict,
        # Nearly all cases without a verdict stand aside: a filter for them must show them.
        aside=None if without_verdict else filters.get("aside") == "yes",
        source=_text(filters.get("source")),
        label=member(Label, filters.get("verdict")),
        technique=member(Technique, filters.get("technique")),
        stage=member(Stage, filters.get("stage")),
        priority_at_least=None if priority is None else min(priority, PRIORITY_AT_MOST),
        older_than_seconds=3600.0 * hours if hours else None,
        claimed_by=person.id if filters.get("held") == "me" else None,
        unclaimed=filters.get("held") == "nobody",
        campaign=number(filters.get("campaign")),
    )


def _text(value: str | None) -> str | None:
    """None for a text with NUL: Postgres stores none, so no case has such a source."""
    return value if value and "\x00" not in value else None


def _line(
    case: QueuedCase, person: Person, judged: set[UUID], blind_share: float, decision: Decision | None
) -> QueueLine:
    hidden = verdict_is_hidden(
        case.id,
        case.state,
        case.stage,
        has_verdict=case.label is not None,
        judged=case.id in judged,
        share=blind_share,
    )
    verdict = None if hidden or case.label is None else _verdict(case)
    refusal = None if case.refusal is None else Refusal(case.refusal, case.refusal.replace("_", " "))
    mine = case.claimed_by == person.id
    return QueueLine(
        case=case,
        headline=words.headline(verdict, refusal, hidden=hidden),
        tone=words.tone(verdict, hidden=hidden),
        score=None if hidden else case.score,
        hidden=hidden,
        holder="you" if mine else case.claimed_by_name or "",
        mine=mine,
        decision=decision,
    )


def _verdict(case: QueuedCase) -> Verdict:
    assert case.label is not None, "asked by the caller"
    return Verdict(
        label=case.label,
        score=case.score,
        calibrated=case.calibrated,
        technique=case.technique,
        abstain=None if case.abstain is None else Abstain(case.abstain),
    )
