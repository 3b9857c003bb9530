"""CUDA's runtime of plain memory, compiled here: all of a GPU's code but the GPU runs on it."""

import shutil
import subprocess
from pathlib import Path

from service.session.gpu.cuda_runtime import CudaRuntime
from service.session.gpu.memory import CudaMemory

COMPILER = shutil.which("cc")
# onnxruntime's part runs on the CPU.
CPU: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
static long held, handles = 0x123456789abc, recorded;
int device = -1;  /* of the process, not of a thread */
int fault;  /* what the device does from now on: nothing, with this error */
int cudaGetDeviceCount(int *count) { *count = 2; return 0; }
int cudaSetDevice(int index) { if (index > 1) return 101; device = index; return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int index) {
  *value = attribute; return index > 1 ? 101 : 0; }
int cudaMemGetInfo(size_t *free_, size_t *total) {
  *total = 1 << 30; *free_ = *total - held; return 0; }
int cudaMalloc(void **at, size_t size) {
  if (size > 1 << 30) return 2;
  *at = malloc(size); memset(*at, 7, size); held++; return 0; }
int cudaFree(void *at) { free(at); held--; return 0; }
int cudaHostAlloc(void **at, size_t size, unsigned flags) {
  if (flags) return 1; *at = malloc(size); memset(*at, 7, size); held++; return 0; }
int cudaFreeHost(void *at) { free(at); held--; return 0; }
int cudaMemset(void *at, int value, size_t size) { memset(at, value, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  if (fault) return fault;
  if (kind != 4 || stream == 0) return 1; memcpy(to, from, size); return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
  *stream = (void *)++handles; return flags != 1; }
int cudaStreamSynchronize(void *stream) { return fault; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) {
  return flags || (long)event != recorded; }
int cudaEventCreateWithFlags(void **event, unsigned flags) {
  *event = (void *)++handles; held++; return flags != 2; }
int cudaEventRecord(void *event, void *stream) { recorded = (long)event; return 0; }
int cudaEventDestroy(void *event) { held--; return 0; }
int cudaStreamEndCapture(void *stream, void **graph) { return 1; }
int cudaGetLastError(void) { return 0; }
const char *cudaGetErrorString(int status) {
  return status == 2 ? "out of memory" : "invalid device ordinal"; }
"""


class HostMemory(CudaMemory):
    """As on a GPU, but that onnxruntime runs on the CPU, whose memory this is."""

    kind = "cpu"


def build_runtime(folder: Path) -> CudaRuntime:
    """Compile the library and load it."""
    source, library = folder / "runtime.c", folder / "libcudart.so.0"
    source.write_text(SOURCE)
    assert COMPILER is not None
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return CudaRuntime(str(library))


def held(runtime: CudaRuntime) -> int:
    """Return how many things are handed out."""
    return (1 << 30) - runtime.free_bytes()
