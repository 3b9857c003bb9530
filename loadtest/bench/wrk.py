"""One wrk run: a closed loop of connections that all POST the same body, and what came of it.

wrk comes from the system (Debian's package ``wrk``); it is written in C and leaves a server of
Python far behind, so one core of it is enough to fill another.
"""

import dataclasses
import os
import re
import subprocess
from pathlib import Path

_SCRIPT = Path(__file__).resolve().parent / "peer_servers/post.lua"
_BOUNDARY = "foveal-bench"
# Of one answer; 16 photographs of 12 megapixels take seconds on one core.
_TIMEOUT_S = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One wrk run: requests/s, milliseconds, and what went wrong."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def drive(  # noqa: PLR0913 - one run's words
    url: str,
    connections: int,
    seconds: int,
    body: Path,
    media_type: str,
    cpu: str,
    *,
    headers: str = "",
    threads: int = 1,
) -> Figure:
    """Ask a server as fast as it answers.

    Args:
        url: Where to POST.
        connections: Requests that are out at any time.
        seconds: How long.
        body: File with the body of every request.
        media_type: Its ``Content-Type``.
        cpu: What wrk is pinned to, as ``taskset -c`` takes it.
        headers: Further ones, ``Name:value`` separated by semicolons.
        threads: wrk's own, at most as many as connections.
    """
    done = subprocess.run(
        [
            "taskset",
            "-c",
            cpu,
            "wrk",
            f"-t{threads}",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            f"{_TIMEOUT_S}s",
            "--latency",
            "-s",
            str(_SCRIPT),
            url,
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "BODY": str(body), "CT": media_type, "HDR": headers},
    )
    said = done.stdout

    def find(pattern: str) -> str:
        match = re.search(pattern, said)
        return match[1] if match else ""

    sockets = [int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", said)]
    return Figure(
        float(find(r"Requests/sec:\s+([\d.]+)") or 0),
        _milliseconds(find(r"\n\s+50%\s+(\S+)")),
        _milliseconds(find(r"\n\s+99%\s+(\S+)")),
        int(find(r"Non-2xx or 3xx responses: (\d+)") or 0) + sum(sockets),
    )


def as_form(content: bytes, media_type: str) -> tuple[bytes, str]:
    """Return a file as a form with the one field ``images``, and the form's content type."""
    form = (
        (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="i"\r\n'
            f"Content-Type: {media_type}\r\n\r\n"
        ).encode()
        + content
        + f"\r\n--{_BOUNDARY}--\r\n".encode()
    )
    return form, f"multipart/form-data; boundary={_BOUNDARY}"


def _milliseconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    factors = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
    return float(match[1]) * factors[match[2]] if match else 0.0
