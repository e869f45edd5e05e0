"""The CUDA path of the engine, walked without a GPU by tensors that have a device, a shape and a type but no numbers.

They refuse what CUDA refuses: operands on two devices, shapes that do not meet, sizes that eight-bit products do not
take. What is read back from the device is made up here. It takes a torch that is built with CUDA.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from transformers import LlavaForConditionalGeneration

from moderation.dfa.gpt.bundle import ImageSpec
from moderation.dfa.gpt.engine.engine import Engine, Plan, Route
from moderation.dfa.gpt.engine.graphs import DecodeGraphs
from moderation.dfa.gpt.layouts import layout, train_tokenizer
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.gpt.script import Codec, Script, write_script
from moderation.errors import SetupProblem

pytest.importorskip("triton")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.version.cuda is None, reason="needs a torch built with CUDA"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: test_engine_cuda runs"),
]

DEVICE = torch.device("cuda:0")
TOKEN = 5  # what every choice of a token is made to be


class Readings(TorchDispatchMode):
    """Makes up what leaves the device, and notes what a captured step may not do: leave it, or touch the host."""

    def __init__(self) -> None:
        super().__init__()
        self.capturing = False
        self.captured = 0
        self.forbidden: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default):
            if self.capturing:
                self.forbidden.append(str(func))
            return 0.5 if args[0].is_floating_point() else TOKEN
        out = func(*args, **(kwargs or {}))
        if self.capturing:
            self.captured += 1
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            self.forbidden += [str(func) for t in tensors if t.device != DEVICE and t.dim()]
        return out


class _Nothing:
    """Stands for CUDA's streams and graphs: they order work and change none of it."""

    def __init__(self, *_: object) -> None: ...
    def wait_stream(self, _other: object) -> None: ...
    def replay(self) -> None: ...
    def pool(self) -> object:
        return None


class _Launch:
    """Stands for the kernel's launch, which takes addresses: checks what it is given."""

    def __init__(self) -> None:
        self.launches = 0

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        def launch(
            q: Any, k: Any, v: Any, out: Any, slots: Any, lengths: Any, *_: Any, **constants: Any
        ) -> None:
            self.launches += 1
            assert {t.device for t in (q, k, v, out, slots, lengths)} == {DEVICE}
            assert q.dtype == k.dtype == v.dtype == out.dtype
            assert slots.dtype == lengths.dtype == torch.int64
            assert grid == q.shape[:2]
            assert q.is_contiguous()
            assert out.is_contiguous()
            assert constants["D"] == q.shape[2] == k.stride(2)

        return launch


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Readings]:
    """Tensors without numbers, and as much of `torch.cuda` as asks for a driver."""
    import torch._subclasses.fake_tensor as fakes
    import torch.nn.attention.bias as bias

    readings = Readings()
    made = bias.causal_lower_right

    def lower_right(*sizes: int) -> Any:
        with _disable_current_modes():  # a tensor of its own class, which a fake one cannot become
            return made(*sizes)

    @contextlib.contextmanager
    def capture(*_: object, **__: object) -> Generator[None]:
        readings.capturing = True
        yield
        readings.capturing = False

    monkeypatch.setattr(fakes, "CONSTANT_NUMEL_LIMIT", -1)
    monkeypatch.setattr(bias, "causal_lower_right", lower_right)
    monkeypatch.setattr(bias, "can_use_flash_attention", lambda p: p.query.dtype is torch.bfloat16)
    monkeypatch.setattr(bias, "can_use_efficient_attention", lambda p: not p.enable_gqa)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (120 << 30, 140 << 30))
    monkeypatch.setattr(torch.cuda, "Stream", _Nothing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Nothing)
    monkeypatch.setattr(torch.cuda, "current_stream", _Nothing)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    with fakes.FakeTensorMode(), readings:
        yield readings


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> _Launch:
    launch = _Launch()
    monkeypatch.setattr("moderation.dfa.gpt.engine.triton_decode._kernel", launch)
    return launch


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor asks the driver what it compiles for; the layers run as they are."""
    monkeypatch.setattr("moderation.dfa.gpt.engine.graphs.compile_layers", lambda model: None)


def an_engine(name: str, dtype: torch.dtype, **plan: Any) -> Engine:
    chosen, prompts = layout(name), load_prompts()
    with _disable_current_modes():
        codec = Codec(train_tokenizer(prompts.texts(), min(chosen.vocabulary, 2048)), start=1)
    torch.set_default_dtype(dtype)
    try:
        with DEVICE:
            model = LlavaForConditionalGeneration(chosen.config(chosen.vocabulary)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    script: Script = write_script(prompts, codec, image_token=model.config.image_token_id)
    return Engine(model, script, chosen.image, route=lambda _margin, _mass: Route.DEEPFAKE, plan=Plan(**plan))


def pictures(image: ImageSpec, count: int) -> Sequence[np.ndarray]:
    return [np.zeros((image.size, image.size, 3), dtype=np.uint8)] * count


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny", "llava-1.5-tiny", "llava-1.5-7b"])
@pytest.mark.usefixtures("uncompiled")
def test_every_step_stays_on_the_device(
    name: str, dtype: torch.dtype, readings: Readings, launch: _Launch
) -> None:
    engine = an_engine(name, dtype, max_new_tokens=6)
    engine.warm()

    answers = engine.answer(pictures(engine.image, engine.batch + 3))
    script = engine.script
    said = list(engine.converse(pictures(engine.image, 1)[0], script.system, script.detect, max_new_tokens=3))

    assert [a.rationale for a in answers] == [(TOKEN,) * 6] * len(answers)
    assert said == [TOKEN] * 3
    assert launch.launches
    assert readings.captured
    assert not readings.forbidden


@pytest.mark.usefixtures("uncompiled", "launch")
def test_a_step_that_reads_from_the_device_is_no_step_to_capture(readings: Readings) -> None:
    engine = an_engine("tiny", torch.float32, slots=4, max_new_tokens=3)

    def reads(last: torch.Tensor, lengths: torch.Tensor, step: object) -> torch.Tensor:
        return engine.greedy(last, lengths, step) + lengths[0].item()

    DecodeGraphs(reads, engine.kv, DEVICE)

    assert readings.forbidden


@pytest.mark.usefixtures("readings", "launch")
def test_scattered_slots_are_read_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderation.dfa.gpt.engine.engine.has_kernel", lambda _: False)
    engine = an_engine("llava-1.5-tiny", torch.bfloat16, slots=5, max_batch=3, max_new_tokens=4)

    assert len(engine.answer(pictures(engine.image, 9))) == 9


@pytest.mark.usefixtures("readings", "launch", "uncompiled")
def test_eight_bits_take_the_true_sizes() -> None:
    engine = an_engine("llava-1.5-7b", torch.bfloat16, slots=4, max_new_tokens=2, float8=True)

    assert len(engine.answer(pictures(engine.image, 5))) == 5


@pytest.mark.usefixtures("readings")
def test_eight_bits_refuse_sizes_that_16_does_not_divide() -> None:
    with pytest.raises(SetupProblem, match="sizes that 16 divides"):
        an_engine("llava-1.5-tiny", torch.bfloat16, slots=4, float8=True)
