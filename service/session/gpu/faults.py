"""Faults after which CUDA does no further work in this process, by error number or its words.

CUDA's reference calls them sticky: each later call returns the same error, and "to continue using
CUDA, the process must be terminated and relaunched". Knows no session.
"""

import re

from service.session.gpu.cuda_runtime import CudaError

# cudaError_t of CUDA 13's driver_types.h, those whose text says so, and the two that name hardware.
STICKY = {
    214: "cudaErrorECCUncorrectable",
    220: "cudaErrorNvlinkUncorrectable",
    226: "cudaErrorContained",
    700: "cudaErrorIllegalAddress",
    702: "cudaErrorLaunchTimeout",
    710: "cudaErrorAssert",
    714: "cudaErrorHardwareStackError",
    715: "cudaErrorIllegalInstruction",
    716: "cudaErrorMisalignedAddress",
    717: "cudaErrorInvalidAddressSpace",
    718: "cudaErrorInvalidPc",
    719: "cudaErrorLaunchFailure",
    721: "cudaErrorTensorMemoryLeak",
    810: "cudaErrorMpsClientTerminated",
    911: "cudaErrorExternalDevice",
}
# onnxruntime says "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; …", and of
# some kernels "CUDA error cudaErrorIllegalAddress:…".
_NUMBER = re.compile(r"\bCUDA failure (\d+):")
_NAME = re.compile(r"\b(" + "|".join(STICKY.values()) + r")\b")


def is_sticky(error: BaseException) -> bool:
    """Return whether an error of onnxruntime or of ``CudaRuntime`` ends CUDA for this process."""
    if isinstance(error, CudaError):
        return error.status in STICKY
    text = str(error)
    numbers = map(int, _NUMBER.findall(text))
    return any(number in STICKY for number in numbers) or bool(_NAME.search(text))
