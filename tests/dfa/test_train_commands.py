"""The commands, on drawn faces and the shipped portraits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moderation.analysis import Technique
from moderation.cli.dfa import app
from moderation.dfa.instruct.forgery.redraw import REDRAWERS, redrawers
from moderation.dfa.instruct.workshop import forge_files
from moderation.errors import SetupProblem

SAMPLES = Path(__file__).parents[2] / "moderation" / "samples"

runner = CliRunner()


@pytest.mark.parametrize(
    "command",
    [
        ["forge"],
        ["instruct"],
        ["train", "small"],
        ["train", "sight"],
        ["train", "sources-out"],
        ["train", "redrawers"],
        ["train", "lora"],
        ["calibrate"],
    ],
)
def test_every_command_has_help(command: list[str]) -> None:
    result = runner.invoke(app, [*command, "--help"])

    assert result.exit_code == 0
    assert "--" in result.output


def test_the_commands_are_a_module_too_as_accelerate_launch_starts_them() -> None:
    command = [sys.executable, "-m", "moderation.cli.main", "dfa", "train", "sight", "--help"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    assert "--twos" in done.stdout


def test_forge_writes_a_forgery_its_mask_and_its_facts(tmp_path: Path) -> None:
    portraits = [str(SAMPLES / f"portrait-{number}.jpg") for number in (1, 2)]

    result = runner.invoke(app, ["forge", *portraits, "--out", str(tmp_path), "--technique", "FE", "--json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["written"] == 2
    facts = json.loads((tmp_path / "portrait-1.FE.json").read_text())
    assert facts["technique"] == "FE"
    assert facts["touches"]
    assert (tmp_path / "portrait-1.FE.png").is_file()
    assert (tmp_path / "portrait-1.FE.mask.png").is_file()
    assert (tmp_path / "portrait-1.bona_fide.png").is_file()


def test_forge_names_a_file_that_it_cannot_read_and_goes_on(tmp_path: Path) -> None:
    damaged, gone, good = SAMPLES / "truncated.jpg", tmp_path / "gone.jpg", SAMPLES / "portrait-1.jpg"
    arguments = ["--out", str(tmp_path / "out"), "--technique", "FE", "--json"]

    result = runner.invoke(app, ["forge", str(damaged), str(gone), str(good), *arguments])

    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["written"] == 1
    assert "damaged or cut off" in told["unreadable"][str(damaged)]
    assert told["unreadable"][str(gone)] == "No such file or directory"


def test_forge_says_why_it_read_nothing(tmp_path: Path) -> None:
    damaged = SAMPLES / "truncated.jpg"

    with pytest.raises(SetupProblem, match=r"truncated\.jpg: .*damaged or cut off"):
        forge_files([damaged], tmp_path / "out", [Technique.FE], mark=True, seed=0)


def test_forge_refuses_two_pictures_of_one_name_before_it_writes(tmp_path: Path) -> None:
    one, other = tmp_path / "x1" / "a.jpg", tmp_path / "x2" / "a.png"

    with pytest.raises(SetupProblem, match=r"x1/a\.jpg and .*x2/a\.png would be written under one name"):
        forge_files([one, other], tmp_path / "out", [Technique.FE], mark=True, seed=0)

    assert not (tmp_path / "out").exists()


def test_redrawers_are_trained_from_pictures_and_written(tmp_path: Path) -> None:
    file = tmp_path / "redrawers.safetensors"

    result = runner.invoke(
        app, ["train", "redrawers", str(SAMPLES / "portrait-1.jpg"), "--steps", "1", "--out", str(file)]
    )

    assert result.exit_code == 0, result.output
    assert set(redrawers(file)) == set(REDRAWERS)
