"""What stands for a password: keys that log in, and never show themselves.

A SCRAM ClientKey or an md5 hash logs in as well as the password that it was made of. So these
values have no readable `repr`, cannot be pickled or copied by accident, compare in constant time,
and can be wiped. Wiping is an effort, not a promise: Python may have made copies of the bytes that
nobody can reach.

No password is seen anywhere in this package, so nothing here prepares or hashes one: SASLprep and
PBKDF2 are the business of the client that knows its password.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import NoReturn, SupportsIndex

KEY_BYTES = 32
MD5_SALT_BYTES = 4

_MD5_STORED = re.compile("md5[0-9a-f]{32}")


class _Secret:
    """Some bytes that only `reveal` shows."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = bytearray(octets)

    def reveal(self) -> bytes:
        """Return the bytes; the caller must not keep, log or send them."""
        return bytes(self._octets)

    def wipe(self) -> None:
        """Overwrite the bytes with zeros; whoever logs in with this afterwards is refused."""
        self._octets[:] = bytes(len(self._octets))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return hmac.compare_digest(self._octets, other._octets)

    __hash__ = None  # type: ignore[assignment]  # a hash would tell equal keys apart from others

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is neither copied nor pickled")


class ClientKey(_Secret):
    """The SCRAM key that a client proves to have. Valid for one verifier only."""

    __slots__ = ()

    def __init__(self, octets: bytes) -> None:
        if len(octets) != KEY_BYTES:
            raise ValueError(f"a ClientKey has {KEY_BYTES} bytes")
        super().__init__(octets)

    def stored_key(self) -> bytes:
        """Return the StoredKey of the verifier that this key belongs to."""
        return hashlib.sha256(self._octets).digest()


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """All that is needed to log in by SCRAM and to know the server again."""

    client_key: ClientKey
    server_key: bytes = field(repr=False)  # of the same verifier


class Md5Hash(_Secret):
    """The hash that PostgreSQL stores for `password_encryption = md5`."""

    __slots__ = ()

    @classmethod
    def parse(cls, stored: str) -> Md5Hash | None:
        """Return the hash of a `rolpassword`, or None if that is something else."""
        return cls(stored.encode()) if _MD5_STORED.fullmatch(stored) else None

    def answer(self, salt: bytes) -> bytes:
        """Return what answers a request for an md5 password with these four bytes of salt."""
        if len(salt) != MD5_SALT_BYTES:
            raise ValueError(f"the salt of an md5 request has {MD5_SALT_BYTES} bytes")
        # The protocol's choice. The server offers nothing better for a role with such a hash.
        digest = hashlib.md5(self._octets[3:] + salt, usedforsecurity=False)
        return b"md5" + digest.hexdigest().encode()
