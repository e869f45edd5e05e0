"""Structured logs with the case's id on every line. No picture, signed URL, text or name of a person is logged."""

import contextlib
import io
import logging
import sys

import structlog

from moderation.settings import Settings


class _Lenient(io.TextIOBase):
    """Standard error. What cannot be written is dropped: a full disk under the log stops no work."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_logs(settings: Settings) -> None:
    """Send this process's logs to standard error, for people or as JSON lines for machines."""
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
    # Without the local variables, which hold pictures, people's texts and the addresses of our servers.
    traceback = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    last = [traceback, renderer] if as_json else [renderer]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(_Lenient()),  # pyright: ignore[reportArgumentType]  all that print needs
        cache_logger_on_first_use=False,
    )
    # Libraries speak through the same renderer; theirs is chatter below a warning.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
