"""Settings come from the environment, from an env file, and secrets from files of their own."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from moderation.errors import SetupProblem
from moderation.local import service_env
from moderation.settings import Settings, read_settings

SECRETS = sorted(
    name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An env file that is not there, and none of our secrets in the environment."""
    for name in SECRETS:
        monkeypatch.delenv(f"BONAFIDE_{name.upper()}", raising=False)
    return tmp_path / "no.env"


def _secret(chosen: Settings, name: str) -> str:
    value = getattr(chosen, name)
    assert isinstance(value, SecretStr)
    return value.get_secret_value()


def test_the_secrets_are_known() -> None:
    assert {"database_url", "broker_url", "s3_secret_access_key", "api_key"} <= set(SECRETS)


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_may_come_from_a_file(name: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = nowhere.with_name("secret")
    secret = "postgresql://u:s3cret@host/d" if name == "database_url" else "redis://:s3cret@host/0"
    file.write_text(f"{secret}\n")
    monkeypatch.setenv(f"BONAFIDE_{name.upper()}_FILE", str(file))

    assert _secret(read_settings(nowhere), name) == secret


def test_a_secret_that_is_there_twice_stops_the_process(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = nowhere.with_name("secret")
    file.write_text("one")
    monkeypatch.setenv("BONAFIDE_API_KEY_FILE", str(file))
    monkeypatch.setenv("BONAFIDE_API_KEY", "another")

    with pytest.raises(SetupProblem, match="BONAFIDE_API_KEY and BONAFIDE_API_KEY_FILE are both set"):
        read_settings(nowhere)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "cannot be read", id="is not there"),
        pytest.param(b" \n", "empty", id="is empty"),
        pytest.param(b"\xff\xfe", "no text", id="is no text"),
        pytest.param(b"x" * 70_000, "too long", id="is something else"),
    ],
)
def test_a_file_that_holds_no_secret_stops_the_process_with_its_name(
    content: bytes | None, words: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = nowhere.with_name("secret")
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("BONAFIDE_DATABASE_URL_FILE", str(file))

    with pytest.raises(SetupProblem, match=f"BONAFIDE_DATABASE_URL_FILE .*{words}") as problem:
        read_settings(nowhere)
    assert str(file) in str(problem.value)


def test_a_file_named_in_the_environment_wins_over_the_env_file(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, env_file = nowhere.with_name("secret"), nowhere.with_name("stack.env")
    file.write_text("from the secret's file")
    env_file.write_text("BONAFIDE_API_KEY=from the env file\n")
    monkeypatch.setenv("BONAFIDE_API_KEY_FILE", str(file))

    assert _secret(read_settings(env_file), "api_key") == "from the secret's file"


def test_an_env_file_may_name_a_secrets_file_and_the_environment_wins_over_it(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, env_file = nowhere.with_name("secret"), nowhere.with_name("stack.env")
    file.write_text("from the secret's file")
    env_file.write_text(f"BONAFIDE_API_KEY_FILE={file}\n")

    assert _secret(read_settings(env_file), "api_key") == "from the secret's file"

    monkeypatch.setenv("BONAFIDE_API_KEY", "from the environment")

    assert _secret(read_settings(env_file), "api_key") == "from the environment"


def test_what_is_no_secret_comes_from_no_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = nowhere.with_name("secret")
    file.write_text("somewhere")
    monkeypatch.setenv("BONAFIDE_BUNDLE_FILE", str(file))
    monkeypatch.delenv("BONAFIDE_BUNDLE", raising=False)

    assert read_settings(nowhere).bundle == Settings.model_fields["bundle"].default


def test_a_stacks_own_secret_takes_the_place_of_a_named_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONAFIDE_BROKER_URL_FILE", "/run/secrets/broker")
    monkeypatch.setenv("BONAFIDE_READY_FILE", "/tmp/ready")

    env = service_env({"BONAFIDE_BROKER_URL": "redis://here"})

    assert "BONAFIDE_BROKER_URL_FILE" not in env
    assert (env["BONAFIDE_BROKER_URL"], env["BONAFIDE_READY_FILE"]) == ("redis://here", "/tmp/ready")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        pytest.param("RETENTION_DAYS", "*=-1", "greater than 0", id="every decided case would be past due"),
        pytest.param("RETENTION_DAYS", "profiles=90,*=0", "greater than 0", id="nothing would be kept"),
        pytest.param("RETENTION_DAYS", "*=9999999", "at most 36500", id="before all calendars"),
        pytest.param("WEBHOOK_LOG_DAYS", "99999999", "equal to 36500", id="a log older than webhooks"),
        pytest.param("ATTEMPTS_AT_MOST", "101", "equal to 100", id="a person would wait for weeks"),
        pytest.param("PUBLISH_AGAIN_SECONDS", "1e300", "equal to 31622400", id="no number of seconds"),
        pytest.param("RETENTION_DAYS", "*=nan", "finite", id="no number at all"),
        pytest.param("RETENTION_DAYS", "*=inf", "finite", id="for ever has another form"),
        pytest.param("RETENTION_DAYS", "profiles=90, profiles=30", "named twice", id="which of both?"),
        pytest.param("RETENTION_DAYS", "90", "SOURCE=DAYS", id="days of nothing"),
        pytest.param("RETENTION_DAYS", "=90", "without a source", id="days of a source without a name"),
        pytest.param("INTAKE_RATE", "a few", "a few", id="no rate"),
        pytest.param("INTAKE_RATE", "0/minute", "at least one case", id="a rate that lets nothing in"),
        pytest.param("INTAKE_RATE", "1000/minute;5/second", "one rate", id="of two only one would count"),
        pytest.param("BROKER_URL", "sentinel://host:26379", "Sentinel is not supported", id="Sentinel"),
        pytest.param("LEASE_SECONDS", "inf", "finite", id="a lease without an end"),
    ],
)
def test_a_setting_that_cannot_be_meant_stops_the_process_with_its_name(
    name: str, value: str, words: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"BONAFIDE_{name}", value)

    with pytest.raises(SetupProblem, match=f"BONAFIDE_{name}: .*{words}"):
        read_settings(nowhere)


def test_a_rate_and_days_of_several_sources_are_read(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONAFIDE_INTAKE_RATE", "1000/minute")
    monkeypatch.setenv("BONAFIDE_RETENTION_DAYS", "profiles=90, * = 365")

    chosen = read_settings(nowhere)

    assert chosen.intake_rate == "1000/minute"
    assert chosen.retention_days == (("profiles", 90.0), ("*", 365.0))
