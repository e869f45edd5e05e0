"""The doorbell against brokers that go away, come back, or accept a connection and say nothing."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from moderation import dispatch
from moderation.dispatch import ANSWERS_WITHIN, Doorbell
from moderation.errors import BrokerUnavailable
from moderation.local import Stack, open_folder
from tests.builders import new_id


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(open_folder(tmp_path)) as opened:
        yield opened


def _started(stack: Stack, port: int | None = None) -> str:
    url = stack.start_valkey(port)
    stack.wait_for("valkey", lambda: bool(redis.Redis.from_url(url).ping()))
    return url


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """Every ring tries, however short ago another failed."""
    monkeypatch.setattr(dispatch, "QUIET_AFTER_FAILURE", 0.0)


def test_a_broker_that_says_nothing_keeps_no_caller_however_often_it_is_asked(stack: Stack) -> None:
    bell = Doorbell(_started(stack), bells_at_most=100)
    assert bell.dispatch_case(new_id())
    stack.signal_process("valkey", signal.SIGSTOP)
    began = time.monotonic()

    with ThreadPoolExecutor(8) as threads:
        rung = list(threads.map(lambda _: bell.dispatch_case(new_id()), range(8)))

    assert rung == [False] * 8
    assert time.monotonic() - began < 8 * 2 * ANSWERS_WITHIN
    with pytest.raises(BrokerUnavailable):
        bell.depth()

    stack.signal_process("valkey", signal.SIGCONT)
    assert bell.dispatch_case(new_id())


def test_a_broker_that_comes_back_is_rung_at_the_next_try(stack: Stack) -> None:
    url = _started(stack)
    bell = Doorbell(url, bells_at_most=100)
    assert bell.dispatch_case(new_id())

    stack.stop_process("valkey", signal.SIGKILL)
    assert not bell.dispatch_case(new_id())
    assert not bell.dispatch_case(new_id())
    _started(stack, urlsplit(url).port)

    assert bell.dispatch_case(new_id())
    assert bell.depth() == 1


def test_a_full_broker_is_left_to_the_sweeper(stack: Stack) -> None:
    url = _started(stack)
    bell = Doorbell(url, bells_at_most=100)
    broker = redis.Redis.from_url(url)

    broker.config_set("maxmemory", 1)
    assert not bell.dispatch_case(new_id())
    broker.config_set("maxmemory", 0)

    assert bell.dispatch_case(new_id())
