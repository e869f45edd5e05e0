"""What a platform engineer types, against the API over real HTTP."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from moderation.accounts.keys import add_key
from moderation.analysis import Technique
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.people import Person
from moderation.review import Review
from moderation.settings import Settings
from moderation.web.app import create_app
from tests.builders import a_verdict, an_analysis
from tests.commands import Ended, run_command
from tests.integration.conftest import accepted, ready, serving
from tests.integration.deciding import a_review, decide

Command = Callable[..., Ended]


@pytest.fixture
def review(database: Database, settings: Settings) -> Review:
    return a_review(database, settings, undo_seconds=0.0)


@pytest.fixture
def bonafide(settings: Settings, database: Database) -> Iterator[Command]:
    with database.transaction() as session:
        key = add_key(session, "testers")
    with serving(create_app(settings)) as url:
        env = {"BONAFIDE_API_URL": url, "BONAFIDE_API_KEY": key, "COLUMNS": "200"}
        yield lambda *words: run_command(*words, env=env)


def _lines(ended: Ended) -> list[dict[str, Any]]:
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_a_decided_case_gets_a_statement_and_an_appeal(
    bonafide: Command, database: Database, review: Review, ada: Person
) -> None:
    case = ready(database)
    decision = decide(review, database, ada, case, Outcome.DEEPFAKE, Technique.FS)

    (draft,) = _lines(bonafide("statement", str(case), "--restriction", "removed", "--json"))
    told = bonafide("statement", str(case)).stdout
    (first,) = _lines(bonafide("appeal", str(case), "it is my wedding", "--external-id", "a-7", "--json"))
    again = bonafide("appeal", str(case), "it is my wedding", "--external-id", "a-7")

    assert draft["decision"] == str(decision.id)
    assert draft["statement"]["decision_visibility"] == ["DECISION_VISIBILITY_CONTENT_REMOVED"]
    assert [name for name in (*draft["statement"], *draft["to_check"]) if name not in told] == [
        "category_specification"  # empty: the terms have no keyword
    ]
    assert (first["decision"], first["external_id"]) == (str(decision.id), "a-7")
    assert (again.returncode, first["id"] in again.stdout) == (0, True)


def test_a_statement_of_a_decision_that_restricts_nothing_says_so(
    bonafide: Command, database: Database, review: Review, ada: Person
) -> None:
    case = ready(database)
    decide(review, database, ada, case, Outcome.BONA_FIDE)

    (draft,) = _lines(bonafide("statement", str(case), "--json"))

    assert draft["statement"] is None
    assert draft["facts"].split(". ")[0] in bonafide("statement", str(case)).stdout


@pytest.mark.parametrize("words", [("statement",), ("appeal",)], ids=" ".join)
def test_without_a_decision_there_is_neither(
    bonafide: Command, database: Database, words: tuple[str, ...]
) -> None:
    more = ("why",) if words == ("appeal",) else ()

    ended = bonafide(*words, str(ready(database)), *more)

    assert (ended.returncode, ended.stdout) == (1, "")


def test_cases_are_listed_by_all_that_the_api_knows(bonafide: Command, database: Database) -> None:
    swapped = an_analysis(verdict=a_verdict(technique=Technique.FS))
    old = str(ready(database, analysis=swapped, source="testers", external_id="photo-1"))
    young = str(accepted(database, source="elsewhere", external_id="photo-1"))

    def found(*words: str) -> list[str]:
        return [case["id"] for case in _lines(bonafide("cases", "--json", *words))]

    assert found() == [young, old]
    assert found("--external-id", "photo-1") == [old]
    assert found("--external-id", "photo-1", "--source", "elsewhere") == [young]
    assert (found("--technique", "FS"), found("--technique", "FR")) == ([old], [])
    assert (found("--since", "2020-01-01"), found("--since", "2100-01-01")) == ([young, old], [])
    assert (found("--until", "2020-01-01"), found("--until", "2100-01-01")) == ([], [young, old])


def test_cases_are_listed_by_when_they_were_decided(
    bonafide: Command, database: Database, review: Review, ada: Person
) -> None:
    ready(database)
    case = ready(database)
    decide(review, database, ada, case, Outcome.BONA_FIDE)

    (since,) = _lines(bonafide("cases", "--json", "--decided-since", "2020-01-01"))
    until = _lines(bonafide("cases", "--json", "--decided-until", "2020-01-01"))

    assert (since["id"], until) == (str(case), [])


def test_a_search_takes_no_filter_but_a_source(bonafide: Command) -> None:
    for filter_ in (("--external-id", "a"), ("--since", "2026-11-30"), ("--technique", "FS")):
        assert bonafide("cases", "--find", "photo-1", *filter_).returncode == 2


def test_a_context_goes_with_the_flag(bonafide: Command) -> None:
    (case,) = _lines(bonafide("submit", "s3://flagged/a.jpg", "--context", '{"post": 7}', "--json"))

    assert case["context"] == {"post": 7}


@pytest.mark.parametrize(
    "context", ["post 7", "[7]", '{"score": NaN}', '{"name": "\\ud800"}'], ids=["text", "list", "NaN", "half"]
)
def test_a_context_that_is_no_object_is_refused_before_anything_is_flagged(
    bonafide: Command, context: str
) -> None:
    ended = bonafide("submit", "s3://flagged/a.jpg", "--context", context)

    assert (ended.returncode, _lines(bonafide("cases", "--json"))) == (2, [])
