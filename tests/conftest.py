"""Real servers for every test that needs them: embedded ones, or those that the environment names.

A test that needs a service skips on a machine where it cannot be started, and fails in CI.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from zlib import crc32

import psutil
import psycopg
import pytest
import redis

from moderation.database import schema
from moderation.database.connection import Database
from moderation.errors import SetupProblem
from moderation.local import BUCKET, Addresses, Stack, open_folder
from moderation.settings import Settings
from moderation.storage import Storage
from tests.browser import FLAGS, find_chromium
from tests.shares import Place, in_shares

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Quick to load and complete in itself. Tests of `small` name it.
os.environ.setdefault("BONAFIDE_BUNDLE", "mini")
# Before numpy and torch are loaded, here and in every process that a test starts. Tests of other processes run beside
# these: threads that wait for a core of theirs made the products of small matrices ten times as slow.
for _library in ("OPENBLAS", "OMP"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

#: Folders whose tests need a running system or a GPU, and fixtures that start a server or a browser or load a model.
SYSTEM_FOLDERS = {"acceptance", "chaos", "console", "gpu", "integration", "operators", "upgrade"}
HEAVY_FIXTURES = {"servers", "chromium", "tiny", "scaled_llava"}
#: Files that train, build or start processes for seconds. A single test of another file has the marker `slow`.
SLOW_FILES = (
    *(
        "test_wheel.py",
        "fuzz/*",
        "worker/test_decoding.py",
        "worker/test_evidence.py",
        "files/test_in_children.py",
    ),
    *("dfa/test_surroundings.py", "dfa/test_train_*.py", "dfa/test_redraw.py", "dfa/test_gather.py"),
    *("dfa/test_forgery_pairs.py", "dfa/test_small.py", "dfa/test_calibrate_command.py"),
    *("dfa/test_model_commands.py", "dfa/test_bench_r*.py", "dfa/test_free_talk.py", "dfa/test_faces.py"),
)

_HERE = Path(__file__).parent
_TEMPLATE = "bonafide_test_template"
#: Where files are memory, on Linux. A database is 400 files: to copy and to drop it takes 0.2 s of processor time on
#: ext4, and 0.02 s there. More than a thousand tests have one each.
_MEMORY = Path("/dev/shm")
#: Bytes that must be free in it. The servers of one process take 0.2 GB.
_MEMORY_NEEDED = 2 * 2**30


def pytest_configure() -> None:
    """Give root a temporary folder for each checkout.

    Pytest closes its folder to other users whenever a run starts. Under root our PostgreSQL is another user, and a run
    of another checkout would take its files away.
    """
    if os.geteuid() == 0 and "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        place = Path(tempfile.gettempdir()) / f"bonafide-tests-{crc32(bytes(Path(__file__))):08x}"
        place.mkdir(exist_ok=True)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(place)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave folders unread that hold no fast test: reading them takes longer than the fast tests do."""
    unread = collection_path.parent == _HERE and collection_path.name in SYSTEM_FOLDERS
    return True if unread and config.option.markexpr == "fast" else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test as fast when it starts no server and no browser, loads no model and does not take seconds."""
    assert isinstance(item, pytest.Function)
    place = item.path.relative_to(_HERE)
    starts = place.parts[0] in SYSTEM_FOLDERS or not HEAVY_FIXTURES.isdisjoint(item.fixturenames)
    slow = item.get_closest_marker("slow") is not None or any(map(place.match, SLOW_FILES))
    if not (starts or slow):
        item.add_marker("fast")


@pytest.hookimpl(trylast=True)  # what was left out is gone by then
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests for several processes. One alone runs them as they are found."""
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    if processes > 1:
        places = [
            Place(item.path.relative_to(_HERE).as_posix(), item.get_closest_marker("fast") is not None)
            for item in items
        ]
        items[:] = [items[index] for index in in_shares(places, processes)]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    named = _named_by_environment()
    if named is not None:
        yield named
        return
    try:
        with (
            _folder_in_memory() or nullcontext(open_folder(tmp_path_factory.mktemp("servers"))) as folder,
            Stack(folder, durable=False) as stack,
        ):
            yield stack.start_servers()
    except SetupProblem as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(problem))


