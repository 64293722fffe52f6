"""Which minor version of protocol 3 a session speaks, and how that is said.

Only 3.0 and 3.2 exist; 3.1 was skipped. A client that asks for more than the server knows, or for
options of the protocol ("_pq_." and a name) that the server does not know, is told so by one
message before anything else, and may go on or leave. PostgreSQL knows no such option so far.

The number in the message is a whole version, major and minor: that is what PostgreSQL sends and
what libpq reads, whatever older editions of the documentation say about the field.

Source: PostgreSQL documentation, "Frontend/Backend Protocol"; `SendNegotiateProtocolVersion` of
the server and its reader in libpq.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from metako.pgwire.startup import (
    PARAMETERS_MAX,
    PgWireError,
    Startup,
    decode_text,
    encode_text,
)

MINOR_PLAIN = 0
MINOR_LONG_KEYS = 2  # 3.2: the cancel key has a variable length
OPTION_PREFIX = "_pq_."

_MAJOR = 3
_BODY = struct.Struct("!II")
_HEADER = struct.Struct("!cI")


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What a session of a client speaks."""

    minor: int  # MINOR_PLAIN or MINOR_LONG_KEYS: the rules of the messages that follow
    message: bytes  # to be sent before the first request for a password; b"" if there is nothing


@dataclass(frozen=True, slots=True)
class VersionOffer:
    """What a server said it speaks."""

    minor: int
    options: tuple[str, ...]  # those that it did not know


def negotiate(startup: Startup, *, newest_minor: int = MINOR_LONG_KEYS) -> Negotiation:
    """Return which version to speak with a client, and what to tell it.

    A client that asks for 3.1 is served as one of 3.0 and not contradicted, as PostgreSQL does.
    """
    assert newest_minor in (MINOR_PLAIN, MINOR_LONG_KEYS), newest_minor
    minor = MINOR_LONG_KEYS if startup.minor >= MINOR_LONG_KEYS else MINOR_PLAIN
    minor = min(minor, newest_minor)
    options = tuple(name for name, _ in startup.parameters if name.startswith(OPTION_PREFIX))
    if startup.minor > newest_minor or options:
        return Negotiation(minor, negotiate_protocol_version(minor, options))
    return Negotiation(minor, b"")


def negotiate_protocol_version(minor: int, options: tuple[str, ...]) -> bytes:
    """Build the message that names the version to speak and the options that are not known."""
    body = _BODY.pack(_MAJOR << 16 | minor, len(options))
    body += b"".join(encode_text(option) + b"\0" for option in options)
    return _HEADER.pack(b"v", len(body) + 4) + body


def parse_negotiate_untrusted(body: bytes, *, requested_minor: int) -> VersionOffer:
    """Return what a server answered to a request for protocol 3.`requested_minor`.

    Raises:
        PgWireError: it is no such message, or the server offers what was not asked for.
    """
    if len(body) < _BODY.size:
        raise PgWireError("an incomplete offer of a protocol version")
    version, count = _BODY.unpack_from(body)
    rest = body[_BODY.size :]
    names = rest.split(b"\0")
    # What ends with a zero byte leaves an empty string behind it.
    if names.pop() != b"" or len(names) != count or count > PARAMETERS_MAX:
        raise PgWireError("an offer of a protocol version with a wrong number of options")
    minor = version & 0xFFFF
    if version >> 16 != _MAJOR or minor not in (MINOR_PLAIN, MINOR_LONG_KEYS):
        raise PgWireError(f"the server offers protocol {version >> 16}.{minor}")
    if minor > requested_minor or (minor == requested_minor and not names):
        raise PgWireError("the server changes the protocol's version without need")
    return VersionOffer(minor, tuple(decode_text(name) for name in names))
