"""One case as one trace, from the request to the row, received as a collector would."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from moderation.accounts.keys import add_key
from moderation.local import Addresses, free_port, service_env, web_command
from tests.acceptance.test_worker import OddYard
from tests.acceptance.yard import noise

#: Longer than the exporter waits before it sends what it has.
TIMEOUT = 40


class Collector(ThreadingHTTPServer):
    """Keeps every span that is sent to it, with the service it came from."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        super().__init__(("127.0.0.1", 0), _Receiver)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of_trace(self, trace_id: bytes) -> dict[str, tuple[str, Span]]:
        return {span.name: (service, span) for service, span in list(self.spans) if span.trace_id == trace_id}


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        assert isinstance(self.server, Collector)
        for resource in request.resource_spans:
            service = next(
                a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
            )
            for scope in resource.scope_spans:
                self.server.spans.extend((service, span) for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in the base class
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _text(span: Span, name: str) -> str | None:
    return next((a.value.string_value for a in span.attributes if a.key == name), None)


def test_a_case_is_one_trace_over_api_queue_worker_and_postgres(
    servers: Addresses, database_url: str, tmp_path: Path, collector: Collector
) -> None:
    with OddYard.opened(servers, database_url, tmp_path) as yard:
        yard.env["BONAFIDE_OTLP_ENDPOINT"] = collector.url
        yard.env["OTEL_BSP_SCHEDULE_DELAY"] = "200"  # milliseconds
        case = _submitted(yard)
        deadline = time.monotonic() + TIMEOUT
        traced: dict[str, tuple[str, Span]] = {}
        while not {"record", "POST /v1/cases"} <= set(traced):
            assert time.monotonic() < deadline, [span.name for _, span in collector.spans]
            time.sleep(0.1)
            sent = [span for _, span in list(collector.spans) if span.name == "publish analyze_case"]
            traced = collector.of_trace(sent[0].trace_id) if sent else {}

    services = {name: service for name, (service, _) in traced.items()}
    assert services["POST /v1/cases"] == "bonafide-console"
    assert services["analyze_case"] == services["fetch"] == services["engine"] == "bonafide-worker"
    spans = (traced[n][1] for n in ("POST /v1/cases", "publish analyze_case", "analyze_case"))
    request, message, task = spans
    assert message.parent_span_id == request.span_id
    assert task.parent_span_id == message.span_id
    assert _text(message, "bonafide.case") == _text(task, "bonafide.case") == case
    statements = [span for name, (_, span) in traced.items() if name.startswith("postgres")]
    assert statements
    assert all(case not in (_text(span, "db.query.text") or "") for span in statements)


def _submitted(yard: OddYard) -> str:
    """A case through a real API, with a real worker that analyses it."""
    port = free_port()
    with yard.database.transaction() as session:
        key = add_key(session, "tracers")
    yard.stack.spawn("web", web_command(port), env=service_env(yard.env))
    yard.start()
    url = f"http://127.0.0.1:{port}"
    yard.stack.wait_for("web", lambda: httpx.get(f"{url}/readyz", timeout=2).status_code == 200)
    ref = yard.storage.put_image("traced.jpg", noise(90, 50), "image/jpeg")
    reply = httpx.post(
        f"{url}/v1/cases",
        json={"image": {"bucket": ref.bucket, "key": ref.key}},
        headers={"Authorization": f"Bearer {key}"},
    )
    return reply.raise_for_status().json()["id"]
