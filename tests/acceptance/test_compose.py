"""docker-compose.yml, run by its own words where there is no Docker."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from moderation.local import open_folder

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "deploy/try_compose.py"))


@pytest.mark.timeout(600)
def test_what_the_compose_file_says_runs_judges_the_samples_and_stops_in_its_time(
    script: dict[str, Any], tmp_path: Path, samples: Path
) -> None:
    report = script["run"](open_folder(tmp_path))

    assert [*report.services] == [
        "postgres",
        "redis",
        "store",
        "migrate",
        "users",
        "console",
        "sweeper",
        "worker",
    ]
    assert {name: tried.login for name, tried in report.tried.items() if tried.login} == {
        "console": "bonafide_console",
        "sweeper": "bonafide_sweeper_1",
        "worker": "bonafide_worker_1",
    }
    checked = {name for name, service in report.services.items() if service.health}
    assert all(report.tried[name].health.startswith("ok") for name in checked)
    assert {"postgres", "redis", "console", "worker"} == checked
    assert len(report.cases) == len(list(samples.glob("*.jpg")))
    assert sum(case.verdict is None for case in report.cases) == 1  # one of them is a damaged file
    assert report.tried["worker"].stopped.endswith("exit 0")
    # Stopped among 40, it finished what it had begun and left the others to the next one.
    assert len(report.drained.cases) == 40
    assert report.drained.ready < 40
    assert {case.attempts for case in report.drained.cases} == {1}


def test_a_secret_that_is_missing_stops_everything_with_its_name(script: dict[str, Any]) -> None:
    environment = {**script["example_env"](), "STORE_KEY": ""}

    with pytest.raises(SystemExit, match="STORE_KEY is missing in the environment"):
        script["read"](environment, "cpu")


def test_the_gpu_is_asked_for_by_another_profile_and_nothing_else_differs(script: dict[str, Any]) -> None:
    cpu, gpu = (script["read"](script["example_env"](), profile) for profile in ("cpu", "gpu"))

    assert (cpu["worker"].command, cpu["worker"].env) == (gpu["worker-gpu"].command, gpu["worker-gpu"].env)
    assert cpu.keys() - gpu.keys() == {"worker"}
