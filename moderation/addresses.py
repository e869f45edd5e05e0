"""Reads the addresses of Postgres and the broker for all clients: kombu, redis-py, limits, SQLAlchemy, psycopg.

Each client reads a URL in its own way. This module accepts every spelling that one of them takes, and refuses an
address that they would read differently. The reason never quotes the address: a misspelled password may end up in the
port, the path or the query.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from moderation.errors import SetupProblem

#: The schemes of a broker's URL, and the connection that each means.
_TCP, _TLS, _SOCKET = "tcp", "tls", "socket"
_BROKERS = {
    **dict.fromkeys(("redis", "valkey"), _TCP),
    **dict.fromkeys(("rediss", "valkeys"), _TLS),
    # redis-py says unix://, limits redis+unix://, kombu redis+socket://.
    **dict.fromkeys(("unix", "redis+unix", "valkey+unix", "redis+socket", "valkey+socket"), _SOCKET),
}
#: How strictly the broker's certificate is checked: kombu's and redis-py's word for each way.
_CERTIFICATE = {"none", "optional", "required"}
#: Other options of TLS that kombu and redis-py share.
_TLS_TEXTS = {
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_ca_data",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_ciphers",
}
_TLS_OPTIONS = {"ssl_cert_reqs", "ssl_check_hostname"} | _TLS_TEXTS
_YES, _NO = {"1", "t", "true", "y", "yes"}, {"0", "f", "false", "n", "no"}

_HOW_TO_ESCAPE = (
    "within a user, a password or a path `%` is written %25, `@` %40, `/` %2F, `?` %3F, `#` %23 and `:` %3A"
)


@dataclass(frozen=True)
class BrokerAddress:
    """One Redis or Valkey server."""

    host: str  # of a socket: ""
    port: int
    socket: str | None  # the path of a Unix socket; None over TCP
    database: int
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    #: All options of TLS. None without TLS.
    tls: Mapping[str, str] | None = field(repr=False)

    @property
    def redis_url(self) -> str:
        """As redis-py reads it."""
        if self.socket is not None:
            return f"unix://{self._userinfo}{quote(self.socket)}?{urlencode({'db': self.database})}"
        return self._tcp_url

    @property
    def kombu_url(self) -> str:
        """As kombu and Celery read it."""
        if self.socket is not None:
            named = urlencode({"virtual_host": self.database})
            return f"redis+socket://{self._userinfo}{quote(self.socket)}?{named}"
        return self._tcp_url

    @property
    def _tcp_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        place = f"{self._userinfo}{host}:{self.port}/{self.database}"
        return f"redis://{place}" if self.tls is None else f"rediss://{place}?{urlencode(self.tls)}"

    @property
    def _userinfo(self) -> str:
        if self.username is None and self.password is None:
            return ""
        secret = "" if self.password is None else f":{quote(self.password, safe='')}"
        return f"{quote(self.username or '', safe='')}{secret}@"


def read_broker(text: str) -> BrokerAddress:
    """The server that a URL names, in any spelling of redis-py, kombu or limits. Raise SetupProblem.

    Over TLS the server's certificate is verified unless the URL says otherwise.
    """
    text = text.strip()
    if not text:
        raise SetupProblem("it is empty: name one server, as in redis://HOST:6379/0")
    scheme, _, rest = text.partition("://")
    kind = _BROKERS.get(scheme.lower())
    if "sentinel" in scheme.lower():
        raise SetupProblem(
            "Sentinel is not supported: name one Redis or Valkey server, as redis:// or rediss://"
        )
    if kind is None:
        raise SetupProblem(f"it begins with none of {', '.join(f'{name}://' for name in _BROKERS)}")
    if "#" in rest:
        raise SetupProblem(f"it has a `#`: {_HOW_TO_ESCAPE}")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    userinfo, at, place = authority.rpartition("@")
    if "@" in path and not at and (authority or kind != _SOCKET):
        raise SetupProblem(f"it has an `@` behind a `/`: {_HOW_TO_ESCAPE}")
    options = _broker_options(query, kind, has_user=bool(at))
    username, _, password = userinfo.partition(":")
    host, port = _host_and_port(place)
    if kind == _SOCKET and (place or not path):
        raise SetupProblem("a socket has a path and no host, as in unix:///run/redis.sock")
    return BrokerAddress(
        host="" if kind == _SOCKET else host,
        port=port,
        socket=f"/{unquote(path)}" if kind == _SOCKET else None,
        database=_database(options, "" if kind == _SOCKET else path),
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=_tls(options) if kind == _TLS else None,
    )


def _broker_options(query: str, kind: str, *, has_user: bool) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if "@" in query and not has_user and not options.keys() <= _TLS_OPTIONS:
        raise SetupProblem(f"it has an `@` behind a `?`: {_HOW_TO_ESCAPE}")
    if len(options) < len(pairs):
        raise SetupProblem("an option behind the `?` appears twice: keep one of them")
    if kind != _TLS and options.keys() & _TLS_OPTIONS:
        raise SetupProblem("it has options of TLS (ssl_…) but does not use TLS: write rediss://")
    known = {"db", "virtual_host"} | (_TLS_OPTIONS if kind == _TLS else set[str]())
    if not options.keys() <= known:
        # kombu fails on others, and waits and tries are our decision.
        raise SetupProblem(f"behind the `?` only these may stand: {', '.join(sorted(known))}")
    return options


def _host_and_port(place: str) -> tuple[str, int]:
    if ";" in place or "," in place:
        raise SetupProblem("it names several servers: name one")
    found = re.fullmatch(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]]*))(?::(?P<port>[^:]*))?", place)
    if found is None:
        raise SetupProblem(f"its host cannot be read; IPv6 addresses stand in [ ], and {_HOW_TO_ESCAPE}")
    port = found["port"] or "6379"
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SetupProblem(f"its port is no number from 1 to 65535; {_HOW_TO_ESCAPE}")
    return unquote(found["v6"] or found["host"]) or "localhost", int(port)


def _database(options: Mapping[str, str], path: str) -> int:
    named = {options[name] for name in ("db", "virtual_host") if name in options} | {path.strip("/")}
    numbers = {name.lstrip("/") for name in named} - {""}
    if len(numbers) > 1:
        raise SetupProblem("it names two databases: keep one of them")
    (number,) = numbers or {"0"}
    if not (number.isascii() and number.isdigit()):
        raise SetupProblem(f"its database is no number, as the 0 in redis://HOST:6379/0; {_HOW_TO_ESCAPE}")
    return int(number)


def _tls(options: Mapping[str, str]) -> dict[str, str]:
    """The options as both kombu and redis-py read them. The certificate is verified by default."""
    certificate = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if certificate not in _CERTIFICATE:
        raise SetupProblem(f"ssl_cert_reqs is none of {', '.join(sorted(_CERTIFICATE))}")
    check = options.get("ssl_check_hostname", "true").lower()
    if check not in _YES | _NO:
        raise SetupProblem("ssl_check_hostname is neither true nor false")
    return {
        "ssl_cert_reqs": certificate,
        "ssl_check_hostname": "false" if certificate == "none" or check in _NO else "true",
        **{name: value for name, value in options.items() if name in _TLS_TEXTS},
    }


# --- Postgres


_DATABASES = ("postgresql", "postgres")


def read_database(text: str) -> dict[str, str]:
    """The libpq parameters of an address, as psycopg takes them. Raise SetupProblem.

    An address is a libpq URL, also of several hosts; the same with a driver, as SQLAlchemy writes it
    (postgresql+psycopg://); or libpq's keywords (host=… dbname=…).
    """
    text = text.strip()
    if not text:
        raise SetupProblem("it is empty: write postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if found is None:
        return _parsed(text, "as keywords: a value with white space, a quote or a backslash is quoted")
    scheme, _, driver = found[1].lower().partition("+")
    if scheme not in _DATABASES or (driver and not driver.startswith("psycopg")):
        raise SetupProblem(f"it begins with none of {', '.join(f'{name}://' for name in _DATABASES)}")
    rest = text[found.end() :]
    _check_url(rest)
    return _parsed(f"postgresql://{rest}", f"as a URL: {_HOW_TO_ESCAPE}")


def _check_url(rest: str) -> None:
    """Refuse what libpq would misread, or report with part of a password in its message."""
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", rest):
        raise SetupProblem(f"it has a `%` without two hexadecimal digits: {_HOW_TO_ESCAPE}")
    # As in libpq, user and password end at an `@` before any `/`.
    user = re.match(r"[^@/]*@", rest)
    place = rest[user.end() :] if user else rest
    before, _, query = place.partition("?")
    hosts, _, database = before.partition("/")
    if "@" in hosts or "@" in database or "/" in database or (not user and "@" in query):
        raise SetupProblem(f"its host or database has an `@` or a `/`: {_HOW_TO_ESCAPE}")
    names = [pair.partition("=")[0] for pair in query.split("&")] if query else []
    if len(set(names)) < len(names):
        raise SetupProblem(
            "a parameter behind the `?` appears twice: write several hosts as host=A,B port=1,2"
        )
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {"ssl"}
    if not set(names) <= known:
        raise SetupProblem(f"behind the `?` is something that is no parameter of libpq; {_HOW_TO_ESCAPE}")


def _parsed(conninfo: str, how: str) -> dict[str, str]:
    try:
        named = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    except psycopg.Error:
        # Without libpq's message: it quotes the part that it cannot read, which may be in the password.
        raise SetupProblem(f"libpq cannot read it {how}") from None
    for host in named.get("host", "").split(","):
        if re.fullmatch(r"[^:/]+:\d+", host):
            raise SetupProblem("a host contains its port: write hosts and ports as host=A,B port=1,2")
    for port in named.get("port", "").split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise SetupProblem(f"a port is no number from 1 to 65535; {_HOW_TO_ESCAPE}")
    return named
