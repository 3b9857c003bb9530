"""Which requests a canary answers: a share of them, the same ones every time."""

import hashlib
import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Canary(Generic[T]):
    """Who answers a share of a model's requests.

    Args:
        target: Who that is, as the protocol holds it.
        name: The model's; other models choose other requests.
        fraction: Share, above 0 to 1.
    """

    __slots__ = ("_fraction", "_salt", "target")

    def __init__(self, target: T, name: str, fraction: float) -> None:
        self.target = target
        self._fraction = fraction
        self._salt = name.encode()[:16]

    def takes(self, key: bytes) -> bool:
        """Return whether a request is the canary's.

        Args:
            key: The request's id: the same one gets the same answer in every worker, and whoever
                has the canary keeps it when the share grows. Empty: chance decides.
        """
        if not key:
            return random.random() < self._fraction
        digest = hashlib.blake2b(key, digest_size=8, person=self._salt).digest()
        return int.from_bytes(digest, "big") < self._fraction * 2.0**64
