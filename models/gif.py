"""GIF: cut out what stands before the first picture and cannot change it.

Comments and other extensions come in blocks of up to 255 bytes, which Pillow reads one by one in
Python: 32 MiB of them in blocks of one byte would take it half a minute.
"""

from models.image_errors import ImageTooLargeError, incomplete

# A colour profile has a few thousand blocks.
MAX_BLOCKS = 1 << 16

_EXTENSION, _PICTURE, _GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9
_TRANSPARENCY = 1  # the flag of a graphic control that says a colour is transparent


def first_picture(encoded: bytes) -> bytes:
    """Return the file without the extensions before its first picture.

    Raises:
        ImageTooLargeError: More blocks than any picture has before it.
        ImageError: There is no picture.
    """
    blocks, control = 0, b""
    try:
        flags = encoded[10]
        position = start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        while encoded[position] == _EXTENSION:
            begin, position = position, position + 2
            while length := encoded[position]:
                position += 1 + length
                if (blocks := blocks + 1) > MAX_BLOCKS:
                    raise ImageTooLargeError(
                        f"image: expected at most {MAX_BLOCKS} blocks in a GIF before its first "
                        "picture, got more"
                    )
            position += 1
            blocks += 1
            if encoded[begin + 1] == _GRAPHIC_CONTROL:
                control = _kept(encoded[begin:position])
        if encoded[position] == _PICTURE:
            return b"".join((encoded[:start], control, encoded[position:]))
    except IndexError:
        pass
    raise incomplete("GIF", encoded)


def _kept(control: bytes) -> bytes:
    """Return a graphic control without its disposal method: what to do before the next picture.

    Pillow fills the picture's whole area as it opens the file, whose size nobody has checked yet:
    44 bytes take it gigabytes.
    """
    if not control[2]:
        return b""
    return control[:3] + bytes([control[3] & _TRANSPARENCY]) + control[4:]
