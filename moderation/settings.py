"""What differs per installation: one frozen object, read from the environment at the edges and passed in.

Every setting is an environment variable `BONAFIDE_<NAME>`. `bonafide up` writes the ones of its servers to
`.bonafide/stack.env`, which is read too, so that other commands in the same folder find the running stack;
a variable in the environment always wins. A secret may come from a file: `BONAFIDE_<NAME>_FILE` names it.
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
#: The longest that a setting may say: a hundred years, and a year. What is longer is a slip, and what Postgres is to
#: count back from now by it may lie before all its calendar.
_DAYS_AT_MOST, _SECONDS_AT_MOST = 36_500, 366 * 86_400
#: Bytes of a secret's file that are read. A longer one is something else.
_SECRET_AT_MOST = 65_536
#: Variables of ours that are no settings: the file of settings, the annotator's key (`bonafide dfa instruct`) and those
#: of tests. And what Kubernetes tells every pod of services whose names begin with ours.
_NO_SETTINGS = re.compile(
    r"BONAFIDE_(ENV_FILE|ANNOTATOR_KEY|TEST_.*|.*_SERVICE_HOST|.*_SERVICE_PORT(_.*)?|.*_PORT_\d+_[A-Z]+(_[A-Z]+)?)"
)
#: Addresses that are shown and logged, so that no password may stand in them.
_WEB_ADDRESSES = (
    "s3_endpoint_url",
    "s3_public_endpoint_url",
    "oidc_issuer",
    "otlp_endpoint",
    "bridge_queue_url",
)


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets from files, as Docker and Kubernetes hand them out, named by the variables of another source."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str | None]) -> None:
        super().__init__(settings_cls)
        #: By their names in lower case, as pydantic-settings keeps them.
        self._variables = variables

    def __call__(self) -> dict[str, Any]:
        """Raise SetupProblem when a file cannot be used, or a secret is there both ways."""
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
    """What the file holds, without the white space around it: editors end files with a new line."""
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
        # What is refused may be a password, and errors end up in logs.
        hide_input_in_errors=True,
    )

    _unknown: tuple["UnknownSetting", ...] = PrivateAttr(())

    # --- where things are
    database_url: SecretStr = Field(
        SecretStr("postgresql://localhost/bonafide"),
        description="Postgres, the truth. A libpq URL, of several hosts too, or libpq's keywords.",
    )
    broker_url: SecretStr = Field(
        SecretStr("redis://localhost:6379/0"),
        description="Redis or Valkey, the doorbell: redis://, valkey://, over TLS rediss://, by a socket unix://. "
        "Losing it loses nothing.",
    )
    s3_endpoint_url: str | None = Field(None, description="An S3-compatible store. Unset: AWS.")
    s3_public_endpoint_url: str | None = Field(
        None,
        description="The same store as browsers and platforms reach it: for signed URLs. Unset: the one above.",
    )
    s3_region: str = Field("us-east-1", description="Region for signing.")
    s3_access_key_id: str | None = Field(
        None, description="Unset: the usual AWS chain (role, profile, AWS_* variables)."
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="Goes with the access key id.")
    s3_buckets: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Comma-separated allow-list. No image is read from any other bucket."
    )
    s3_upload_bucket: str | None = Field(
        None, description="Where `POST /v1/uploads` puts images. Unset: the first of S3_BUCKETS."
    )
    api_url: str = Field("http://127.0.0.1:8000", description="For the client and the commands that use it.")
    api_key: SecretStr | None = Field(None, description="For the client and the commands that use it.")
    bridge_queue_url: str | None = Field(
        None, description="The SQS queue that `bonafide bridge sqs` reads when none is named."
    )

    # --- the model
    bundle: str = Field(
        "small",
        description="A bundle folder, `small` or `mini` (both shipped), or a hub id with a pinned revision.",
    )
    device: str = Field("auto", description="`cpu`, `cuda`, `cuda:1` … `auto` takes a GPU when there is one.")
    faces_at_most: int = Field(
        32,
        ge=1,
        le=64,
        description="Faces judged per image, the largest first. All that are found are counted.",
    )
    early_exit: float = Field(
        0.3, ge=0, le=1, description="A face whose score is lower is asked for no technique and no rationale."
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The verdict is deepfake from this score on. Unset: the bundle's own, else one half.",
    )
    band: float = Field(
        0.02,
        ge=0,
        le=1,
        description="A score closer to the threshold than this is `near_threshold`. A bundle's own zone stays.",
    )
    effect: Literal["always", "on_open", "never"] = Field(
        "on_open",
        description="When it is measured whether a score depends on the regions that are named: with every analysis, "
        "when a reviewer first opens the case, or never.",
    )
    effect_artifacts: int = Field(
        3, ge=1, le=9, description="For how many artifacts of a face, at most. Each takes six verdicts more."
    )
    float8: bool = Field(
        default=False,
        description="Take the decoder's products in eight bits, on a GPU that has them; calibrate the bundle again.",
    )

    # --- images
    image_max_bytes: int = Field(
        32 * 2**20, ge=1024, description="A larger file is refused as `image_too_large`."
    )
    image_fetch_seconds: float = Field(
        60,
        gt=0,
        description="An image that storage sends in longer than this goes back into the line.",
    )
    image_max_pixels: int = Field(
        2**26, ge=4096, description="A larger picture is refused as `too_many_pixels`."
    )
    image_heic: bool = Field(
        default=False,
        description="Decode HEIC, with the extra `heic` installed. Off: libheif has a long record of faults.",
    )
    image_renditions: bool = Field(
        default=True,
        description="Keep a thumbnail of each case's picture in Postgres, and of TIFF and HEIC a copy that browsers"
        " show.",
    )
    image_rendition_days: int = Field(
        90,
        ge=1,
        le=_DAYS_AT_MOST,
        description="Days from a case's decision after which these are forgotten. Erasing and archiving take them at"
        " once.",
    )
    image_decode_children: bool = Field(
        default=True,
        description="Decode in child processes, so that a file which crashes or hangs a decoder harms no other.",
    )
    image_decode_seconds: float = Field(
        30,
        gt=0,
        description="A picture whose decoding takes longer is refused as `image_corrupt`. In children only.",
    )
    evidence: bool = Field(
        default=True,
        description="Gather facts beside the verdict: where a picture says it comes from, what its file shows."
        " In child processes only.",
    )
    evidence_trust_lists: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Comma-separated PEM files: whose Content Credentials count as signed by somebody known."
        " Unset: nobody's.",
    )
    evidence_private: bool = Field(
        default=False,
        description="Keep the place and the people's names that a file holds. Off: only that it holds some.",
    )
    evidence_seconds: float = Field(
        5, gt=0, le=600, description="Gathering evidence of one picture ends after so long, without evidence."
    )
    view_url_seconds: int = Field(
        300, ge=10, le=3600, description="How long a signed URL for viewing lives, in seconds."
    )
    upload_url_seconds: int = Field(
        900, ge=10, le=86400, description="How long a signed URL for uploading lives, in seconds."
    )

    # --- intake
    batch_items_at_most: int = Field(
        1000, ge=1, le=10_000, description="Items in one `POST /v1/cases/batch`."
    )
    intake_rate: str | None = Field(
        None,
        description='Cases that one API key\'s platform may submit, as in "1000/minute". Unset: any number.',
    )
    bells_at_most: int = Field(
        1000,
        ge=1,
        description="Messages kept in Redis for each lane, and for reruns; "
        "the rest of a backlog waits in Postgres alone.",
    )

    # --- leases and attempts
    lease_seconds: float = Field(
        60, gt=0.5, le=_SECONDS_AT_MOST, description="A worker's hold on a case, renewed every third of it."
    )
    attempts_at_most: int = Field(
        5, ge=1, le=100, description="Leases a case may use up before a person sees it without a verdict."
    )
    patience_seconds: float = Field(
        3600,
        ge=0,
        le=_SECONDS_AT_MOST,
        description="How long storage or the model may be unavailable before a person sees the case without a verdict.",
    )
    sweep_seconds: float = Field(2, gt=0, description="Between two looks of the sweeper.")
    ring_again_seconds: float = Field(
        30,
        gt=0,
        le=_SECONDS_AT_MOST,
        description="A waiting case whose bell is older than this and no longer on its queue is rung again.",
    )

    retention_days: Annotated[tuple[tuple[str, float], ...], NoDecode] = Field(
        (),
        description="Days that a decided case's texts are kept, per source: `profiles=90,*=365`. Unset: for ever.",
    )

    keep_hashes: bool = Field(
        default=False,
        description="Keep what an erased picture looks like (its PDQ hash), so that copies of it are still found.",
    )

    archive: str | None = Field(
        None,
        description="Where `bonafide archive` puts old cases: `BUCKET/PREFIX`, in a bucket that no image is read from.",
    )

    # --- people
    session_idle_seconds: float = Field(
        8 * 3600,
        ge=60,
        le=_SECONDS_AT_MOST,
        description="Without a request for so long, a person is signed out.",
    )
    session_seconds: float = Field(
        24 * 3600,
        ge=60,
        le=_SECONDS_AT_MOST,
        description="After so long a person signs in again, whatever they did.",
    )
    oidc_issuer: str | None = Field(
        None, description="An OpenID Connect provider that people may sign in with, by its issuer URL."
    )
    oidc_client_id: str | None = Field(None, description="This installation's name at that provider.")
    oidc_client_secret: SecretStr | None = Field(None, description="Goes with the client id.")

    # --- webhooks
    webhook_private_targets: bool = Field(
        default=False,
        description="Send webhooks to private and loopback addresses, and over plain http, too.",
    )
    webhook_log_days: int = Field(
        30,
        ge=1,
        le=_DAYS_AT_MOST,
        description="Days that the log keeps what was delivered. What was given up stays.",
    )

    # --- review
    claim_seconds: float = Field(
        600,
        gt=1,
        le=_SECONDS_AT_MOST,
        description="A reviewer's hold on a case, renewed while they work on its page.",
    )
    undo_seconds: float = Field(
        60,
        ge=0,
        le=_SECONDS_AT_MOST,
        description="How long a decision can be taken back by who made it. Platforms are told afterwards.",
    )
    reason_required: Literal["never", "disagreeing", "always"] = Field(
        "disagreeing",
        description="When a decision needs a reason: never, when it is not what the verdict says, or always.",
    )
    blind_first_share: float = Field(
        0.1, ge=0, le=1, description="Share of cases that are judged before their verdict is shown."
    )
    second_review_share: float = Field(
        0.05, ge=0, le=1, description="Share of decisions that another person reviews too."
    )
    close_aside_hours: Annotated[tuple[tuple[Literal["refused", "no_face"], float], ...], NoDecode] = Field(
        (),
        description="Hours after which what stands aside is closed by rule, as cannot tell: "
        "`refused=72,no_face=168`. Unset: never.",
    )

    # --- the worker
    candidate: str | None = Field(
        None,
        description="A second bundle that workers hold beside `BONAFIDE_BUNDLE`: see `bonafide bundles`. Unset: none.",
    )
    worker_threads: int = Field(
        16, ge=1, le=256, description="Images fetched and decoded at once per worker process."
    )
    batch_wait_seconds: float = Field(
        0.01, ge=0, le=1, description="How long the engine waits for a fuller batch when idle."
    )
    engine_timeout_seconds: float = Field(
        120,
        gt=0,
        le=_SECONDS_AT_MOST,
        description="A model step that takes longer, or an image ten times as long, ends the worker process.",
    )
    breaker_failures: int = Field(
        20,
        ge=1,
        description="After so many analyses in a row that fail in the model a worker takes no more work.",
    )
    breaker_seconds: float = Field(
        60,
        gt=0,
        le=_SECONDS_AT_MOST,
        description="Then it tries one case again, after so long; twice as long each time it fails.",
    )
    start_wait_seconds: float = Field(
        30,
        ge=0,
        description="How long a starting worker waits for Postgres and for the migrations of its release.",
    )
    drain_seconds: float = Field(
        25, ge=0, description="After SIGTERM: finish for this long, then hand the leases back."
    )
    ready_file: Path | None = Field(
        None, description="Exists while the worker has its bundle loaded and takes work."
    )
    alive_file: Path | None = Field(
        None, description="Touched while the worker's loop and engine move; for liveness probes."
    )
    metrics_port: int | None = Field(
        None, description="Prometheus port of the worker and of the sweeper. Unset: none."
    )

    # --- everything else
    log_format: Literal["console", "json"] = Field("console", description="`json` for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    otlp_endpoint: str | None = Field(
        None,
        description="Where traces go, as `http://collector:4318`, with the extra `traces` installed. Unset: nowhere.",
    )

    @field_validator("s3_buckets", "evidence_trust_lists", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("close_aside_hours", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        if isinstance(value, str):
            rules = [
                tuple(part.strip() for part in rule.split("=")) for rule in value.split(",") if rule.strip()
            ]
            if not all(len(rule) == 2 for rule in rules):
                raise ValueError('it is written as "refused=HOURS,no_face=HOURS"')
            return tuple(rules)
        return value

    @field_validator("close_aside_hours")
    @classmethod
    def _after_a_while(cls, value: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        if not all(1 <= hours <= 24 * _DAYS_AT_MOST for _, hours in value):
            raise ValueError("a person has at least an hour to look; to close nothing by rule, name no hours")
        if len({why for why, _ in value}) < len(value):
            raise ValueError("one of them is named twice")
        return value

    @field_validator("retention_days", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if isinstance(value, str):
            pairs = [
                [part.strip() for part in pair.rsplit("=", 1)] for pair in value.split(",") if pair.strip()
            ]
            if not all(len(pair) == 2 for pair in pairs):
                raise ValueError('it is written as "SOURCE=DAYS,*=DAYS"')
            return tuple(tuple(pair) for pair in pairs)
        return value

    @field_validator("retention_days")
    @classmethod
    def _kept_for_a_while(cls, value: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        # Of no days or fewer every decided case would be past due, and what is erased does not come back.
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
        from limits import (
            parse_many,  # slow to import, for every command: only who sets a rate waits
        )

        rates = parse_many(value)
        if len(rates) != 1 or rates[0].amount < 1:
            raise ValueError('it is one rate of at least one case, as in "1000/minute"')
        return value

    @field_validator("database_url", "broker_url")
    @classmethod
    def _readable(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        """Every address is read at the start: what is wrong with it is said then, and not when it is used."""
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
            return None  # set to nothing, as `${STORE:-}` does where nobody chose one
        found = re.match(r"https?://([^/?#]+)", value.strip(), re.IGNORECASE)
        if found is None:
            raise ValueError("it is no address of the form https://HOST or http://HOST:PORT")
        if "@" in found[1]:
            raise ValueError("it holds a user or a password, which are not for an address that is shown")
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
        """What is in the environment wins over the env file, whether it is a value or names a secret's file."""
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
        """Variables that look like settings and are none: nothing reads them."""
        return self._unknown

    @property
    def upload_bucket(self) -> str | None:
        return self.s3_upload_bucket or (self.s3_buckets[0] if self.s3_buckets else None)


