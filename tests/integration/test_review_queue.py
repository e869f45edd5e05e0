"""The queue as a reviewer sees it: its order, its pages, its filters and its counts."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text

from moderation.analysis import Abstain, Label, Technique, Verdict
from moderation.cases import CaseState, Stage
from moderation.database.connection import Database
from moderation.database.moves import retry_case, withdraw_case
from moderation.database.queue import (
    PageEnd,
    QueueFilter,
    queue_counts,
    queue_page,
    read_cursor,
    sources_in_queue,
)
from moderation.database.tables import CaseRow
from moderation.decisions import Judgement, Outcome
from moderation.errors import CursorUnreadable
from moderation.people import Person
from moderation.review import Review
from moderation.settings import Settings
from tests.builders import a_face_analysis, a_verdict, an_analysis, bona_fide, new_id, with_verdict
from tests.integration.conftest import accepted, begun, ready, refused


@pytest.fixture
def review(database: Database, settings: Settings) -> Review:
    plain = {"blind_first_share": 0.0, "second_review_share": 0.0}
    return Review(database, settings.model_copy(update=plain))


def _ids(database: Database, wanted: QueueFilter | None = None) -> list[UUID]:
    with database.transaction() as session:
        return [line.id for line in queue_page(session, wanted or QueueFilter())]


def _decide(review: Review, person: Person, case_id: UUID) -> None:
    claim = review.claim(person, case_id)
    judgement = Judgement(Outcome.CANNOT_TELL, reason="too dark")
    review.decide(person, case_id, token=claim.token, version=claim.version or 0, judgement=judgement)


def test_priority_goes_before_age_and_uncertainty_before_certainty(database: Database) -> None:
    certain = ready(database, analysis=an_analysis(faces=(with_verdict(a_verdict(score=0.999)),)))
    unsure = ready(database, analysis=an_analysis(faces=(with_verdict(a_verdict(score=0.55)),)))
    urgent = ready(database, priority=90)

    assert _ids(database) == [urgent, unsure, certain]


def test_pages_hold_every_case_once(database: Database) -> None:
    expected = [ready(database, priority=9 - number) for number in range(7)]
    seen: list[UUID] = []
    after: PageEnd | None = None

    while True:
        with database.transaction() as session:
            page = queue_page(session, QueueFilter(), after=after, limit=3)
        if not page:
            break
        seen += [line.id for line in page]
        after = read_cursor(page[-1].place.cursor())

    assert seen == expected


def test_pages_hold_every_case_once_when_ids_and_times_disagree(database: Database) -> None:
    ids = [accepted(database) for _ in range(5)]
    with database.transaction() as session:
        for number, case_id in enumerate(ids):
            session.execute(
                text(
                    "UPDATE cases SET created_at = created_at - make_interval(secs => :back) WHERE id = :id"
                ),
                {"back": 10 * number, "id": case_id},
            )
    wanted, seen = QueueFilter(state=CaseState.WAITING), list[UUID]()
    after: PageEnd | None = None

    for _ in ids:
        with database.transaction() as session:
            # One more than a page holds, as the console asks: the last one is only there to say that there is more.
            page = queue_page(session, wanted, after=after, limit=3)[:2]
        seen += [line.id for line in page]
        after = page[-1].place if page else after

    assert seen == ids


@pytest.mark.parametrize("state", CaseState)
def test_every_state_has_its_pages(review: Review, database: Database, ada: Person, state: CaseState) -> None:
    make: dict[CaseState, Callable[[], UUID]] = {
        CaseState.WAITING: lambda: accepted(database),
        CaseState.ANALYZING: lambda: _analyzing(database),
        CaseState.READY: lambda: ready(database),
        CaseState.DECIDED: lambda: _decided(review, database, ada),
        CaseState.WITHDRAWN: lambda: _withdrawn(database),
    }
    ids = [make[state]() for _ in range(3)]
    expected = list(reversed(ids)) if state is CaseState.DECIDED else ids
    wanted = QueueFilter(state=state)

    with database.transaction() as session:
        first = queue_page(session, wanted, limit=2)
        second = queue_page(session, wanted, after=first[-1].place, limit=2)

    assert [line.id for line in [*first, *second]] == expected


def _analyzing(database: Database) -> UUID:
    case_id = accepted(database)
    begun(database, case_id)
    return case_id


def _withdrawn(database: Database) -> UUID:
    case_id = ready(database)
    with database.transaction() as session:
        withdraw_case(session, session.get_one(CaseRow, case_id), actor="a platform")
    return case_id


def _decided(review: Review, database: Database, person: Person) -> UUID:
    case_id = ready(database)
    _decide(review, person, case_id)
    return case_id


def test_filters_show_what_fits(review: Review, database: Database, ada: Person) -> None:
    deepfake = ready(database)
    reenacted = ready(
        database, analysis=an_analysis(faces=(a_face_analysis(verdict=a_verdict(technique=Technique.FR)),))
    )
    genuine = ready(database, analysis=an_analysis(faces=(with_verdict(bona_fide()),)))
    unread = refused(database)
    elsewhere = ready(database, source="avatars", priority=20)
    review.claim(ada, genuine)

    def fits(**fields: object) -> set[UUID]:
        return set(_ids(database, QueueFilter(**fields)))  # pyright: ignore[reportArgumentType]

    assert fits(label=Label.DEEPFAKE) == {deepfake, reenacted, elsewhere}
    assert fits(label=Label.BONA_FIDE) == {genuine}
    assert fits(technique=Technique.FR) == {reenacted}
    assert fits(source="avatars") == {elsewhere}
    assert fits(priority_at_least=10) == {elsewhere}
    assert fits(claimed_by=ada.id) == {genuine}
    assert fits(unclaimed=True) == {deepfake, reenacted, unread, elsewhere}
    assert fits(stage=Stage.APPEAL) == set()
    assert fits(older_than_seconds=60) == set()
    with database.transaction() as session:
        session.execute(
            text("UPDATE cases SET ready_at = ready_at - interval '2 minutes' WHERE id = :id"),
            {"id": deepfake},
        )
    assert fits(older_than_seconds=60) == {deepfake}


def test_a_line_says_who_has_it_and_what_the_model_said(
    review: Review, database: Database, ada: Person
) -> None:
    case_id, unread = ready(database), refused(database)
    review.claim(ada, case_id)

    with database.transaction() as session:
        lines = {line.id: line for line in queue_page(session, QueueFilter())}

    line = lines[case_id]
    assert (line.claimed_by, line.claimed_by_name) == (ada.id, "Ada")
    assert (line.label, line.technique, line.score, line.calibrated) == (
        Label.DEEPFAKE,
        Technique.FS,
        0.93,
        False,
    )
    assert (lines[unread].label, lines[unread].refusal, lines[unread].claimed_by) == (
        None,
        "image_corrupt",
        None,
    )


def test_counts_say_what_there_is_to_do(review: Review, database: Database, ada: Person) -> None:
    accepted(database)
    begun(database, accepted(database))
    review.claim(ada, ready(database))
    ready(database)

    with database.transaction() as session:
        counts = queue_counts(session)

    assert (counts.waiting, counts.analyzing, counts.all_ready, counts.claimed) == (1, 1, 2, 1)
    assert counts.ready == {Stage.FIRST: 2, Stage.SECOND: 0, Stage.ESCALATED: 0, Stage.APPEAL: 0}
    assert 0 <= counts.oldest_ready_seconds < 60


def _faceless(database: Database) -> UUID:
    nothing = Verdict(label=Label.UNDETERMINED, abstain=Abstain.NO_FACE)
    return ready(database, analysis=replace(an_analysis(), verdict=nothing, faces=()))


def test_what_nobody_can_judge_by_a_face_stands_aside(database: Database) -> None:
    shown, no_face, broken = ready(database), _faceless(database), refused(database)

    assert _ids(database, QueueFilter(aside=False)) == [shown]
    assert set(_ids(database, QueueFilter(aside=True))) == {no_face, broken}
    assert set(_ids(database)) == {shown, no_face, broken}
    assert _ids(database, QueueFilter(without_verdict=True)) == [broken]
    with database.transaction() as session:
        counts = queue_counts(session)
        lines = {line.id: line.aside for line in queue_page(session, QueueFilter())}
    assert (counts.all_ready, counts.aside) == (1, 2)
    assert lines == {shown: None, no_face: "no_face", broken: "refused"}


def test_what_somebody_escalated_or_what_is_tried_again_stands_aside_no_longer(
    database: Database, review: Review, ada: Person
) -> None:
    escalated, retried = refused(database), refused(database)
    claim = review.claim(ada, escalated)
    judgement = Judgement(Outcome.ESCALATE, reason="it should be readable")
    review.decide(ada, escalated, token=claim.token, version=claim.version or 0, judgement=judgement)

    with database.transaction() as session:
        assert retry_case(session, retried, actor="operator")
        session.execute(
            text("UPDATE cases SET state = 'ready', ready_at = now() WHERE id = :c"), {"c": retried}
        )

    assert set(_ids(database, QueueFilter(aside=False))) == {escalated, retried}
    assert _ids(database, QueueFilter(aside=True)) == []


def test_an_empty_queue_counts_as_nothing(database: Database) -> None:
    with database.transaction() as session:
        counts = queue_counts(session)

    assert (counts.all_ready, counts.claimed, counts.oldest_ready_seconds) == (0, 0, 0)


def test_the_sources_of_ready_cases_are_offered(database: Database) -> None:
    for source in ("b", "a", "b"):
        ready(database, source=source)
    accepted(database, source="c")

    with database.transaction() as session:
        assert list(sources_in_queue(session)) == ["a", "b"]


#: A queue of which few lines have a verdict of each rare kind, all at its end. Triggers and foreign keys are silent.
FILL = """
SET LOCAL session_replication_role = replica;
INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version, ready_at, queued_at, label,
                   technique)
