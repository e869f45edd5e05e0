"""A way to a server that can fall silent: open connections stay open, swallow all they are sent, and never answer.

As behind a balancer that lost its state, or a host that vanished: no end of the connection is ever seen. What is opened
afterwards is sound. It can also fall, all at once, at a word that a client says.
"""

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit


class _Link:
    """One connection through the pipe."""

    def __init__(
        self, client: socket.socket, server: socket.socket, falls: Callable[[bytes], bool] = lambda _: False
    ) -> None:
        self.client, self.server = client, server
        self.mute = False
        #: Whether everything falls at what the client has just said.
        self._falls = falls

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes, until one side ends. A mute link hides that Postgres ended, and not that we did."""
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if source is self.client and self._falls(data):
                    break
                if not self.mute:
                    target.sendall(data)
        if not (self.mute and source is self.server):
            self.cut()

    def cut(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Pipe:
    """Listens on a port of its own and forwards to the server of `url`. Use it in a `with`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        upstream = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._links: set[_Link] = set()
        self._word: bytes | None = None
        self._away = self._back_at = 0.0
        #: How often it fell.
        self.falls = 0
        pipe = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                if time.monotonic() < pipe._back_at:
                    return
                try:
                    server = socket.create_connection(upstream, timeout=5)
                except OSError:
                    return  # as Postgres: nobody is there
                server.settimeout(None)
                link = _Link(self.request, server, pipe._fall)
                pipe._links.add(link)
                back = threading.Thread(target=link.pump, args=(server, link.client), daemon=True)
                back.start()
                link.pump(link.client, server)
                pipe._links.discard(link)
                server.close()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A process that was killed in the middle of a statement is part of the plan."""

        self._server = Server(("127.0.0.1", 0), Handler)
        user = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(
            parts._replace(netloc=f"{user}@127.0.0.1:{self._server.server_address[1]}".lstrip("@"))
        )

    def __enter__(self) -> "Pipe":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fall_at(self, word: bytes, *, seconds: float) -> None:
        """Once a client says this, it is not passed on, everything is cut, and nobody is there for so long."""
        self._word, self._away = word, seconds

    def _fall(self, said: bytes) -> bool:
        if self._word is None or self._word not in said:
            return False
        self._word, self._back_at = None, time.monotonic() + self._away
        for link in list(self._links):
            link.cut()
        self.falls += 1
        return True

    def fall_silent(self) -> int:
        """Mute every connection that is open, for good; return how many there are."""
        links = list(self._links)
        for link in links:
            link.mute = True
        return len(links)
