"""What uvicorn's server is configured with: the lane's protocol, and TLS."""

import functools
import ssl
from collections.abc import Callable

import uvicorn
import uvicorn.config

from service.lane.connection import LaneProtocol
from service.lane.guarded import GuardedProtocol
from service.lane.lane import Lane


def protocol_of(lane: Lane) -> Callable[..., LaneProtocol]:
    """Return what makes the protocol of each connection of a lane."""
    if lane.door is None:
        return functools.partial(LaneProtocol, lane)
    return functools.partial(GuardedProtocol, lane.door, lane)


def install(lane: Lane, tls: ssl.SSLContext | None = None) -> None:
    """Make uvicorn use a lane, and TLS, for every server that is configured later.

    BentoML calls ``uvicorn.Config`` after it asked the service for its application.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = protocol_of(lane)  # type: ignore[assignment]
    uvicorn.config.WS_PROTOCOLS["auto"] = None  # the lane speaks none; no library is imported
    if tls is not None:
        uvicorn.Config = functools.partial(  # type: ignore[misc,assignment]
            uvicorn.config.Config, ssl_context_factory=lambda _config, _default: tls
        )
