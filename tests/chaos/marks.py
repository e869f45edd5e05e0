"""What marked pictures do to the process that looks at them, whichever worker it is."""

import os
import random
import signal
import threading
from pathlib import Path

from tests.chaos.pictures import Mark

#: Where it is written down what has happened once.
_ONCE = Path(os.environ["CHAOS_ONCE"])
#: Seconds of preparing one image and of one step of the model: so that faults meet work that is under way.
SECONDS = float(os.environ.get("CHAOS_SECONDS", "0.15"))


def once(mark: Mark, sha256: str) -> bool:
    """True the first time that any process asks for this picture."""
    try:
        (_ONCE / f"{mark.name}-{sha256[:24]}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), random.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))
    threading.Event().wait()
