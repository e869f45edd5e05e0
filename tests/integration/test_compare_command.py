"""`bonafide bundles compare`, on a real Postgres."""

import json
import re
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from moderation.cli.main import app
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.settings import Settings
from moderation.settings import settings as read_settings
from tests.builders import a_verdict, bona_fide
from tests.integration.beside import NEW, both, on_trial
from tests.integration.conftest import enrolled
from tests.integration.deciding import a_review, decide


@pytest.fixture
def runner(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    monkeypatch.setenv("BONAFIDE_DATABASE_URL", settings.database_url.get_secret_value())
    read_settings.cache_clear()
    yield CliRunner()
    read_settings.cache_clear()


def test_the_command_counts_for_machines(database: Database, settings: Settings, runner: CliRunner) -> None:
    on_trial(database)
    review, ada = a_review(database, settings), enrolled(database)
    decide(review, database, ada, both(database, a_verdict(score=0.9), bona_fide(0.1)), Outcome.BONA_FIDE)
    both(database, a_verdict(score=0.9), a_verdict(score=0.8))

    reply = runner.invoke(app, ["bundles", "compare", "old 1", NEW[:12], "--json"], catch_exceptions=False)

    said = json.loads(reply.stdout)
    assert (said["first"]["name"], said["second"]["fingerprint"], said["pictures"]) == ("old 1", NEW, 2)
    assert said["agreement"] == pytest.approx(
        {"share": 0.5, "low": 0.0945, "high": 0.9055, "count": 1, "of": 2}, abs=1e-3
    )
    assert sum(cell["pictures"] for cell in said["labels"]) == 2
    assert {"first": "deepfake", "second": "bona_fide", "pictures": 1} in said["labels"]
    assert said["score_shift"]["mean"]["value"] == pytest.approx(-0.45)
    assert said["engine_seconds"]["ratio"]["value"] == pytest.approx(2.0)
    assert said["decided"]["overturned"]["first"]["share"] == 1.0
    assert (said["decided"]["only_second_right"], said["decided"]["mcnemar"]["exact_p"]) == (1, 1.0)
    assert (said["disagreed"], said["disagreements"][0]["decided"]) == (1, "bona_fide")


def test_the_command_counts_for_people(database: Database, runner: CliRunner) -> None:
    on_trial(database)
    case_id = both(database, a_verdict(score=0.9), bona_fide(0.1))

    reply = runner.invoke(
        app, ["bundles", "compare", "old 1", "new 2"], env={"COLUMNS": "160"}, catch_exceptions=False
    )

    assert "1 pictures that both analysed" in reply.stdout
    assert re.search(r"the same label\s*│ 0.0%\s*│ 0.0% to 79.3%\s*│ 1", reply.stdout)
    assert str(case_id) in reply.stdout


def test_the_command_says_when_there_is_nothing_to_compare(database: Database, runner: CliRunner) -> None:
    on_trial(database)
    both(database, a_verdict(), bona_fide())

    reply = runner.invoke(
        app, ["bundles", "compare", "old 1", "new 2", "--until", "2020-01-02", "--since", "2020-01-01"]
    )

    assert (reply.exit_code, "Nothing to compare" in reply.stdout) == (0, True)
