"""The certificate: a pair that fits, or the one before it."""

import ssl
import subprocess
from pathlib import Path

import pytest

from service.access.tls import Certificate, TlsError
from tests.certificates import make_certificate


def handshake(server: ssl.SSLContext, trusted: Path, **limits: ssl.TLSVersion) -> str:
    """Shake hands in memory; return the common name of the server's certificate."""
    client = ssl.create_default_context(cafile=str(trusted))
    for name, value in limits.items():
        setattr(client, name, value)
    wires = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(wires[0], wires[1], server_hostname="localhost"),
        server.wrap_bio(wires[1], wires[0], server_side=True),
    )
    done = 0
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
        if done >= 2:
            break
    subject = ends[0].getpeercert()["subject"]  # type: ignore[index]
    return str(subject[0][0][1])  # type: ignore[index]


def test_handshake_takes_the_files_as_they_are_now(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, "first")
    certificate = Certificate(chain, key)
    assert handshake(certificate.context, chain) == "first"
    make_certificate(tmp_path, "second")
    certificate.read()
    assert handshake(certificate.context, chain) == "second"
    assert certificate.pair.chain == chain.read_bytes()


def test_broken_pair_keeps_the_former(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, "first")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(chain.read_bytes())
    certificate = Certificate(chain, key)
    former = certificate.pair
    (tmp_path / "other").mkdir()
    other, _ = make_certificate(tmp_path / "other", "other")
    for content in (other.read_bytes(), b"", b"-----BEGIN CERTIFICATE-----\n"):
        chain.write_bytes(content)
        with pytest.raises(TlsError, match="expected a certificate and its key"):
            certificate.read()
        assert certificate.pair is former
        assert handshake(certificate.context, trusted) == "first"
    chain.unlink()
    with pytest.raises(TlsError, match="expected a PEM file"):
        certificate.read()
    assert handshake(certificate.context, trusted) == "first"


def test_key_with_a_password_is_refused_at_once(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, "first")
    locked = tmp_path / "locked.pem"
    words = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:secret"]
    subprocess.run([*words, "-out", str(locked)], check=True, capture_output=True)
    with pytest.raises(TlsError, match="without a password"):
        Certificate(chain, locked)


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, "first")
    context = Certificate(chain, key).context
    assert handshake(context, chain, maximum_version=ssl.TLSVersion.TLSv1_2) == "first"
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
