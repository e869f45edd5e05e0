"""Similar cases: as lines on a page, and two side by side. What other pages hide is hidden here too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from moderation.analysis import Analysis
from moderation.cases import Case, CaseState
from moderation.database.analyses import shown_analyses
from moderation.database.cases import find_case
from moderation.database.console import judged_by
from moderation.database.review import insert_view, standing_decisions
from moderation.decisions import Decision, verdict_is_hidden
from moderation.errors import CaseNotFound, JudgeFirst
from moderation.evidence.related import ListMatch, Related, likeness_of, lists_with, related_to
from moderation.likeness import Faces, compare_faces, distance
from moderation.people import Person
from moderation.web.console import words
from moderation.web.console.access import VisitorDep
from moderation.web.console.pages import PageRoute, page
from moderation.web.services import ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: Lines on a case's page. Each links to the side-by-side page.
LINES_AT_MOST = 20

FACES_WORDS = {
    Faces.SAME: "the same face, most likely",
    Faces.OTHER: "another face in the same picture: compare",
    Faces.UNCLEAR: "whether it is the same face, the hashes do not say",
}


@dataclass(frozen=True)
class Side:
    """One of two cases side by side, as this person may see it."""

    case: Case
    headline: str
    tone: str
    score: float | None
    #: None: it is hidden from this person, or there is none.
    analysis: Analysis | None
    #: The current decision. None: it is not decided.
    decision: Decision | None

    @property
    def decided(self) -> str:
        if self.decision is None:
            return f"Not decided: {words.STATE_WORDS[self.case.state]}"
        said = words.decided_words(self.decision.outcome, self.decision.technique)
        return f"{said}, by {self.decision.reviewer}"


@dataclass(frozen=True)
class Alike:
    """Another case whose picture looks like this one's."""

    side: Side
    related: Related

    @property
    def words(self) -> str:
        said = f"{self.related.distance} of 256 bits differ"
        if self.related.mirrored:
            return f"{said}, in a mirror"
        return f"{said}; {FACES_WORDS[self.related.faces]}"

    @property
    def other_face(self) -> bool:
        return self.related.faces is Faces.OTHER


@dataclass(frozen=True)
class Likenesses:
    """What looks like a case's picture."""

    cases: tuple[Alike, ...] = ()
    lists: tuple[ListMatch, ...] = ()


def read_alike(session: Session, person: Person, case_id: UUID, *, blind_share: float) -> Likenesses:
    found = related_to(session, case_id, at_most=LINES_AT_MOST)
    sides = read_sides(session, person, [related.case_id for related in found], blind_share=blind_share)
    return Likenesses(
        tuple(Alike(sides[related.case_id], related) for related in found if related.case_id in sides),
        tuple(lists_with(session, case_id)),
    )


def read_sides(
    session: Session, person: Person, case_ids: Sequence[UUID], *, blind_share: float
) -> dict[UUID, Side]:
    analyses = shown_analyses(session, case_ids)
    decisions = standing_decisions(session, case_ids)
    judged = judged_by(session, person.id, case_ids)
    sides: dict[UUID, Side] = {}
    for case_id in case_ids:
        case = find_case(session, case_id)
        if case is None:
            continue
        analysis = analyses[case_id].analysis if case_id in analyses else None
        hidden = verdict_is_hidden(
            case_id,
            case.state,
            case.stage,
            has_verdict=analysis is not None,
            judged=case_id in judged,
            share=blind_share,
        )
        verdict = None if analysis is None or hidden else analysis.verdict
        sides[case_id] = Side(
            case=case,
            headline=words.headline(verdict, case.refusal, hidden=hidden),
            tone=words.tone(verdict, hidden=hidden),
            score=verdict and verdict.score,
            analysis=None if hidden else analysis,
            decision=decisions.get(case_id) if case.state is CaseState.DECIDED else None,
        )
    return sides


@dataclass(frozen=True)
class Difference:
    """One fact about both cases."""

    name: str
    ours: str
    theirs: str

    @property
    def differs(self) -> bool:
        return self.ours != self.theirs


@router.get("/cases/{case_id}/beside/{other_id}")
def show_beside(
    case_id: UUID,
    other_id: UUID,
    services: ServicesDep,
    visitor: VisitorDep,
    revealed: Annotated[bool, Query()] = False,  # noqa: FBT002  a query parameter
) -> Response:
    """Two cases side by side. Raise JudgeFirst while the first one's verdict is hidden from the visitor."""
    person = visitor.person
    if services.review.visibility(person, case_id).judge_first:
        raise JudgeFirst("say what the picture is before you compare it with others")
    blurred = person.preferences.blur and not revealed
    with services.database.transaction() as session:
        share = services.settings.blind_first_share
        sides = read_sides(session, person, [case_id, other_id], blind_share=share)
        if len(sides) < 2:
            raise CaseNotFound("one of these two cases does not exist")
        ours, theirs = likeness_of(session, case_id), likeness_of(session, other_id)
        if not blurred:
            for shown_id in sides:
                insert_view(session, shown_id, person.id, "shown")
    one, other = sides[case_id], sides[other_id]
    alike = None
    if ours is not None and theirs is not None:
        faces, bits = compare_faces(ours.faces, theirs.faces)
        alike = (distance(ours.frame, theirs.frame), FACES_WORDS[faces], bits)
    return page(
        services,
        visitor,
        "beside.html",
        one=one,
        other=other,
        alike=alike,
        differences=_differences(one, other),
        blurred=blurred,
        grey=person.preferences.greyscale,
    )


def _differences(one: Side, other: Side) -> list[Difference]:
    rows = (
        ("Verdict of the model", one.headline, other.headline),
        ("Score", _score(one), _score(other)),
        ("Decision", one.decided, other.decided),
        ("Source", one.case.flag.source, other.case.flag.source),
        ("Flagged because", one.case.flag.reason or "–", other.case.flag.reason or "–"),
        *_picture_rows(one.analysis, other.analysis),
    )
    return [Difference(*row) for row in rows]


def _picture_rows(one: Analysis | None, other: Analysis | None) -> list[tuple[str, str, str]]:
    """Rows about both pictures. They hide a picture whose analysis is hidden."""
    if one is None or other is None:
        return []
    ours, theirs = one.picture, other.picture
    return [
        ("Pixels", f"{ours.width} × {ours.height}", f"{theirs.width} × {theirs.height}"),
        ("File", f"{ours.format}, {words.size(ours.size)}", f"{theirs.format}, {words.size(theirs.size)}"),
        ("Bytes", ours.sha256[:16], theirs.sha256[:16]),
        ("Faces looked at", str(len(one.faces)), str(len(other.faces))),
    ]


def _score(side: Side) -> str:
    return "–" if side.score is None else f"{side.score:.2f}"
