"""Slots: the keys and values of every face that is being read, in one block of memory for all.

A slot belongs to one face from its admission to its last token, at any length, while its neighbours come and go. The
caches of transformers keep one length for all rows, so a finished row could not be replaced.

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
        # One slot more than is given out: padded rows of a captured graph write there, and nobody reads it.
        shape = (slots + 1, heads, length, width)
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.v = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.slots = slots
        self.length = length
        self.scratch = slots
        # The lowest slot first, so that those in use stay side by side and can be read without a copy.
        self._free = list(range(slots))

    @property
    def room(self) -> int:
        return len(self._free)

    def take(self) -> int:
        return heapq.heappop(self._free)

    def give_back(self, slot: int) -> None:
        heapq.heappush(self._free, slot)

    def release(self) -> None:
        """Drop the keys and values, whoever still holds these slots. Nothing can be stored or read after that."""
        self.k.clear()
        self.v.clear()

    def write(self, layer: int, rows: Tensor | slice, start: int, key: Tensor, value: Tensor) -> None:
        """Store (B, H, T, D) from position `start` on in the slots of `rows`."""
        end = start + key.shape[2]
        self.k[layer][rows, :, start:end] = key
        self.v[layer][rows, :, start:end] = value

    def append(self, layer: int, rows: Tensor, lengths: Tensor, key: Tensor, value: Tensor) -> None:
        """Store one token each, (B, H, D), behind the `lengths` tokens that every row has."""
        self.k[layer][rows, :, lengths] = key
        self.v[layer][rows, :, lengths] = value

    def read(self, layer: int, rows: Tensor | slice, width: int) -> tuple[Tensor, Tensor]:
        """The first `width` positions: a view where `rows` is a slice, a copy where it is not."""
        return self.k[layer][rows, :, :width], self.v[layer][rows, :, :width]

    def share_beginning(self, length: int) -> None:
        """Copy the first `length` positions of slot 0 into every slot; nothing overwrites them after that."""
        for kept in (*self.k, *self.v):
            kept[1:, :, :length] = kept[:1, :, :length]


def bytes_per_slot(*, layers: int, heads: int, length: int, width: int, dtype: torch.dtype) -> int:
    return 2 * layers * heads * length * width * dtype.itemsize


def side_by_side(slots: Sequence[int]) -> slice | None:
    """The slots as a slice, when they are consecutive and ascending. None otherwise."""
    first = slots[0]
    if all(slot == first + offset for offset, slot in enumerate(slots)):
        return slice(first, first + len(slots))
    return None
