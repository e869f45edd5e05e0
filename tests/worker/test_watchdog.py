from pathlib import Path

import pytest

from worker.watchdog import Watchdog


@pytest.mark.parametrize(
    ("still_for", "gives_up"),
    [
        pytest.param(5.0, False, id="it moves"),
        pytest.param(61.0, True, id="it is stuck"),
        pytest.param(float("inf"), True, id="it is dead"),
    ],
)
def test_a_process_gives_itself_up_when_something_has_not_moved(
    still_for: float, gives_up: bool, tmp_path: Path
) -> None:
    reasons: list[str] = []
    alive = tmp_path / "alive"

    Watchdog({"the engine": (lambda: still_for, 60.0)}, alive_file=alive, give_up=reasons.append).look()

    assert bool(reasons) is gives_up
    assert alive.exists() is not gives_up
    if gives_up:
        assert reasons[0].startswith("the engine has not moved for")
