"""From the release before to this one, while platforms flag and reviewers decide.

    make upgrade-test [N=cases]        python -m tests.upgrade --cases 300 [--from COMMIT] [--json]

Both releases run from their wheels, each in an environment of its own. The old one serves; the new one's migrations run
beside it; then API, workers and sweeper are replaced process by process, one is taken back, and forward again.
"""

import itertools
import os
import random
import signal
import subprocess
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from runpy import run_path
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import text

from moderation.client import BonaFide
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.local import Addresses, Stack, as_role, free_port
from moderation.storage import Storage
from tests.acceptance.flood import QUICK, landscape, portrait
from tests.conftest import end_at_once, make_settings

ROOT = Path(__file__).resolve().parent.parent.parent
WHEEL = run_path(str(ROOT / "deploy/wheel.py"))

#: The release before: its tag, or the commit that it was made of while there is no tag.
RELEASED = ("v0.1.0", "07a71b1")
REVIEWER = "ada@example.org"
#: Decisions are final soon, and by one person.
_AT_ONCE = {
    "BONAFIDE_UNDO_SECONDS": "1",
    "BONAFIDE_SECOND_REVIEW_SHARE": "0",
    # 0.1.0 reads this name: see PUBLISH_AGAIN_SECONDS.
    "BONAFIDE_RING_AGAIN_SECONDS": QUICK["BONAFIDE_PUBLISH_AGAIN_SECONDS"],
}
#: Seconds that a process may take until it serves, and until cases that are expected are there.
PATIENCE = 300.0


class NoHistory(Exception):
    """The release before is not in this repository: it was cloned without its history."""


@dataclass(frozen=True)
class Release:
    name: str
    #: Where its programs are.
    bin: Path


@dataclass
class Report:
    old: str
    new: str
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    lost: int = 0
    duplicated: int = 0
    chains_broken: int = 0
    #: Processes that ended without being asked to.
    stopped: list[str] = field(default_factory=list[str])
    #: Seconds between two accepted cases, at the most.
    longest_gap: float = 0.0
    migration_seconds: float = 0.0
    #: How many cases became ready in each part of the road.
    ready: dict[str, int] = field(default_factory=dict[str, int])
    decided: int = 0
    seconds: float = 0.0


# --- the two releases


def release_of_commit(folder: Path) -> Release:
    """The release before, from its commit. Raise NoHistory when the repository does not reach back."""
    for name in RELEASED:
        archive = folder / "old.tar"
        packed = subprocess.run(
            ["git", "archive", "--output", str(archive), name], cwd=ROOT, capture_output=True, check=False
        )
        if packed.returncode == 0:
            with tarfile.open(archive) as tar:
                tar.extractall(folder / "old-tree", filter="data")
            return _installed(f"0.1.0 ({name})", folder / "old-tree", folder / "old")
    raise NoHistory(f"none of {', '.join(RELEASED)} is in this repository")


def release_of_tree(folder: Path) -> Release:
    return _installed("this tree", ROOT, folder / "new")


def _installed(name: str, tree: Path, folder: Path) -> Release:
    wheel = WHEEL["build"](tree, folder / "wheel")
    return Release(name, WHEEL["install"](wheel, folder / "venv").parent)


# --- the running system


