"""What our design is compared with: a plain Celery worker, set up as its documentation advises.

    celery -A tests.chaos.plain_worker worker -c 2

The message is the work. It is acknowledged late and given back when a child is lost; what stays unacknowledged is
delivered again after the visibility timeout; a task that fails is retried with growing delays; the result is written to
Postgres by the task itself. There is no lease, no sweeper and no cap on what kills the process.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery, signals

from moderation.cases import ImageRef
from moderation.dfa.gpt.pixels import decode_picture
from moderation.dispatch import ANALYSIS_QUEUE
from moderation.errors import ImageRejected
from moderation.local import BUCKET
from moderation.settings import settings
from moderation.storage import Storage
from tests.chaos.marks import SECONDS, die, once
from tests.chaos.pictures import VERDICT, Mark

#: Seconds after which an unacknowledged message is delivered again: many times the longest task.
VISIBILITY = 5

app = Celery("plain", broker=settings().broker_url.get_secret_value())
app.conf.update(
    task_default_queue=ANALYSIS_QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": VISIBILITY,
        # By default such messages are looked for so seldom that they come back minutes later.
        "unacked_restore_throttle": 1,
        "unacked_restore_interval": 1,
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 5,
    },
)


@signals.worker_process_init.connect
def _die_with_parent(**_: Any) -> None:
    """As in a container, whose first process takes all others with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))


@signals.worker_ready.connect
def _ready(**_: Any) -> None:
    Path(os.environ["BONAFIDE_READY_FILE"]).touch()


@app.task(
    name="analyze",
    autoretry_for=(Exception,),
    retry_backoff=1,
    retry_backoff_max=8,
    retry_kwargs={"max_retries": 20},
)
def analyze(order: str, key: str) -> None:
    """Fetch, look, write down. The same pictures do the same harm as to our own worker (`marked_worker`)."""
    try:
        facts = decode_picture(Storage(settings()).fetch_image(ImageRef(BUCKET, key)).data).facts
    except ImageRejected as error:
        _write(order, error.code, None, "")
        return
    mark = Mark.of_width(facts.width)
    time.sleep(2 * SECONDS)  # preparing, and a step of the model
    if mark is Mark.POISON or (mark is Mark.DIES_PREPARING and once(mark, facts.sha256)):
        die()
    _write(order, VERDICT, mark, facts.sha256)


def _write(order: str, outcome: str, mark: Mark | None, sha256: str) -> None:
    with psycopg.connect(settings().database_url.get_secret_value(), connect_timeout=3) as connection:
        connection.execute("INSERT INTO plain_results (order_id, outcome) VALUES (%s, %s)", (order, outcome))
        if mark is Mark.DIES_BEFORE_COMMIT and once(mark, sha256):
            die()
    if mark is Mark.DIES_AFTER_COMMIT and once(mark, sha256):
        die()
