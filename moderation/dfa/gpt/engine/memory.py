"""How many faces fit at once: slots are sized from the memory left free after the weights are loaded."""

import torch

#: Share of the free memory that slots may take. The rest is for a prefill's activations and for the allocator.
CUDA_SHARE = 0.8
#: Most slots on a CPU. More rows do not make a decode step faster per row.
CPU_SLOTS = 32
#: Bytes for slots on a CPU, where many processes share the memory.
CPU_BYTES = 1 << 30
#: Rows of the largest decode step. More would only delay a face's last token.
MOST_SLOTS = 256


def slots_that_fit(per_slot: int, device: torch.device, *, free: int | None = None, room: float = 1.0) -> int:
    """How many slots of `per_slot` bytes fit, at least one.

    `free` bytes replace the device's own figure. `room` is the share of them to use, on CUDA.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the device counts the allocator's unused blocks as taken
        available = torch.cuda.mem_get_info(device)[0] if free is None else free
        return max(1, min(MOST_SLOTS, int(available * CUDA_SHARE * room) // per_slot))
    return max(1, min(CPU_SLOTS, (CPU_BYTES if free is None else free) // per_slot))


#: Words of torch's allocators, of the CUDA driver, and of libraries that allocate for themselves.
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors that torch raises when an allocation fails, on CPU or CUDA."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
