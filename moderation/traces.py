"""Traces over OpenTelemetry: from the request that opens a case, over the queue, to the row that holds its analysis.

Off unless BONAFIDE_OTLP_ENDPOINT is set; then every function here does nothing. A trace carries ids, names and times,
never a picture, a signed URL, a person's text or a statement's parameters.
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

Kind = Literal["internal", "server", "client", "producer", "consumer"]

#: OpenTelemetry's tracer once `start` has made one.
_tracer: Any = None


def start(settings: Settings, service: str) -> None:
    """Send this process's spans from now on, when an endpoint is set. Raise SetupProblem when that is not installed."""
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
    kind: Kind = "internal",
    carried: Mapping[str, str] | None = None,
    attributes: Mapping[str, str | int] | None = None,
) -> Generator[Any]:
    """Time a step. Yields the span, or None when traces are off.

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
        # By default the whole text of an exception goes along, and that may hold anything.
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def about(case_id: object) -> None:
    """Say that the step being timed is about this case."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attribute(CASE, str(case_id))


def watch(engine: Engine) -> None:
    """Time every statement of this engine: its text, which holds no value, and nothing of its parameters."""
    event.listen(engine, "before_cursor_execute", _statement_begins)
    event.listen(engine, "after_cursor_execute", _statement_ends)
    event.listen(engine, "handle_error", _statement_failed)


def _carry(headers: dict[str, Any] | None = None, body: Any = None, **_: Any) -> None:
    """Before a message goes out: which trace it belongs to, and the id that is all it carries."""
    from opentelemetry.propagate import inject

    arguments = body[0] if isinstance(body, (tuple, list)) and body else ()
    case = {CASE: str(arguments[0])} if arguments else {}
    task = "" if headers is None else str(headers.get("task", ""))
    with span(f"ring {task}".strip(), kind="producer", attributes=case):
        if headers is not None:
            inject(headers)


def _statement_begins(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: Any
) -> None:
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind, get_current_span

    # Only within something: the sweeper looks every two seconds for ever.
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

        # The kind of error and nothing of its text, which may hold values.
        timed.set_status(Status(StatusCode.ERROR, type(failure.original_exception).__name__))
        timed.end()
