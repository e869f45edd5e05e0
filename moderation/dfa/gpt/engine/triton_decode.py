"""Decode attention on CUDA: one query per row and head, each key and value read from memory exactly once.

These reads limit decoding: at 128 rows they are 78 % of a step's bytes. Every row has its own length, so a masked
kernel would read keys only to discard them. Imported only with triton installed and on a CUDA device.
"""

from typing import Any, cast

import torch
import triton  # pyright: ignore[reportMissingImports]  absent where there is no CUDA
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

#: Keys per iteration of the inner loop.
BLOCK = 64


@triton.jit
def _kernel(
    q, k, v, out, slots, lengths, scale, s_slot, s_head, s_pos,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803  constants, as triton writes them
):  # fmt: skip
    row, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    n = tl.load(lengths + row)
    base = tl.load(slots + row).to(tl.int64) * s_slot + (head // GROUP) * s_head
    d, j = tl.arange(0, D), tl.arange(0, BLOCK)
    x = tl.load(q + (row * heads + head) * D + d).to(tl.float32) * scale
    top, total = float("-inf"), 0.0
    acc = tl.zeros([D], tl.float32)
    for start in range(0, n, BLOCK):
        live = start + j < n
        at = base + (start + j)[:, None] * s_pos + d[None]
        s = tl.sum(tl.load(k + at, mask=live[:, None], other=0.0).to(tl.float32) * x[None], 1)
        s = tl.where(live, s, float("-inf"))
        new = tl.maximum(top, tl.max(s))
        p, fade = tl.exp(s - new), tl.exp(top - new)
        acc = acc * fade + tl.sum(
            tl.load(v + at, mask=live[:, None], other=0.0).to(tl.float32) * p[:, None], 0
        )
        total, top = total * fade + tl.sum(p), new
    tl.store(out + (row * heads + head) * D + d, (acc / total).to(out.dtype.element_ty))


def attend(q: Tensor, k: Tensor, v: Tensor, slots: Tensor, lengths: Tensor, scale: float | None) -> Tensor:
    """Attend with (B, H, D) queries to the first `lengths` keys of their slots in (S, H, L, D) -> (B, H, D).

    D must be a power of two, as in every Llama. Accumulates in float32.
    """
    q = q.contiguous()
    out = torch.empty_like(q)
    rows, heads, width = q.shape
    launch: Any = cast("Any", _kernel)[(rows, heads)]
    launch(
        q,
        k,
        v,
        out,
        slots,
        lengths,
        width**-0.5 if scale is None else scale,
        k.stride(0),
        k.stride(1),
        k.stride(2),
        GROUP=heads // k.shape[1],
        D=width,
        BLOCK=BLOCK,
    )
    return out
