"""What is logged must never be in the way of what is done."""

import subprocess
import sys
from pathlib import Path

import pytest

#: Says something, and ends as a watchdog does, after which it is too late to say so.
_SPEAK = """
import sys, structlog
from moderation.logs import configure_logs
from moderation.settings import Settings
configure_logs(Settings.model_validate({"log_format": sys.argv[1]}))
for number in range(1000):
    structlog.get_logger().warning("sweep_failed", action="sweep", number=number)
{then}
"""


def _run(log_format: str, then: str) -> int:
    with Path("/dev/full").open("wb") as full:
        script = [sys.executable, "-c", _SPEAK.replace("{then}", then), log_format]
        return subprocess.run(script, stderr=full, check=False, timeout=60).returncode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_full_disk_under_the_log_stops_nothing(log_format: str) -> None:
    assert _run(log_format, "import os; os._exit(7)") == 7


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_watchdog_ends_the_process_though_it_cannot_say_so() -> None:
    assert _run("json", "import worker.watchdog as w; w._exit('stuck')") == 70
