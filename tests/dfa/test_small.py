"""The shipped bundle `small`, on the base that is fetched for it."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from moderation.analysis import FaceAnalysis, Label, Region
from moderation.dfa.gpt.base import base_of
from moderation.dfa.gpt.bundle import SHIPPED, resolve_bundle
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.policy import Policy

SMALL = SHIPPED["small"]
SAMPLES = Path(str(files("moderation").joinpath("samples")))
#: What may be shipped with the package, bytes.
MOST = 25e6


@pytest.fixture(scope="module")
def detector() -> Detector:
    spec = resolve_bundle("small")
    assert spec.packaged is not None
    base_of(spec.packaged)
    torch.set_num_threads(2)
    return Detector.load("small", device="cpu", policy=Policy(early_exit=0.0), slots=8)


def faces(detector: Detector, pattern: str) -> list[FaceCrop]:
    return [
        crop for file in sorted(SAMPLES.glob(pattern)) for crop in detector.prepare(file.read_bytes()).crops
    ]


@pytest.fixture(scope="module")
def portraits(detector: Detector) -> list[FaceAnalysis]:
    return detector.analyze(faces(detector, "portrait-*.jpg"))


def test_the_bases_are_not_shipped() -> None:
    sizes = {file.name: file.stat().st_size for file in SMALL.rglob("*") if file.is_file()}

    assert sum(sizes.values()) < MOST
    assert {"bundle.toml", "MODEL_CARD.md", "LICENSE", "calibration.json", "heads.safetensors"} <= set(sizes)
    assert "model.safetensors" not in sizes


def test_no_bona_fide_sample_is_called_a_deepfake(portraits: list[FaceAnalysis]) -> None:
    assert len(portraits) == 3
    assert [face.verdict.label for face in portraits].count(Label.DEEPFAKE) == 0


def test_what_is_wrong_with_most_forged_samples_is_found_and_named(detector: Detector) -> None:
    files = sorted(SAMPLES.glob("forged-*.jpg"))
    analysed = dict(
        zip((file.stem for file in files), detector.analyze(faces(detector, "forged-*.jpg")), strict=True)
    )

    called = {name: face for name, face in analysed.items() if face.verdict.label is Label.DEEPFAKE}
    named = {
        name: {region for line in face.rationale for region in line.regions} for name, face in called.items()
    }

    assert len(files) == 4
    assert set(called) >= {"forged-eyes", "forged-mouth", "forged-swap-2"}
    assert Region.EYES in named["forged-eyes"]
    assert Region.MOUTH in named["forged-mouth"]
    assert Region.FACE_BOUNDARY in named["forged-swap-2"]


def test_the_verdict_is_a_probability_whose_basis_is_told(detector: Detector) -> None:
    calibration = detector.bundle.calibration

    assert calibration is not None
    assert "judged without it" in calibration.basis
    assert calibration.strangest is not None
    assert calibration.zone is not None
    assert 0 < calibration.zone[0] < calibration.zone[1] < 1
