"""Eight-bit products on CUDA, behind a setting: they gain speed and may lose evidence.

Weights are stored in e4m3 with one scale per output channel; inputs get one scale per token as they arrive. It is off
by default: traces of forgery are fine differences. Before you turn it on, measure its effect on labelled cases
(`benchmarks/engine.py --float8` gives the change of P(Yes) on random ones) and calibrate the bundle again.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from moderation.dfa.gpt.engine.memory import is_out_of_memory
from moderation.errors import SetupProblem

#: The largest number of float8_e4m3fn.
LARGEST = 448.0


class Float8Linear(nn.Module):
    """A linear layer without bias, with products in eight bits and sums in more."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        values, scale = quantized(linear.weight.detach())  # (out, in), (out, 1)
        self.register_buffer("values", values)
        self.register_buffer("scale", scale.t().contiguous())  # (1, out)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        inputs, scale = quantized(rows)
        scaled_mm: Any = torch._scaled_mm  # noqa: SLF001  # pyright: ignore[reportPrivateImportUsage]  the only name it has
        out: Tensor = scaled_mm(
            inputs,
            cast("Tensor", self.values).t(),
            scale_a=scale,
            scale_b=cast("Tensor", self.scale),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return out.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """(R, C) numbers in eight bits, and the (R, 1) float32 scales that restore them."""
    scale = x.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


def use_float8(language_model: Any) -> None:
    """Replace the linears of every decoder layer. The output layer stays: the verdict is read from it.

    Raise SetupProblem when the device has no such products, before any face is analysed. Falling back to more bits
    would give its analyses another fingerprint than those of other workers.
    """
    for number, layer in enumerate(language_model.layers):
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear) and child.bias is None:
                    small = Float8Linear(child)
                    if number == 0:
                        _try(small, child)
                    setattr(part, name, small)


@torch.inference_mode()
def _try(small: Float8Linear, linear: nn.Linear) -> None:
    """Try one product of this size on this device."""
    weight = linear.weight
    try:
        small(torch.zeros(1, small.in_features, dtype=weight.dtype, device=weight.device))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise SetupProblem(
            f"This device has no eight-bit products of {small.in_features} by {small.out_features} numbers "
            f"({error}): turn float8 off. On CUDA it needs compute capability 8.9 and sizes that 16 divides."
        ) from error
