"""The last lines of a start's log: where the service listens, and a first request to try."""

import ipaddress
import shlex
from collections.abc import Iterator

from models.artifact import ArtifactError
from models.installation import how_to_add
from models.repository import ModelRepository
from service.settings import Settings


def is_open_to_all(host: str) -> bool:
    """Return whether other machines can reach an address: it is not one of this machine's loop."""
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host != "localhost"


def welcome(settings: Settings, has_grpc: bool, address: tuple[str, int]) -> Iterator[str]:
    """Yield the lines.

    Args:
        settings: The service's.
        has_grpc: Whether the packages of V2 over gRPC are installed.
        address: What its socket is bound to.
    """
    host, port = address
    if settings.grpc_port and not has_grpc:
        yield f"V2 over gRPC is off; it is added by: {how_to_add('grpc')}"
    if is_open_to_all(host) and not settings.api_keys_file:
        yield (
            f"{host} is open to other machines without API keys: `foveal keys add` makes one, "
            "FOVEAL_API_KEYS_FILE names its file"
        )
    url = f"{'https' if settings.tls_cert else 'http'}://{_reached(host)}:{port}"
    if command := _first_request(settings, url):
        yield f"listening on {host}:{port}; to try it: {command}"
    else:
        yield f"listening on {host}:{port}: {url}"


def _reached(host: str) -> str:
    """Return the host of a URL on this machine."""
    plain = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{plain}]" if ":" in plain else plain


def _first_request(settings: Settings, url: str) -> str:
    """Return a command with a golden image of the default model, or of the first; "" for none."""
    repository = ModelRepository(settings.models)
    try:
        names = repository.names()
        chosen = settings.default_model or repository.settings().default_model
        chosen = chosen or (names[0] if len(names) == 1 else "")
        name, version = repository.resolve(chosen or names[0])
        images = sorted(repository.path(name, version).glob("golden/*.png"))
    except (ArtifactError, IndexError, OSError):
        return ""
    if not images:
        return ""
    path = "/predict" if chosen else f"/models/{name}/predict"
    words = ["curl", "--data-binary", f"@{images[0].absolute()}"]
    if settings.api_keys_file:
        words += ["--header", "Authorization: Bearer KEY"]
    if settings.tls_cert:
        words.append("--insecure")
    return shlex.join([*words, f"{url}{path}"])
