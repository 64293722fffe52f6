"""What a login is bound to: the digest of the certificate of a TLS connection's server.

The one type of channel binding that PostgreSQL knows, tls-server-end-point. Both ends hash the
certificate that the server showed with the digest that its signature was made with; MD5 and SHA-1
are replaced by SHA-256.

Source: RFC 5929, section 4.1; PostgreSQL's be_tls_get_certificate_hash.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

CERTIFICATE_BYTES_MAX = 1 << 16


def channel_binding_data(certificate_der: bytes) -> bytes | None:
    """Return what a login over a connection to the owner of this certificate is bound to.

    None if there is nothing to bind to: the certificate cannot be read, or its signature has no
    digest of its own (Ed25519), for which the RFC defines no binding. PostgreSQL's servers cannot
    bind with such a certificate either.
    """
    if len(certificate_der) > CERTIFICATE_BYTES_MAX:
        return None
    try:
        algorithm = x509.load_der_x509_certificate(certificate_der).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate_der)
    return digest.finalize()
