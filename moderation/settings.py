"""What differs per installation: one frozen object, read from the environment at the edges and passed in.

Every setting is an environment variable `BONAFIDE_<NAME>`. `bonafide up` writes the addresses of its servers to
`.bonafide/stack.env`. That file is read too, so that other commands in the same folder find the running stack; the
environment wins over it. A secret may come from a file: `BONAFIDE_<NAME>_FILE` names it.
`docs/settings.md` lists them all, and a test keeps it complete.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from moderation.addresses import read_broker, read_database
from moderation.errors import SetupProblem

#: Where `bonafide up` leaves the addresses of its servers. Relative to the folder a command runs in.
STACK_ENV = Path(".bonafide/stack.env")


_PREFIX = "BONAFIDE_"
#: No setting may be longer than a hundred years, or a year. More is a typing error, and may reach back before the
#: first date that Postgres knows.
_DAYS_AT_MOST, _SECONDS_AT_MOST = 36_500, 366 * 86_400
#: Bytes of a secret's file that are read. A longer file is no secret.
_SECRET_AT_MOST = 65_536
#: Variables with our prefix that are no settings: the file of settings, the annotator's key (`bonafide dfa instruct`),
#: those of tests, and those that Kubernetes gives every pod for services whose names begin with our prefix.
_NO_SETTINGS = re.compile(
    r"BONAFIDE_(ENV_FILE|ANNOTATOR_KEY|TEST_.*|.*_SERVICE_HOST|.*_SERVICE_PORT(_.*)?|.*_PORT_\d+_[A-Z]+(_[A-Z]+)?)"
)
#: Addresses that are shown and logged: they may hold no password.
_WEB_ADDRESSES = (
    "s3_endpoint_url", "s3_public_endpoint_url", "bridge_queue_url", "oidc_issuer", "otlp_endpoint",
)  # fmt: skip
#: How settings of several pairs are written.
_PAIRS = {"close_aside_hours": "refused=HOURS,no_face=HOURS", "retention_days": "SOURCE=DAYS,*=DAYS"}


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets from files, as Docker and Kubernetes provide them. The variables of another source name the files."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str | None]) -> None:
        super().__init__(settings_cls)
        #: By their names in lower case, as pydantic-settings keeps them.
        self._variables = variables

    def __call__(self) -> dict[str, Any]:
        """Raise SetupProblem when a file cannot be used, or when a secret is given both ways."""
        values = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in values.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = f"{_PREFIX}{field_name}".upper()
        path = self._variables.get(f"{variable}_FILE".lower())
        if not path or not _is_secret(field):
            return None, field_name, False
        if self._variables.get(variable.lower()):
            raise SetupProblem(f"{variable} and {variable}_FILE are both set: keep one of them")
        return _read_secret(f"{variable}_FILE", Path(path)), field_name, False


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


def _read_secret(variable: str, path: Path) -> str:
    """The file's text without the white space around it: editors end files with a new line."""
    try:
        with path.open("rb") as file:
            text = file.read(_SECRET_AT_MOST + 1).decode()
    except OSError as error:
        raise SetupProblem(f"{variable} names a file that cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise SetupProblem(f"{variable} names a file that is no text: {path}") from error
    if not text.strip() or len(text) > _SECRET_AT_MOST:
        raise SetupProblem(f"{variable} names a file that is empty or too long for a secret: {path}")
    return text.strip()


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        # A refused value may be a password, and errors are logged.
        hide_input_in_errors=True,
        # The text below a field is its description.
        use_attribute_docstrings=True,
    )

    _unknown: tuple["UnknownSetting", ...] = PrivateAttr(())

    # --- where things are
    database_url: SecretStr = SecretStr("postgresql://localhost/bonafide")
    """Postgres, the truth. A libpq URL, of several hosts too, or libpq's keywords."""
    broker_url: SecretStr = SecretStr("redis://localhost:6379/0")
    """Redis or Valkey, for messages: redis://, valkey://, TLS rediss://, socket unix://. Losing it loses nothing."""
    s3_endpoint_url: str | None = None
    """An S3-compatible store. Unset: AWS."""
    s3_public_endpoint_url: str | None = None
    """The same store as browsers and platforms reach it, for signed URLs. Unset: the one above."""
    s3_region: str = "us-east-1"
    """Region for signing."""
    s3_access_key_id: str | None = None
    """Unset: the usual AWS chain (role, profile, AWS_* variables)."""
    s3_secret_access_key: SecretStr | None = None
    """Goes with the access key id."""
    s3_buckets: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated allow-list. No image is read from any other bucket."""
    s3_upload_bucket: str | None = None
    """Where `POST /v1/uploads` puts images. Unset: the first of S3_BUCKETS."""
    api_url: str = "http://127.0.0.1:8000"
    """For the client and the commands that use it."""
    api_key: SecretStr | None = None
    """For the client and the commands that use it."""
    bridge_queue_url: str | None = None
    """The SQS queue that `bonafide bridge sqs` reads when none is named."""

    # --- the model
    bundle: str = "small"
    """A bundle folder, `small` or `mini` (both shipped), or a hub id with a pinned revision."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` … `auto` takes a GPU when there is one."""
    faces_at_most: int = Field(32, ge=1, le=64)
    """Faces judged per image, the largest first. All found faces are counted."""
    early_exit: float = Field(0.3, ge=0, le=1)
    """A face with a lower score is not asked for a technique or a rationale."""
    threshold: float | None = Field(None, ge=0, le=1)
    """The verdict is deepfake from this score on. Unset: the bundle's own threshold, or one half."""
    band: float = Field(0.02, ge=0, le=1)
    """A score closer to the threshold than this is `near_threshold`. A bundle's own zone still applies."""
    effect: Literal["always", "on_open", "never"] = "on_open"
    """When workers measure whether a score depends on the regions: always, once a reviewer opens the case, or never."""
    effect_artifacts: int = Field(3, ge=1, le=9)
    """For so many artifacts of a face, at most. Each needs six more verdicts."""
    float8: bool = False
    """Compute the decoder's products in eight bits, on a GPU that has them. Calibrate the bundle again."""

    # --- images
    image_max_bytes: int = Field(32 * 2**20, ge=1024)
    """A larger file is refused as `image_too_large`."""
    image_fetch_seconds: float = Field(60, gt=0)
    """An image that takes longer to arrive from storage returns to the line."""
    image_max_pixels: int = Field(2**26, ge=4096)
    """A larger picture is refused as `too_many_pixels`."""
    image_heic: bool = False
    """Decode HEIC, with the extra `heic` installed. Off by default: libheif has had many faults."""
    image_renditions: bool = True
    """Keep a thumbnail of each case's picture in Postgres, and for TIFF and HEIC a copy that browsers show."""
    image_rendition_days: int = Field(90, ge=1, le=_DAYS_AT_MOST)
    """These are deleted so many days after the case's decision. Erasing and archiving delete them at once."""
    image_decode_children: bool = True
    """Decode in child processes, so that a file that crashes or hangs a decoder harms no other."""
    image_decode_seconds: float = Field(30, gt=0)
    """A picture that takes longer to decode is refused as `image_corrupt`. Only in child processes."""
    evidence: bool = True
    """Gather facts beside the verdict: a picture's claimed origin, what its file shows. Only in child processes."""
    evidence_trust_lists: Annotated[tuple[Path, ...], NoDecode] = ()
    """Comma-separated PEM files with known signers of Content Credentials. Unset: none."""
    evidence_private: bool = False
    """Keep the place and the people's names in a file. Off: only note that it holds some."""
    evidence_seconds: float = Field(5, gt=0, le=600)
    """Gathering evidence about one picture stops after so long, without evidence."""
    view_url_seconds: int = Field(300, ge=10, le=3600)
    """How long a signed URL for viewing is valid, in seconds."""
    upload_url_seconds: int = Field(900, ge=10, le=86400)
    """How long a signed URL for uploading is valid, in seconds."""

    # --- intake
    batch_items_at_most: int = Field(1000, ge=1, le=10_000)
    """Items in one `POST /v1/cases/batch`."""
    intake_rate: str | None = None
    """Cases that one API key's platform may submit, as in "1000/minute". Unset: any number."""
    messages_at_most: int = Field(1000, ge=1)
    """Messages kept in Redis on each queue. The rest of a backlog waits in Postgres."""

    # --- leases and attempts
    lease_seconds: float = Field(60, gt=0.5, le=_SECONDS_AT_MOST)
    """A worker's hold on a case, renewed every third of it."""
    attempts_at_most: int = Field(5, ge=1, le=100)
    """Leases on a case before a person gets it without a verdict."""
    patience_seconds: float = Field(3600, ge=0, le=_SECONDS_AT_MOST)
    """How long storage or the model may be unavailable before a person gets the case without a verdict."""
    sweep_seconds: float = Field(2, gt=0)
    """Seconds between two looks of the sweeper."""
    publish_again_seconds: float = Field(30, gt=0, le=_SECONDS_AT_MOST)
    """Waiting work is published again when its message is older than this and no longer on its queue."""
    retention_days: Annotated[tuple[tuple[str, float], ...], NoDecode] = ()
    """Days that a decided case's texts are kept, per source: `profiles=90,*=365`. Unset: for ever."""
    keep_hashes: bool = False
    """Keep the PDQ hash of an erased picture, so that copies of it are still found."""
    archive: str | None = None
    """Where `bonafide archive` puts old cases: `BUCKET/PREFIX`, in a bucket without images."""

    # --- people
    session_idle_seconds: float = Field(8 * 3600, ge=60, le=_SECONDS_AT_MOST)
    """A person is signed out after so long without a request."""
    session_seconds: float = Field(24 * 3600, ge=60, le=_SECONDS_AT_MOST)
    """A person must sign in again after so long in any case."""
    oidc_issuer: str | None = None
    """The issuer URL of an OpenID Connect provider that people may sign in with."""
    oidc_client_id: str | None = None
    """This installation's name at that provider."""
    oidc_client_secret: SecretStr | None = None
    """Goes with the client id."""

    # --- webhooks
    webhook_private_targets: bool = False
    """Also send webhooks to private and loopback addresses, and over plain http."""
    webhook_log_days: int = Field(30, ge=1, le=_DAYS_AT_MOST)
    """Days that the log keeps delivered webhooks. Those that were given up stay."""

    # --- review
    claim_seconds: float = Field(600, gt=1, le=_SECONDS_AT_MOST)
    """A reviewer's hold on a case, renewed while they work on its page."""
    undo_seconds: float = Field(60, ge=0, le=_SECONDS_AT_MOST)
    """How long a reviewer can undo their decision. Platforms are told afterwards."""
    reason_required: Literal["never", "disagreeing", "always"] = "disagreeing"
    """When a decision needs a reason: never, when it differs from the verdict, or always."""
    blind_first_share: float = Field(0.1, ge=0, le=1)
    """Share of cases that are judged before their verdict is shown."""
    second_review_share: float = Field(0.05, ge=0, le=1)
    """Share of decisions that another person reviews too."""
    close_aside_hours: Annotated[tuple[tuple[Literal["refused", "no_face"], float], ...], NoDecode] = ()
    """Hours after which cases that stand aside are closed, as cannot tell: `refused=72,no_face=168`. Unset: never."""

    # --- the worker
    candidate: str | None = None
    """A second bundle that workers hold beside `BONAFIDE_BUNDLE`: see `bonafide bundles`. Unset: none."""
    worker_threads: int = Field(16, ge=1, le=256)
    """Images fetched and decoded at once per worker process."""
    batch_wait_seconds: float = Field(0.01, ge=0, le=1)
    """How long the engine waits for a fuller batch when idle."""
    engine_timeout_seconds: float = Field(120, gt=0, le=_SECONDS_AT_MOST)
    """A model step that takes longer ends the worker process, and so does an image that takes ten times as long."""
    breaker_failures: int = Field(20, ge=1)
    """A worker takes no more work after so many analyses in a row that fail in the model."""
    breaker_seconds: float = Field(60, gt=0, le=_SECONDS_AT_MOST)
    """Then it tries one case again after so long, and twice as long after each failure."""
    start_wait_seconds: float = Field(30, ge=0)
    """How long a starting worker waits for Postgres and for its release's migrations."""
    drain_seconds: float = Field(25, ge=0)
    """After SIGTERM: finish for this long, then release the leases."""
    ready_file: Path | None = None
    """This file exists while the worker has its bundle loaded and takes work."""
    alive_file: Path | None = None
    """This file is touched while the worker's loop and engine move; for liveness probes."""
    metrics_port: int | None = None
    """Prometheus port of the worker and of the sweeper. Unset: none."""

    # --- everything else
    log_format: Literal["console", "json"] = "console"
    """`json` for machines."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged."""
    otlp_endpoint: str | None = None
    """Where traces are sent, such as `http://collector:4318`, with the extra `traces` installed. Unset: nowhere."""

    @field_validator("s3_buckets", "evidence_trust_lists", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator(*_PAIRS, mode="before")
    @classmethod
    def _pairs(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [
            tuple(part.strip() for part in pair.rsplit("=", 1)) for pair in value.split(",") if pair.strip()
        ]
        if not all(len(pair) == 2 for pair in pairs):
            raise ValueError(f'it is written as "{_PAIRS[info.field_name or ""]}"')
        return tuple(pairs)

    @field_validator("close_aside_hours")
    @classmethod
    def _after_a_while(cls, value: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        if not all(1 <= hours <= 24 * _DAYS_AT_MOST for _, hours in value):
            raise ValueError("give people at least an hour to look; to close nothing by rule, name no hours")
        if len({why for why, _ in value}) < len(value):
            raise ValueError("a reason is named twice")
        return value

    @field_validator("retention_days")
    @classmethod
    def _kept_for_a_while(cls, value: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        # With zero days or fewer every decided case would be erased, and nothing brings it back.
        if not all(days > 0 for _, days in value):
            raise ValueError("days must be greater than 0; to keep texts for ever, name no days")
        if not all(days <= _DAYS_AT_MOST for _, days in value):
            raise ValueError(f"days must be at most {_DAYS_AT_MOST}; to keep texts for ever, name no days")
        if not all(source for source, _ in value):
            raise ValueError("days without a source: `*` stands for all that are not named")
        if len({source for source, _ in value}) < len(value):
            raise ValueError("a source is named twice")
        return value

    @field_validator("intake_rate")
    @classmethod
    def _one_rate(cls, value: str | None) -> str | None:
        if value is None:
            return None
        from limits import parse_many  # slow to import: only those who set a rate wait for it

        rates = parse_many(value)
        if len(rates) != 1 or rates[0].amount < 1:
            raise ValueError('give one rate of at least one case, as in "1000/minute"')
        return value

    @field_validator("database_url", "broker_url")
    @classmethod
    def _readable(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        """Read every address at the start, so that a wrong one is reported then and not at its first use."""
        read = read_database if info.field_name == "database_url" else read_broker
        try:
            read(value.get_secret_value())
        except SetupProblem as refused:
            raise ValueError(str(refused)) from None
        return value

    @field_validator(*_WEB_ADDRESSES)
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        if value is None or not value.strip():
            return None  # set to nothing, as `${STORE:-}` does when there is none
        found = re.match(r"https?://([^/?#]+)", value.strip(), re.IGNORECASE)
        if found is None:
            raise ValueError("it is no address of the form https://HOST or http://HOST:PORT")
        if "@" in found[1]:
            raise ValueError("it holds a user or a password, but this address is shown")
        return value.strip()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the env file, both with values and with names of secrets' files."""
        assert isinstance(env_settings, EnvSettingsSource)
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        return (
            init_settings,
            _SecretFiles(settings_cls, env_settings.env_vars),
            env_settings,
            _SecretFiles(settings_cls, dotenv_settings.env_vars),
            dotenv_settings,
        )

    @property
    def unknown(self) -> tuple["UnknownSetting", ...]:
        """Variables that look like settings but are none. Nothing reads them."""
        return self._unknown

    @property
    def upload_bucket(self) -> str | None:
        return self.s3_upload_bucket or (self.s3_buckets[0] if self.s3_buckets else None)


@dataclass(frozen=True)
class UnknownSetting:
    """A variable whose name begins like a setting's."""

    name: str
    nearest: str | None  # None when no setting has a similar name

    def __str__(self) -> str:
        return f"{self.name} is no setting" + (f": did you mean {self.nearest}?" if self.nearest else "")


def _unknown_settings(variables: Mapping[str, str | None]) -> tuple[UnknownSetting, ...]:
    known = {f"{_PREFIX}{name}".upper() for name in Settings.model_fields}
    files = {
        f"{_PREFIX}{name}_FILE".upper() for name, field in Settings.model_fields.items() if _is_secret(field)
    }
    strangers = {
        name
        for name, value in ((name.upper(), value or "") for name, value in variables.items())
        if name.startswith(_PREFIX)
        and name not in known | files
        and not _NO_SETTINGS.fullmatch(name)
        and not (name.endswith("_PORT") and "://" in value)
    }

    def nearest(name: str) -> str | None:
        return next(iter(get_close_matches(name, sorted(known | files), n=1, cutoff=0.8)), None)

    return tuple(UnknownSetting(name, nearest(name)) for name in sorted(strangers))


def read_settings(env_file: Path | None = None) -> Settings:
    """Read the environment once. Raise SetupProblem naming each variable that cannot be used."""
    path = env_file or Path(os.environ.get("BONAFIDE_ENV_FILE", STACK_ENV))
    file = path if path.is_file() else None
    try:
        made = Settings(_env_file=file)  # pyright: ignore[reportCallIssue]
        in_file = DotEnvSettingsSource(Settings, env_file=file).env_vars
        made._unknown = _unknown_settings({**in_file, **os.environ})  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return made
    except ValidationError as error:
        named = "; ".join(
            f"BONAFIDE_{str(e['loc'][0]).upper()}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise SetupProblem(f"these settings cannot be used: {named}") from error


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once. Only the edges call this: `cli`, `web` and `worker`."""
    return read_settings()
