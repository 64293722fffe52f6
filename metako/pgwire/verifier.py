"""What PostgreSQL stores for a role instead of its SCRAM password, and what stands in for it.

    SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>

Everything but the number is base64. Who has the StoredKey can check a client's proof, and who has
the ServerKey can pass for the server, so neither is ever shown.

A role without a usable verifier gets a mock: its login takes the same course and ends as with a
wrong password, so that nobody learns by trying which roles exist. Whoever reads `pg_authid` has to
pass None for a role whose password is not valid any more (`rolvaliduntil`).
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass, field

from metako.pgwire.keys import KEY_BYTES

ITERATIONS_DEFAULT = 4096
ITERATIONS_MAX = 2**31 - 1
SALT_BYTES = 16  # what PostgreSQL draws
SALT_BYTES_MAX = 256

_PREFIX = "SCRAM-SHA-256$"
_CHARS_MAX = 600
_DIGITS_MAX = 10


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server stores instead of a password."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    mock: bool = False  # belongs to nobody: a login with it takes its course, and fails


def parse_verifier(stored: str | None) -> ScramVerifier | None:
    """Return the verifier that a `rolpassword` is, or None if it is anything else."""
    if stored is None or not stored.isascii() or len(stored) > _CHARS_MAX:
        return None
    parts = stored.removeprefix(_PREFIX).replace("$", ":", 1).split(":")
    if not stored.startswith(_PREFIX) or len(parts) != 4 or stored.count("$") != 2:
        return None
    iterations = parse_count(parts[0].encode())
    salt, stored_key, server_key = (decode_base64(part.encode()) for part in (parts[1], *parts[2:]))
    if iterations is None or not salt or stored_key is None or server_key is None:
        return None
    if len(salt) > SALT_BYTES_MAX or not len(stored_key) == len(server_key) == KEY_BYTES:
        return None
    return ScramVerifier(iterations, salt, stored_key, server_key)


def mock_verifier(user: str, *, secret: bytes, iterations: int) -> ScramVerifier:
    """Return a verifier for a role that has none, so that nobody can tell it from others.

    The same user gets the same salt again at every node that has the secret, as one with a
    password does. For roles that are unknown, may not log in, whose password has expired or is
    stored in another form; no proof fits it.

    Args:
        secret: known to nobody outside the cluster; who knows it can tell mocks from others.
        iterations: what most verifiers of the cluster have, or the mock stands out.
    """
    name = user.encode("utf-8", "surrogateescape")
    salt = hmac_sha256(secret, b"metako scram mock salt\0" + name)[:SALT_BYTES]
    key = hmac_sha256(secret, b"metako scram mock key\0" + name)
    return ScramVerifier(iterations, salt, key, key, mock=True)


def verifier_of(
    stored: str | None, *, user: str, mock_secret: bytes, iterations: int = ITERATIONS_DEFAULT
) -> ScramVerifier:
    """Return the verifier that a `rolpassword` is, or a mock of the same looks."""
    real = parse_verifier(stored)
    mock = mock_verifier(user, secret=mock_secret, iterations=iterations)
    return mock if real is None else real


def parse_count(digits: bytes) -> int | None:
    """Return the number of iterations that a peer or a verifier gives, or None if it is none."""
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        return None
    count = int(digits)
    return count if 1 <= count <= ITERATIONS_MAX else None


def decode_base64(text: bytes) -> bytes | None:
    """Return what base64 text stands for, or None if it is not exactly that."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def hmac_sha256(key: bytes, text: bytes) -> bytes:
    """Return the keyed digest that all of SCRAM is made of."""
    return hmac.digest(key, text, "sha256")
