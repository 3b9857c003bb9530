"""Choose the requests that a canary answers: a share of them, always the same ones."""

import hashlib
import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Canary(Generic[T]):
    """The candidate that answers a share of a model's requests.

    Args:
        target: Candidate, as the protocol holds it.
        name: Name of the model; other models choose other requests.
        fraction: Share of the requests, above 0 to 1.
    """

    __slots__ = ("_fraction", "_salt", "target")

    def __init__(self, target: T, name: str, fraction: float) -> None:
        self.target = target
        self._fraction = fraction
        self._salt = name.encode()[:16]

    def takes(self, key: bytes) -> bool:
        """Return whether a request is the canary's.

        Args:
            key: Id of the request: the same id gets the same version in every worker, and keeps
                the canary when the share grows. Empty: chosen at random.
        """
        if not key:
            return random.random() < self._fraction
        digest = hashlib.blake2b(key, digest_size=8, person=self._salt).digest()
        return int.from_bytes(digest, "big") < self._fraction * 2.0**64
