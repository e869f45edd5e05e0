"""The engine: many faces through one model at once, each in its own slot.

`kv` stores keys and values, `attention` reads them, `engine` moves faces through the conversation, and `memory` says
how many slots there are. `triton_decode`, `graphs` and `float8` are for CUDA; they are not imported on a CPU.
"""
