"""The decode-attention kernel against plain attention, on CUDA or, with TRITON_INTERPRET=1, in triton's interpreter."""

import os
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from moderation.dfa.gpt.engine.attention import Current, Decode, decode, slot_attention
from moderation.dfa.gpt.engine.kv import SlotKV

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cpu" and not INTERPRETED, reason="needs CUDA, or TRITON_INTERPRET=1"),
]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float32, 1e-5, id="float32"),
        pytest.param(torch.bfloat16, 2e-2, id="bfloat16"),
    ],
)
@pytest.mark.parametrize("key_heads", [4, 2], ids=["multi-head", "grouped"])
def test_the_kernel_equals_plain_attention(dtype: torch.dtype, tolerance: float, key_heads: int) -> None:
    from moderation.dfa.gpt.engine.triton_decode import attend

    torch.manual_seed(0)
    slots, heads, length, width = 6, 4, 200, 128
    k, v = (torch.randn(slots, key_heads, length, width, dtype=dtype, device=DEVICE) for _ in range(2))
    rows = torch.tensor([5, 0, 3, 2], device=DEVICE)
    lengths = torch.tensor([200, 1, 64, 137], device=DEVICE)
    q = torch.randn(4, heads, width, dtype=dtype, device=DEVICE)

    out = attend(q, k, v, rows, lengths, None)

    for row, (slot, count) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
        keys, values = (
            kept[slot, :, :count].float().repeat_interleave(heads // key_heads, 0) for kept in (k, v)
        )
        wanted = scaled_dot_product_attention(q[row, :, None].float(), keys, values)[:, 0]
        assert (out[row].float() - wanted).abs().max() < tolerance


@pytest.mark.parametrize("key_heads", [4, 2], ids=["multi-head", "grouped"])
def test_a_decode_step_with_the_kernel_equals_one_without(key_heads: int) -> None:
    torch.manual_seed(1)
    slots, lengths = [0, 1, 4], [17, 90, 3]
    query = torch.randn(3, 4, 1, 64, device=DEVICE)
    key, value = (torch.randn(3, key_heads, 1, 64, device=DEVICE) for _ in range(2))

    outs: list[torch.Tensor] = []
    for kernel in (True, False):
        kv = SlotKV(
            layers=1, slots=6, heads=key_heads, length=100, width=64, dtype=torch.float32, device=DEVICE
        )
        kept = torch.Generator(DEVICE).manual_seed(2)
        kv.k[0].normal_(generator=kept)
        kv.v[0].normal_(generator=kept)
        step = decode(kv, slots, lengths, device=DEVICE, kernel=kernel)
        outs.append(slot_attention(_layer(step), query, key, value, None)[0])

    assert outs[0].shape == outs[1].shape == (3, 1, 4, 64)
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-5)


def _layer(step: Decode) -> torch.nn.Module:
    layer: Any = torch.nn.Module()
    layer.slots, layer.layer_idx = Current(), 0
    layer.slots.step = step
    return layer
