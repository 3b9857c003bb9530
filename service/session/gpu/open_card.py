"""Open the decoder of photographs of a GPU, once a process; or say why the CPU decodes them."""

import functools
import logging
import time
from typing import Literal

from service.errors import InferenceError
from service.session.devices import runtime
from service.session.gpu.cuda_resize import CudaResizer
from service.session.gpu.cuda_runtime import CudaError
from service.session.gpu.nvimgcodec import HardwareDecoder
from service.session.gpu.photographs import CardError, Photographs
from service.session.gpu.stand_in import StandInDecoder, StandInResizer
from service.session.plans import SelectedDevice

logger = logging.getLogger("foveal.photographs")

Decoding = Literal["auto", "off", "rehearse"]


def photographs_of(selected: SelectedDevice, decoding: Decoding) -> Photographs | None:
    """Return the decoder of a device; None: the CPU decodes all images.

    Args:
        selected: Device of the sessions.
        decoding: Value of the setting.
    """
    if decoding == "rehearse":
        return rehearsal()
    if decoding == "off" or selected.device == "cpu":
        return None
    return _open(selected.index)


@functools.cache
def rehearsal() -> Photographs:
    """Return a stand-in on the CPU, which takes the same path."""
    return Photographs(StandInDecoder(), StandInResizer())


@functools.cache
def _open(index: int) -> Photographs | None:
    started = time.perf_counter()
    try:
        card = runtime()
        card.use(index)
        stream = card.stream()
        found = Photographs(HardwareDecoder(index, stream), CudaResizer(index, stream))
    except (CardError, CudaError, InferenceError) as error:
        logger.info("cuda:%d: the CPU decodes JPEGs: %s", index, error)
        return None
    except Exception as error:  # of the decoder's library: a start does not fail for it
        logger.warning("cuda:%d: the CPU decodes JPEGs: %s", index, error)
        return None
    logger.info(
        "cuda:%d decodes JPEGs (%s); checked in %.1f s",
        index,
        ", ".join(sorted(found.kinds)),
        time.perf_counter() - started,
    )
    return found
