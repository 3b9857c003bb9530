"""The last lines of a start's log: where the service listens, and a first request to try."""

import ipaddress
import shlex
from collections.abc import Iterator

from models.artifact import ArtifactError
from models.repository import ModelRepository


def is_open_to_all(host: str) -> bool:
    """Return whether other machines can reach an address: it is not one of this machine's loop."""
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host != "localhost"


def welcome(
    repository: ModelRepository,
    default_model: str,
    address: tuple[str, int],
    *,
    is_tls: bool = False,
    has_keys: bool = False,
) -> Iterator[str]:
    """Yield the lines.

    Args:
        repository: What is served.
        default_model: The setting; empty: the repository's.
        address: What the service's socket is bound to.
        is_tls: Whether connections begin with TLS.
        has_keys: Whether requests need an API key.
    """
    host, port = address
    if is_open_to_all(host) and not has_keys:
        yield (
            f"{host} is open to other machines without API keys: `foveal keys add` makes one, "
            "FOVEAL_API_KEYS_FILE names its file"
        )
    url = f"{'https' if is_tls else 'http'}://{_reached(host)}:{port}"
    if command := _first_request(repository, default_model, url, is_tls, has_keys):
        yield f"listening on {host}:{port}; to try it: {command}"
    else:
        yield f"listening on {host}:{port}: {url}"


def _reached(host: str) -> str:
    """Return the host of a URL on this machine."""
    plain = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{plain}]" if ":" in plain else plain


def _first_request(
    repository: ModelRepository, default_model: str, url: str, is_tls: bool, has_keys: bool
) -> str:
    """Return a command with a golden image of the default model, or of the first; "" for none."""
    try:
        names = repository.names()
        chosen = default_model or repository.settings().default_model
        chosen = chosen or (names[0] if len(names) == 1 else "")
        name, version = repository.resolve(chosen or names[0])
        images = sorted(repository.path(name, version).glob("golden/*.png"))
    except (ArtifactError, IndexError, OSError):
        return ""
    if not images:
        return ""
    path = "/predict" if chosen else f"/models/{name}/predict"
    words = ["curl", "--data-binary", f"@{images[0].absolute()}"]
    if has_keys:
        words += ["--header", "Authorization: Bearer KEY"]
    if is_tls:
        words.append("--insecure")
    return shlex.join([*words, f"{url}{path}"])
