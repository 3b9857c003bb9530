"""The candidate versions of a model and their shares of its requests: part of ``repository.json``.

A shadow answers beside the version that serves, for comparison only; a canary answers in its place.
The JSON key is ``traffic``. Knows nothing about requests.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Share:
    """A candidate and its share of the requests that name no version, above 0 to 1."""

    version: int
    fraction: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """The candidates of one model, None for none."""

    shadow: Share | None = None
    canary: Share | None = None

    @property
    def versions(self) -> list[int]:
        """Return the candidates' versions."""
        return [share.version for share in (self.shadow, self.canary) if share is not None]

    @property
    def document(self) -> dict[str, dict[str, float] | None]:
        """Return the JSON object that ``read_rollout`` reads."""
        return {
            kind: {"version": share.version, "fraction": share.fraction} if share else None
            for kind, share in (("shadow", self.shadow), ("canary", self.canary))
        }


NO_ROLLOUT = Rollout()


def read_rollout(document: Any) -> Rollout:
    """Read ``{"shadow": {"version": V, "fraction": F} or null, "canary": likewise}``.

    Raises:
        ValueError: The document has another form. A fraction of 0 is valid and reads as null.
    """
    if not isinstance(document, dict) or document.keys() - {"shadow", "canary"}:
        raise ValueError('traffic: expected an object of "shadow" and "canary"')
    return Rollout(_read_share(document, "shadow"), _read_share(document, "canary"))


def _read_share(document: dict[str, Any], kind: str) -> Share | None:
    share = document.get(kind)
    if share is None:
        return None
    if not isinstance(share, dict) or share.keys() != {"version", "fraction"}:
        raise ValueError(f'{kind}: expected {{"version": V, "fraction": F}} or null')
    version, fraction = share["version"], share["fraction"]
    if type(version) is not int or version < 1:
        raise ValueError(f"{kind}: expected a version from 1, got {version!r}")
    if type(fraction) not in (int, float) or not 0 <= fraction <= 1:
        raise ValueError(f"{kind}: expected a fraction from 0 to 1, got {fraction!r}")
    return Share(version, float(fraction)) if fraction else None
