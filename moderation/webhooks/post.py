"""One try of a webhook: one POST to a public address, with a time limit. Little of the answer is read."""

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpcore

from moderation.errors import BonafideError, EndpointRefused

#: Seconds that a receiver may ask for with `Retry-After`. More would silence it long after a restart.
RETRY_AFTER_AT_MOST = 3600.0
#: Bytes of an answer that are read. Only the status matters.
ANSWER_AT_MOST = 64 * 2**10

URL_AT_MOST = 2000

#: This address looks public but belongs to the cloud: Azure's host answers here to all its machines.
_NOT_FOR_US = frozenset({ipaddress.ip_address("168.63.129.16")})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

#: How to allow a receiver in a private network. Every refusal of one says it.
_ALLOWING_PRIVATE = "an operator allows it for this installation with BONAFIDE_WEBHOOK_PRIVATE_TARGETS=true"


class TryFailed(BonafideError):
    """This try did not reach the receiver, or its answer was no success."""

    code = "delivery_failed"

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        #: Seconds that the receiver asks us to wait. None: it did not ask.
        self.retry_after = retry_after


def read_retry_after(value: str, now: datetime) -> float | None:
    """The seconds of `Retry-After` (RFC 9110, 10.2.3: seconds or a date). None when it cannot be read."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def is_public(address: str) -> bool:
    """Whether anybody can reach an address: it is not private, loopback, link-local, metadata or multicast.

    An IPv4 address inside an IPv6 one counts as that IPv4 address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip not in _NOT_FOR_US


def check_url(url: str, *, private: bool) -> None:
    """Raise EndpointRefused unless webhooks may go there. Names are looked up again at every try."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise EndpointRefused("this is not a URL") from error
    if len(url) > URL_AT_MOST or not url.isascii() or not url.isprintable() or " " in url:
        raise EndpointRefused(f"a webhook's URL is at most {URL_AT_MOST} printable ASCII characters")
    if parts.scheme not in ({"http", "https"} if private else {"https"}):
        plain = f", plain http only where {_ALLOWING_PRIVATE}" if parts.scheme == "http" else ""
        raise EndpointRefused(f"a webhook goes to an https:// URL{plain}")
    if not host or port == 0 or parts.username is not None or parts.fragment:
        raise EndpointRefused("a webhook's URL needs a host, and no user or fragment")
    with contextlib.suppress(ValueError):
        if not private and not is_public(host):
            raise EndpointRefused(f"{host} is not a public address; {_ALLOWING_PRIVATE}")
    if not private and (host == "localhost" or host.endswith((".localhost", ".local", ".internal"))):
        raise EndpointRefused(f"{host} is not a public name; {_ALLOWING_PRIVATE}")


def target_of(url: str) -> str:
    """The normal form of a URL that passed `check_url`."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path or '/'}{query}"


class _Bounded(httpcore.NetworkStream):
    """A connection with a deadline: a receiver that sends single bytes cannot keep it open."""

    def __init__(self, inner: httpcore.NetworkStream, ends_at: float) -> None:
        self._inner = inner
        self._ends_at = ends_at

    def _left(self) -> float:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Bounded(self._inner.start_tls(ssl_context, server_hostname, self._left()), self._ends_at)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class _Guarded(httpcore.NetworkBackend):
    """Looks the name up itself and connects to the address that it has checked: there is no second look-up."""

    def __init__(self, *, private: bool, ends_at: float) -> None:
        self._private = private
        self._ends_at = ends_at

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = _look_up(host, port, seconds=self._ends_at - time.monotonic())
        if not self._private and not all(is_public(address) for address in addresses):
            raise TryFailed(f"its host has an address that is not public; {_ALLOWING_PRIVATE}")
        for number, address in enumerate(addresses[:-1]):
            # An address that does not answer, such as broken IPv6, leaves the others their share of the time.
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return self._connect(address, port, shares=len(addresses) - number)
        return self._connect(addresses[-1], port, shares=1)

    def _connect(self, address: str, port: int, *, shares: int) -> httpcore.NetworkStream:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise httpcore.ConnectTimeout
        connected = httpcore.SyncBackend().connect_tcp(address, port, timeout=left / shares)
        return _Bounded(connected, self._ends_at)


def _look_up(host: str, port: int, *, seconds: float) -> list[str]:
    """The addresses of a host. Raise TryFailed when there is none in time.

    `getaddrinfo` has no deadline, so it runs in its own thread, which ends when the resolver gives up.
    """
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except Exception as error:  # noqa: BLE001  whoever waits gets it
            answer.set_exception(error)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    try:
        return answer.result(timeout=max(0.0, seconds))
    except TimeoutError as error:
        raise TryFailed("the name of its host was not looked up in time") from error
    except (OSError, UnicodeError) as error:
        raise TryFailed("the name of its host cannot be looked up") from error


def post(
    url: str, headers: dict[str, str], body: bytes, *, private: bool, tls: ssl.SSLContext, timeout: float
) -> int:
    """Send once; return the status of a success. Raise TryFailed. Redirects are not followed."""
    guarded = _Guarded(private=private, ends_at=time.monotonic() + timeout)
    try:
        check_url(url, private=private)  # the setting may have changed since the endpoint was added
        with (
            httpcore.ConnectionPool(ssl_context=tls, network_backend=guarded, max_connections=1) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
        ):
            excerpt = _read(response)
    except EndpointRefused as error:
        raise TryFailed(str(error)) from error
    except httpcore.TimeoutException as error:
        raise TryFailed(f"no answer within {timeout:g} seconds") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise TryFailed(f"the connection failed: {str(error)[:200] or type(error).__name__}") from error
    if not 200 <= response.status < 300:
        raise TryFailed(
            f"answered {response.status}{': ' if excerpt else ''}{excerpt}",
            status=response.status,
            retry_after=_asked(response),
        )
    return response.status


def _asked(response: httpcore.Response) -> float | None:
    for name, value in response.headers:
        if name.lower() == b"retry-after":
            return read_retry_after(value.decode("latin-1").strip(), datetime.now(UTC))
    return None


def _read(response: httpcore.Response) -> str:
    """Read a limited part of the answer; return its beginning, for the log of deliveries."""
    read = bytearray()
    for part in response.iter_stream():
        read += part
        if len(read) >= ANSWER_AT_MOST:
            break
    words = bytes(read[:200]).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else " " for letter in words).strip()
