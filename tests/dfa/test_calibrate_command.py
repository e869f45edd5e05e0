"""`bonafide dfa calibrate`: margins of the engine that serves, and no fit that turns verdicts round."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from moderation.analysis import Basis
from moderation.cli.dfa import app
from moderation.dfa.gpt.bundle import BundleSpec, read_bundle
from moderation.dfa.gpt.calibration import load_platt
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.policy import Policy
from moderation.dfa.train.calibrate import MarginsReversed, write_calibration
from moderation.errors import SetupProblem
from tests.dfa.conftest import copy_of

SAMPLES = Path(__file__).parents[2] / "moderation" / "samples"
PORTRAITS = [SAMPLES / f"{name}.jpg" for name in ("portrait-1", "portrait-2", "portrait-3", "forged-eyes")]
#: Rows of each portrait: two portraits of either label give ten labels, the fewest that can be fitted.
TIMES = 5


@pytest.fixture
def bundle(tiny: BundleSpec, tmp_path: Path) -> Path:
    return copy_of(tiny, tmp_path / "tiny")


@pytest.fixture
def by_margin(tiny: BundleSpec) -> list[Path]:
    """Portraits, the one that the model finds most bona fide first."""
    detector = Detector.load(tiny.folder, device="cpu", policy=Policy(technique=False, rationale=False))

    def margin(file: Path) -> float:
        (face,) = detector.analyze(detector.prepare(file.read_bytes()).crops)
        assert face.verdict.margin is not None
        return face.verdict.margin

    return sorted(PORTRAITS, key=margin)


def _table(folder: Path, files: list[Path], labels: list[str]) -> Path:
    file = folder / "labels.csv"
    with file.open("w", newline="") as lines:
        rows = csv.writer(lines)
        sources = ["avatars", "banners", "", "avatars"]
        rows.writerows([("file", "label", "source"), *list(zip(files, labels, sources, strict=True)) * TIMES])
    return file


def _calibrate(bundle: Path, labels: Path, *options: str) -> Result:
    return CliRunner().invoke(
        app, ["calibrate", str(bundle), str(labels), "--device", "cpu", "--json", *options]
    )


def test_a_calibration_is_fitted_and_the_bundle_serves_with_it(
    bundle: Path, by_margin: list[Path], tmp_path: Path
) -> None:
    table = _table(tmp_path, by_margin, ["bona_fide", "bona_fide", "deepfake", "deepfake"])

    result = _calibrate(bundle, table)

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["a"] > 0
    assert told["n"] == 20
    assert load_platt(bundle / "calibration.json").a == told["a"]
    assert told["calibrated_on"] == "labelled pictures of avatars, banners"
    assert Detector.load(bundle, device="cpu").basis == Basis(told["calibrated_on"], ("avatars", "banners"))


def test_a_bundle_keeps_its_doubt(bundle: Path, by_margin: list[Path], tmp_path: Path) -> None:
    table = _table(tmp_path, by_margin, ["bona_fide", "deepfake", "bona_fide", "deepfake"])
    _calibrate(bundle, table)
    first = load_platt(bundle / "calibration.json")
    assert first.zone is None  # as before: the policy decides
    write_calibration(read_bundle(bundle), replace(first, zone=(0.1, 0.2), strangest=1.25))

    told = json.loads(_calibrate(bundle, table).stdout)

    again = load_platt(bundle / "calibration.json")
    assert again.strangest == told["strangest"] == 1.25
    assert again.zone == tuple(told["zone"])
    detector = Detector.load(bundle, device="cpu", policy=Policy(technique=False, rationale=False))
    (face,) = detector.analyze(detector.prepare(by_margin[2].read_bytes()).crops)
    assert face.verdict.score is not None
    assert again.zone == pytest.approx(
        (0.5, face.verdict.score), abs=1e-4
    )  # of the higher half of the bona fide faces


def test_a_calibration_in_eight_bits_is_another_and_says_so(
    bundle: Path, by_margin: list[Path], tmp_path: Path
) -> None:
    table = _table(tmp_path, by_margin, ["bona_fide", "bona_fide", "deepfake", "deepfake"])
    _calibrate(bundle, table)
    exact = load_platt(bundle / "calibration.json")

    result = _calibrate(bundle, table, "--float8")

    assert result.exit_code == 0, result.output
    rough = load_platt(bundle / "calibration.json")
    assert rough.digest != exact.digest  # of the margins
    assert rough.version == f"{exact.version} float8"


def test_a_word_that_is_no_label_is_named(bundle: Path, tmp_path: Path) -> None:
    result = _calibrate(bundle, _table(tmp_path, PORTRAITS, ["bona_fide", "deepfake", "unsure", "real"]))

    assert isinstance(result.exception, SetupProblem)
    assert "'unsure'" in str(result.exception)


def test_a_fit_that_turns_verdicts_round_is_refused_and_nothing_is_written(
    bundle: Path, by_margin: list[Path], tmp_path: Path
) -> None:
    table = _table(tmp_path, by_margin, ["deepfake", "deepfake", "bona_fide", "bona_fide"])

    result = _calibrate(bundle, table)

    assert isinstance(result.exception, MarginsReversed)
    assert read_bundle(bundle).calibration is None
    assert not (bundle / "calibration.json").exists()
