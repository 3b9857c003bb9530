"""The extension of `_jpeg_scan.c`: a walk through a baseline JPEG. `jpeg_scan` is its only user."""

def scan(encoded: bytes, /) -> tuple[int, int, int, int, int, int, int]:
    """Return reason, height, width, sampling, restart interval, and where EXIF begins and ends.

    The reason is 0 if a card may decode it; the others and the samplings are numbered as in
    `jpeg_scan`. The rest counts only then. Holds no lock meanwhile.
    """
