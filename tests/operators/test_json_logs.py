"""With BONAFIDE_LOG_FORMAT=json a line of a process is one JSON object, whoever speaks. Real processes each time."""

import base64
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from moderation.database.connection import Database
from moderation.dispatch import ANALYSIS_QUEUE, Publisher, WorkKind
from moderation.local import (
    Stack,
    free_port,
    open_folder,
    service_env,
    sweeper_command,
    web_command,
    worker_command,
)
from moderation.settings import Settings
from tests.builders import new_id
from tests.conftest import Addresses
from tests.integration.conftest import accepted

LEVELS = {"debug", "info", "warning", "error", "critical"}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(open_folder(tmp_path)) as opened:
        yield opened


@pytest.fixture
def env(settings: Settings, servers: Addresses) -> dict[str, str]:
    return {
        **servers.settings(),
        "BONAFIDE_DATABASE_URL": settings.database_url.get_secret_value(),
        "BONAFIDE_LOG_FORMAT": "json",
        "BONAFIDE_START_WAIT_SECONDS": "0",
        "PYTHONUNBUFFERED": "1",
    }


def lines_of(stack: Stack, name: str) -> list[dict[str, Any]]:
    """What a process wrote to standard output and error. Each line is an object with a level and a time."""
    said = (stack.folder / "logs" / f"{name}.log").read_text().splitlines()
    lines = [json.loads(line) for line in said]
    for line in lines:
        assert line["level"] in LEVELS, line
        assert line["event"], line
        assert line["timestamp"].endswith("Z"), line
    return lines


def _has(stack: Stack, name: str, which: Callable[[dict[str, Any]], bool]) -> Callable[[], bool]:
    def look() -> bool:
        said = (stack.folder / "logs" / f"{name}.log").read_text()
        whole, _, _ = said.rpartition("\n")  # what comes after may be half written
        return any(which(json.loads(line)) for line in whole.splitlines())

    return look


def _says(stack: Stack, name: str, which: Callable[[dict[str, Any]], bool]) -> None:
    stack.wait_for(name, _has(stack, name, which), timeout=60)


def test_a_worker_and_celery_in_it_write_objects_with_the_case(
    stack: Stack, env: dict[str, str], database: Database
) -> None:
    broker = stack.start_valkey()
    stack.wait_for("valkey", lambda: bool(redis.Redis.from_url(broker).ping()))
    case_id = accepted(database)  # its image was never put there
    Publisher(broker, at_most=10).publish(WorkKind.ANALYSIS, [case_id])
    with closing(redis.Redis.from_url(broker)) as client:
        client.lpush(ANALYSIS_QUEUE, _message("somebody_elses_task"))
    command = [part if part != "worker.app" else "benchmarks.quiet_worker" for part in worker_command()]
    stack.spawn("worker", command, env=service_env({**env, "BONAFIDE_BROKER_URL": broker}))

    _says(stack, "worker", lambda line: line["event"] == "analysis_ended")
    _says(stack, "worker", lambda line: "unregistered task" in line["event"])
    stack.stop_process("valkey", signal.SIGKILL)
    _says(stack, "worker", lambda line: "onnect" in line["event"] and line["level"] in ("warning", "error"))
    stack.stop_process("worker")

    lines = lines_of(stack, "worker")
    by_event = {line["event"]: line for line in lines}
    assert by_event["worker_ready"]["level"] == "info"
    assert by_event["analysis_ended"]["case"] == str(case_id)
    (unknown,) = [line for line in lines if "unregistered task" in line["event"]]
    assert (unknown["level"], unknown["logger"]) == ("error", "celery.worker.consumer.consumer")


def _message(task: str) -> str:
    """As Celery puts it on the queue."""
    body = base64.b64encode(json.dumps([[str(new_id())], {}, {}]).encode()).decode()
    properties = {
        "delivery_tag": str(new_id()),
        "delivery_info": {"exchange": "", "routing_key": ANALYSIS_QUEUE},
        "body_encoding": "base64",
        "delivery_mode": 2,
        "priority": 0,
    }
    return json.dumps(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": task,
                "id": str(new_id()),
                "argsrepr": "()",
                "kwargsrepr": "{}",
            },
            "properties": properties,
        }
    )


