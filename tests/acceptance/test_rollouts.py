"""Two bundles in a real worker process, rolled out by command: tried, promoted, rolled back, failing, killed."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from sqlalchemy import text

import moderation.dfa
from moderation.database.cases import Opening, insert_cases
from moderation.dispatch import WorkKind
from moderation.local import (
    Addresses,
)
from moderation.rollouts.rollout_rows import LiveWorker, in_force, live_workers
from tests.acceptance import odd_bundles
from tests.acceptance.odd_bundles import NEW, OLD
from tests.acceptance.yard import Yard, noise
from tests.builders import a_flag
from tests.commands import Ended, run_command


class RolloutYard(Yard):
    """A worker with two bundles, and the operator's command."""

    app = "tests.acceptance.two_bundles"
    settings: ClassVar = {
        "BONAFIDE_ATTEMPTS_AT_MOST": "3",
        "BONAFIDE_BREAKER_FAILURES": "3",
        "BONAFIDE_DRAIN_SECONDS": "5",
    }

    def start(self, name: str = "worker", *, app: str | None = None, **env: str) -> subprocess.Popen[Any]:
        """The worker, once it takes work and has told of itself."""
        process = super().start(name, app=app, **env)
        self.until(lambda: self.told() is not None)
        return process

    def bonafide(self, *words: str) -> Ended:
        """What an operator types, under `bonafide bundles`."""
        return run_command("bundles", *words, env=self.env)

    def say(self, *words: str) -> str:
        done = self.bonafide(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def told(self) -> LiveWorker | None:
        """What the worker told of itself last. None: nothing yet."""
        with self.database.transaction() as session:
            return next(iter(live_workers(session)), None)

    def obeyed(self) -> None:
        """The worker says that it has read the newest order."""
        with self.database.transaction() as session:
            order = in_force(session)
        self.until(lambda: told(self).follows == order)

    def open(self, number: int = 1) -> list[UUID]:
        """New cases, of other pictures each, published."""
        return self.open_with(noise(80, 60) for _ in range(number))

    def analyzed(self, number: int = 1) -> list[UUID]:
        ids = self.open(number)
        self.until(lambda: all(row.state == "ready" for row in self.rows(ids)))
        return ids

    def rows(self, ids: list[UUID]) -> list[Any]:
        query = text("""
            SELECT c.id, c.state, c.version, c.refusal_code, c.postponements, c.expired_leases, a.fingerprint AS shown,
                   ARRAY(SELECT fingerprint FROM analyses WHERE case_id = c.id ORDER BY fingerprint) AS made
            FROM cases c LEFT JOIN analyses a ON a.id = c.analysis_id WHERE c.id = ANY(:ids)
        """)
        with self.database.transaction() as session:
            return list(session.execute(query, {"ids": ids}))

    def reruns(self) -> list[Any]:
        with self.database.transaction() as session:
            return list(session.execute(text("SELECT * FROM reruns ORDER BY id")))

    def all_done(self) -> bool:
        return all(row.done_at is not None for row in self.reruns())


def told(yard: RolloutYard) -> LiveWorker:
    worker = yard.told()
    assert worker is not None
    return worker


@pytest.fixture
def yard(servers: Addresses, database_url: str, tmp_path: Path) -> Iterator[RolloutYard]:
    with RolloutYard.opened(servers, database_url, tmp_path) as opened:
        yield opened


def test_a_bundle_is_tried_promoted_and_rolled_back_by_command_and_without_a_restart(
    yard: RolloutYard,
) -> None:
    process = yard.start()
    yard.sweep()

    before = yard.analyzed()
    refused = yard.bonafide("promote")
    yard.say("try", "dfa 2", "--share", "0", "--shadow", "1")
    yard.obeyed()
    shadowed = yard.analyzed(3)
    yard.until(lambda: len(yard.reruns()) == 3 and yard.all_done())
    yard.say("try", NEW, "--share", "1")
    yard.obeyed()
    shared = yard.analyzed(3)
    yard.say("promote", "--note", "it is better")
    yard.obeyed()
    promoted = yard.analyzed()
    serving = json.loads(yard.say("list", "--json").splitlines()[0])
    yard.say("rerun", "--bundle", "dfa 2", "--state", "all")
    yard.until(yard.all_done)
    yard.say("rollback")
    yard.obeyed()
    after = yard.analyzed()

    assert (refused.returncode, "no bundle is on trial" in refused.stderr) == (1, True)
    assert [row.failure for row in yard.reruns()] == [None] * 4
    # What had been made in the shadow is shown now, as the rerun asked, and nothing was analysed twice.
    for ids in (before, shadowed):
        assert {(row.shown, tuple(row.made)) for row in yard.rows(ids)} == {(NEW, (NEW, OLD))}
    for ids in (shared, promoted):
        assert {(row.shown, tuple(row.made)) for row in yard.rows(ids)} == {(NEW, (NEW,))}
    assert [row.shown for row in yard.rows(after)] == [OLD]
    assert (serving["fingerprint"], serving["promoted"], serving["serves"]) == (NEW, True, 1)
    actions = [json.loads(line)["action"] for line in yard.say("log", "--json").splitlines()]
    assert actions == ["try", "try", "promote", "rollback"]
    assert process.poll() is None


@pytest.mark.parametrize("how", [odd_bundles.BUG, odd_bundles.HANGS, odd_bundles.DIES])
def test_a_candidate_that_fails_everything_goes_quiet_and_harms_no_case(yard: RolloutYard, how: str) -> None:
    process = yard.start(TWO_BUNDLES_SECOND=how)
    yard.sweep()
    yard.say("try", "dfa 2", "--share", "1")
    yard.obeyed()

    ids = yard.analyzed(12)

    assert {(row.shown, row.refusal_code) for row in yard.rows(ids)} == {(OLD, None)}
    yard.until(lambda: NEW in told(yard).stopped)
    quiet = yard.analyzed(3)
    assert {(row.shown, row.postponements) for row in yard.rows(quiet)} == {(OLD, 0)}
    assert (process.poll(), set(told(yard).stopped)) == (None, {NEW})
    forbidden = yard.bonafide("promote")
    assert (forbidden.returncode, "no worker uses" in forbidden.stderr) == (1, True)


def test_a_worker_that_is_killed_in_the_middle_of_a_rerun_loses_nothing(
    yard: RolloutYard, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    process = yard.start(TWO_BUNDLES_SECOND=odd_bundles.WAITS, TWO_BUNDLES_GATE=str(gate))
    yard.sweep()
    ids = yard.analyzed(2)
    before = yard.rows(ids)

    yard.say("rerun", "--bundle", "dfa 2")
    yard.until(gate.with_suffix(".begun").exists)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert yard.rows(ids) == before
    yard.stack.stop_process("worker")
    gate.touch()
    yard.start(TWO_BUNDLES_SECOND=odd_bundles.WAITS, TWO_BUNDLES_GATE=str(gate))
    yard.until(yard.all_done)

    assert [row.failure for row in yard.reruns()] == [None, None]
    assert max(row.attempts for row in yard.reruns()) == 2
    assert {(row.shown, tuple(row.made)) for row in yard.rows(ids)} == {(NEW, (NEW, OLD))}
    assert [row.version for row in yard.rows(ids)] == [row.version + 1 for row in before]


def test_two_real_bundles_fit_into_one_worker(yard: RolloutYard, tmp_path: Path, samples: Path) -> None:
    second = tmp_path / "mini-next"
    shutil.copytree(Path(moderation.dfa.__file__).parent / "bundles" / "mini", second)
    card = second / "bundle.toml"
    # Another version, and the techniques asked for in another order: that is another pipeline on the same weights.
    changed = re.sub(r'^version = ".*"', 'version = "next"', card.read_text(), count=1, flags=re.MULTILINE)
    card.write_text(changed.replace('["FS", "FR", "FE", "EFS"]', '["EFS", "FS", "FR", "FE"]'))
    yard.start(
        app="worker.app",
        BONAFIDE_BUNDLE="mini",
        BONAFIDE_CANDIDATE=str(second),
        BONAFIDE_DEVICE="cpu",
        BONAFIDE_ENGINE_TIMEOUT_SECONDS="120",
    )
    yard.sweep()
    yard.say("try", "mini next", "--shadow", "1")
    yard.obeyed()

    image = yard.storage.put_image(
        "rollouts/portrait.jpg", (samples / "portrait-1.jpg").read_bytes(), "image/jpeg"
    )
    opening = Opening(a_flag(image=image), publish=True)
    with yard.database.transaction() as session:
        insert_cases(session, [opening], actor="platform:test")
    yard.publisher.publish(WorkKind.ANALYSIS, [opening.id])
    yard.until(lambda: len(yard.reruns()) == 1 and yard.all_done())

    with yard.database.transaction() as session:
        made = session.execute(
            text("""
                SELECT a.bundle, a.score, a.id = c.analysis_id AS shown FROM analyses a JOIN cases c ON c.id = a.case_id
                ORDER BY a.bundle
            """)
        ).all()
    assert [row.shown for row in made] == [True, False]
    assert made[1].bundle == "mini next" != made[0].bundle
    # The weights are the same, and so is the question whether it is a deepfake.
    assert made[0].score == pytest.approx(made[1].score, abs=1e-6)