@dataclass(frozen=True)
class UnknownSetting:
    """A variable that is named like a setting."""

    name: str
    nearest: str | None  # None when no setting has a name like it

    def __str__(self) -> str:
        return f"{self.name} is no setting" + (f": did you mean {self.nearest}?" if self.nearest else "")


def _unknown_settings(variables: Mapping[str, str | None]) -> tuple[UnknownSetting, ...]:
    known = {f"{_PREFIX}{name}".upper() for name in Settings.model_fields}
    files = {
        f"{_PREFIX}{name}_FILE".upper() for name, field in Settings.model_fields.items() if _is_secret(field)
    }
    strangers = [
        name
        for name, value in ((name.upper(), value or "") for name, value in variables.items())
        if name.startswith(_PREFIX)
        and name not in known | files
        and not _NO_SETTINGS.fullmatch(name)
        and not (name.endswith("_PORT") and "://" in value)
    ]
    return tuple(
        UnknownSetting(
            name, next(iter(get_close_matches(name, sorted(known | files), n=1, cutoff=0.8)), None)
        )
        for name in sorted(set(strangers))
    )


def read_settings(env_file: Path | None = None) -> Settings:
    """Read the environment once. Raise SetupProblem naming each variable that cannot be used."""
    chosen = env_file or Path(os.environ.get("BONAFIDE_ENV_FILE", STACK_ENV))
    file = chosen if chosen.is_file() else None
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
    """The settings of this process, for the edges: `cli`, `web` and `worker`."""
    return read_settings()
