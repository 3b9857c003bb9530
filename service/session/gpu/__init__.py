"""The GPU part of a session: CUDA's runtime, memory, bound buffers, the shared accelerator."""
