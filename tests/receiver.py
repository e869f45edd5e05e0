"""A platform's end of a webhook: a real HTTP server that verifies with the standardwebhooks library."""

import ssl
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What came, and how it is answered. Without a secret nothing is verified."""

    url: str
    secret: str | None = None
    #: Statuses for the next requests, then 204 for ever.
    answers: list[int] = field(default_factory=list[int])
    #: Called instead of answering, with the handler.
    instead: Callable[[BaseHTTPRequestHandler], None] | None = None
    received: list[Received] = field(default_factory=list[Received])
    verified: list[Any] = field(default_factory=list[Any])
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    #: Set at the end, so that a handler that hangs lets go.
    over: threading.Event = field(default_factory=threading.Event)

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.received.append(Received(headers, body))
        self.arrived.release()
        if self.instead is not None:
            self.instead(handler)
            return
        status = self.answers.pop(0) if self.answers else 204
        if self.secret is not None:
            try:
                self.verified.append(Webhook(self.secret).verify(body, headers))
            except WebhookVerificationError:
                status = 401
        handler.send_response(status)
        handler.send_header("content-length", "0")
        handler.end_headers()

    def hang(self, _handler: BaseHTTPRequestHandler) -> None:
        self.over.wait(30)

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """A byte now and then: no single read takes long."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
        while not self.over.is_set():
            handler.wfile.write(b"z")
            handler.wfile.flush()
            time.sleep(0.05)

    def flood(self, handler: BaseHTTPRequestHandler) -> None:
        """An answer without end."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not self.over.is_set():
            handler.wfile.write(b"z" * 65536)


@contextmanager
def a_receiver(tls: ssl.SSLContext | None = None) -> Generator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                receiver.take(self)
            except OSError:
                self.close_connection = True

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.over.set()
        server.shutdown()
        server.server_close()