SELECT uuidv7(), 'profiles', '', 'flagged', 'a.jpg', 0, 'ready', 3, now(), now() + make_interval(secs => n),
       CASE WHEN n <= 19000 THEN 'deepfake' WHEN n % 2 = 0 THEN 'undetermined' END,
       CASE WHEN n <= 18900 THEN 'EFS' WHEN n <= 19000 THEN 'FE' END
FROM generate_series(1, 20000) AS n;
ANALYZE cases;
"""


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (QueueFilter(technique=Technique.FE, aside=False), "cases_queue_technique"),
        (QueueFilter(technique=Technique.FE, label=Label.DEEPFAKE), "cases_queue_technique"),
        (QueueFilter(technique=Technique.FR), "cases_queue_technique"),
        (QueueFilter(label=Label.UNDETERMINED, aside=False), "cases_queue_label"),
        (QueueFilter(without_verdict=True), "cases_queue_no_verdict"),
        (QueueFilter(label=Label.BONA_FIDE, aside=False), "cases_queue_label"),
    ],
    ids=["technique", "technique and verdict", "no such technique", "verdict", "none", "no such verdict"],
)
def test_what_is_rare_in_a_long_queue_is_found_without_reading_it(
    database: Database, wanted: QueueFilter, index: str
) -> None:
    asked: list[tuple[str, Any]] = []
    event.listen(
        database.engine,
        "before_cursor_execute",
        lambda _c, _k, statement, given, *_: asked.append((statement, given)),
    )

    with database.transaction() as session:
        for statement in FILL.split(";\n"):
            session.execute(text(statement))
        asked.clear()
        queue_page(session, wanted)
        ((statement, given),) = asked
        explained = session.connection().exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", given)
        plan = json.dumps(explained.scalar_one())
        session.rollback()

    assert f'"Index Name": "{index}"' in plan
    assert max(int(rows) for rows in re.findall(r'"Rows Removed by Filter": (\d+)', plan) or ["0"]) < 100


def test_a_place_is_the_same_after_a_journey() -> None:
    place = PageEnd(datetime.now(UTC) - timedelta(days=1), new_id())

    assert read_cursor(place.cursor()) == place


@pytest.mark.parametrize("cursor", ["", "x", "bm9wZQ", "WzEsMl0", "é", "W10", "eyJhIjoxfQ", "MQ"])
def test_a_cursor_that_is_none_of_ours_is_refused(cursor: str) -> None:
    with pytest.raises(CursorUnreadable):
        read_cursor(cursor)
