"""How many faces fit at once: slots sized from the memory that is free after the weights are loaded."""

import torch

#: Share of the free memory that slots may take; the rest is for activations of a prefill and for the allocator.
CUDA_SHARE = 0.8
#: On a CPU, memory is not the limit: beyond this many rows a decode step gains nothing more per row.
CPU_SLOTS = 32
#: Bytes for slots on a CPU, where many processes share the memory.
CPU_BYTES = 1 << 30
#: Rows of the largest decode step; more would only lengthen the time to a face's last token.
MOST_SLOTS = 256


def slots_that_fit(per_slot: int, device: torch.device, *, free: int | None = None, room: float = 1.0) -> int:
    """At least one, or nothing could run. `free` bytes stands in for what the device reports, `room` is a part."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the allocator keeps for nobody is free too, and the device does not know
        available = torch.cuda.mem_get_info(device)[0] if free is None else free
        return max(1, min(MOST_SLOTS, int(available * CUDA_SHARE * room) // per_slot))
    return max(1, min(CPU_SLOTS, (CPU_BYTES if free is None else free) // per_slot))


#: In the words of torch's allocators, of the CUDA driver under them, and of the libraries that allocate for themselves.
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch raises when an allocation fails, on either kind of device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
