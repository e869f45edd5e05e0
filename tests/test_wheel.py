"""What is shipped: the wheel is built of this tree, and `make wheel` starts it too."""

import runpy
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "deploy/wheel.py"))


@pytest.fixture(scope="module")
def wheel(script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return script["build"](ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_our_packages_whole_and_nothing_else(script: dict[str, Any], wheel: Path) -> None:
    assert list(script["faults"](wheel, ROOT)) == []
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(script["PACKAGES"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("moderation/samples/faces.csv", "faces.csv is of a kind that is not shipped"),
        ("moderation/dfa/tests/test_pixels.py", "test_pixels.py is a test"),
        ("build/lib/moderation/old.py", "build/lib/moderation/old.py has no place in it"),
    ],
    ids=["data", "test", "left over"],
)
def test_a_wheel_with_what_must_not_ship_is_found_out(
    script: dict[str, Any], wheel: Path, tmp_path: Path, name: str, said: str
) -> None:
    spoilt = tmp_path / wheel.name
    spoilt.write_bytes(wheel.read_bytes())
    with zipfile.ZipFile(spoilt, "a") as archive:
        archive.writestr(name, "")

    found = list(script["faults"](spoilt, ROOT))

    assert any(said in fault for fault in found), found


def test_a_wheel_that_lacks_a_page_of_the_console_is_found_out(
    script: dict[str, Any], wheel: Path, tmp_path: Path
) -> None:
    left_out = "moderation/web/console/templates/case.html"
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(tmp_path / wheel.name, "w") as spoilt:
        for name in whole.namelist():
            if name != left_out:
                spoilt.writestr(name, whole.read(name))

    assert list(script["faults"](tmp_path / wheel.name, ROOT)) == [f"{left_out} is missing"]
