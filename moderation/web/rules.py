"""Applies the installation's rules: closes cases that stood aside for too long, and certified cases.

It runs in the process of the API and the console, because its role may decide and the sweeper's may not. With several
processes each of them looks. A case is locked while it is closed, so it is closed only once.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import structlog
from sqlalchemy.exc import DBAPIError

from moderation.errors import BonafideError
from moderation.web.services import Services

#: Seconds between two looks.
EVERY = 60.0

log = structlog.get_logger()


@contextmanager
def keep_rules(services: Services) -> Generator[None]:
    """Apply the rules now and again until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=_keep, args=(services, stop), name="rules")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _keep(services: Services, stop: threading.Event) -> None:
    rules: dict[str, Callable[[], int]] = {"close_by_certificate": services.review.close_by_certificate}
    if services.settings.close_aside_hours:
        rules["close_by_rule"] = services.review.close_by_rule
    # Serve first, then look. A certificate may be turned on while we serve; a rule of the settings may not.
    while not stop.wait(EVERY):
        for name, close in rules.items():
            _close(name, close)


def _close(name: str, close: Callable[[], int]) -> None:
    try:
        closed = close()
    except BonafideError as error:
        log.warning("rules_failed", action=name, code=error.code, error=str(error))
    except DBAPIError as error:
        # The database is not migrated yet, or rights are missing: the next look may succeed.
        log.warning("rules_failed", action=name, code="fault", error=str(error.orig).strip())
    else:
        if closed:
            log.info("cases_closed", action=name, closed=closed)
