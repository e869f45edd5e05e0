"""The bare minimum: a Celery task that does nothing, on the same broker, pool and number of threads."""

import os

from celery import Celery

app = Celery("noop", broker=os.environ["BONAFIDE_BROKER_URL"])
app.conf.update(
    task_default_queue="noop",
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_concurrency=int(os.environ.get("BONAFIDE_WORKER_THREADS", "16")),
    worker_pool="threads",
)


@app.task(name="noop")
def noop(case_id: str) -> None:
    """Nothing."""