def _folder_in_memory() -> AbstractContextManager[Path] | None:
    """A folder that is memory, gone afterwards. None where there is no such place, or too little of it."""
    if not (os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _MEMORY_NEEDED):
        return None
    for left in _MEMORY.glob("bonafide-tests-*"):
        if not psutil.pid_exists(int(left.name.rsplit("-", 1)[1])):  # its run was killed
            shutil.rmtree(left, ignore_errors=True)
    return _made(_MEMORY / f"bonafide-tests-{os.getpid()}")


@contextmanager
def _made(folder: Path) -> Generator[Path]:
    folder.mkdir(mode=0o755)  # PostgreSQL enters it as another user when we are root
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def end_at_once(stack: Stack) -> None:
    """Kill our own processes on a stack that nobody looks at any more.

    Their orderly end takes seconds, and has tests of its own. The servers end in order: a Postgres that is killed
    leaves its shared memory behind.
    """
    for one in stack._processes:
        if one.name not in ("postgres", "valkey", "store"):
            one.process.kill()


def _named_by_environment() -> Addresses | None:
    names = ("DATABASE_URL", "BROKER_URL", "S3_ENDPOINT_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY")
    values = [os.environ.get(f"BONAFIDE_TEST_{name}") for name in names]
    if not any(values):
        return None
    missing = [name for name, value in zip(names, values, strict=True) if not value]
    if missing:
        raise SetupProblem(f"BONAFIDE_TEST_{missing[0]} is missing: name all of {', '.join(names)}, or none")
    return Addresses(*[value or "" for value in values])


@pytest.fixture(scope="session")
def template(servers: Addresses) -> Iterator[str]:
    """A migrated database to copy from: a copy takes 20 ms, the migrations twenty times that."""
    _run(servers.database_url, f"DROP DATABASE IF EXISTS {_TEMPLATE}", f"CREATE DATABASE {_TEMPLATE}")
    database = Database(_database(servers.database_url, _TEMPLATE), pool_size=1)
    schema.upgrade(database)
    database.close()
    yield _TEMPLATE
    _run(servers.database_url, f"DROP DATABASE IF EXISTS {_TEMPLATE} WITH (FORCE)")


@contextmanager
def fresh_database(server_url: str, template: str) -> Generator[str]:
    """The URL of a migrated database that nobody else uses; gone afterwards."""
    name = f"bonafide_test_{secrets.token_hex(4)}"
    # As files: where nothing waits for a disk this is half the work of writing every page to the log too.
    _run(server_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield _database(server_url, name)
    _run(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(servers: Addresses, template: str) -> Iterator[str]:
    with fresh_database(servers.database_url, template) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, pool_size=5)
    yield opened
    opened.close()


@pytest.fixture
def broker_url(servers: Addresses) -> Iterator[str]:
    """An empty broker. With a broker of your own, its database is emptied: name one that holds nothing."""
    client = redis.Redis.from_url(servers.broker_url)
    client.flushdb()
    yield servers.broker_url
    client.flushdb()
    client.close()


@pytest.fixture
def settings(database_url: str, broker_url: str, servers: Addresses) -> Settings:
    return make_settings(database_url, broker_url, servers)


def make_settings(database_url: str, broker_url: str, servers: Addresses, **others: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": database_url,
        "broker_url": broker_url,
        "s3_endpoint_url": servers.s3_endpoint_url,
        "s3_access_key_id": servers.s3_access_key_id,
        "s3_secret_access_key": servers.s3_secret_access_key,
        "s3_buckets": BUCKET,
        # Which cases these shares choose depends on their random ids.
        "blind_first_share": 0.0,
        "second_review_share": 0.0,
        **others,
    }
    return Settings.model_validate(values)


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return Storage(settings)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is. Missing, its tests are skipped, and in CI they fail."""
    found = find_chromium()
    if found is None:
        said = "no Chromium here: `.ci/browser` installs Debian's, or name one with BONAFIDE_TEST_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    return found


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator["Browser"]:
    # Here: most tests need no browser, and run where there is no driver of one.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def samples() -> Path:
    return Path(__file__).parent.parent / "moderation" / "samples"


def _run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
