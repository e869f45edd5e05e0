"""Traces with OpenTelemetry: from the request that opens a case, through the queue, to the row of its analysis.

Off unless BONAFIDE_OTLP_ENDPOINT is set; then every function here does nothing. A trace carries ids, names and times,
never a picture, a signed URL, a person's text or a statement's parameters.

OpenTelemetry's instrumentations (as of 0.66b2) are not used, because they do not keep to that. Those of SQLAlchemy and
Celery put the text of an exception on the span, and Postgres names the row's values in it. That of FastAPI puts the
whole query there, a sign-in's code and what somebody searched for, and the client's address. Those of SQLAlchemy and
redis make a trace of every look of the sweeper, every two seconds.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import event
from sqlalchemy.engine import Engine

from moderation.errors import SetupProblem
from moderation.settings import Settings

#: The attribute that holds a case's id, on every span that is about one case.
CASE = "bonafide.case"

SpanRole = Literal["internal", "server", "client", "producer", "consumer"]

#: OpenTelemetry's tracer. None until `start` makes one.
_tracer: Any = None


def start(settings: Settings, service: str) -> None:
    """Begin to send spans, if an endpoint is set. Raise SetupProblem when OpenTelemetry is not installed."""
    global _tracer  # noqa: PLW0603  one per process, made at its start
    if settings.otlp_endpoint is None or _tracer is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SetupProblem("traces are not installed: pip install 'bonafide-moderation[traces]'") from error
    from celery import signals

    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=5)
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("bonafide")
    signals.before_task_publish.connect(_carry, weak=False)


@contextmanager
def span(
    name: str,
    *,
    kind: SpanRole = "internal",
    carried: Mapping[str, str] | None = None,
    attributes: Mapping[str, str | int] | None = None,
) -> Generator[Any]:
    """Time a step. Yield the span, or None when traces are off.

    With `carried` headers the step belongs to the trace that sent them.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind, Status, StatusCode

    with _tracer.start_as_current_span(
        name,
        kind=SpanKind[kind.upper()],
        context=None if carried is None else extract(dict(carried)),
        attributes=dict(attributes or {}),
        # By default the whole text of an exception is sent, and it may hold anything.
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def about(case_id: object) -> None:
    """Note that the current step is about this case."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attribute(CASE, str(case_id))


def watch(engine: Engine) -> None:
    """Time every statement of this engine, with its text and without its parameters. The text holds no value."""
    event.listen(engine, "before_cursor_execute", _statement_begins)
    event.listen(engine, "after_cursor_execute", _statement_ends)
    event.listen(engine, "handle_error", _statement_failed)


def _carry(headers: dict[str, Any] | None = None, body: Any = None, **_: Any) -> None:
    """Add the trace to a message before it is sent, and note the id that it carries."""
    from opentelemetry.propagate import inject

    arguments = body[0] if isinstance(body, (tuple, list)) and body else ()
    case = {CASE: str(arguments[0])} if arguments else {}
    task = "" if headers is None else str(headers.get("task", ""))
    with span(f"publish {task}".strip(), kind="producer", attributes=case):
        if headers is not None:
            inject(headers)


def _statement_begins(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: Any
) -> None:
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind, get_current_span

    # Only inside another step: the sweeper looks every two seconds for ever.
    if context is None or not get_current_span().get_span_context().is_valid:
        return
    verb = statement.split(None, 1)[0].upper() if statement.strip() else "SQL"
    context.bonafide_span = _tracer.start_span(
        f"postgres {verb}",
        kind=SpanKind.CLIENT,
        attributes={"db.system.name": "postgresql", "db.query.text": statement},
    )


def _statement_ends(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: Any
) -> None:
    timed = getattr(context, "bonafide_span", None)
    if timed is not None:
        timed.end()


def _statement_failed(failure: Any) -> None:
    timed = getattr(failure.execution_context, "bonafide_span", None)
    if timed is not None:
        from opentelemetry.trace import Status, StatusCode

        # Only the kind of the error: its text may hold values.
        timed.set_status(Status(StatusCode.ERROR, type(failure.original_exception).__name__))
        timed.end()
