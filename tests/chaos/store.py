"""A real HTTP proxy in front of the S3 store that misbehaves as it is told: errors, slowness, bodies cut short."""

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from moderation.local import free_port

_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>injected</Message></Error>'
#: Headers that belong to one connection, not to the answer.
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Manner:
    """How the proxy answers: `share` of all GETs in this way, the others honestly."""

    #: 200: honestly.
    status: int = 200
    code: str = ""
    #: Seconds before every tenth of the body.
    slow: float = 0.0
    #: Promise the whole body and send half.
    short: bool = False
    share: float = 1.0


HONEST = Manner()


class FaultyStore:
    """Listens on a port of its own and forwards to `upstream`, signatures and all. Use it in a `with`."""

    def __init__(self, upstream: str, *, seed: int = 0) -> None:
        self.manner = HONEST
        self.faults = 0
        self._chance = random.Random(seed)
        host = urlsplit(upstream).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                manner = proxy.manner
                if manner is not HONEST and proxy._chance.random() < manner.share:
                    proxy.faults += 1
                    self._misbehave(manner)
                else:
                    self._forward(HONEST)

            do_HEAD = do_PUT = do_POST = do_DELETE = lambda self: self._forward(HONEST)  # noqa: N815

            def _misbehave(self, manner: Manner) -> None:
                if manner.status == 200:
                    self._forward(manner)
                    return
                body = _ERROR.format(code=manner.code).encode()
                self.send_response(manner.status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _forward(self, manner: Manner) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                sent = self.rfile.read(length) if length else None
                with contextlib.closing(http.client.HTTPConnection(host, timeout=20)) as upstream:
                    upstream.request(self.command, self.path, body=sent, headers=dict(self.headers.items()))
                    reply = upstream.getresponse()
                    body = reply.read()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                promised = (
                    reply.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                )
                self.send_header("Content-Length", promised)
                self.end_headers()
                if manner.short:
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                    return
                step = max(1, len(body) // 10)
                for start in range(0, len(body), step):
                    if manner.slow:
                        time.sleep(manner.slow)
                    self.wfile.write(body[start : start + step])

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """The workers' own logs say what they met."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A worker that was killed in the middle of a download is part of the plan."""

        self._server = Server(("127.0.0.1", free_port()), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "FaultyStore":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def behaving(self, manner: Manner) -> Generator[None]:
        self.manner = manner
        try:
            yield
        finally:
            self.manner = HONEST
