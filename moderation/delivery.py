"""Webhooks: signed as Standard Webhooks say, sent by the sweeper, tried again for a day, and to public addresses only.

What a platform is told may be told twice: a try whose answer was lost is repeated under the same webhook-id. It may
also come out of order: `data.version` says which is newer.
"""

import contextlib
import ipaddress
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from urllib.parse import urlsplit
from uuid import UUID

import httpcore
import prometheus_client
import structlog
from standardwebhooks import Webhook

from moderation.database import deliveries as stored
from moderation.database.connection import Database
from moderation.database.deliveries import Claimed, Delivery, Endpoint, Kind
from moderation.errors import BonafideError, DeliveryNotFound, EndpointNotFound, EndpointRefused
from moderation.settings import Settings
from moderation.turns import TRIES_AT_ONCE, Turns

#: Seconds between a failed try and the next: nine tries within 23.6 hours, each wait with a fifth of jitter.
WAITS = (5, 60, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 8 * 3600, 8 * 3600)
TRIES = len(WAITS) + 1
#: Seconds that a receiver may ask for with `Retry-After`: longer would silence it for what a restart of it takes.
RETRY_AFTER_AT_MOST = 3600.0

#: Seconds for one try, from looking up the name to the end of the answer.
TIMEOUT = 10.0
#: Bytes of an answer that are read. Nothing in it matters but the status.
ANSWER_AT_MOST = 64 * 2**10
#: Seconds after which a delivery whose sender was not heard of is tried again.
HOLD = 60.0

#: Connections to Postgres of one courier. A sender holds one for as long as it writes down how its try ended.
CONNECTIONS = 8
#: Seconds between two looks for what is due.
POLL = 1.0

URL_AT_MOST = 2000

#: Deliveries of a log that are deleted at once.
PAGE = 5000

#: Public by number, yet the cloud's own: Azure's host answers here to every machine in it.
_NOT_FOR_US = frozenset({ipaddress.ip_address("168.63.129.16")})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_TRIED = prometheus_client.Counter("bonafide_deliveries", "Webhooks tried", labelnames=["result"])

log = structlog.get_logger()


class TryFailed(BonafideError):
    """This try did not reach the receiver, or was not answered with success."""

    code = "delivery_failed"

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        #: Seconds for which the receiver asked to be left alone. None: it asked for nothing.
        self.retry_after = retry_after


# --- rules

#: How a receiver in one's own network is allowed. Said with every refusal of one.
_ALLOWING_PRIVATE = "an operator allows it for this installation with BONAFIDE_WEBHOOK_PRIVATE_TARGETS=true"


def wait_after(attempt: int, jitter: float, *, asked: float | None = None) -> float | None:
    """Seconds until the next try after this one failed; None when it was the last. `jitter` is in [0, 1).

    A receiver may ask for longer, up to an hour, and not for less: its tries would be used up within its bad minute.
    """
    if attempt >= TRIES:
        return None
    return max(WAITS[attempt - 1] * (0.8 + 0.4 * jitter), min(asked or 0.0, RETRY_AFTER_AT_MOST))


def read_retry_after(value: str, now: datetime) -> float | None:
    """Seconds that `Retry-After` asks for (RFC 9110, 10.2.3: seconds or a date). None when it cannot be read."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def is_public(address: str) -> bool:
    """Whether an address is one that anybody can reach: not private, loopback, link-local, metadata, multicast.

    An IPv4 address inside an IPv6 one counts as what it leads to.
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
    """Raise EndpointRefused unless webhooks may go there. Names are looked up when sending, every time anew."""
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
        raise EndpointRefused("a webhook's URL names a host, no user and no fragment")
    with contextlib.suppress(ValueError):
        if not private and not is_public(host):
            raise EndpointRefused(f"{host} is not a public address; {_ALLOWING_PRIVATE}")
    if not private and (host == "localhost" or host.endswith((".localhost", ".local", ".internal"))):
        raise EndpointRefused(f"{host} is not a public name; {_ALLOWING_PRIVATE}")


