"""Open the decoder of photographs of a GPU, once a process; or say why the CPU decodes them."""

import functools
import logging
import time
from typing import Literal

from service.errors import InferenceError
from service.session.devices import runtime
from service.session.gpu.accelerator import accelerator
from service.session.gpu.cuda_resize import CudaResizer
from service.session.gpu.cuda_runtime import CudaError
from service.session.gpu.nvimgcodec import HardwareDecoder
from service.session.gpu.photographs import MOST_BYTES, WORK, CardError, Photographs
from service.session.gpu.stand_in import StandInDecoder, StandInResizer
from service.session.plans import SelectedDevice

logger = logging.getLogger("foveal.photographs")

Decoding = Literal["auto", "off", "rehearse"]

# Part of a limit of the GPU's memory that batches of pictures take at most.
_SHARE = 4
# The golden JPEGs of the start need batches of so many bytes.
_LEAST_BYTES = 32 << 20


def photographs_of(
    selected: SelectedDevice, decoding: Decoding, limit_bytes: int = 0
) -> Photographs | None:
    """Return the decoder of a device; None: the CPU decodes all images.

    Args:
        selected: Device of the sessions.
        decoding: Value of the setting.
        limit_bytes: Most memory of the GPU that this process holds; 0: all.
    """
    if decoding == "rehearse":
        return rehearsal()
    if decoding == "off" or selected.device == "cpu":
        return None
    return _open(selected.index, limit_bytes)


@functools.cache
def rehearsal() -> Photographs:
    """Return a stand-in on the CPU, which takes the same path."""
    return Photographs(StandInDecoder(), StandInResizer())


@functools.cache
def _open(index: int, limit_bytes: int) -> Photographs | None:
    started = time.perf_counter()
    try:
        most_bytes = _most_bytes(limit_bytes)
        card = runtime()
        card.use(index)
        before = card.free_bytes()
        stream = card.stream()
        decoder = HardwareDecoder(index, stream)
        device = accelerator(index)
        resizer = CudaResizer(index, stream, most_bytes // WORK)
        found = Photographs(decoder, resizer, most_bytes, device.exclusive)
        # What the decoder's library holds for itself is measured; on the whole device, as sessions.
        held_bytes = max(0, before - card.free_bytes()) + most_bytes + most_bytes // WORK
        device.budget.take(id(found), held_bytes, limit_bytes)
    except (CardError, CudaError, InferenceError) as error:
        logger.info("cuda:%d: the CPU decodes JPEGs: %s", index, error)
        return None
    except Exception as error:  # of the decoder's library: a start does not fail for it
        logger.warning("cuda:%d: the CPU decodes JPEGs: %s", index, error)
        return None
    logger.info(
        "cuda:%d decodes JPEGs (%s) in up to %d MiB; checked in %.1f s",
        index,
        ", ".join(sorted(found.kinds)),
        held_bytes >> 20,
        time.perf_counter() - started,
    )
    return found


def _most_bytes(limit_bytes: int) -> int:
    """Return the most bytes of a batch of pictures.

    Raises:
        CardError: The limit leaves too little.
    """
    if not limit_bytes:
        return MOST_BYTES
    most_bytes = min(MOST_BYTES, limit_bytes // _SHARE * WORK // (WORK + 1))
    if most_bytes < _LEAST_BYTES:
        least = _LEAST_BYTES * (WORK + 1) // WORK * _SHARE
        raise CardError(
            f"expected FOVEAL_GPU_MEMORY_MIB of {-(-least >> 20)} or more for it, got "
            f"{limit_bytes >> 20}"
        )
    return most_bytes
