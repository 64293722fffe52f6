"""What contestants need whose clients speak TLS: a certificate, and clients of our own that do.

All of them show the same certificate, which nobody has vouched for: clients ask for TLS by
`sslmode=require`, as applications do that were told no more.
"""

from __future__ import annotations

import datetime
import functools
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from metako.demo.client import ClientError, PgClient
from metako.pgwire.startup import ENCRYPTION_ACCEPTED, ssl_request_packet

NAME = "localhost"
VALID = datetime.timedelta(days=30)  # longer than any run


@dataclass(frozen=True, slots=True)
class Papers:
    """A certificate and its key, PEM."""

    certificate: str
    key: str

    def write(self, stem: Path, *, uid: int = -1, gid: int = -1) -> tuple[Path, Path]:
        """Write STEM.crt and STEM.key for one user, ours by default; return their paths."""
        paths = (stem.with_suffix(".crt"), stem.with_suffix(".key"))
        for path, text in zip(paths, (self.certificate, self.key), strict=True):
            path.touch(mode=0o600)
            path.write_text(text, encoding="ascii")
            os.chown(path, uid, gid)
        return paths


def make_papers() -> Papers:
    """Return a fresh key of 256 bits, and a certificate that it has signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Papers(certificate.public_bytes(Encoding.PEM).decode(), pem.decode())


@functools.cache
def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # sslmode=require
    return context


class TlsClient(PgClient):
    """A client that begins with TLS and refuses to do without."""

    async def _login(self, user: str, password: str, database: str) -> None:
        await self._stream.send_all(ssl_request_packet())
        if await self._stream.receive_some(1) != ENCRYPTION_ACCEPTED:
            raise ClientError("TLS is not to be had")
        stream = trio.SSLStream(self._stream, _client_context())
        await stream.do_handshake()
        self._stream = stream
        await super()._login(user, password, database)

    @property
    def cipher(self) -> str:
        """Return the version of the protocol and the cipher."""
        assert isinstance(self._stream, trio.SSLStream), "logged in before"
        version, cipher = self._stream.version(), self._stream.cipher()
        return f"{version} {cipher[0]}"
