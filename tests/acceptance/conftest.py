"""The whole system as real processes, shared by the tests that follow an image through it."""

from collections.abc import Iterator

import pytest

from moderation.client import BonaFide
from moderation.database.connection import Database
from moderation.local import Stack, System, open_folder, start_system
from tests.acceptance.flood import QUICK
from tests.conftest import end_at_once


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with Stack(open_folder(tmp_path_factory.mktemp("system")), durable=False) as stack:
        yield start_system(stack, overrides=QUICK)
        end_at_once(stack)


@pytest.fixture
def client(system: System) -> Iterator[BonaFide]:
    with BonaFide(system.url, system.key) as opened:
        yield opened


@pytest.fixture
def owner(system: System) -> Iterator[Database]:
    """The system's database, seen by its owner."""
    database = Database(system.env["BONAFIDE_DATABASE_URL"], pool_size=1)
    yield database
    database.close()
