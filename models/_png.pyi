"""The extension of `_png.c`: small plain PNGs in one call. `png` is its only user."""

def decode(encoded: bytes, channels: int, /) -> tuple[bytes, int, int] | None:
    """Decode a PNG of 8 bits, up to 16,384 pixels, in one IDAT, with nothing that changes pixels.

    Args:
        encoded: The file.
        channels: 1 for grey, 3 for RGB, as the file must have them.

    Returns:
        Pixels, uint8 [height, width, channels] as bytes, then height and width; None for all other
        files, and for all that are not whole and valid in every byte.

    Raises:
        ValueError: Another number of channels.
        MemoryError: The pixels do not fit.
    """
