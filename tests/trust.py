"""Whom the clients of the tests trust: one authority instead of all that the system knows.

Reading the system's bundle takes 30 ms of processor time, and every ``httpx.get`` makes a client
that reads it, also for plain HTTP. The services of the tests bring certificates of their own.
"""

import os
from pathlib import Path

import certifi

# The system's bundle, for programs that reach beyond this machine.
SYSTEM = os.environ.get("SSL_CERT_FILE", "")
END = "-----END CERTIFICATE-----\n"


def write_one_authority(folder: Path) -> Path:
    """Write the first authority of certifi's bundle as a bundle of its own."""
    path = folder / "one-authority.pem"
    path.write_text(certifi.contents().partition(END)[0] + END)
    return path


def system_environment() -> dict[str, str]:
    """Return the environment with the system's bundle."""
    variables = {**os.environ, "SSL_CERT_FILE": SYSTEM}
    return {name: value for name, value in variables.items() if value}
