"""The certificate of HTTP and gRPC, read again when its files change.

New connections get the new certificate; open ones go on with the one they began with. TLS 1.2 and
later.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class TlsError(ValueError):
    """Certificate and key are no pair that a server can use; the message names the files."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What was read: a private key and its certificate chain, PEM."""

    key: bytes
    chain: bytes
    context: ssl.SSLContext


class Certificate:
    """A certificate and its key.

    Args:
        chain: PEM file: the certificate, then those that signed it.
        key: PEM file: the private key, without a password.

    Attributes:
        context: For asyncio's servers; what it serves follows the files.
        pair: What was read last.

    Raises:
        TlsError: The files are no pair.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self.paths = (chain, key)
        self.pair = self._read()
        # A context of a running server can't be replaced, and loading into it could end with a new
        # certificate and an old key. So each handshake takes the context of the last good pair.
        self.context = self._read().context
        self.context.sni_callback = self._choose

    def read(self) -> None:
        """Read the files again.

        Raises:
            TlsError: They are no pair; the former one stays in use.
        """
        self.pair = self._read()

    def _choose(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        """Take the last good pair for a handshake; OpenSSL asks without a server's name, too."""
        connection.context = self.pair.context

    def _read(self) -> Pair:
        chain, key = self.paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            for path in self.paths:
                if not path.is_file():  # a FIFO would be waited for
                    raise TlsError(f"{path}: expected a PEM file, got none")
            texts = key.read_bytes(), chain.read_bytes()
            # With a password OpenSSL refuses an encrypted key instead of asking the terminal.
            context.load_cert_chain(chain, key, password="")
            if texts != (key.read_bytes(), chain.read_bytes()):
                raise TlsError(f"{chain}, {key}: expected files at rest, got a change meanwhile")
        except (OSError, ValueError) as error:
            if isinstance(error, TlsError):
                raise
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise TlsError(
                f"{chain}, {key}: expected a certificate and its key without a password, PEM, "
                f"got: {reason}"
            ) from None
        return Pair(*texts, context)
