"""Webhooks from the move to the receiver: real Postgres, a real HTTP server, the library that platforms verify with."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import UUID

import httpcore
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, text
from sqlalchemy.exc import ProgrammingError
from standardwebhooks import Webhook

from moderation.accounts.keys import USUAL_SCOPES, add_key
from moderation.analysis import Analysis, Basis, Technique
from moderation.cases import Refusal
from moderation.database.analyses import record_analysis
from moderation.database.connection import Database
from moderation.database.moves import expire_leases, refuse_case
from moderation.database.outbox import Kind, cancel, enqueue
from moderation.decisions import Outcome
from moderation.errors import DeliveryNotFound, EndpointNotFound, EndpointRefused
from moderation.local import as_role
from moderation.rollouts.rollout_rows import BundleFacts, note_bundles
from moderation.settings import Settings
from moderation.webhooks.courier import HOLD, TRIES, WAITS, Courier, wait_after
from moderation.webhooks.delivery_rows import (
    FORGET,
    Delivery,
    DeliveryState,
    Endpoint,
    claim_due,
    forget_delivered,
)
from moderation.webhooks.endpoints import Webhooks
from moderation.webhooks.post import TryFailed, check_url, is_public, post, read_retry_after
from moderation.wire import WebhookOut
from tests.builders import a_face_analysis, a_verdict, an_analysis, new_id
from tests.integration.conftest import accepted, begun, enrolled
from tests.integration.deciding import a_review, decide
from tests.operators.conftest import a_certificate
from tests.receiver import Receiver, a_receiver


@pytest.fixture
def private(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_private_targets": True})


@pytest.fixture
def webhooks(database: Database, private: Settings) -> Webhooks:
    return Webhooks(database, private)


@pytest.fixture
def courier(database: Database, private: Settings) -> Courier:
    return Courier(database, private, timeout=0.5)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver() as opened:
        yield opened


@pytest.fixture
def endpoint(webhooks: Webhooks, receiver: Receiver) -> Endpoint:
    added = webhooks.add(receiver.url)
    receiver.secret = added.secret
    return added.endpoint


def analyzed(database: Database, analysis: Analysis | None = None, **fields: Any) -> UUID:
    case_id = accepted(database, **fields)
    moved = begun(database, case_id)
    assert moved is not None
    with database.transaction() as session:
        record_analysis(
            session,
            case_id,
            moved.lease_token,
            analysis or an_analysis(),
            actor="worker:w1",
            new_id=new_id(),
        )
    return case_id


def let_pass(database: Database, seconds: float) -> None:
    with database.transaction() as session:
        session.execute(
            text("UPDATE deliveries SET due_at = due_at - :passed"), {"passed": timedelta(seconds=seconds)}
        )


def only(webhooks: Webhooks, endpoint: Endpoint) -> Delivery:
    (found,) = webhooks.deliveries(endpoint.id)
    return found


# --- what is told


def test_an_analysis_reaches_the_platform_signed(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    case_id = analyzed(database, external_id="upload-7", context={"room": 3})

    assert courier.deliver_due() == 1

    (told,) = receiver.verified
    assert told["type"] == "case.analyzed"
    assert told["data"]["id"] == str(case_id)
    assert told["data"]["state"] == "ready"
    assert told["data"]["external_id"] == "upload-7"
    assert told["data"]["context"] == {"room": 3}
    assert told["data"]["verdict"]["label"] == "deepfake"
    assert told["data"]["refusal"] is None
    assert abs(datetime.fromisoformat(told["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert receiver.received[0].headers["webhook-id"] == str(only(webhooks, endpoint).id)
    assert only(webhooks, endpoint).state is DeliveryState.DELIVERED
    assert courier.deliver_due() == 0


def test_a_verdict_says_what_it_was_calibrated_on_as_in_the_api(
    database: Database, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    with database.transaction() as session:
        basis = Basis("labelled pictures of avatars", ("avatars",))
        note_bundles(session, {"f1": "small 1"}, {"f1": BundleFacts(basis, prompts=2)})
    calibrated = an_analysis(faces=(a_face_analysis(verdict=a_verdict(calibrated=True)),))
    of_these, of_others = (
        str(analyzed(database, calibrated, source=source)) for source in ("avatars", "banners")
    )

    courier.deliver_due()

    told = {webhook["data"]["id"]: webhook["data"]["verdict"] for webhook in receiver.verified}
    assert {verdict["calibrated_on"] for verdict in told.values()} == {"labelled pictures of avatars"}
    assert (told[of_these]["is_probability"], told[of_others]["is_probability"]) == (True, False)


def test_a_refused_image_is_told_of_too(
    database: Database, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    case_id = accepted(database)
    moved = begun(database, case_id)
    assert moved is not None
    with database.transaction() as session:
        refuse_case(
            session, case_id, moved.lease_token, Refusal("not_an_image", "It is a text."), actor="worker:w1"
        )

    courier.deliver_due()

    data = receiver.verified[0]["data"]
    assert (data["refusal"], data["refusal_message"], data["verdict"]) == (
        "not_an_image",
        "It is a text.",
        None,
    )


def test_a_case_whose_attempts_are_used_up_is_told_of_too(
    database: Database, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    case_id = accepted(database)
    begun(database, case_id, lease_seconds=-1)
    with database.transaction() as session:
        expire_leases(session, actor="sweeper", attempts_at_most=1)

    courier.deliver_due()

    assert receiver.verified[0]["data"]["refusal"] == "attempts_exhausted"


def test_nothing_is_told_of_a_move_that_was_rolled_back(
    database: Database, webhooks: Webhooks, endpoint: Endpoint
) -> None:
    case_id = accepted(database)

    with database.transaction() as session:
        assert enqueue(session, Kind.DECIDED, case_id) == 1
        session.rollback()

    assert webhooks.deliveries(endpoint.id) == []


@pytest.mark.parametrize(
    ("kinds", "source", "told"),
    [
        pytest.param(tuple(Kind), None, True, id="all of everything"),
        pytest.param((Kind.ANALYZED,), "profile-photos", True, id="this kind of this source"),
        pytest.param((Kind.DECIDED,), None, False, id="another kind"),
        pytest.param(tuple(Kind), "another", False, id="another source"),
    ],
)
def test_an_endpoint_is_told_what_it_asked_for(
    database: Database,
    webhooks: Webhooks,
    receiver: Receiver,
    kinds: tuple[Kind, ...],
    source: str | None,
    told: bool,
) -> None:
    added = webhooks.add(receiver.url, kinds, source).endpoint

    analyzed(database)

    assert bool(webhooks.deliveries(added.id)) is told


def test_a_decision_is_told_when_it_is_final_and_not_when_it_was_undone(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    kept, undone = accepted(database), accepted(database)
    final = datetime.now(UTC) + timedelta(seconds=60)
    with database.transaction() as session:
        for case_id in (kept, undone):
            enqueue(session, Kind.DECIDED, case_id, {"decision": {"outcome": "bona_fide"}}, due_at=final)

    assert courier.deliver_due() == 0
    webhooks.resend(webhooks.deliveries(endpoint.id)[0].id)  # no way round the wait
    assert courier.deliver_due() == 0
    with database.transaction() as session:
        assert cancel(session, undone, Kind.DECIDED) == 1
    let_pass(database, 61)
    assert courier.deliver_due() == 1

    assert receiver.verified[0]["data"]["id"] == str(kept)
    assert receiver.verified[0]["data"]["decision"] == {"outcome": "bona_fide"}


def test_an_undone_decision_takes_back_no_word_of_the_one_before(
    database: Database, webhooks: Webhooks, endpoint: Endpoint
) -> None:
    case_id = accepted(database)
    final = datetime.now(UTC) + timedelta(seconds=60)
    with database.transaction() as session:
        enqueue(session, Kind.DECIDED, case_id, {"decision": {"outcome": "deepfake"}})

    with database.transaction() as session:
        enqueue(session, Kind.DECIDED, case_id, {"decision": {"outcome": "bona_fide"}}, due_at=final)
        assert cancel(session, case_id, Kind.DECIDED) == 1

    assert only(webhooks, endpoint).body["data"]["decision"] == {"outcome": "deepfake"}


def test_an_endpoint_that_is_removed_meanwhile_fails_no_move(
    database: Database, webhooks: Webhooks, endpoint: Endpoint
) -> None:
    case_id = accepted(database)

    def remove_first(_c: object, _u: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO deliveries"):
            webhooks.remove(endpoint.id)

    event.listen(database.engine, "before_cursor_execute", remove_first)
    try:
        with database.transaction() as session:
            enqueue(session, Kind.ANALYZED, case_id)
    finally:
        event.remove(database.engine, "before_cursor_execute", remove_first)

    assert webhooks.endpoints() == []


def test_each_process_does_its_part_with_its_own_role(
    database: Database, database_url: str, private: Settings, endpoint: Endpoint, receiver: Receiver
) -> None:
    with (
        closing(Database(as_role(database_url, "bonafide_worker"), pool_size=1)) as worker,
        closing(Database(as_role(database_url, "bonafide_sweeper"), pool_size=2)) as sweeper,
        closing(Database(as_role(database_url, "bonafide_web"), pool_size=1)) as web,
    ):
        case_id = accepted(web)
        moved = begun(worker, case_id)
        assert moved is not None
        with worker.transaction() as session:
            record_analysis(
                session, case_id, moved.lease_token, an_analysis(), actor="worker:w1", new_id=new_id()
            )
        receiver.answers = [500]
        Courier(sweeper, private, timeout=2).deliver_due()
        log = Webhooks(web, private).deliveries(endpoint.id)
        Webhooks(web, private).resend(log[0].id)
        Courier(sweeper, private, timeout=2).deliver_due()
        with web.transaction() as session:
            enqueue(session, Kind.DECIDED, case_id)
            cancel(session, case_id, Kind.DECIDED)

        with pytest.raises(ProgrammingError, match="permission denied"), worker.transaction() as session:
            session.execute(text("SELECT secrets FROM endpoints"))

    assert len(receiver.verified) == 2


# --- when it fails


def test_a_receiver_that_fails_is_tried_again_until_it_answers(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, 429]
    analyzed(database)

    for wait in (0, *WAITS[:3]):
        let_pass(database, wait * 1.2)
        assert courier.deliver_due() == 1
        assert courier.deliver_due() == 0  # not before it is due again

    ids = {one.headers["webhook-id"] for one in receiver.received}
    assert len(receiver.received) == 4
    assert len(ids) == 1
    assert only(webhooks, endpoint).state is DeliveryState.DELIVERED
    assert only(webhooks, endpoint).attempts == 4


def test_a_receiver_that_asks_for_time_is_left_alone_for_it(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    def busy(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(429)
        handler.send_header("Retry-After", "600")
        handler.send_header("content-length", "0")
        handler.end_headers()

    receiver.instead = busy
    analyzed(database)
    courier.deliver_due()
    receiver.instead = None

    let_pass(database, 590)
    assert courier.deliver_due() == 0
    let_pass(database, 10)
    assert courier.deliver_due() == 1
    assert only(webhooks, endpoint).state is DeliveryState.DELIVERED


@pytest.mark.parametrize(
    ("attempt", "asked", "waits"),
    [
        pytest.param(1, None, 5, id="nothing asked"),
        pytest.param(1, 90, 90, id="longer than our own wait"),
        pytest.param(3, 2, 300, id="shorter: our own wait stays"),
        pytest.param(1, 86_400, 3600, id="an hour at the most"),
        pytest.param(6, 86_400, 5 * 3600, id="our own wait may be longer"),
        pytest.param(TRIES, 90, None, id="the last try"),
    ],
)
def test_what_a_receiver_asks_for_has_bounds(attempt: int, asked: float | None, waits: float | None) -> None:
    assert wait_after(attempt, 0.5, asked=asked) == waits


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("Mon, 23 Nov 2026 04:02:00 GMT", 120),
        ("Mon, 23 Nov 2026 03:00:00 GMT", 0),
        ("9" * 400, 999_999_999),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert read_retry_after(value, datetime(2026, 11, 23, 4, tzinfo=UTC)) == seconds


def test_after_the_last_try_it_is_dead_listed_and_can_be_sent_again(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    receiver.answers = [503] * TRIES
    analyzed(database)

    for wait in (0, *WAITS):
        let_pass(database, wait * 1.2)
        courier.deliver_due()
    (dead,) = webhooks.dead()
    let_pass(database, 10 * max(WAITS))
    assert courier.deliver_due() == 0
    assert (dead.attempts, dead.last_status, dead.state) == (TRIES, 503, DeliveryState.DEAD)
    assert len(receiver.received) == TRIES

    webhooks.resend(dead.id)
    assert courier.deliver_due() == 1
    assert only(webhooks, endpoint).state is DeliveryState.DELIVERED
    assert webhooks.dead() == []
    assert receiver.received[-1].headers["webhook-id"] == str(dead.id)


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_a_receiver_that_takes_too_long_is_let_go(
    database: Database,
    webhooks: Webhooks,
    courier: Courier,
    endpoint: Endpoint,
    receiver: Receiver,
    behaviour: str,
) -> None:
    receiver.instead = getattr(receiver, behaviour)
    analyzed(database)

    started = datetime.now(UTC)
    courier.deliver_due()

    assert datetime.now(UTC) - started < timedelta(seconds=3)
    assert only(webhooks, endpoint).last_error == "no answer within 0.5 seconds"


def test_an_answer_without_end_is_not_read_to_the_end(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    receiver.instead = receiver.flood
    analyzed(database)

    courier.deliver_due()

    assert only(webhooks, endpoint).state is DeliveryState.DELIVERED


def test_receivers_that_are_silent_do_not_hold_up_one_that_answers(
    database: Database, webhooks: Webhooks, private: Settings, endpoint: Endpoint, receiver: Receiver
) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(a_receiver()) for _ in range(8)]
        for one in silent:
            one.instead = one.hang
            webhooks.add(one.url)
        for _ in range(20):
            analyzed(database)
        stop = threading.Event()
        courier = Courier(database, private, timeout=60)
        running = threading.Thread(target=courier.run, args=(stop,))
        running.start()
        for _ in range(20):
            # Less than what a silent one is waited for: none of their tries has ended.
            assert receiver.arrived.acquire(timeout=30)
        stop.set()
        for one in silent:
            one.over.set()
        running.join(10)

    assert [len(one.received) for one in silent] == [1] * 8


def test_no_redirect_is_followed(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    with a_receiver() as elsewhere:

        def redirect(handler: Any) -> None:
            handler.send_response(307)
            handler.send_header("location", elsewhere.url)
            handler.send_header("content-length", "0")
            handler.end_headers()

        receiver.instead = redirect
        analyzed(database)
        courier.deliver_due()

    assert only(webhooks, endpoint).last_status == 307
    assert elsewhere.received == []


def test_a_sender_killed_in_the_middle_loses_nothing(
    database: Database,
    database_url: str,
    webhooks: Webhooks,
    courier: Courier,
    endpoint: Endpoint,
    receiver: Receiver,
) -> None:
    receiver.instead = receiver.hang
    analyzed(database)
    environment = {
        **os.environ,
        "BONAFIDE_DATABASE_URL": database_url,
        "BONAFIDE_BROKER_URL": "redis://127.0.0.1:1/0",
        "BONAFIDE_WEBHOOK_PRIVATE_TARGETS": "true",
    }
    sweeper = subprocess.Popen([sys.executable, "-m", "worker.sweeper"], env=environment)
    assert receiver.arrived.acquire(timeout=30)
    sweeper.send_signal(signal.SIGKILL)
    sweeper.wait()
    receiver.instead = None

    assert courier.deliver_due() == 0  # whoever took it may still be at it
    let_pass(database, HOLD + 1)
    assert courier.deliver_due() == 1

    assert only(webhooks, endpoint).state is DeliveryState.DELIVERED
    assert only(webhooks, endpoint).attempts == 2
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1


def test_a_sender_killed_on_the_last_try_leaves_it_dead_not_waiting_for_ever(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    analyzed(database)
    with database.transaction() as session:
        session.execute(text("UPDATE deliveries SET attempts = :tries"), {"tries": TRIES})

    courier.deliver_due()

    assert only(webhooks, endpoint).state is DeliveryState.DEAD
    assert receiver.received == []


def test_two_senders_never_take_the_same(database: Database, endpoint: Endpoint) -> None:
    for _ in range(6):
        analyzed(database)

    with database.transaction() as one, database.transaction() as other:
        first = claim_due(one, limit=8, per_endpoint=4, hold_seconds=60)
        second = claim_due(other, limit=8, per_endpoint=4, hold_seconds=60)

    assert (len(first), len(second)) == (4, 2)
    assert {one.id for one in first}.isdisjoint(one.id for one in second)


def test_the_tries_are_spread_over_a_day_with_jitter() -> None:
    longest = [wait_after(attempt, 0.5) for attempt in range(1, TRIES + 1)]

    assert TRIES >= 8
    assert longest[-1] is None
    assert 20 * 3600 < sum(wait or 0 for wait in longest) < 26 * 3600
    assert (wait_after(1, 0), wait_after(1, 0.999999)) == (4, pytest.approx(6, rel=1e-5))


# --- secrets


def test_while_a_secret_is_changed_both_sign_and_then_the_oldest_ends(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    receiver.secret = None
    once = webhooks.rotate(endpoint.id)
    twice = webhooks.rotate(endpoint.id)
    analyzed(database)

    courier.deliver_due()

    (told,) = receiver.received
    assert once.secrets[1] == endpoint.secrets[0]
    assert len(twice.secrets) == 2
    for secret in twice.secrets:
        assert Webhook(secret).verify(told.body, told.headers)["type"] == "case.analyzed"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(endpoint.secrets[0]).verify(told.body, told.headers)


def test_a_body_that_was_changed_on_the_way_does_not_verify(
    database: Database, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    analyzed(database)
    courier.deliver_due()
    (told,) = receiver.received

    with pytest.raises(Exception, match="No matching signature"):
        Webhook(endpoint.secrets[0]).verify(told.body.replace(b"deepfake", b"bona_fide"), told.headers)


def test_a_disabled_endpoint_is_not_told_and_a_removed_one_is_gone(
    database: Database, webhooks: Webhooks, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    analyzed(database)
    webhooks.disable(endpoint.id)
    analyzed(database)
    assert courier.deliver_due() == 0
    webhooks.enable(endpoint.id)
    assert courier.deliver_due() == 1  # what had been in line; what happened meanwhile is not told

    webhooks.remove(endpoint.id)
    with pytest.raises(EndpointNotFound):
        webhooks.endpoint(endpoint.id)
    with pytest.raises(EndpointNotFound):
        webhooks.remove(endpoint.id)
    with pytest.raises(DeliveryNotFound):
        webhooks.resend(new_id())


def test_the_log_is_read_in_pages(database: Database, webhooks: Webhooks, endpoint: Endpoint) -> None:
    for _ in range(5):
        analyzed(database)

    first = webhooks.deliveries(endpoint.id, limit=3)
    rest = webhooks.deliveries(endpoint.id, limit=3, before=first[-1].id)

    assert (len(first), len(rest)) == (3, 2)
    assert len({one.id for one in [*first, *rest]}) == 5
    assert [*first, *rest] == sorted([*first, *rest], key=lambda one: one.created_at, reverse=True)


def test_what_was_delivered_long_ago_is_forgotten_and_what_was_not_stays(
    database: Database,
    database_url: str,
    webhooks: Webhooks,
    courier: Courier,
    endpoint: Endpoint,
    receiver: Receiver,
) -> None:
    for _ in range(4):
        analyzed(database)
    waiting, dead, fresh, old = webhooks.deliveries(endpoint.id, limit=4)
    days = {fresh.id: 29, old.id: 31, dead.id: 400, waiting.id: 400}
    with database.transaction() as session:
        for delivery_id, age in days.items():
            session.execute(
                text(
                    "UPDATE deliveries SET created_at = now() - make_interval(days => :age),"
                    " delivered_at = CASE WHEN :age < 400 THEN now() END WHERE id = :id"
                ),
                {"id": delivery_id, "age": age},
            )
        session.execute(text("UPDATE deliveries SET dead_at = now() WHERE id = :id"), {"id": dead.id})

    with (
        closing(Database(as_role(database_url, "bonafide_sweeper"), pool_size=1)) as sweeper,
        sweeper.transaction() as session,
    ):
        forgotten = forget_delivered(session, days=30)

    assert forgotten == 1
    assert {one.id for one in webhooks.deliveries(endpoint.id, limit=9)} == {fresh.id, dead.id, waiting.id}


def test_forgetting_steps_over_nothing_that_was_given_up(database: Database, endpoint: Endpoint) -> None:
    analyzed(database)
    given_up = text("""
        INSERT INTO deliveries (id, endpoint_id, case_id, kind, body, created_at, dead_at)
        SELECT gen_random_uuid(), endpoint_id, case_id, kind, body, now() - interval '400 days', now()
        FROM deliveries, generate_series(1, 20000)
    """)
    explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {FORGET.text}"
    with database.transaction() as session:
        session.execute(given_up)
        session.execute(text("ANALYZE deliveries"))
        plan = session.scalar(text(explained), {"days": 30, "limit": 10_000})

    assert plan is not None
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 50


# --- where it may go


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ],
)
def test_an_address_of_our_own_networks_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[fd00::1]:8443/x",
        "https://localhost/",
        "https://db.internal/",
        "https://user:secret@hooks.example.org/",
        "https://hooks.example.org/#part",
        "https:///nowhere",
        "https://hooks.example.org:99999/",
        "https://[broken/",
        "ftp://hooks.example.org/",
        "file:///etc/passwd",
        "https://hooks.example.org/" + "x" * 2000,
        "https://hooks.example.org/\r\nx: y",
        "https://höoks.example.org/",
    ],
)
def test_an_endpoint_elsewhere_than_on_the_internet_is_refused(url: str) -> None:
    with pytest.raises(EndpointRefused):
        check_url(url, private=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "http://localhost:9000/hook",
        "https://127.0.0.1/",
        "https://[fd00::1]:8443/x",
        "https://localhost/",
        "https://db.internal/",
    ],
)
def test_whoever_tries_it_at_home_is_told_which_setting_allows_that(url: str) -> None:
    with pytest.raises(EndpointRefused, match="BONAFIDE_WEBHOOK_PRIVATE_TARGETS=true"):
        check_url(url, private=False)
    check_url(url, private=True)


@pytest.mark.parametrize(
    "again",
    [
        "https://hooks.example.org/x",
        "https://hooks.example.org:443/x",
        "HTTPS://Hooks.Example.ORG/x",
    ],
)
def test_the_same_target_twice_is_one(webhooks: Webhooks, again: str) -> None:
    first = webhooks.add("https://hooks.example.org/x", [Kind.ANALYZED])
    webhooks.disable(first.endpoint.id)

    second = webhooks.add(again, [Kind.DECIDED])

    assert (second.endpoint.id, second.secret) == (first.endpoint.id, None)
    (only_one,) = webhooks.endpoints()
    assert (only_one.kinds, only_one.disabled_at) == ((Kind.DECIDED,), None)
    assert list(only_one.secrets) == [first.secret]


def test_a_target_that_is_added_by_several_at_once_is_one(webhooks: Webhooks) -> None:
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda _: webhooks.add("https://hooks.example.org/x"), range(8)))

    assert len({one.endpoint.id for one in added}) == 1
    assert sum(one.secret is not None for one in added) == 1


def test_another_place_or_another_source_is_another_target(webhooks: Webhooks) -> None:
    targets = [
        ("https://hooks.example.org", None),
        ("https://hooks.example.org/x", None),
        ("https://hooks.example.org/X", None),
        ("https://hooks.example.org/?x", None),
        ("https://hooks.example.org:8443/", None),
        ("http://hooks.example.org/", None),
        ("https://hooks.example.org/", "avatars"),
        ("https://[::1]/", None),
    ]

    ids = {webhooks.add(url, source=source).endpoint.id for url, source in targets}

    assert len(ids) == len(targets)
    assert webhooks.add("https://hooks.example.org/").secret is None


def test_an_endpoint_on_the_internet_is_taken() -> None:
    check_url("https://hooks.example.org:8443/bona-fide?team=7", private=False)


@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param(["127.0.0.1"], id="loopback"),
        pytest.param(["8.8.8.8", "10.0.0.1"], id="one of several is private"),
        pytest.param(["169.254.169.254"], id="metadata"),
    ],
)
def test_a_public_name_with_a_private_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver, addresses: list[str]
) -> None:
    port = int(receiver.url.split(":")[2].split("/")[0])
    monkeypatch.setattr(socket, "getaddrinfo", _resolver([addresses], port))

    with pytest.raises(TryFailed, match="not public"):
        _post(f"https://hooks.example.org:{port}/")
    assert receiver.received == []


def test_the_name_is_looked_up_once_and_what_was_checked_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A rebinding name server: the second answer would be ours.
    looked_up = _resolver([["8.8.8.8"], ["127.0.0.1"]], 443)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    connected: list[str] = []

    def connect(_self: object, host: str, port: int, **_: Any) -> httpcore.NetworkStream:
        connected.append(host)
        raise httpcore.ConnectError("nobody there")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    with pytest.raises(TryFailed, match="the connection failed"):
        _post("https://hooks.example.org/")

    assert connected == ["8.8.8.8"]


def test_an_address_that_answers_nothing_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    port = int(receiver.url.split(":")[2].split("/")[0])
    # The library looks the address itself up once more.
    monkeypatch.setattr(socket, "getaddrinfo", _resolver([["8.8.8.8", "127.0.0.1"], ["127.0.0.1"]], port))
    really = httpcore.SyncBackend.connect_tcp
    given: list[float] = []

    def connect(
        self: httpcore.SyncBackend, host: str, port: int, timeout: float, **rest: Any
    ) -> httpcore.NetworkStream:
        given.append(timeout)
        if host == "8.8.8.8":
            raise httpcore.ConnectTimeout
        return really(self, host, port, timeout=timeout, **rest)

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    url, tls = f"http://hooks.example.org:{port}/", httpcore.default_ssl_context()

    assert post(url, {}, b"{}", private=True, tls=tls, timeout=8) == 204
    assert 3 < given[0] <= 4 < given[1] <= 8


def test_a_name_that_nobody_looks_up_in_time_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        given_up.wait(timeout=60)
        raise socket.gaierror("nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    tls = httpcore.default_ssl_context()

    with pytest.raises(TryFailed, match="not looked up in time"):
        post("https://hooks.example.org/", {}, b"{}", private=False, tls=tls, timeout=0.2)
    given_up.set()


@pytest.mark.parametrize(
    ("host", "failure"),
    [
        pytest.param("hooks.example.org", None, id="the name of the URL"),
        pytest.param("other.example.org", "certificate verify failed", id="another name at the same address"),
    ],
)
def test_a_certificate_is_checked_for_the_name_though_an_address_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, failure: str | None
) -> None:
    certificate = a_certificate(tmp_path, "hooks.example.org")
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate)
    with a_receiver(serving) as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        monkeypatch.setattr(socket, "getaddrinfo", _resolver([["127.0.0.1"]] * 2, port))
        trusting = ssl.create_default_context(cafile=str(certificate))

        def send() -> int:
            return post(f"https://{host}:{port}/", {}, b"{}", private=True, tls=trusting, timeout=5)

        if failure is None:
            assert send() == 204
        else:
            with pytest.raises(TryFailed, match=failure):
                send()


@pytest.mark.parametrize("url", ["https://2130706433/", "https://0x7f.1/", "https://127.1/"])
def test_odd_ways_to_write_loopback_are_seen_through(url: str) -> None:
    with pytest.raises(TryFailed, match=r"not public|looked up"):
        _post(url)


def _resolver(answers: list[list[str]], port: int) -> Any:
    turns = iter(answers)

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(turns)]

    return getaddrinfo


def _post(url: str) -> int:
    return post(url, {}, b"{}", private=False, tls=httpcore.default_ssl_context(), timeout=2)


# --- the doors


def test_a_platform_looks_after_its_endpoints_by_the_api(
    api: TestClient, database: Database, private: Settings, receiver: Receiver
) -> None:
    made = api.post("/v1/webhooks", json={"url": "https://hooks.example.org/x", "kinds": ["case.analyzed"]})
    place = f"/v1/webhooks/{made.json()['id']}"
    rotated = api.post(f"{place}/rotate")
    analyzed(database)
    with database.transaction() as session:
        session.execute(text("UPDATE endpoints SET url = :url"), {"url": receiver.url})
    receiver.secret = rotated.json()["secret"]
    Courier(database, private).deliver_due()
    log = api.get(f"{place}/deliveries").json()
    again = api.post(f"/v1/deliveries/{log['deliveries'][0]['id']}/resend")
    listed = api.get("/v1/webhooks").json()["webhooks"]

    assert made.status_code == 201
    assert made.json()["secret"].startswith("whsec_")
    assert rotated.json()["secret"] != made.json()["secret"]
    assert (log["deliveries"][0]["state"], log["deliveries"][0]["last_status"]) == ("delivered", 204)
    assert log["next_cursor"] is None
    assert (again.status_code, again.json()["state"]) == (202, "waiting")
    assert [one["secret"] for one in listed] == [None]
    assert api.delete(place).status_code == 204
    assert api.delete(place).json()["code"] == "endpoint_not_found"
    assert api.get(f"{place}/deliveries").status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param({"url": "http://127.0.0.1/"}, "endpoint_refused", id="loopback"),
        pytest.param({"url": "https://hooks.example.org/", "kinds": []}, "invalid_request", id="no kind"),
        pytest.param({"url": "https://a.b/", "kinds": ["case.x"]}, "invalid_request", id="unknown kind"),
        pytest.param({}, "invalid_request", id="no url"),
    ],
)
def test_an_endpoint_that_will_not_do_is_refused_by_the_api(
    api: TestClient, body: dict[str, Any], code: str
) -> None:
    answer = api.post("/v1/webhooks", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_the_last_page_of_the_log_has_no_cursor(
    api: TestClient, database: Database, endpoint: Endpoint
) -> None:
    for _ in range(4):
        analyzed(database)
    log = f"/v1/webhooks/{endpoint.id}/deliveries?limit=2"

    first = api.get(log).json()
    last = api.get(f"{log}&cursor={first['next_cursor']}").json()

    assert len({one["id"] for page in (first, last) for one in page["deliveries"]}) == 4
    assert last["next_cursor"] is None


def test_an_endpoint_added_twice_by_the_api_is_one_and_its_secret_is_not_told_again(api: TestClient) -> None:
    body = {"url": "https://hooks.example.org/x"}

    first, again = api.post("/v1/webhooks", json=body), api.post("/v1/webhooks", json=body)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {**first.json(), "secret": None}


def test_a_key_that_may_only_submit_and_read_does_not_see_webhooks(
    api: TestClient, database: Database
) -> None:
    with database.transaction() as session:
        key = add_key(session, "another", USUAL_SCOPES)

    answer = api.get("/v1/webhooks", headers={"Authorization": f"Bearer {key}"})

    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


def test_the_openapi_document_tells_everything_that_is_sent(
    api: TestClient, database: Database, private: Settings, webhooks: Webhooks, endpoint: Endpoint
) -> None:
    review, ada = a_review(database, private), enrolled(database)
    case_id, gone = analyzed(database), accepted(database)
    decide(review, database, ada, case_id, Outcome.DEEPFAKE, Technique.FS)
    review.appeal(case_id, "It is me.", actor="platform:testers")
    api.post(f"/v1/cases/{gone}/withdraw")

    sent = {one.kind: one.body for one in webhooks.deliveries(endpoint.id)}

    assert set(sent) == set(Kind)
    assert set(api.get("/openapi.json").json()["webhooks"]) == {kind.value for kind in Kind}
    for kind, body in sent.items():
        read = WebhookOut.model_validate(body)
        assert _fields(read.model_dump(mode="json", exclude_unset=True)) == _fields(body), kind


def _fields(value: Any) -> Any:
    """The names of all fields, at any depth."""
    return {name: _fields(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def test_the_example_of_the_document_verifies_what_is_sent(
    database: Database, courier: Courier, endpoint: Endpoint, receiver: Receiver
) -> None:
    document = (Path(__file__).parents[2] / "docs/webhooks.md").read_text()
    example = document.split("```python\n")[1].split("```")[0].replace("whsec_…", endpoint.secrets[0])
    kept: list[Any] = []
    names: dict[str, Any] = {"seen_before": lambda _id: False, "keep": lambda *told: kept.append(told)}
    exec(example, names)
    case_id = analyzed(database)
    courier.deliver_due()
    (came,) = receiver.received

    assert names["receive"](came.headers, came.body) == 204
    assert kept[0][0] == str(case_id)
    with pytest.raises(Exception, match="No matching signature"):
        names["receive"](came.headers, came.body + b" ")
