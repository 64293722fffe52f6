"""The first bytes of a connection: startup, encryption and cancel requests, and error messages.

In: the first packet of a client, or the first message of a server. Out: frozen values, or the
bytes of an `ErrorResponse`. A packet is kept verbatim beside what was parsed from it, so that
what is forwarded is exactly what was received.

A connection may also begin with TLS at once, without asking. The caller sees that by
`DirectTlsError` or, before it reads more than one byte, by `begins_with_tls`; the handshake must
then agree on `ALPN_PROTOCOL`, as PostgreSQL demands, and the first packet follows inside it.

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
from collections.abc import Mapping
from dataclasses import dataclass

STARTUP_BYTES_MAX = 10_000
STARTUP_BYTES_MIN = 8
CANCEL_KEY_BYTES_MIN = 4
CANCEL_KEY_BYTES_MAX = 256
PARAMETERS_MAX = 500  # far more than a packet of legal size holds in practice
MESSAGE_HEADER_BYTES = 5
FIRST_MESSAGE_BYTES_MAX = 65_536  # the first message of a server is an error or a short request

ENCRYPTION_ACCEPTED = b"S"
ENCRYPTION_REFUSED = b"N"
TERMINATE = b"X\0\0\0\4"  # the whole message with which a client says goodbye
TLS_HANDSHAKE_BYTE = 0x16  # the first byte of a TLS record of type handshake
ALPN_PROTOCOL = "postgresql"  # TLS without SSLRequest is only for those who ask for this by ALPN

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

    RESOLUTION_UNKNOWN = "08007"
    PROTOCOL_VIOLATION = "08P01"
    FEATURE_NOT_SUPPORTED = "0A000"
    IDLE_IN_TRANSACTION_TIMEOUT = "25P03"
    INVALID_AUTHORIZATION = "28000"
    INVALID_PASSWORD = "28P01"  # noqa: S105 - a code, not a password
    INSUFFICIENT_PRIVILEGE = "42501"
    SYNTAX_ERROR = "42601"
    UNDEFINED_OBJECT = "42704"
    TOO_MANY_CONNECTIONS = "53300"
    QUERY_CANCELED = "57014"
    ADMIN_SHUTDOWN = "57P01"
    CRASH_SHUTDOWN = "57P02"
    CANNOT_CONNECT_NOW = "57P03"
    IDLE_SESSION_TIMEOUT = "57P05"
    INTERNAL_ERROR = "XX000"


class PgWireError(Exception):
    """The peer broke the protocol. Nothing was forwarded; the connection is to be closed.

    Attributes:
        sqlstate: what to answer, if anything is answered.
        detail: the second sentence of the answer; "" if there is none.
    """

    def __init__(
        self,
        message: str,
        sqlstate: SqlState = SqlState.PROTOCOL_VIOLATION,
        *,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.detail = detail


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


def begins_with_tls(first_bytes: bytes) -> bool:
    """Return whether a client that sent this began with a TLS handshake instead of asking."""
    return first_bytes[:1] == bytes((TLS_HANDSHAKE_BYTE,))


def first_packet_length_untrusted(header: bytes) -> int:
    """Return the whole length in bytes that the first four bytes of a client announce.

    Raises:
        DirectTlsError: it is a TLS handshake.
        PgWireError: the length is impossible.
    """
    if begins_with_tls(header):
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
        pairs.append((decode_text(name), decode_text(value)))
    return tuple(pairs)


def startup_packet(parameters: dict[str, str], *, minor: int = 0) -> bytes:
    """Build the packet that opens a session with these parameters in protocol 3.`minor`.

    Raises:
        ValueError: a name or value has a zero byte, which would begin parameters of its own; or
            the packet is longer than a server reads.
    """
    if any("\0" in part for pair in parameters.items() for part in pair):
        raise ValueError("a startup parameter contains a zero byte")
    fields = b"".join(encode_text(part) + b"\0" for pair in parameters.items() for part in pair)
    body = _CODE.pack(_PROTOCOL_MAJOR << 16 | minor) + fields + b"\0"
    if len(body) + 4 > STARTUP_BYTES_MAX:
        raise ValueError("the startup parameters are longer than a server reads")
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
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": message}
    if detail:
        fields["D"] = detail
    if hint:
        fields["H"] = hint
    return error_of_fields(fields)


def error_of_fields(fields: Mapping[str, str], *, kind: bytes = b"E") -> bytes:
    """Build an error of what `parse_error_untrusted` returned; a notice if `kind` is N."""
    # A zero byte would end the field early and turn the rest into fields of its own.
    body = b"".join(
        key.encode("latin-1") + encode_text(value.replace("\0", " ")) + b"\0"
        for key, value in fields.items()
    )
    return _MESSAGE_HEADER.pack(kind, len(body) + 5) + body + b"\0"


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
            fields[chr(part[0])] = decode_text(part[1:])
    return fields


def decode_text(value: bytes) -> str:
    """Return the text of a peer whose encoding is not known yet.

    Surrogates carry bytes that are no UTF-8 through unharmed; `encode_text` gives them back.
    """
    return value.decode("utf-8", "surrogateescape")


def encode_text(value: str) -> bytes:
    """Return the bytes that `decode_text` made `value` of."""
    return value.encode("utf-8", "surrogateescape")
