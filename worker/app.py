"""The Celery app. `celery -A worker.app worker -P threads` runs it; `bonafide worker` does that for you.

Each setting has its reason beside it. `docs/reliability.md` says what holds when something breaks.
"""

from typing import Any

from celery import Celery, signals
from kombu.entity import Queue

from moderation.addresses import read_broker
from moderation.dispatch import ANALYSIS_QUEUE, LANES, broker_options
from moderation.logs import configure_logs
from moderation.settings import settings
from worker.privates import silence_last_words

_settings = settings()

app = Celery(
    "bonafide",
    broker=read_broker(_settings.broker_url.get_secret_value()).kombu_url,
    include=["worker.tasks", "worker.lifecycle"],
)
app.conf.update(
    task_default_queue=ANALYSIS_QUEUE,
    # Questions come first, because people wait for them; then live cases, then the backfill, then reruns: see
    # `worker.lanes`.
    task_queues=tuple(Queue(name) for name in LANES),
    # Messages are JSON only: unpickling one would run what its sender wrote.
    task_serializer="json",
    accept_content=["json"],
    # Analyses go to Postgres. A result backend would halve the throughput and be a second truth.
    task_ignore_result=True,
    result_backend=None,
    # The lease holds the case, not the message. Late acknowledgement would only deliver running cases twice.
    task_acks_late=False,
    # A worker takes only what it can start; the rest is for the others.
    worker_prefetch_multiplier=1,
    worker_concurrency=_settings.worker_threads,
    # The model lives in one thread of this process. Forked children could not share a GPU. This replaces Celery's
    # default, prefork; any other pool is refused at the start (`lifecycle.py`).
    worker_pool="threads",
    # Keeps what cannot be read as dead letters instead of dropping it.
    worker_consumer="worker.deadletters:KeepingConsumer",
    broker_connection_retry_on_startup=True,
    # Redis may be away for long. The cases are in Postgres, so there is no reason to give up.
    broker_connection_max_retries=None,
    # Celery reads this only with late acknowledgement. Tasks must go on: their leases are valid.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_transport_options={
        **broker_options(visibility_timeout=3600),
        "queue_order_strategy": "worker.lanes:LaneCycle",
    },
    # Celery writes to our logs: see `configure_logs` below. It leaves standard output and error alone.
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)


@signals.setup_logging.connect
def _set_up_logs(**_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
    """A listener of this signal sets up the logs, so that Celery does not."""
    configure_logs(_settings)


@signals.celeryd_init.connect
def _set_up_logs_early(instance: Any, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
    """Celery warns of some users before the logs are set up, and writes its banner and last words as plain text."""
    configure_logs(_settings)
    if _settings.log_format == "json":
        instance.quiet = True
        silence_last_words()
