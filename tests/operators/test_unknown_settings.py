"""Variables that look like settings and are none are named: whoever wrote them believes that they do something."""

import logging
import sys
import threading
from pathlib import Path

import pytest
import structlog

from moderation.cli.doctor import examine
from moderation.logs import configure_logs
from moderation.settings import Settings, read_settings


def test_a_variable_that_is_no_setting_is_named_with_the_nearest_that_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "some.env"
    file.write_text("BONAFIDE_BUNDEL=mini\nBONAFIDE_API_KEY_FILES=/run/key\nOTHERS=1\n")
    monkeypatch.setenv("BONAFIDE_LEASE_SECOND", "5")
    monkeypatch.setenv("BONAFIDE_XYZZY", "1")

    named = {one.name: one.nearest for one in read_settings(file).unknown}

    assert named == {
        "BONAFIDE_BUNDEL": "BONAFIDE_BUNDLE",
        "BONAFIDE_API_KEY_FILES": "BONAFIDE_API_KEY_FILE",
        "BONAFIDE_LEASE_SECOND": "BONAFIDE_LEASE_SECONDS",
        "BONAFIDE_XYZZY": None,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("BONAFIDE_LEASE_SECONDS", "60", id="a setting"),
        pytest.param("bonafide_lease_seconds", "60", id="a setting in small letters"),
        pytest.param("BONAFIDE_ENV_FILE", "/nowhere", id="the file of settings"),
        pytest.param("BONAFIDE_TEST_CHROMIUM", "/usr/bin/chromium", id="for tests"),
        pytest.param("BONAFIDE_ANNOTATOR_KEY", "k", id="of another command"),
        pytest.param("BONAFIDE_CONSOLE_SERVICE_HOST", "10.0.0.1", id="a Kubernetes service"),
        pytest.param("BONAFIDE_CONSOLE_SERVICE_PORT_HTTP", "8000", id="its named port"),
        pytest.param("BONAFIDE_CONSOLE_PORT", "tcp://10.0.0.1:8000", id="its address"),
        pytest.param("BONAFIDE_CONSOLE_PORT_8000_TCP_ADDR", "10.0.0.1", id="the same in parts"),
        pytest.param("OTHER_LEASE_SECOND", "1", id="somebody else's"),
    ],
)
def test_what_somebody_reads_is_not_named(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert name.upper() not in {one.name for one in read_settings(tmp_path / "no.env").unknown}


def test_doctor_and_every_start_name_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BONAFIDE_LEASE_SECOND", "5")
    monkeypatch.setenv("BONAFIDE_LOG_FORMAT", "json")
    for name in ("database_url", "broker_url"):
        monkeypatch.setenv(f"BONAFIDE_{name.upper()}", getattr(settings, name).get_secret_value())
    # What the logs of a process change for good is put back afterwards.
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    chosen = read_settings(tmp_path / "no.env")

    configure_logs(chosen)
    logging.captureWarnings(capture=False)
    logging.getLogger().handlers.clear()
    structlog.reset_defaults()
    found = {one.part: one for one in examine(chosen)}["settings"]

    words = "BONAFIDE_LEASE_SECOND is no setting: did you mean BONAFIDE_LEASE_SECONDS?"
    assert words in capfd.readouterr().err
    assert (found.ok, words in found.words) == (False, True)
