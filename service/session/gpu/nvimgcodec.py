"""JPEGs decoded by the card's hardware, by NVIDIA's nvImageCodec, into memory of the device.

Only its hardware decoder is allowed: what that does not take is the CPU's, not a slower decoder's.
Source: nvImageCodec's Python API, 0.9. Knows nothing of what becomes of the pictures.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from service.session.gpu.photographs import CardError
from service.session.gpu.resize import RGB_BYTES, Surface

# Colour is enlarged as libjpeg-turbo does it by default, by a triangle and not by repetition.
_OPTIONS = ":fancy_upsampling=1"


class HardwareDecoder:
    """The JPEG hardware of one GPU.

    Args:
        index: Number of the GPU among those that this process sees.
        stream: CUDA stream that the pictures are ready on.

    Raises:
        CardError: nvImageCodec is missing, or there is no such hardware.
    """

    def __init__(self, index: int, stream: int) -> None:
        self._stream = stream
        try:
            self._library: Any = importlib.import_module("nvidia.nvimgcodec")
        except ImportError as error:
            raise CardError(
                f"expected nvImageCodec, got: {error}; install foveal[nvimgcodec]"
            ) from None
        library = self._library
        try:
            self._decoder = library.Decoder(
                device_id=index,
                max_num_cpu_threads=1,
                backends=[library.Backend(library.BackendKind.HW_GPU_ONLY)],
                options=_OPTIONS,
            )
        except Exception as error:  # it raises RuntimeError, and documents no class
            raise CardError(f"nvImageCodec: {error}") from None
        self._params = library.DecodeParams(
            apply_exif_orientation=False,
            color_spec=library.ColorSpec.SRGB,
            sample_format=library.SampleFormat.I_RGB,
        )

    def decode(self, encoded: Sequence[bytes]) -> list[Surface | None]:
        """See ``photographs.Decoder``."""
        streams, places = [], []
        for place, each in enumerate(encoded):
            try:
                streams.append(self._library.CodeStream(each))
            except Exception:  # a file that it cannot parse must not fail the others
                continue
            places.append(place)
        surfaces: list[Surface | None] = [None] * len(encoded)
        if streams:
            images = self._decoder.decode(streams, params=self._params, cuda_stream=self._stream)
            for place, image in zip(places, images, strict=True):
                surfaces[place] = surface_of(image)
        return surfaces


def surface_of(image: Any) -> Surface | None:
    """Return a picture that lies on the device; None for no image, or not of 3 x 8 bits.

    Args:
        image: With ``__cuda_array_interface__``, [H, W, 3]; or None.
    """
    if image is None:
        return None
    array = image.__cuda_array_interface__
    shape, strides = array["shape"], array.get("strides")
    if len(shape) != 3 or shape[2] != RGB_BYTES or array["typestr"] != "|u1":
        return None
    height, width, _ = shape
    row_bytes = width * RGB_BYTES
    if strides is not None:
        row_bytes, *pixel = strides
        if tuple(pixel) != (RGB_BYTES, 1):
            return None
    return Surface(array["data"][0], height, width, row_bytes, image)
