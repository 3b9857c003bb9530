"""A GPU's part of a session: CUDA's runtime, memory, bound buffers, one accelerator a process."""