def target_of(url: str) -> str:
    """A URL that passed `check_url`, in the one spelling of where it leads."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path or '/'}{query}"


def sign(claimed: Claimed, body: str, now: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks: one signature for each secret that is live."""
    signatures = [Webhook(secret).sign(str(claimed.id), now, body) for secret in claimed.secrets]
    return {
        "webhook-id": str(claimed.id),
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


# --- one try


class _Bounded(httpcore.NetworkStream):
    """A connection with an end in time: a receiver that sends a byte now and then does not hold it open."""

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
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Bounded(self._inner.start_tls(ssl_context, server_hostname, self._left()), self._ends_at)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class _Guarded(httpcore.NetworkBackend):
    """Looks the name up itself and connects to the very address it has checked: no second look-up can differ."""

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
            # One that does not answer at all, as IPv6 that leads nowhere, leaves the others their share of the time.
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
    """The addresses of a host. Raise TryFailed when it has none, or none is said in time.

    `getaddrinfo` takes no deadline: it has a thread of its own, which ends when the resolver gives up.
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
    """Send once; return the status, which is a success. Raise TryFailed. Redirects are not followed."""
    guarded = _Guarded(private=private, ends_at=time.monotonic() + timeout)
    try:
        check_url(url, private=private)  # the setting may have changed since it was added
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
    """Read the answer, but not without end; return its first words, for the log of deliveries."""
    read = bytearray()
    for part in response.iter_stream():
        read += part
        if len(read) >= ANSWER_AT_MOST:
            break
    words = bytes(read[:200]).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else " " for letter in words).strip()


# --- sending


@dataclass(frozen=True)
class _Try:
    claimed: Claimed
    done: Future[None]


class Courier:
    """Sends what is due, a few at once. Run as many as you like: each takes what no other has taken."""

    def __init__(self, database: Database, settings: Settings, *, timeout: float = TIMEOUT) -> None:
        self._database = database
        self._private = settings.webhook_private_targets
        self._timeout = timeout
        self._tls = httpcore.default_ssl_context()
        self._pool = ThreadPoolExecutor(TRIES_AT_ONCE, thread_name_prefix="courier")
        self._lock = threading.Lock()
        self._turns = Turns()
        self._news = threading.Event()

    def deliver_due(self) -> int:
        """Try everything that is due now, once; return how many were tried. Raise DatabaseUnavailable."""
        tried = 0
        while started := self._start():
            wait([one.done for one in started])
            tried += len(started)
        return tried

    def run(self, stop: threading.Event) -> None:
        """Try what is due, as it becomes due, until `stop`. What is unavailable is waited for."""
        while not stop.is_set():
            try:
                started = self._start()
            except BonafideError as error:
                log.warning("delivery_failed", action="deliver", code=error.code, error=str(error))
                started = []
            if not started:
                self._news.wait(POLL)
                self._news.clear()
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> list[_Try]:
        """Begin what may begin now: see `turns`."""
        with self._lock:
            turn = self._turns.next(now=time.monotonic())
        with self._database.transaction() as session:
            claimed = [
                *stored.claim_due(session, limit=turn.room, each=1, hold_seconds=HOLD, busy=turn.wait),
                *stored.claim_due(session, limit=turn.slow_room, each=1, hold_seconds=HOLD, among=turn.slow),
            ]
        with self._lock:
            numbers = [self._turns.begin(one.endpoint_id, now=time.monotonic()) for one in claimed]
        return [
            _Try(one, self._pool.submit(self._try, one, number))
            for one, number in zip(claimed, numbers, strict=True)
        ]

    def _try(self, claimed: Claimed, number: int) -> None:
        with structlog.contextvars.bound_contextvars(case=str(claimed.case_id), delivery=str(claimed.id)):
            self._try_once(claimed, number)

    def _try_once(self, claimed: Claimed, number: int) -> None:
        answered_at = time.monotonic()
        try:
            ended = self._sent(claimed)
            answered_at = time.monotonic()  # writing it down is no time of the receiver's
            self._write_down(claimed, ended)
        except BonafideError as error:
            # Not written down: it is due again when the hold ends, and the receiver knows it by its webhook-id.
            log.warning("delivery_not_recorded", action="deliver", error=str(error))
        except Exception as error:
            log.error("delivery_broke", action="deliver", exc_info=error)
            raise
        finally:
            with self._lock:
                self._turns.end(number, answered_at=answered_at)
            self._news.set()

    def _sent(self, claimed: Claimed) -> int | TryFailed:
        """The status of the answer, or how the try failed."""
        if claimed.attempt > TRIES:
            return TryFailed("the process that tried it last was not heard of again")
        try:
            return self._send(claimed)
        except TryFailed as failure:
            return failure

    def _write_down(self, claimed: Claimed, ended: int | TryFailed) -> None:
        if isinstance(ended, TryFailed):
            self._failed(claimed, ended)
            return
        _TRIED.labels("delivered").inc()
        with self._database.transaction() as session:
            stored.record_delivered(session, claimed.id, status=ended)

    def _send(self, claimed: Claimed) -> int:
        body = json.dumps(claimed.body, separators=(",", ":"))
        headers = {
            "content-type": "application/json",
            "user-agent": f"bonafide/{version('bonafide-moderation')}",
            **sign(claimed, body, datetime.now(UTC)),
        }
        return post(
            claimed.url,
            headers,
            body.encode(),
            private=self._private,
            tls=self._tls,
            timeout=self._timeout,
        )

    def _failed(self, claimed: Claimed, failure: TryFailed) -> None:
        jitter = random.random()  # noqa: S311  not a secret
        again_in = wait_after(claimed.attempt, jitter, asked=failure.retry_after)
        _TRIED.labels("dead" if again_in is None else "failed").inc()
        if again_in is None:
            log.error("delivery_given_up", action="deliver", status=failure.status)
        with self._database.transaction() as session:
            stored.record_failure(
                session,
                claimed.id,
                attempt=claimed.attempt,
                status=failure.status,
                error=str(failure),
                again_in=again_in,
            )


# --- looking after endpoints


@dataclass(frozen=True)
class Added:
    """An endpoint that is told from now on."""

    endpoint: Endpoint
    #: Verifies signatures. None: it was there already, and its secret was shown then.
    secret: str | None


class Webhooks:
    """Endpoints and their logs. Who may do this is asked at the doors: `people.Act`, or an API key's scope."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._private = settings.webhook_private_targets

    def add(self, url: str, kinds: Sequence[Kind] = tuple(Kind), source: str | None = None) -> Added:
        """Tell this URL from now on. Raise EndpointRefused.

        The same URL for the same source is the same endpoint, so that nothing is told twice: it is enabled, and told of
        the kinds that were asked for last.
        """
        check_url(url, private=self._private)
        if not kinds:
            raise EndpointRefused("an endpoint takes at least one kind of webhook")
        wanted = [kind for kind in Kind if kind in kinds]
        target = target_of(url)
        with self._database.transaction() as session:
            stored.lock_target(session, target)
            for known in stored.list_endpoints(session):
                if known.source == source and target_of(known.url) == target:
                    values = [kind.value for kind in wanted]
                    changed = stored.change_endpoint(session, known.id, kinds=values, disabled_at=None)
                    return Added(_found(changed), None)
            made = stored.insert_endpoint(session, url=url, kinds=wanted, source=source)
        return Added(made, made.secrets[0])

    def endpoints(self) -> list[Endpoint]:
        with self._database.transaction() as session:
            return stored.list_endpoints(session)

    def endpoint(self, endpoint_id: UUID) -> Endpoint:
        """Raise EndpointNotFound."""
        with self._database.transaction() as session:
            return _found(stored.find_endpoint(session, endpoint_id))

    def disable(self, endpoint_id: UUID) -> Endpoint:
        """Stop telling it. What is in line for it waits until it is enabled again."""
        with self._database.transaction() as session:
            return _found(stored.change_endpoint(session, endpoint_id, disabled_at=datetime.now(UTC)))

    def enable(self, endpoint_id: UUID) -> Endpoint:
        with self._database.transaction() as session:
            return _found(stored.change_endpoint(session, endpoint_id, disabled_at=None))

    def rotate(self, endpoint_id: UUID) -> Endpoint:
        """Add a new secret, first in the answer. The one before signs beside it, until the next rotation."""
        with self._database.transaction() as session:
            return _found(stored.rotate_secret(session, endpoint_id))

    def remove(self, endpoint_id: UUID) -> None:
        """Take it out, with its log and what is in line for it. Raise EndpointNotFound."""
        self.disable(endpoint_id)  # nothing is put in line for it any more
        # By pages: the log of a busy year is more than one statement may take.
        full = True
        while full:
            with self._database.transaction() as session:
                full = stored.delete_log(session, endpoint_id, at_most=PAGE) == PAGE
        with self._database.transaction() as session:
            if not stored.delete_endpoint(session, endpoint_id):
                raise EndpointNotFound(f"no webhook endpoint has the id {endpoint_id}")

    def deliveries(self, endpoint_id: UUID, *, limit: int = 50, before: UUID | None = None) -> list[Delivery]:
        """A page of its log, the newest first; `before` is the last id of the page before. Raise EndpointNotFound."""
        with self._database.transaction() as session:
            _found(stored.find_endpoint(session, endpoint_id))
            return stored.deliveries_of(session, endpoint_id, limit=limit, before=before)

    def dead(self, *, limit: int = 50) -> list[Delivery]:
        """What was given up, the newest first."""
        with self._database.transaction() as session:
            return stored.dead_deliveries(session, limit=limit)

    def resend(self, delivery_id: UUID) -> Delivery:
        """Send once more, under the same webhook-id and with all tries before it. Raise DeliveryNotFound."""
        with self._database.transaction() as session:
            stored.resend(session, delivery_id)
            delivery = stored.find_delivery(session, delivery_id)
        if delivery is None:
            raise DeliveryNotFound(f"no delivery has the id {delivery_id}")
        return delivery


def _found(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise EndpointNotFound("no webhook endpoint has this id")
    return endpoint
