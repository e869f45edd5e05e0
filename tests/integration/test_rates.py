"""A platform's rate: counted for all processes, refused with how long to wait, and never for want of Redis."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from moderation.accounts.keys import add_key
from moderation.database.connection import Database
from moderation.settings import Settings
from moderation.web.app import create_app
from tests.conftest import make_settings


def _case(name: str) -> dict[str, Any]:
    return {"image": {"bucket": "flagged", "key": f"{name}.jpg"}, "external_id": name}


@pytest.fixture
def limited(settings: Settings) -> Settings:
    return settings.model_copy(update={"intake_rate": "5/minute"})


@pytest.fixture
def key(database: Database) -> str:
    with database.transaction() as session:
        return add_key(session, "busy")


@pytest.fixture
def client(limited: Settings, key: str) -> Iterator[TestClient]:
    with TestClient(create_app(limited), headers={"Authorization": f"Bearer {key}"}) as opened:
        yield opened


def test_beyond_its_rate_a_platform_is_told_when_to_come_back(client: TestClient) -> None:
    accepted = [client.post("/v1/cases", json=_case(f"photo-{n}")).status_code for n in range(5)]

    refused = client.post("/v1/cases", json=_case("photo-5"))

    assert accepted == [202] * 5
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_cases")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert client.get("/v1/cases", params={"external_id": "photo-5"}).json()["cases"] == []


def test_a_batch_counts_every_item_and_another_process_counts_too(
    client: TestClient, limited: Settings, key: str
) -> None:
    with TestClient(create_app(limited), headers={"Authorization": f"Bearer {key}"}) as other:
        batch = {"cases": [_case(f"batch-{n}") for n in range(4)]}

        assert other.post("/v1/cases/batch", json=batch).status_code == 207
        assert client.post("/v1/cases", json=_case("one")).status_code == 202
        assert client.post("/v1/cases", json=_case("two")).status_code == 429


def test_what_a_store_tells_of_counts_too(client: TestClient) -> None:
    def told(*names: str) -> Any:
        made = [
            {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "flagged"}, "object": {"key": name}}}
            for name in names
        ]
        return client.post("/v1/notifications/s3", json={"Records": made})

    assert told("a.jpg", "b.jpg", "c.jpg", "d.jpg").json()["opened"] == 4
    assert told("e.jpg", "f.jpg").status_code == 429


def test_what_a_store_tells_of_at_once_is_bounded(client: TestClient, settings: Settings) -> None:
    count = settings.batch_items_at_most + 1
    one = {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "flagged"}, "object": {"key": "a.jpg"}},
    }

    assert client.post("/v1/notifications/s3", json={"Records": [one] * count}).status_code == 422


def test_the_openapi_document_tells_of_too_many(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    for path in ("/v1/cases", "/v1/cases/batch", "/v1/notifications/s3"):
        assert "too_many_cases" in paths[path]["post"]["responses"]["429"]["description"]


def test_one_platforms_rate_is_not_anothers(client: TestClient, database: Database) -> None:
    for n in range(6):
        client.post("/v1/cases", json=_case(f"busy-{n}"))
    with database.transaction() as session:
        quiet = add_key(session, "quiet")

    opened = client.post("/v1/cases", json=_case("quiet"), headers={"Authorization": f"Bearer {quiet}"})

    assert opened.status_code == 202


def test_without_redis_everything_is_let_in(database_url: str, database: Database, servers: Any) -> None:
    settings = make_settings(database_url, "redis://127.0.0.1:9/0", servers, intake_rate="1/minute")
    with database.transaction() as session:
        secret = add_key(session, "unlucky")
    began = time.monotonic()

    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {secret}"}) as client:
        statuses = [client.post("/v1/cases", json=_case(f"photo-{n}")).status_code for n in range(5)]

    assert statuses == [202] * 5
    assert time.monotonic() - began < 20