class Trial:
    """Servers, two processes of each kind, and a platform that never ceases to flag."""

    def __init__(self, stack: Stack, old: Release, new: Release) -> None:
        self._stack = stack
        self._addresses = stack.start_servers()
        self._old, self._new = old, new
        self._env = {**self._addresses.settings(), **QUICK, **_AT_ONCE}
        self._ports = {name: free_port() for name in ("web-1", "web-2")}
        self._running: dict[str, subprocess.Popen[Any]] = {}
        self.report = Report(old.name, new.name)
        self._database = Database(self._addresses.database_url, pool_size=2)

    def command(self, release: Release, *words: str) -> str:
        """Run a command of a release as the owner of the database. What it prints."""
        ended = subprocess.run(
            [release.bin / "bonafide", *words], env=self._env_of(release, None), cwd=self._stack.folder,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{release.name}: {words}: {ended.stderr}"
        return ended.stdout.strip()

    def start(self, name: str, release: Release) -> None:
        """One process of this release; returns once it serves."""
        kind = name.split("-", maxsplit=1)[0]
        env = self._env_of(release, f"bonafide_{kind}")
        ready = self._stack.folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        words = {
            "web": ["serve", "--port", str(self._ports.get(name, 0))],
            "worker": ["worker", "--name", name],
            "sweeper": ["sweeper"],
        }[kind]
        process = self._stack.spawn(
            name,
            [release.bin / "bonafide", *words],
            env={**env, "BONAFIDE_READY_FILE": str(ready)},
            cwd=self._stack.folder,  # Python looks for modules where it is started: not in this tree
        )
        self._running[name] = process
        if kind == "web":
            url = f"{self._url(name)}/readyz"
            self._stack.wait_for(name, lambda: httpx.get(url, timeout=5).status_code == 200, timeout=PATIENCE)
        elif kind == "worker":
            self._stack.wait_for(name, ready.exists, timeout=PATIENCE)

    def replace(self, name: str, release: Release) -> None:
        """As an operator does: SIGTERM, wait, start the other one."""
        self.look_for_fallen()
        self._running.pop(name)
        self._stack.stop_process(name, signal.SIGTERM, timeout=60)
        self.start(name, release)

    def look_for_fallen(self) -> None:
        self.report.stopped += [
            f"{name}: {self._stack.last_words(name)}"
            for name, process in self._running.items()
            if process.poll() is not None
        ]

    def _env_of(self, release: Release, role: str | None) -> dict[str, str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "BONAFIDE"))}
        url = self._addresses.database_url
        own = {"BONAFIDE_DATABASE_URL": as_role(url, role) if role else url}
        return {**kept, **self._env, **own, "PATH": f"{release.bin}:{os.environ['PATH']}"}

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    # --- what happens meanwhile

    def prepare(self) -> None:
        """The old release, with a key, a reviewer, and two processes of each kind."""
        self.command(self._old, "migrate")
        scopes = [word for scope in ("submit", "read", "review") for word in ("--scope", scope)]
        self.key = self.command(self._old, "keys", "add", "platform", *scopes)
        self.command(self._old, "users", "add", REVIEWER, "Ada", "--role", "reviewer", "--no-password")
        for name in ("web-1", "web-2", "worker-1", "worker-2", "sweeper"):
            self.start(name, self._old)

    def ready_after(self, part: str, more: int) -> None:
        """Wait until so many more cases are ready, whoever analyses them."""
        before, deadline = self._ready(), time.monotonic() + PATIENCE
        while self._ready() < before + more:
            assert time.monotonic() < deadline, f"{part}: {self._ready() - before} of {more} became ready"
            time.sleep(0.2)
        self.report.ready[part] = self._ready() - before
        self.look_for_fallen()

    def _ready(self) -> int:
        with self._database.transaction() as session:
            return session.scalar(text("SELECT count(*) FROM cases WHERE ready_at IS NOT NULL")) or 0

    def migrate(self) -> None:
        began = time.monotonic()
        self.command(self._new, "migrate")
        self.report.migration_seconds = time.monotonic() - began

    def decide_one(self, api: str) -> UUID:
        """A person decides a case that waits, through this API."""
        with self._database.transaction() as session:
            open_one = "SELECT id FROM cases WHERE state = 'ready' ORDER BY ready_at LIMIT 1"
            case_id = session.scalars(text(open_one)).one()
        with BonaFide(self._url(api), self.key) as client:
            claim = client.claim(case_id, reviewer=REVIEWER)
            client.decide(
                case_id, "cannot_tell", reviewer=REVIEWER, claim=claim, reason="it shows too little"
            )
        self.report.decided += 1
        return case_id

    def appeal(self, case_id: UUID, api: str) -> None:
        """What was decided under one release is appealed against under another."""
        with BonaFide(self._url(api), self.key) as client:
            client.appeal(case_id, "it is my own picture")
            assert client.case(case_id).state == "ready"

    def audit(self, accepted: set[UUID]) -> None:
        """Wait until every accepted case is before a person, and count what is not as it must be."""
        deadline = time.monotonic() + PATIENCE
        while self._ready() < len(accepted) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.look_for_fallen()
        with self._database.transaction() as session:
            rows = {row.id: row for row in session.execute(_ENDS)}
            broken = [one for one in accepted if read_chain(session, one).broken_at is not None]
        report = self.report
        report.accepted = len(accepted)
        report.lost = sum(one not in rows or rows[one].ready_at is None for one in accepted)
        report.duplicated = sum(row.analyses > 1 or row.ends > 1 for row in rows.values()) + len(
            rows.keys() - accepted
        )
        report.chains_broken = len(broken)
        self._database.close()


