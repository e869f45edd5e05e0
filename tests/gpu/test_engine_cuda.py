"""What CUDA adds, against the same engine without it. Not run yet: no CUDA machine has been available."""

import pytest
import torch

from moderation.dfa.gpt.bundle import BundleSpec, load_bundle
from moderation.dfa.gpt.engine.engine import Answers, Engine, Plan, Route
from moderation.dfa.gpt.layouts import random_bundle
from tests.dfa.conftest import a_picture

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> BundleSpec:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "llava", "llava-1.5-tiny", seed=4)


def answers(spec: BundleSpec, *, device: str, dtype: torch.dtype, accelerate: bool) -> list[Answers]:
    bundle = load_bundle(spec, device=torch.device(device), dtype=dtype)
    engine = Engine(
        bundle.model,
        bundle.script,
        spec.image,
        route=lambda margin, mass: Route.DEEPFAKE,
        plan=Plan(max_new_tokens=12, slots=5, max_batch=3, accelerate=accelerate),
    )
    return engine.answer([a_picture(spec.image.size, index) for index in range(9)])


@pytest.mark.parametrize("accelerate", [False, True], ids=["eager", "compiled and captured"])
def test_cuda_in_full_precision_equals_the_cpu(spec: BundleSpec, accelerate: bool) -> None:
    wanted = answers(spec, device="cpu", dtype=torch.float32, accelerate=False)

    found = answers(spec, device="cuda", dtype=torch.float32, accelerate=accelerate)

    assert [a.rationale for a in found] == [a.rationale for a in wanted]
    assert [a.margin for a in found] == pytest.approx([a.margin for a in wanted], abs=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("accelerate", [False, True], ids=["eager", "compiled and captured"])
def test_a_second_device_answers_as_the_first(spec: BundleSpec, accelerate: bool) -> None:
    wanted = answers(spec, device="cuda:0", dtype=torch.float32, accelerate=accelerate)

    found = answers(spec, device="cuda:1", dtype=torch.float32, accelerate=accelerate)

    assert [a.rationale for a in found] == [a.rationale for a in wanted]
    assert [a.margin for a in found] == pytest.approx([a.margin for a in wanted], abs=1e-3)


def test_bfloat16_keeps_the_margins(spec: BundleSpec) -> None:
    wanted = answers(spec, device="cpu", dtype=torch.float32, accelerate=False)

    found = answers(spec, device="cuda", dtype=torch.bfloat16, accelerate=True)

    assert [a.margin for a in found] == pytest.approx([a.margin for a in wanted], abs=0.2)
