"""`bonafide bundles`, as docs/operators.md has it, on a real Postgres."""

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from moderation.cli.main import app
from moderation.database.connection import Database
from moderation.database.operations import beat
from moderation.errors import RolloutRefused
from moderation.rollouts.rollout_rows import note_bundles
from moderation.settings import Settings
from moderation.settings import settings as read_settings
from tests.builders import an_analysis, undecided, with_verdict
from tests.integration.conftest import ready

OLD, NEW = "0" * 64, "1" * 64
NAMES = {OLD: "mini 2", NEW: "mini next"}


class Operator:
    """Types commands under `bonafide bundles`."""

    def __init__(self) -> None:
        self._runner = CliRunner()

    def run(self, *words: str) -> Result:
        return self._runner.invoke(app, ["bundles", *words], env={"COLUMNS": "200"})

    def says(self, *words: str) -> str:
        done = self.run(*words)
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture
def operator(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    """With two live workers, of which one holds both bundles."""
    old = {"name": NAMES[OLD], "stopped": None}
    new = {"name": NAMES[NEW], "stopped": None}
    with database.transaction() as session:
        note_bundles(session, NAMES)
        told = {"fingerprint": OLD, "bundle": NAMES[OLD], "own": OLD}
        beat(session, "worker:a:1", {**told, "bundles": {OLD: old, NEW: new}})
        beat(session, "worker:b:1", {**told, "bundles": {OLD: old}})
    monkeypatch.setenv("BONAFIDE_DATABASE_URL", settings.database_url.get_secret_value())
    read_settings.cache_clear()
    yield Operator()
    read_settings.cache_clear()


def test_a_rollout_from_the_first_trial_to_rolling_back(operator: Operator) -> None:
    tried = operator.says("try", "mini next", "--shadow", "0.2", "--share", "0.05")
    listed = [json.loads(line) for line in operator.says("list", "--json").splitlines()]
    shown = operator.says("list")
    promoted = operator.says("promote", "--note", "overturned less")
    rolled_back = operator.says("rollback")
    log = operator.says("log")

    assert "mini next is on trial: share 0.05, shadow 0.2 (1 of 2 live workers hold it" in tried
    assert [(one["name"], one["serves"], one["holds"], one["on_trial"]) for one in listed] == [
        ("mini 2", 2, 2, False),
        ("mini next", 0, 1, True),
    ]
    assert (listed[1]["share"], listed[1]["shadow"], listed[0]["share"]) == (0.05, 0.2, None)
    assert "on trial: share 0.05, shadow 0.2" in shown
    assert "2 of 2" in shown
    assert "mini next serves (1 of 2 live workers hold it, the others go on with what they have)" in promoted
    assert "each worker's own bundle serves again (another one in 2 of 2 live workers)" in rolled_back
    assert "overturned less" in log
    assert log.count("operator") == 3


def _restarted(database: Database, *processes: str, own: str) -> None:
    """These workers, with one bundle and no other."""
    with database.transaction() as session:
        for process in processes:
            held = {own: {"name": NAMES[own], "stopped": None}}
            told = {"fingerprint": own, "bundle": NAMES[own], "own": own, "bundles": held}
            beat(session, f"worker:{process}:1", told)


def test_rolling_back_is_refused_once_what_was_promoted_is_every_workers_own(
    operator: Operator, database: Database
) -> None:
    operator.says("try", "mini next", "--shadow", "1")
    operator.says("promote")
    _restarted(database, "a", own=NEW)
    partly = operator.says("rollback")
    operator.says("try", "mini next", "--shadow", "1")
    operator.says("promote")
    _restarted(database, "a", "b", own=NEW)

    refused = operator.run("rollback")
    forced = operator.says("rollback", "--force")

    assert "another one in 1 of 2 live workers, for the others it is what served until now" in partly
    assert isinstance(refused.exception, RolloutRefused)
    assert "BONAFIDE_BUNDLE" in str(refused.exception)
    assert "another one in 0 of 2 live workers" in forced


def test_rolling_back_to_a_bundle_that_no_worker_holds_or_uses_is_refused(
    operator: Operator, database: Database
) -> None:
    for bundle in ("mini 2", "mini next"):
        operator.says("try", bundle, "--shadow", "1")
        operator.says("promote")
    _restarted(database, "a", "b", own=NEW)

    unheld = operator.run("rollback")
    _stop(database, "worker:b:1", OLD)
    unused = operator.run("rollback")

    assert "no live worker holds" in str(unheld.exception)
    assert "no worker uses this bundle (it fails)" in str(unused.exception)
    assert "mini 2 serves again (1 of 2 live workers hold it" in operator.says("rollback", "--force")


def _stop(database: Database, process: str, fingerprint: str) -> None:
    """This worker holds the bundle, and has stopped using it."""
    with database.transaction() as session:
        held = {fingerprint: {"name": NAMES[fingerprint], "stopped": "it fails"}, NEW: {"name": NAMES[NEW]}}
        beat(session, process, {"fingerprint": NEW, "own": NEW, "bundles": held})


def test_a_trial_is_stopped(operator: Operator) -> None:
    operator.says("try", NEW[:12], "--shadow", "1")

    stopped = json.loads(operator.says("stop", "--json"))

    assert (stopped["serving"], stopped["candidate"]) == (None, None)
    assert isinstance(operator.run("stop").exception, RolloutRefused)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("try", "mini 7", "--share", "0.1"), id="a bundle that nobody ever had"),
        pytest.param(("promote",), id="nothing on trial"),
        pytest.param(("rollback",), id="nothing promoted"),
        pytest.param(("rerun", "--bundle", "mini 7"), id="a rerun by what nobody ever had"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(operator: Operator, words: tuple[str, ...]) -> None:
    assert isinstance(operator.run(*words).exception, RolloutRefused)
    assert operator.says("log", "--json") == ""


@pytest.mark.parametrize("share", ["1.5", "-0.1", "half"])
def test_a_share_is_a_part(operator: Operator, share: str) -> None:
    assert operator.run("try", "mini next", "--share", share).exit_code == 2


def test_cases_are_asked_for_once_more(operator: Operator, database: Database) -> None:
    unsure = an_analysis(faces=(with_verdict(undecided()),), fingerprint=OLD)
    wanted, _ = ready(database, analysis=unsure), ready(database, analysis=an_analysis(fingerprint=OLD))
    words = ("rerun", "--bundle", "mini next", "--state", "ready", "--label", "undetermined")

    counted = json.loads(operator.says(*words, "--dry-run", "--json"))
    asked = json.loads(operator.says(*words, "--json"))
    again = json.loads(operator.says(*words, "--json"))
    every = ("rerun", "--bundle", NEW, "--json")
    shadows = json.loads(operator.says(*every, "--shadow", "--since", "2020-01-01", "--limit", "5000"))
    before = json.loads(operator.says(*every, "--until", "2020-01-01", "--state", "all"))
    listed = [json.loads(line) for line in operator.says("list", "--json").splitlines()]

    assert counted == {"fingerprint": NEW, "cases": 1, "reruns": 0, "dry_run": True}
    assert asked == {"fingerprint": NEW, "cases": 1, "reruns": 1, "dry_run": False}
    assert [(one["cases"], one["reruns"]) for one in (again, shadows, before)] == [(1, 0), (2, 1), (0, 0)]
    assert listed[1]["reruns"] == {"anew": 1, "shadow": 1}
    with database.transaction() as session:
        assert session.scalar(text("SELECT case_id FROM reruns WHERE NOT shadow")) == wanted
