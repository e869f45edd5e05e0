"""The Celery worker: takes cases from the queue, gives each an analysis, and never loses one."""
