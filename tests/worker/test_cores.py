"""The cores of a container are its share, not the machine's."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from worker.cores import usable_cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of sixty-four, as the kernel tells of it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        pytest.param("0::/", {"cpu.max": "200000 100000"}, 2, id="a container of two cores"),
        pytest.param("0::/", {"cpu.max": "250000 100000"}, 3, id="half a core counts as one"),
        pytest.param("0::/", {"cpu.max": "5000 100000"}, 1, id="never none"),
        pytest.param("0::/", {"cpu.max": "max 100000"}, 64, id="no quota"),
        pytest.param("0::/", {}, 64, id="the root of the machine has no file"),
        pytest.param("0::/", {"cpu.max": "9900000 100000"}, 64, id="more than there are"),
        pytest.param(
            "0::/kubepods/pod1/worker",
            {
                "kubepods/pod1/worker/cpu.max": "max 100000",
                "kubepods/pod1/cpu.max": "400000 100000",
                "kubepods/cpu.max": "max 100000",
            },
            4,
            id="the group around it has the quota",
        ),
        pytest.param(
            "4:memory:/a\n3:cpu,cpuacct:/docker/x\n0::/",
            {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
            3,
            id="version 1, by the host's name",
        ),
        pytest.param(
            "3:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            64,
            id="version 1 without a quota",
        ),
    ],
)
def test_a_containers_share_is_what_counts(
    tmp_path: Path, groups: str, files: Mapping[str, str], cores: int
) -> None:
    told, mount = tmp_path / "cgroup", tmp_path / "mount"
    told.write_text(groups + "\n")
    for name, content in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(content + "\n")

    assert usable_cores(groups=told, mount=mount) == cores


def test_where_there_are_no_groups_the_process_may_use_what_it_may_run_on(tmp_path: Path) -> None:
    assert usable_cores(groups=tmp_path / "none", mount=tmp_path) == len(os.sched_getaffinity(0))


def test_on_this_machine_there_is_at_least_one() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_numpy_multiplies_with_one_thread_in_a_worker() -> None:
    code = (
        "import worker.app, numpy, threadpoolctl\n"
        "print({p['num_threads'] for p in threadpoolctl.threadpool_info() if p['internal_api'] == 'openblas'})"
    )
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}

    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert said.stdout.strip() == "{1}"