def test_the_console_and_uvicorn_in_it_write_objects(
    stack: Stack, env: dict[str, str], database: Database
) -> None:
    port = free_port()
    env["BONAFIDE_BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    stack.spawn("web", web_command(port), env=service_env(env))
    url = f"http://127.0.0.1:{port}"
    stack.wait_for("web", lambda: httpx.get(f"{url}/healthz").status_code == 200)

    assert httpx.get(f"{url}/readyz").json()["broker"] != "ok"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"nonsense\r\n\r\n")
        client.recv(1000)
    _says(stack, "web", lambda line: line["event"] == "Invalid HTTP request received.")
    stack.stop_process("web")

    by_event = {line["event"]: line for line in lines_of(stack, "web")}
    assert by_event["not_ready"]["level"] == "warning"
    assert by_event["Invalid HTTP request received."]["logger"] == "uvicorn.error"


def test_a_sweeper_that_meets_no_postgres_writes_objects(stack: Stack, env: dict[str, str]) -> None:
    env["BONAFIDE_DATABASE_URL"] = f"postgresql://127.0.0.1:{free_port()}/d"
    stack.spawn("sweeper", sweeper_command(), env=service_env(env))

    _says(stack, "sweeper", lambda line: line["event"] == "sweep_failed")
    _says(stack, "sweeper", lambda line: line["event"] == "delivery_failed")
    stack.stop_process("sweeper")

    assert lines_of(stack, "sweeper")


def test_a_console_that_cannot_start_says_so_in_an_object(stack: Stack, env: dict[str, str]) -> None:
    del env["BONAFIDE_S3_SECRET_ACCESS_KEY"]
    process = stack.spawn("web", web_command(free_port()), env=service_env(env))

    assert process.wait(60) != 0
    (last,) = [line for line in lines_of(stack, "web") if line["event"] == "process_ends"]
    assert (last["level"], last["code"]) == ("critical", "setup_problem")


#: Everything that Python itself would write over several lines, and what belongs to a case.
_SPEAK = """
import logging, threading, warnings, structlog
from moderation.logs import configure_logs
from moderation.settings import Settings
configure_logs(Settings.model_validate({"log_format": "json"}))
with structlog.contextvars.bound_contextvars(case="the-case"):
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("a.package").exception("two\\nlines of %s", "it")
warnings.warn("a warning")
thread = threading.Thread(target=lambda: 1 / 0, name="a-thread")
thread.start()
thread.join()
1 / 0
"""


def test_exceptions_and_warnings_of_anybody_are_one_line_each() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _SPEAK], capture_output=True, text=True, check=False, timeout=60
    )

    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 1
    assert [(line["level"], line["event"].split("\n")[0]) for line in lines] == [
        ("error", "two"),
        ("warning", "<string>:11: UserWarning: a warning"),
        ("critical", "thread_ends"),
        ("critical", "process_ends"),
    ]
    assert (lines[0]["case"], lines[0]["logger"]) == ("the-case", "a.package")
    assert lines[0]["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert lines[2]["thread"] == "a-thread"


def test_threads_never_share_a_line() -> None:
    speak = """
import logging, threading, structlog
from moderation.logs import configure_logs
from moderation.settings import Settings
configure_logs(Settings.model_validate({"log_format": "json"}))
def ours():
    for number in range(500):
        structlog.get_logger().warning("ours", number=number, text="x" * 300)
def theirs():
    for number in range(500):
        logging.getLogger("theirs").warning("y" * 300)
threads = [threading.Thread(target=target) for target in (ours, theirs, ours, theirs)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    ended = subprocess.run(
        [sys.executable, "-c", speak], capture_output=True, text=True, check=False, timeout=60
    )

    assert len([json.loads(line) for line in ended.stderr.splitlines()]) == 2000
