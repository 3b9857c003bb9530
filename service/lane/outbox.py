"""The answers of one batch, held back until all are made and then written in one go."""

import asyncio


class Outbox:
    """Holds the answers of one batch back until all are made.

    Making an answer is Python's work, writing it the kernel's: when they take turns, each pushes
    the other out of the processor's caches. Measured for batches of 56: 18 % more requests/s.

    Attributes:
        is_open: Whether answers are held back now.
        answers: The answers that are held back, each with the transport of its connection.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.answers: list[tuple[asyncio.Transport, bytes]] = []

    def __enter__(self) -> None:
        """Hold answers back from now on."""
        self.is_open = True

    def __exit__(self, *_: object) -> None:
        """Write all answers, also after an exception."""
        self.is_open = False
        answers, self.answers = self.answers, []
        for transport, answer in answers:
            transport.write(answer)
