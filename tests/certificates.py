"""Certificates that sign themselves or are signed, for everything that is tested with TLS."""

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
    return _unsigned(key, common_name, common_name).sign(key, algorithm)


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _unsigned(key, common_name: str, issuer: str, host: str = "") -> x509.CertificateBuilder:
    """Return a certificate without a signature, for `host`, or for localhost and 127.0.0.1."""
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    ours = [x509.DNSName("localhost"), x509.IPAddress(LOOPBACK)]
    names = x509.SubjectAlternativeName([x509.DNSName(host)] if host else ours)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(common_name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36500))
        .add_extension(names, critical=False)
    )


def write_certificate(path: Path, common_name: str = "localhost") -> Path:
    """Write a certificate, with SHA-384, and its key beside it; return the path of the key.

    The digest is unlike SCRAM's own, so that whoever binds a login takes the right one.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    return _write(path, self_signed(key, hashes.SHA384(), common_name), key)


class Authority:
    """Signs certificates; its own is `path`, in a directory for all of them."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = name
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        unsigned = _unsigned(self._key, name, name).add_extension(constraints, critical=True)
        self.path = directory / f"{name}.crt"
        _write(self.path, unsigned.sign(self._key, hashes.SHA256()), self._key)

    def sign(self, common_name: str, *, host: str = "") -> Path:
        """Write a certificate and, beside it, its key; return the path of the certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = _unsigned(key, common_name, self._name, host)
        path = self.path.with_name(f"{self._name}-{common_name}.crt")
        _write(path, unsigned.sign(self._key, hashes.SHA384()), key)
        return path


def _write(path: Path, certificate: x509.Certificate, key) -> Path:
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path = path.with_suffix(".key")
    key_path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    key_path.chmod(0o600)
    return key_path
