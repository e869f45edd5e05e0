"""What `bonafide up` does to a database that is kept, and to children that end by themselves."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moderation.accounts.keys import add_key, find_key, list_keys
from moderation.cli.stack import STARTED_AGAIN, TIMES, WITHIN_SECONDS, Guard
from moderation.database.connection import Database
from moderation.errors import SetupProblem
from moderation.local import Stack, open_folder, prepare_database

#: It ends at once, and says what is in its environment.
ENDS = [sys.executable, "-c", "import os; raise SystemExit(os.environ['SAID'])"]
#: It says that all is well, and is killed by the signal that is in its environment.
KILLED = [
    sys.executable,
    "-c",
    "import os; print('ready', flush=True); os.kill(os.getpid(), int(os.environ['BY']))",
]


def test_each_start_leaves_one_key_open(database_url: str, database: Database) -> None:
    with database.transaction() as session:
        add_key(session, "a platform")

    first, second = prepare_database(database_url), prepare_database(database_url)

    with database.transaction() as session:
        still_open = [key.name for key in list_keys(session) if key.revoked_at is None]
        assert sorted(still_open) == ["a platform", "local"]
        assert find_key(session, first) is None
        assert find_key(session, second) is not None


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(open_folder(tmp_path)) as opened:
        yield opened


def _ended(stack: Stack) -> None:
    """Return once all children have ended."""
    for one in stack._processes:
        one.process.wait(30)


def _lines(stack: Stack, name: str) -> list[str]:
    return (stack.folder / "logs" / f"{name}.log").read_text().splitlines()


@pytest.mark.parametrize("name", STARTED_AGAIN)
def test_a_fallen_worker_or_sweeper_is_started_again_as_it_was_until_it_falls_too_often(
    stack: Stack, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = Guard(stack)
    stack.spawn(name, ENDS, env={"SAID": "out of memory"})
    for _ in range(TIMES):
        _ended(stack)
        guard.look(now=0.0)
    _ended(stack)

    with pytest.raises(SetupProblem, match="out of memory"):
        guard.look(now=WITHIN_SECONDS - 1)

    assert _lines(stack, name) == ["out of memory"] * (1 + TIMES)
    assert capsys.readouterr().err.count(f"{name} ended by itself") == TIMES
    guard.look(now=WITHIN_SECONDS)
    _ended(stack)
    assert len(_lines(stack, name)) == 2 + TIMES


@pytest.mark.parametrize("name", ["postgres", "valkey", "store", "web"])
def test_another_child_that_falls_ends_everything(stack: Stack, name: str) -> None:
    stack.spawn(name, ENDS, env={"SAID": "disk full"})
    _ended(stack)

    with pytest.raises(SetupProblem, match="disk full"):
        Guard(stack).look(now=0.0)

    assert len(_lines(stack, name)) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(signal.SIGKILL, "was killed by SIGKILL: memory may have run out", id="out of memory"),
        pytest.param(signal.SIGSEGV, "was killed by SIGSEGV, and said last: ready", id="a crash"),
        pytest.param(signal.SIGRTMIN + 1, f"by signal {signal.SIGRTMIN + 1},", id="a signal without a name"),
    ],
)
def test_a_signal_is_named_and_not_blamed_on_the_last_line(stack: Stack, number: int, words: str) -> None:
    stack.spawn("web", KILLED, env={"BY": str(int(number))})
    _ended(stack)

    with pytest.raises(SetupProblem, match=words):
        Guard(stack).look(now=0.0)
