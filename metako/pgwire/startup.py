"""The first bytes of a connection: startup, encryption and cancel requests, and error messages.

In: the first packet of a client, or the first message of a server. Out: frozen values, or the
bytes of an `ErrorResponse`. A packet is kept verbatim beside what was parsed from it, so that
what is forwarded is exactly what was received.

Invariant: the length that a stranger announces is checked before a single byte of the body is
asked for, so nobody can make a reader allocate more than `STARTUP_BYTES_MAX`.

Deliberately unknown here: authentication, queries, and everything after the first message of the
server. Those belong to modules of their own.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", Message Formats; limits as in
src/include/libpq/pqcomm.h (MAX_STARTUP_PACKET_LENGTH) and, for protocol 3.2, the variable-length
cancel key of at most 256 bytes.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

STARTUP_BYTES_MAX = 10_000
STARTUP_BYTES_MIN = 8
CANCEL_KEY_BYTES_MIN = 4
CANCEL_KEY_BYTES_MAX = 256
PARAMETERS_MAX = 500  # far more than a packet of legal size holds in practice
MESSAGE_HEADER_BYTES = 5
FIRST_MESSAGE_BYTES_MAX = 65_536  # the first message of a server is an error or a short request

ENCRYPTION_REFUSED = b"N"
TLS_HANDSHAKE_BYTE = 0x16  # the first byte of a TLS record of type handshake

_CANCEL_CODE = 80877102
_SSL_CODE = 80877103
_GSSENC_CODE = 80877104
_PROTOCOL_MAJOR = 3

_LENGTH = struct.Struct("!I")
_CODE = struct.Struct("!I")
_PROCESS_ID = struct.Struct("!I")
_MESSAGE_HEADER = struct.Struct("!cI")


class SqlState(enum.StrEnum):
    """The codes that metako itself sends or looks for."""

    PROTOCOL_VIOLATION = "08P01"
    FEATURE_NOT_SUPPORTED = "0A000"
    INVALID_AUTHORIZATION = "28000"
    TOO_MANY_CONNECTIONS = "53300"
    ADMIN_SHUTDOWN = "57P01"
    CANNOT_CONNECT_NOW = "57P03"


class PgWireError(Exception):
    """The peer broke the protocol. Nothing was forwarded; the connection is to be closed.

    Attributes:
        sqlstate: what to answer, if anything is answered.
    """

    def __init__(self, message: str, sqlstate: SqlState = SqlState.PROTOCOL_VIOLATION) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DirectTlsError(PgWireError):
    """The client began with a TLS handshake; it would not understand any answer in clear."""


@dataclass(frozen=True, slots=True)
class SslRequest:
    """The client asks whether it may start TLS; the answer is one byte."""


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    """The client asks whether it may start GSSAPI encryption; the answer is one byte."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """The client of another connection wants the statement there to be cancelled."""

    packet: bytes  # verbatim, header included
    process_id: int
    secret_key: bytes


@dataclass(frozen=True, slots=True)
class Startup:
    """The client opens a session."""

    packet: bytes  # verbatim, header included
    minor: int  # of protocol 3; the server negotiates it down if it must
    parameters: tuple[tuple[str, str], ...]

    def parameter(self, name: str) -> str | None:
        """Return the last value given for `name`, which is the one that the server takes."""
        found = None
        for key, value in self.parameters:
            if key == name:
                found = value
        return found


FirstPacket = SslRequest | GssEncRequest | CancelRequest | Startup


def first_packet_length_untrusted(header: bytes) -> int:
    """Return the whole length in bytes that the first four bytes of a client announce.

    Raises:
        DirectTlsError: it is a TLS handshake.
        PgWireError: the length is impossible.
    """
    if header[:1] == bytes((TLS_HANDSHAKE_BYTE,)):
        raise DirectTlsError("TLS without SSLRequest is not supported")
    if len(header) != _LENGTH.size:
        raise PgWireError("incomplete startup packet")
    length: int = _LENGTH.unpack(header)[0]
    if not STARTUP_BYTES_MIN <= length <= STARTUP_BYTES_MAX:
        raise PgWireError("invalid length of startup packet")
    return length


def parse_first_packet_untrusted(packet: bytes) -> FirstPacket:
    """Return what the first packet of a client asks for.

    Raises:
        PgWireError: it is no legal packet; `sqlstate` is what PostgreSQL would answer.
    """
    if first_packet_length_untrusted(packet[:4]) != len(packet):
        raise PgWireError("invalid length of startup packet")
    code: int = _CODE.unpack_from(packet, 4)[0]
    if code in (_SSL_CODE, _GSSENC_CODE):
        if len(packet) != STARTUP_BYTES_MIN:
            raise PgWireError("invalid length of encryption request")
        return SslRequest() if code == _SSL_CODE else GssEncRequest()
    if code == _CANCEL_CODE:
        return _parse_cancel(packet)
    major, minor = code >> 16, code & 0xFFFF
    if major != _PROTOCOL_MAJOR:
        raise PgWireError(
            f"unsupported frontend protocol {major}.{minor}: server supports 3.0 and later of 3",
            SqlState.FEATURE_NOT_SUPPORTED,
        )
    parameters = _parse_parameters(packet[8:])
    startup = Startup(packet, minor, parameters)
    if not startup.parameter("user"):
        raise PgWireError(
            "no PostgreSQL user name specified in startup packet", SqlState.INVALID_AUTHORIZATION
        )
    return startup


def _parse_cancel(packet: bytes) -> CancelRequest:
    key = packet[12:]
    if not CANCEL_KEY_BYTES_MIN <= len(key) <= CANCEL_KEY_BYTES_MAX:
        raise PgWireError("invalid length of cancel request")
    return CancelRequest(packet, _PROCESS_ID.unpack_from(packet, 8)[0], key)


def _parse_parameters(body: bytes) -> tuple[tuple[str, str], ...]:
    """Return the name-value pairs; the list ends with an empty name and nothing behind it."""
    if not body.endswith(b"\0"):
        raise PgWireError("invalid startup packet layout: expected terminator as last byte")
    fields = body[:-1].split(b"\0")
    # "name\0value\0" pairs leave one empty string behind the last value.
    if fields.pop() != b"":
        raise PgWireError("invalid startup packet layout: a parameter has no value")
    if len(fields) % 2 or len(fields) > 2 * PARAMETERS_MAX:
        raise PgWireError("invalid startup packet layout: names and values do not match")
    pairs = []
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if not name:
            raise PgWireError("invalid startup packet layout: bytes behind the terminator")
        pairs.append((_text(name), _text(value)))
    return tuple(pairs)


def startup_packet(parameters: dict[str, str], *, minor: int = 0) -> bytes:
    """Build the packet that opens a session with these parameters in protocol 3.`minor`."""
    fields = b"".join(
        part.encode("utf-8", "surrogateescape") + b"\0"
        for pair in parameters.items()
        for part in pair
    )
    body = _CODE.pack(_PROTOCOL_MAJOR << 16 | minor) + fields + b"\0"
    return _LENGTH.pack(len(body) + 4) + body


def ssl_request_packet() -> bytes:
    """Build the question whether TLS may start."""
    return _LENGTH.pack(8) + _CODE.pack(_SSL_CODE)


def gssenc_request_packet() -> bytes:
    """Build the question whether GSSAPI encryption may start."""
    return _LENGTH.pack(8) + _CODE.pack(_GSSENC_CODE)


def cancel_packet(process_id: int, secret_key: bytes) -> bytes:
    """Build the request to cancel what the backend with this key is doing."""
    body = _CODE.pack(_CANCEL_CODE) + _PROCESS_ID.pack(process_id) + secret_key
    return _LENGTH.pack(len(body) + 4) + body


def message_header_untrusted(header: bytes) -> tuple[bytes, int]:
    """Return type and body length in bytes of the first message of a server.

    Raises:
        PgWireError: whatever answered does not speak PostgreSQL's protocol.
    """
    if len(header) != MESSAGE_HEADER_BYTES:
        raise PgWireError("incomplete message")
    kind, length = _MESSAGE_HEADER.unpack(header)
    if not kind.isalpha() or not 4 <= length <= FIRST_MESSAGE_BYTES_MAX:
        raise PgWireError("not a message of PostgreSQL")
    return kind, length - 4


def error_response(
    sqlstate: str, message: str, *, severity: str = "FATAL", detail: str = "", hint: str = ""
) -> bytes:
    """Build the message that tells a client why its connection ends."""
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", message)]
    if detail:
        fields.append(("D", detail))
    if hint:
        fields.append(("H", hint))
    # A zero byte would end the field early and turn the rest into fields of its own.
    body = b"".join(
        key.encode() + value.replace("\0", " ").encode("utf-8", "replace") + b"\0"
        for key, value in fields
    )
    return _MESSAGE_HEADER.pack(b"E", len(body) + 5) + body + b"\0"


def parse_error_untrusted(body: bytes) -> dict[str, str]:
    """Return the fields of an `ErrorResponse` by their one-letter codes.

    Raises:
        PgWireError: the body is not a list of fields.
    """
    if not body.endswith(b"\0"):
        raise PgWireError("an error without end")
    fields: dict[str, str] = {}
    for part in body[:-1].split(b"\0"):
        if part:
            fields[chr(part[0])] = _text(part[1:])
    return fields


def _text(value: bytes) -> str:
    # The database's encoding is not known yet; surrogates carry foreign bytes through unharmed.
    return value.decode("utf-8", "surrogateescape")
