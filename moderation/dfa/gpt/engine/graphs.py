"""Compiled decoder layers on CUDA, and decode steps captured as graphs.

An eager decode step is about 1,370 launches from Python, and the elementwise work between matrices moves 658 kB per
token and layer (counted for LLaVA-1.5-7B). Compiling fuses this work; a captured step is one launch.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from moderation.dfa.gpt.engine import attention
from moderation.dfa.gpt.engine.attention import Decode
from moderation.dfa.gpt.engine.kv import SlotKV

#: Most compiled forms of a layer. Prompts have only a few lengths, but groups have every size up to the largest.
FORMS = 64


def compile_layers(language_model: Any, *, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile every decoder layer, except its attention. All layers share one compiled form.

    Attention is not compiled: its step changes with every call, and it is one kernel already.
    """
    attention.AttentionInterface.register(attention.NAME, torch.compiler.disable(attention.slot_attention))
    for layer in language_model.layers:
        if "forward" in vars(layer):
            continue  # compiled for an earlier engine on the same model
        layer.forward = _in_many_forms(torch.compile(layer.forward, backend=backend, dynamic=None))


def _in_many_forms(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Set the limit in the running thread: torch keeps it per thread, and another thread loads the model."""
    limits: Any = torch._dynamo.config  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]  the only name it has

    @functools.wraps(compiled)
    def run(*args: Any, **options: Any) -> Any:
        if limits.recompile_limit < FORMS:
            limits.recompile_limit = FORMS
        return compiled(*args, **options)

    return run


def restore_layers(language_model: Any) -> None:
    """Undo `compile_layers`."""
    attention.AttentionInterface.register(attention.NAME, attention.slot_attention)
    for layer in language_model.layers:
        vars(layer).pop("forward", None)


class DecodeGraphs:
    """Greedy decode steps for fixed numbers of rows, captured largest first into one memory pool."""

    def __init__(
        self, greedy: Callable[[Tensor, Tensor, object], Tensor], kv: SlotKV, device: torch.device
    ) -> None:
        self.kv = kv
        self.sizes = _sizes(kv.slots)
        most = self.sizes[-1]
        # Unused rows write to the scratch slot, at position 0.
        self._last = torch.zeros(most, dtype=torch.long, device=device)
        self._slots = torch.full((most,), kv.scratch, dtype=torch.long, device=device)
        self._lengths = torch.zeros(most, dtype=torch.long, device=device)
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._greedy = greedy
        self._capture_all()

    def _capture_all(self) -> None:
        """Capture each size once, before the first face. It needs the kernel: other steps depend on the longest row."""
        pool: Any = None
        # Our own stream: torch keeps one for all captures of a process, on the device of the first capture.
        captures = torch.cuda.Stream(self._last.device)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dynamo warns about what it leaves uncompiled
            for size in reversed(self.sizes):
                step = self._step(size)
                stream = torch.cuda.Stream(self._last.device)
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for _ in range(2):  # compiles, and lets cuBLAS allocate its workspaces
                        self._greedy(self._last[:size], self._lengths[:size], step)
                torch.cuda.current_stream().wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=captures):
                    tokens = self._greedy(self._last[:size], self._lengths[:size], step)
                pool = graph.pool()
                self._captured[size] = graph, tokens

    def _step(self, size: int) -> Decode:
        return Decode(kv=self.kv, rows=self._slots[:size], lengths=self._lengths[:size], runs=None)

    def next_tokens(self, last: Sequence[int], slots: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """One token per row. Padded to the next captured size with rows that write to the scratch slot."""
        count = len(last)
        size = next(size for size in self.sizes if size >= count)
        pad = size - count
        host = torch.tensor([[*last, *[0] * pad], [*slots, *[self.kv.scratch] * pad], [*lengths, *[0] * pad]])
        staged = host.pin_memory().to(self._last.device, non_blocking=True)
        for buffer, values in zip((self._last, self._slots, self._lengths), staged, strict=True):
            buffer[:size].copy_(values)
        graph, tokens = self._captured[size]
        graph.replay()
        return tokens[:count].tolist()


def _sizes(slots: int) -> list[int]:
    """1, 2, 4, 8, then every 16, up to the number of slots."""
    sizes = [size for size in (1, 2, 4, 8) if size < slots]
    return [*sizes, *range(16, slots, 16), slots] if slots > 8 else [*sizes, slots]
