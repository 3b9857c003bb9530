"""What can be wrong with an encoded image."""


class ImageError(ValueError):
    """The bytes are not an image that can be decoded; the message says what was expected."""


class ImageTooLargeError(ImageError):
    """Decoding would cost more than allowed; nothing was decoded."""


class TooManyPixelsError(ImageTooLargeError):
    """The image has more pixels than the caller allows."""


def incomplete(kind: str, encoded: bytes, part: str = "file") -> ImageError:
    """Return the error of a file that ends early or contradicts itself.

    Args:
        kind: Name of the format.
        encoded: The file.
        part: What was expected to be complete.
    """
    return ImageError(
        f"image: expected a complete {kind} {part}, "
        f"got {len(encoded)} bytes that are truncated or corrupt"
    )
