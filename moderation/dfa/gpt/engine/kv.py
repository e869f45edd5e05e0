"""Slots: the keys and values of all running faces, in one block of memory.

A slot belongs to one face from its admission to its last token, at any length, while other faces come and go. The
caches of transformers have one length for all rows, so a finished row could not be replaced.

S slots, H key heads, L positions, D head width.
"""

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor


class SlotKV:
    """Keys and values, one (S, H, L, D) tensor each per layer. Every slot begins with the system prefix."""

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        heads: int,
        length: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # One extra slot, which is never given out: padded rows of a captured graph write to it, and nothing reads it.
        shape = (slots + 1, heads, length, width)
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.v = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.slots = slots
        self.length = length
        self.scratch = slots
        # The lowest slot first, so that used slots stay consecutive and can be read without a copy.
        self._free = list(range(slots))

    @property
    def room(self) -> int:
        return len(self._free)

    def take(self) -> int:
        return heapq.heappop(self._free)

    def give_back(self, slot: int) -> None:
        heapq.heappush(self._free, slot)

    def release(self) -> None:
        """Drop the keys and values, even of slots in use. Nothing can be stored or read afterwards."""
        self.k.clear()
        self.v.clear()

    def write(self, layer: int, rows: Tensor | slice, start: int, key: Tensor, value: Tensor) -> None:
        """Store (B, H, T, D) in the slots of `rows`, from position `start` on."""
        end = start + key.shape[2]
        self.k[layer][rows, :, start:end] = key
        self.v[layer][rows, :, start:end] = value

    def append(self, layer: int, rows: Tensor, lengths: Tensor, key: Tensor, value: Tensor) -> None:
        """Store one token per row, (B, H, D), after the row's `lengths` tokens."""
        self.k[layer][rows, :, lengths] = key
        self.v[layer][rows, :, lengths] = value

    def read(self, layer: int, rows: Tensor | slice, width: int) -> tuple[Tensor, Tensor]:
        """The first `width` positions: a view when `rows` is a slice, a copy otherwise."""
        return self.k[layer][rows, :, :width], self.v[layer][rows, :, :width]

    def share_beginning(self, length: int) -> None:
        """Copy the first `length` positions of slot 0 into every slot. Nothing overwrites them later."""
        for kept in (*self.k, *self.v):
            kept[1:, :, :length] = kept[:1, :, :length]


def bytes_per_slot(*, layers: int, heads: int, length: int, width: int, dtype: torch.dtype) -> int:
    return 2 * layers * heads * length * width * dtype.itemsize


def side_by_side(slots: Sequence[int]) -> slice | None:
    """The slots as a slice. None when they are not consecutive and ascending."""
    first = slots[0]
    if all(slot == first + offset for offset, slot in enumerate(slots)):
        return slice(first, first + len(slots))
    return None
