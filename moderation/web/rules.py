"""What this installation does by rule while it serves: closing cases that stood aside for too long.

In the process of the API and the console, because its role may decide and the sweeper's may not. With several of them
each looks: a case is locked while it is closed, and closed once.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager

import structlog

from moderation.errors import BonafideError
from moderation.web.services import Services

#: Seconds between two looks.
EVERY = 60.0

log = structlog.get_logger()


@contextmanager
def keep_rules(services: Services) -> Generator[None]:
    """Look now and again until the block ends. Without a rule nothing looks."""
    if not services.settings.close_aside_hours:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_keep, args=(services, stop), name="rules")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _keep(services: Services, stop: threading.Event) -> None:
    while True:
        try:
            closed = services.review.close_by_rule()
        except BonafideError as error:
            log.warning("rules_failed", action="close_by_rule", code=error.code, error=str(error))
        else:
            if closed:
                log.info("cases_closed", action="close_by_rule", closed=closed)
        if stop.wait(EVERY):
            return
