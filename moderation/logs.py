"""Structured logs with the case's id on every line. No picture, signed URL, text or name of a person is logged.

As JSON every line is one object, whether it comes from us, Celery, uvicorn, a library, a warning or an uncaught error.
"""

import contextlib
import io
import logging
import sys
import threading
from types import TracebackType

import structlog

from moderation.errors import BonafideError
from moderation.settings import Settings

#: Loggers that get handlers and formats from libraries.
_OTHERS = (
    *("uvicorn", "uvicorn.access", "uvicorn.error", "uvicorn.asgi"),
    *("celery", "celery.task", "celery.redirected"),
)
#: Unknown variables that this process has already reported.
_named: set[str] = set()


class _Lenient(io.TextIOBase):
    """Standard error that drops what it cannot write: a full disk under the log stops no work."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_logs(settings: Settings) -> None:
    """Send this process's logs to standard error, for people or as JSON lines for machines.

    Safe to call again. The first call reports each variable that looks like a setting but is none.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_json = settings.log_format == "json"
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    # Without local variables: they hold pictures, people's texts and our servers' addresses.
    traceback = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    last: list[structlog.typing.Processor] = [traceback, renderer] if as_json else [renderer]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A line and its end are written together, so that two threads never share a line.
        logger_factory=structlog.WriteLoggerFactory(_Lenient()),  # pyright: ignore[reportArgumentType]  all that it needs
        cache_logger_on_first_use=False,
    )
    # Libraries use the same renderer. Their lines below a warning are dropped.
    handler = logging.StreamHandler(_Lenient())
    remove_ours = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[remove_ours, *last],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in _OTHERS:
        other = logging.getLogger(name)
        other.handlers.clear()
        other.propagate = True
    if as_json:
        _turn_all_into_lines()
    for unknown in settings.unknown:
        if unknown.name not in _named:
            _named.add(unknown.name)
            log = structlog.get_logger()
            log.warning("setting_unknown", action="start", setting=unknown.name, words=str(unknown))


def _turn_all_into_lines() -> None:
    """Log what Python would write over several lines: warnings and uncaught exceptions."""
    logging.captureWarnings(capture=True)
    # A message that cannot be formatted is dropped, without plain text about it.
    logging.raiseExceptions = False
    log = structlog.get_logger()

    def ended(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        if isinstance(error, BonafideError):
            log.critical("process_ends", action="end", code=error.code, error=str(error))
        elif not isinstance(error, KeyboardInterrupt):
            log.critical("process_ends", action="end", exc_info=error)

    def thread_ended(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            name = None if args.thread is None else args.thread.name
            log.critical("thread_ends", action="end", thread=name, exc_info=args.exc_value)

    sys.excepthook = ended
    threading.excepthook = thread_ended
