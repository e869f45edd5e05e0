"""The Celery worker: takes cases from the queue, gives each an analysis, and never loses one."""

import os

#: Before numpy is loaded. Each image has a thread of its own, and the matrices that numpy multiplies for it are small:
#: several cores for one of them cost more than they gain.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
