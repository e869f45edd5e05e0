"""The decode-attention kernel against plain attention, on CUDA or, with TRITON_INTERPRET=1, in triton's interpreter."""

import os

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED, reason="needs CUDA, or TRITON_INTERPRET=1"),
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
