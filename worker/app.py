"""The Celery app. `celery -A worker.app worker -P threads` runs it; `bonafide worker` does that for you.

Every setting is here with its reason; `docs/reliability.md` says what holds when something breaks.
"""

from typing import Any

from celery import Celery, signals
from celery.apps import worker as celery_worker
from kombu.entity import Queue

from moderation.addresses import read_broker
from moderation.dispatch import ANALYSIS_QUEUE, LANES, broker_options
from moderation.logs import configure_logs
from moderation.settings import settings

_settings = settings()

app = Celery(
    "bonafide",
    broker=read_broker(_settings.broker_url.get_secret_value()).kombu_url,
    include=["worker.tasks", "worker.lifecycle"],
)
app.conf.update(
    task_default_queue=ANALYSIS_QUEUE,
    # A question, for which a person waits, is behind no case, a live case behind no backfill, and everything before
    # what is analysed once more: see `worker.lanes`.
    task_queues=tuple(Queue(name) for name in LANES),
    # Messages are JSON and nothing else: unpickling one would run whatever its sender wrote.
    task_serializer="json",
    accept_content=["json"],
    # Analyses go to Postgres. A result backend halves the throughput and would be a second truth.
    task_ignore_result=True,
    result_backend=None,
    # The lease, not the message, holds the case. Late acknowledgement would only deliver twice what is running.
    task_acks_late=False,
    # A worker takes from the queue what it can start: the rest is for the others.
    worker_prefetch_multiplier=1,
    worker_concurrency=_settings.worker_threads,
    # The model lives in this process and in one thread of it. Children could not share a GPU after a fork. Celery's
    # own default, prefork, gives way to this; any other pool is refused at the start (`lifecycle.py`).
    worker_pool="threads",
    # Keeps what cannot be read as dead letters instead of dropping it.
    worker_consumer="worker.deadletters:KeepingConsumer",
    broker_connection_retry_on_startup=True,
    # Redis may be away for long. The cases are in Postgres; there is no reason to give up.
    broker_connection_max_retries=None,
    # Only read with late acknowledgement, but then tasks must go on: their leases are good.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_transport_options={
        **broker_options(visibility_timeout=3600),
        "queue_order_strategy": "worker.lanes:LaneCycle",
    },
    # Celery speaks through our logs: `configure_logs` below. Standard output and error stay what they are.
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)


@signals.setup_logging.connect
def _speak_through_our_logs(**_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
    """Whoever listens to this signal sets the logs up, and Celery does not."""
    configure_logs(_settings)


@signals.celeryd_init.connect
def _begin_in_our_words(instance: Any, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
    """Celery warns of some users before it sets the logs up, and its banner and its last words are plain text."""
    configure_logs(_settings)
    if _settings.log_format == "json":
        instance.quiet = True
        # Written past all logs, by a signal's handler. `worker_drains` says the same.
        celery_worker.safe_say = _say_nothing


def _say_nothing(*_: Any) -> None:
    pass
