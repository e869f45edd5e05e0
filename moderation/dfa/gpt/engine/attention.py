"""Attention over slots, hooked into the decoder layers of transformers by name.

The layers are unchanged. They ask `AttentionInterface` for an implementation, and this one stores new keys and values
in the slots of the step's rows and reads them from there. A step reaches it through `Current`: keyword arguments of a
forward reach an implementation only in some versions of transformers.

B rows, T new tokens, W positions read, H heads, D head width.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from transformers import AttentionInterface

from moderation.dfa.gpt.engine.kv import SlotKV, side_by_side

NAME = "bonafide_slots"


@dataclass(frozen=True)
class Extend:
    """T ≥ 1 new tokens for rows that have stored equally many. Those of a tree are overwritten later."""

    kv: SlotKV
    rows: Tensor | slice
    past: int
    #: (T, W) true where a new token may attend. None: causal from position 0.
    mask: Tensor | None


@dataclass(frozen=True)
class Decode:
    """One new token per row. Rows may differ in length."""

    kv: SlotKV
    rows: Tensor  # (B,) slots
    lengths: Tensor  # (B,) tokens stored before this one
    #: Rows grouped by consecutive slots. None for the kernel, which reads each slot in place.
    runs: tuple["Run", ...] | None


@dataclass(frozen=True)
class Run:
    """Consecutive rows in consecutive slots, which are read as a view. Scattered slots must be copied.

    Copying took 70 % of a step when every second slot was in use (CPU, 32 slots of the small layout).
    """

    rows: slice
    slots: slice
    #: (rows, 1, 1, W) true where a row may attend; W is the longest row.
    mask: Tensor


class Current:
    """The step being computed. One thread at a time owns the model, so there is only one step."""

    step: Extend | Decode | None = None


def attach(language_model: nn.Module) -> Current:
    """Make every decoder layer attend over slots. Set the returned object's `step` before each forward."""
    current = Current()
    model = cast("Any", language_model)
    for layer in model.layers:
        layer.self_attn.slots = current
    model.config._attn_implementation = NAME  # noqa: SLF001  transformers reads this name, for the decoder only
    return current


def extend(
    kv: SlotKV,
    slots: Sequence[int],
    past: int,
    count: int,
    *,
    tree: Tensor | None = None,
    device: torch.device,
) -> Extend:
    """A step of `count` new tokens. `tree` (T, T) is true where a new token sees another. None: causal."""
    rows = side_by_side(slots)
    return Extend(
        kv=kv,
        rows=torch.tensor(slots, device=device) if rows is None else rows,
        past=past,
        mask=_extend_mask(past, count, tree, device),
    )


def _extend_mask(past: int, count: int, tree: Tensor | None, device: torch.device) -> Tensor | None:
    if tree is None and past == 0:
        return None
    if tree is None and device.type == "cuda":
        from torch.nn.attention.bias import causal_lower_right

        return causal_lower_right(count, past + count)  # flash attention takes this form, but no boolean mask
    new = torch.ones(count, count, dtype=torch.bool).tril() if tree is None else tree
    return torch.cat([torch.ones(count, past, dtype=torch.bool), new.cpu()], dim=1).to(device)


def decode(
    kv: SlotKV, slots: Sequence[int], lengths: Sequence[int], *, device: torch.device, kernel: bool
) -> Decode:
    """A step of one token per row, with or without the kernel of `triton_decode`."""
    stored = torch.tensor(lengths, device=device)
    return Decode(
        kv=kv,
        rows=torch.tensor(slots, device=device),
        lengths=stored,
        runs=None if kernel else tuple(_runs(slots, stored)),
    )


def _runs(slots: Sequence[int], stored: Tensor) -> Iterator[Run]:
    """Split the rows, sorted by slot, into runs of consecutive slots."""
    first = 0
    for row in range(1, len(slots) + 1):
        if row < len(slots) and slots[row] == slots[row - 1] + 1:
            continue
        lengths = stored[first:row]
        width = int(lengths.max()) + 1
        mask = torch.arange(width, device=stored.device) <= lengths[:, None]
        yield Run(slice(first, row), slice(slots[first], slots[first] + row - first), mask[:, None, None])
        first = row


def slot_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: object, **options: Any
) -> tuple[Tensor, None]:
    """Store the step's keys and values, then attend: (B, H, T, D) queries to all of their slots -> (B, T, H, D)."""
    step = cast("Any", module).slots.step
    layer = cast("int", module.layer_idx)
    scale: float | None = options.get("scaling")
    assert step is not None, "no step was announced"
    if isinstance(step, Decode):
        return _decode(step, layer, query, key, value, scale), None
    step.kv.write(layer, step.rows, step.past, key, value)
    k, v = step.kv.read(layer, step.rows, step.past + key.shape[2])  # (B, H, W, D)
    out = F.scaled_dot_product_attention(
        query,
        k,
        v,
        attn_mask=step.mask,
        is_causal=step.mask is None and query.shape[2] > 1,
        scale=scale,
        enable_gqa=k.shape[1] != query.shape[1],
    )
    return out.transpose(1, 2), None


def _decode(
    step: Decode, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None
) -> Tensor:
    step.kv.append(layer, step.rows, step.lengths, key[:, :, 0], value[:, :, 0])
    if step.runs is None:
        from moderation.dfa.gpt.engine.triton_decode import attend

        kv = step.kv
        out = attend(
            query[:, :, 0], kv.k[layer], kv.v[layer], step.rows, step.lengths + 1, scale
        )  # (B, H, D)
        return out[:, None]
    outs: list[Tensor] = []
    for run in step.runs:
        k, v = step.kv.read(layer, run.slots, run.mask.shape[-1])
        outs.append(
            F.scaled_dot_product_attention(
                query[run.rows],
                k,
                v,
                attn_mask=run.mask,
                scale=scale,
                enable_gqa=k.shape[1] != query.shape[1],
            )
        )
    return torch.cat(outs).transpose(1, 2)


def has_kernel(device: torch.device) -> bool:
    """True where `triton_decode` should run. Only a try shows whether it does."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


AttentionInterface.register(NAME, slot_attention)