_ENDS = text("""
    SELECT c.id, c.ready_at, (SELECT count(*) FROM analyses a WHERE a.case_id = c.id) AS analyses,
           (SELECT count(*) FROM events e WHERE e.case_id = c.id AND e.kind IN ('analyzed', 'refused')) AS ends
    FROM cases c
""")


class Platform:
    """Flags a picture every so often, by whichever API answers, as behind a balancer."""

    def __init__(self, addresses: Addresses, urls: list[str], key: str, *, every: float) -> None:
        settings = make_settings(addresses.database_url, addresses.broker_url, addresses)
        self._storage = Storage(settings)
        self._urls, self._every = urls, every
        self._headers = {"Authorization": f"Bearer {key}"}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._flag)
        self.accepted: set[UUID] = set()
        self.refused: Counter[str] = Counter()
        self.longest_gap = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _flag(self) -> None:
        chance, last = random.Random(0), time.monotonic()
        for number in itertools.count():
            if self._over.wait(self._every):
                return
            picture = portrait(chance) if number % 4 == 0 else landscape(chance)
            image = self._storage.put_image(f"upgrade/{number:05d}.jpg", picture, "image/jpeg")
            body = {"image": {"bucket": image.bucket, "key": image.key}, "external_id": f"upgrade-{number}"}
            if self._submit(body):
                last, gap = time.monotonic(), time.monotonic() - last
                self.longest_gap = max(self.longest_gap, gap)

    def _submit(self, body: dict[str, Any]) -> bool:
        """To one API, and to the other when that one is away. Both away is a refusal, and is counted."""
        said = "nobody answers"
        for url in random.sample(self._urls, len(self._urls)):
            try:
                answer = httpx.post(f"{url}/v1/cases", json=body, headers=self._headers, timeout=60)
            except httpx.TransportError:
                continue
            if answer.status_code in (200, 202):
                self.accepted.add(UUID(answer.json()["id"]))
                return True
            said = f"{answer.status_code} {answer.json().get('code')}"
        self.refused[said] += 1
        return False


def upgrade(
    folder: Path, *, cases: int, every: float = 0.3, say: Callable[[str], None] = lambda what: None
) -> Report:
    """The whole road, under load; about `cases` of them become ready on the way. Raise NoHistory."""
    began = time.monotonic()
    say("building and installing both releases")
    old, new = release_of_commit(folder), release_of_tree(folder)
    part = max(2, cases // 6)
    with Stack(folder / "stack", durable=False) as stack:
        trial = Trial(stack, old, new)
        say(f"starting {old.name}")
        trial.prepare()
        platform = Platform(
            trial._addresses, [trial._url(name) for name in trial._ports], trial.key, every=every
        )
        platform.start()
        try:
            say("the old release serves")
            trial.ready_after("old release, old schema", part)
            first = trial.decide_one("web-1")
            say("the new release's migrations run beside it")
            trial.migrate()
            trial.ready_after("old release, new schema", part)
            say("rolling restart")
            for name in ("web-1", "web-2", "worker-1"):
                trial.replace(name, new)
            trial.appeal(first, "web-1")
            trial.ready_after("an old worker beside a new one", part)
            for name in ("worker-2", "sweeper"):
                trial.replace(name, new)
            trial.decide_one("web-2")
            trial.ready_after("new release", part)
            say("one worker is taken back, and forward again")
            trial.replace("worker-1", old)
            trial.ready_after("a worker taken back", part)
            trial.replace("worker-1", new)
            trial.ready_after("forward again", part)
        finally:
            platform.stop()
        trial.audit(platform.accepted)
        end_at_once(stack)
    trial.report.refused, trial.report.longest_gap = dict(platform.refused), platform.longest_gap
    trial.report.seconds = time.monotonic() - began
    return trial.report
