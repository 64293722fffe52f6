"""Gossip keys as text: made, and read from a key or a ring of keys.

A key is 32 random bytes in base64. A ring has one key a line, the first one encrypts, all of them
decrypt; lines that begin with `#` are remarks. No text that leaves this module contains a key.
"""

from __future__ import annotations

import base64
import binascii
import secrets

KEY_BYTES = 32
RING_KEYS_MAX = 8


def generate_key() -> str:
    """Return a new gossip key, ready for `gossip.key` or a key file."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii")


def parse_key(text: str) -> bytes:
    """Return the key's bytes.

    Raises:
        ValueError: it is not the base64 form of 32 bytes, or it is all the same byte.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64; make one with 'metako keygen'") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"has {len(key)} bytes, not {KEY_BYTES}; make one with 'metako keygen'")
    if len(set(key)) == 1:
        raise ValueError("is no random key; make one with 'metako keygen'")
    return key


def parse_ring(text: str) -> tuple[bytes, ...]:
    """Return the keys of a key file, the one that encrypts first.

    Raises:
        ValueError: a line is no key, there are too many, or there is none.
    """
    keys: list[bytes] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = parse_key(line)
        except ValueError as error:
            raise ValueError(f"line {number} {error}") from None
        if key not in keys:
            keys.append(key)
    if not keys:
        raise ValueError("contains no key; write one with 'metako keygen'")
    if len(keys) > RING_KEYS_MAX:
        raise ValueError(f"contains {len(keys)} keys; {RING_KEYS_MAX} at most")
    return tuple(keys)
