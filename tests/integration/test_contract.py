"""The API keeps its own document: no fault of ours, and no answer that the document does not name.

Requests are made up from the document by Schemathesis, good ones and bad ones. Half of them are about cases that exist,
in every state, so that they get past the first check.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from moderation.accounts.keys import SCOPES, add_key
from moderation.database.connection import Database
from moderation.database.outbox import Kind
from moderation.decisions import Judgement, Outcome
from moderation.people import Role
from moderation.review import Review
from moderation.settings import Settings
from moderation.web.app import create_app
from moderation.webhooks.delivery_rows import insert_endpoint
from tests.integration.conftest import accepted, begun, enrolled, ready, refused, serving

#: Requests per call of the API. All calls together stay well under a minute.
EXAMPLES = 20
HOOK = "https://example.org/hook"

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
#: Calls whose good requests cannot be made up.
NEVER_BY_CHANCE = {
    "POST /v1/deliveries/{delivery_id}/resend",
    "POST /v1/notifications/s3",
    # What is decided here is still to be told to every endpoint, or was appealed against.
    "POST /v1/cases/{case_id}/erase",
}


@dataclass(frozen=True)
class Running:
    """The API with something in it."""

    url: str
    key: str
    document: dict[str, Any]
    #: Values that parameters and fields of these names are given in turn.
    known: dict[str, tuple[Any, ...]]


@pytest.fixture
def running(settings: Settings, database: Database) -> Iterator[Running]:
    chosen = settings.model_copy(
        update={
            "blind_first_share": 0.0,
            "second_review_share": 0.0,
            "undo_seconds": 0.0,
            "reason_required": "never",
        }
    )
    review = Review(database, chosen)
    ada, lead = enrolled(database), enrolled(database, "Grace", Role.LEAD)
    analyzing = accepted(database)
    begun(database, analyzing)
    claimed, decided = ready(database), ready(database)
    tokens = [review.claim(ada, case_id).token for case_id in (claimed, decided)]
    judgement = Judgement(Outcome.DEEPFAKE)
    review.decide(ada, decided, token=tokens[1], version=3, judgement=judgement)
    # In this order the claimed one meets its claim.
    cases = [claimed, accepted(database), analyzing, decided, ready(database), refused(database)]
    with database.transaction() as session:
        key = add_key(session, "testers", SCOPES)
        endpoints = [insert_endpoint(session, url=HOOK, kinds=list(Kind), source=None) for _ in range(6)]
    app = create_app(chosen)
    known: dict[str, tuple[Any, ...]] = {
        "case_id": tuple(str(case_id) for case_id in cases),
        "endpoint_id": tuple(str(endpoint.id) for endpoint in endpoints),
        "image": ({"bucket": chosen.s3_buckets[0], "key": "a.jpg"},),
        "reviewer": (ada.email, lead.email, "nobody@example.org"),
        "token": (*tokens, 1),
        "url": (HOOK,),
        "version": (3, 4, 1),
    }
    with serving(app) as url:
        yield Running(url, key, app.openapi(), known)


def _about_something(case: Any, running: Running, turn: int) -> None:
    """Every second request is about something that exists, by somebody who does."""
    if turn % 2:
        return
    for fields in (case.path_parameters, case.body):
        for field, values in running.known.items():
            if isinstance(fields, dict) and field in fields:
                fields[field] = values[turn // 2 % len(values)]


def _statuses(operation: Any, running: Running) -> set[int]:
    """What one call of the API answers to made-up requests. Every answer is held to the document."""
    turns, answered = itertools.count(), set[int]()

    @seed(20261123)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        _about_something(case, running, next(turns))
        reply = case.call(headers={"Authorization": f"Bearer {running.key}"})
        case.validate_response(reply, checks=CHECKS)
        answered.add(reply.status_code)

    ask()
    return answered


def test_every_answer_is_in_the_document_and_none_is_a_fault(running: Running) -> None:
    schema = schemathesis.openapi.from_dict(running.document)
    # Two cores may be busy for long: a slow answer is no wrong answer.
    schema.config.update(base_url=running.url, request_timeout=60)

    operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # pyright: ignore[reportAttributeAccessIssue]
    # Reading first and deleting last: what one call changes, the next still finds.
    operations.sort(key=lambda one: (["get", "post", "delete"].index(one.method), one.path))
    answered = {operation.label: _statuses(operation, running) for operation in operations}

    assert len(answered) > 15
    # Made-up requests that are never taken would prove little.
    never_taken = {label for label, statuses in answered.items() if min(statuses) >= 300}
    assert never_taken <= NEVER_BY_CHANCE, [answered[label] for label in never_taken]
