"""Certificates that sign themselves, for everything that is tested with TLS."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LOOPBACK = ipaddress.ip_address("127.0.0.1")


def self_signed(key, algorithm, common_name: str = "localhost") -> x509.Certificate:
    """Return a certificate of this key, for localhost and 127.0.0.1."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(LOOPBACK)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36500))
        .add_extension(names, critical=False)
    )
    return builder.sign(key, algorithm)


def write_certificate(path: Path, common_name: str = "localhost") -> Path:
    """Write a certificate, with SHA-384, and its key beside it; return the path of the key.

    The digest is unlike SCRAM's own, so that whoever binds a login takes the right one.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = self_signed(key, hashes.SHA384(), common_name)
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path = path.with_suffix(".key")
    key_path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    key_path.chmod(0o600)
    return key_path
