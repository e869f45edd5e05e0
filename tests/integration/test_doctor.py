"""`bonafide doctor` finds the likeliest misconfigurations, one by one."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import text

from moderation.accounts.keys import add_key, list_keys, revoke_key
from moderation.cli.doctor import Finding, examine
from moderation.database import schema
from moderation.database.connection import Database
from moderation.database.operations import beat
from moderation.local import as_role
from moderation.rollouts.rerun_rows import insert_reruns
from moderation.rollouts.rollout_rows import note_bundles, promote, try_bundle
from moderation.settings import Settings
from tests.integration.conftest import ready


@pytest.fixture
def healthy(settings: Settings, database: Database) -> Settings:
    """An installation in which nothing is wrong."""
    with database.transaction() as session:
        add_key(session, "platform")
        beat(session, "worker:a:1", {"bundle": "mini 1", "fingerprint": "f1", "threads": 16})
        beat(session, "sweeper:a:2", {})
    return settings


def found(settings: Settings, **others: Any) -> dict[str, Finding]:
    changed = settings.model_copy(update=others)
    return {finding.part: finding for finding in examine(changed)}


def test_nothing_is_wrong_with_a_healthy_installation(healthy: Settings) -> None:
    assert [finding for finding in examine(healthy) if not finding.ok] == []


@pytest.mark.parametrize(
    ("role", "unseen"),
    [("bonafide_worker", {"keys"}), ("bonafide_sweeper", {"keys"}), ("bonafide_web", set[str]())],
)
def test_what_a_role_may_not_see_is_no_fault_and_ends_no_examination(
    healthy: Settings, database_url: str, role: str, unseen: set[str]
) -> None:
    findings = found(healthy, database_url=SecretStr(as_role(database_url, role)))

    assert {part for part, finding in findings.items() if finding.ok is False} == set()
    assert {part for part, finding in findings.items() if finding.ok is None} == unseen
    assert all("this role may not read it" in findings[part].words for part in unseen)


@pytest.mark.parametrize(
    ("part", "others", "words"),
    [
        pytest.param(
            "database", {"database_url": "postgresql://127.0.0.1:9/x"}, "does not answer", id="no Postgres"
        ),
        pytest.param("broker", {"broker_url": "redis://127.0.0.1:9/0"}, "does not answer", id="no Redis"),
        pytest.param("storage", {"s3_buckets": ()}, "BONAFIDE_S3_BUCKETS", id="no bucket is allowed"),
        pytest.param("storage", {"s3_buckets": ("elsewhere",)}, "elsewhere", id="a bucket that is not there"),
        pytest.param(
            "uploads", {"s3_upload_bucket": "other"}, "BONAFIDE_S3_BUCKETS", id="uploads nobody may read"
        ),
        pytest.param(
            "bundle", {"bundle": "/nowhere/dfa-gpt"}, "bundle.toml", id="a bundle that is not there"
        ),
        pytest.param(
            "bundle", {"candidate": "/nowhere/dfa-gpt"}, "BONAFIDE_CANDIDATE", id="no such candidate"
        ),
        pytest.param(
            "times", {"lease_seconds": 2, "sweep_seconds": 5}, "BONAFIDE_SWEEP_SECONDS", id="leases too short"
        ),
        pytest.param(
            "times",
            {"publish_again_seconds": 1},
            "BONAFIDE_PUBLISH_AGAIN_SECONDS",
            id="publishes all the time",
        ),
        pytest.param(
            "traces", {"otlp_endpoint": "http://127.0.0.1:9"}, "BONAFIDE_OTLP_ENDPOINT", id="no collector"
        ),
    ],
)
def test_a_wrong_setting_is_found(healthy: Settings, part: str, others: dict[str, Any], words: str) -> None:
    settings = Settings.model_validate({**healthy.model_dump(), **others})

    finding = {one.part: one for one in examine(settings)}[part]

    assert not finding.ok
    assert words in finding.words


def _old_schema(database: Database) -> None:
    schema.downgrade(database, "0001")


def _table_without_rights(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("CREATE TABLE arrived_later (id integer)"))


def _no_key(database: Database) -> None:
    with database.transaction() as session:
        for key in list_keys(session):
            revoke_key(session, key.prefix)


def _two_bundles(database: Database) -> None:
    with database.transaction() as session:
        beat(session, "worker:b:1", {"bundle": "mini 2", "fingerprint": "f2", "threads": 16})


def _try(database: Database, **facts: Any) -> None:
    """`mini 2` is on trial, and a worker tells this of it."""
    held = {"f1": {"name": "mini 1", "stopped": None}, **facts}
    with database.transaction() as session:
        note_bundles(session, {"f1": "mini 1", "f2": "mini 2"})
        beat(session, "worker:a:1", {"bundle": "mini 1", "fingerprint": "f1", "threads": 16, "bundles": held})
        try_bundle(session, "f2", share=0.1, shadow=0.1, actor="operator")


def _trial_without_worker(database: Database) -> None:
    _try(database)


def _trial_that_fails(database: Database) -> None:
    _try(database, f2={"name": "mini 2", "stopped": "the model does not answer"})


def _promoted_and_not_held(database: Database) -> None:
    _try(database)
    with database.transaction() as session:
        promote(session, actor="operator", force=True)


def _too_many_threads(database: Database) -> None:
    with database.transaction() as session:
        beat(session, "worker:b:1", {"bundle": "mini 1", "fingerprint": "f1", "threads": 5000})


def _silent(process: str) -> Callable[[Database], None]:
    def fall_silent(database: Database) -> None:
        with database.transaction() as session:
            session.execute(text("DELETE FROM heartbeats WHERE process LIKE :like"), {"like": f"{process}:%"})

    return fall_silent


@pytest.mark.parametrize(
    ("part", "break_it", "words"),
    [
        pytest.param("schema", _old_schema, "bonafide migrate", id="migrations were not run"),
        pytest.param("roles", _table_without_rights, "arrived_later", id="rights were not granted"),
        pytest.param("keys", _no_key, "bonafide keys add", id="no platform can call"),
        pytest.param("bundles", _two_bundles, "mini 2", id="a rollout that stopped half way"),
        pytest.param("bundles", _trial_without_worker, "BONAFIDE_CANDIDATE", id="a trial that nobody makes"),
        pytest.param("bundles", _trial_that_fails, "does not answer", id="a candidate that fails"),
        pytest.param("bundles", _promoted_and_not_held, "1 of 1 workers do not hold mini 2", id="not held"),
        pytest.param("connections", _too_many_threads, "max_connections", id="more threads than connections"),
        pytest.param("workers", _silent("worker"), "bonafide worker", id="no worker"),
        pytest.param("sweeper", _silent("sweeper"), "bonafide sweeper", id="no sweeper"),
    ],
)
def test_a_wrong_state_is_found(
    healthy: Settings, database: Database, part: str, break_it: Callable[[Database], None], words: str
) -> None:
    break_it(database)

    finding = found(healthy)[part]

    assert not finding.ok
    assert words in finding.words


def test_a_trial_that_goes_well_is_told_of(healthy: Settings, database: Database) -> None:
    _try(database, f2={"name": "mini 2", "stopped": None})
    case_id = ready(database)
    with database.transaction() as session:
        insert_reruns(session, "f2", [case_id], shadow=True, asked_by="operator")

    finding = found(healthy)["bundles"]

    assert finding.ok
    assert "mini 2 is on trial, held by 1 of 1; 1 cases wait to be analysed once more" in finding.words


def test_a_broker_that_forgets_when_it_is_full_is_found(healthy: Settings) -> None:
    client = redis.Redis.from_url(healthy.broker_url.get_secret_value())
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        finding = found(healthy)["broker memory"]
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.close()

    assert not finding.ok
    assert "noeviction" in finding.words


def test_a_broker_whose_user_may_not_ask_is_not_checked(healthy: Settings) -> None:
    url = healthy.broker_url.get_secret_value()
    client = redis.Redis.from_url(url)
    client.acl_setuser("plain", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-info"])
    try:
        finding = found(healthy, broker_url=SecretStr(url.replace("//", "//plain:pw@", 1)))["broker memory"]
    finally:
        client.acl_deluser("plain")
        client.close()

    assert (finding.ok, "info" in finding.words) == (None, True)


def test_a_clock_that_is_wrong_is_found(healthy: Settings) -> None:
    late = datetime.now(UTC) + timedelta(minutes=10)

    finding = {one.part: one for one in examine(healthy, now=late)}["clock"]

    assert not finding.ok
    apart = re.search(r"(\d+) seconds apart", finding.words)
    assert apart is not None
    assert 500 < int(apart[1]) <= 600  # the looks before it take their time
