"""Small random models for the tests of DFA-GPT; made once a session, in under a second each."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moderation.analysis import Box, Face
from moderation.dfa.gpt.bundle import BundleSpec
from moderation.dfa.gpt.detector import FaceCrop
from moderation.dfa.gpt.layouts import random_bundle

# One thread: results do not depend on the machine's cores, and tests of others run beside these.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """What a test draws from torch does not depend on which tests ran before it in the same process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BundleSpec:
    """A random bundle with our convolutional tower."""
    return random_bundle(tmp_path_factory.mktemp("bundles") / "tiny", "tiny", seed=3)


@pytest.fixture(scope="session")
def scaled_llava(tmp_path_factory: pytest.TempPathFactory) -> BundleSpec:
    """A random bundle of LLaVA-1.5's true layout, CLIP and all, scaled down."""
    return random_bundle(tmp_path_factory.mktemp("bundles") / "llava", "llava-1.5-tiny", seed=4)


@pytest.fixture(params=["tiny", "scaled_llava"])
def spec(request: pytest.FixtureRequest) -> BundleSpec:
    """Either layout in turn."""
    return request.getfixturevalue(request.param)


def a_picture(size: int, seed: int = 0) -> np.ndarray:
    """(S, S, 3) uint8, smooth enough to be a picture and unlike any other seed's."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3))
    fine = coarse.repeat(size // 8 + 1, axis=0).repeat(size // 8 + 1, axis=1)[:size, :size]
    return (fine * 0.7 + rng.integers(0, 76, (size, size, 3))).clip(0, 255).astype(np.uint8)


def a_crop(size: int, seed: int = 0) -> FaceCrop:
    return FaceCrop(Face(Box(0, 0, size, size), confidence=1.0), a_picture(size, seed))


def copy_of(spec: BundleSpec, folder: Path) -> Path:
    """A bundle that a test may break."""
    folder.mkdir()
    for file in spec.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
