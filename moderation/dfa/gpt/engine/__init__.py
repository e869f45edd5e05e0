"""The engine: many faces through one model at once, each in a slot of its own.

`kv` keeps what the model has read, `attention` reads it back, `engine` moves faces through the conversation, and
`memory` says how many slots there are. `triton_decode`, `graphs` and `float8` are what CUDA adds; nothing imports
them on a CPU.
"""
