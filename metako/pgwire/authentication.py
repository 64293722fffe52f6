"""The messages of a login: what a server requests, and what a client answers.

In: the body of a message, as `MessageReader` gives it. Out: frozen values. The other way round,
values in and whole messages out. Whether an answer is right is for `scram`, `login_server` and
`login_client`.

Every answer of a client has the same letter; only the request before tells what its body is.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", Message Formats.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from metako.pgwire.keys import MD5_SALT_BYTES
from metako.pgwire.messages import (
    message,
    split_string_untrusted,
    string,
)
from metako.pgwire.startup import PgWireError

MECHANISMS_MAX = 32  # a server names one or two

AUTHENTICATION_OK = b"R\0\0\0\x08\0\0\0\0"
AUTHENTICATION_CLEARTEXT = b"R\0\0\0\x08\0\0\0\3"


class _Code(enum.IntEnum):
    """What a request asks for, of those that somebody here knows."""

    OK = 0
    CLEARTEXT = 3
    MD5 = 5
    SASL = 10
    SASL_CONTINUE = 11
    SASL_FINAL = 12


_INT32 = struct.Struct("!I")
_NO_RESPONSE = 0xFFFFFFFF  # the length -1: a mechanism was chosen without saying more

# -- requests of the server ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthenticationOk:
    """The server is satisfied."""


@dataclass(frozen=True, slots=True)
class AuthenticationCleartext:
    """The server wants the password itself."""


@dataclass(frozen=True, slots=True)
class AuthenticationMd5:
    """The server wants the hash of the stored hash and four bytes of salt."""

    salt: bytes


@dataclass(frozen=True, slots=True)
class AuthenticationSasl:
    """The server wants one of these mechanisms, the one it likes best first."""

    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuthenticationSaslContinue:
    """The mechanism's challenge."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AuthenticationSaslFinal:
    """The mechanism's last word; AuthenticationOk follows."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AuthenticationOther:
    """A request that nobody here can answer: GSSAPI, SSPI, or one that is newer than this."""

    code: int


Authentication = (
    AuthenticationOk
    | AuthenticationCleartext
    | AuthenticationMd5
    | AuthenticationSasl
    | AuthenticationSaslContinue
    | AuthenticationSaslFinal
    | AuthenticationOther
)


def authentication_md5(salt: bytes) -> bytes:
    """Build the request for an md5 password."""
    if len(salt) != MD5_SALT_BYTES:
        raise ValueError(f"the salt of an md5 request has {MD5_SALT_BYTES} bytes")
    return message(b"R", _INT32.pack(_Code.MD5) + salt)


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    """Build the request for one of these mechanisms."""
    names = b"".join(string(name.encode("ascii")) for name in mechanisms)
    return message(b"R", _INT32.pack(_Code.SASL) + names + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    """Build the carrier of a mechanism's challenge."""
    return message(b"R", _INT32.pack(_Code.SASL_CONTINUE) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    """Build the carrier of a mechanism's last word."""
    return message(b"R", _INT32.pack(_Code.SASL_FINAL) + data)


def parse_authentication_untrusted(body: bytes) -> Authentication:
    """Return what an authentication message ('R') asks for or says."""
    if len(body) < _INT32.size:
        raise PgWireError("an authentication request without a code")
    code: int = _INT32.unpack_from(body)[0]
    data = body[_INT32.size :]
    match code:
        case _Code.OK | _Code.CLEARTEXT:
            if data:
                raise PgWireError("an authentication request with bytes behind its end")
            return AuthenticationOk() if code == _Code.OK else AuthenticationCleartext()
        case _Code.MD5:
            if len(data) != MD5_SALT_BYTES:
                raise PgWireError("an md5 request with a wrong length of salt")
            return AuthenticationMd5(data)
        case _Code.SASL:
            return AuthenticationSasl(_parse_mechanisms(data))
        case _Code.SASL_CONTINUE:
            return AuthenticationSaslContinue(data)
        case _Code.SASL_FINAL:
            return AuthenticationSaslFinal(data)
    return AuthenticationOther(code)


def _parse_mechanisms(data: bytes) -> tuple[str, ...]:
    # Every name ends with a zero byte, and so does the list: an empty name.
    names = data.split(b"\0")
    if len(names) < 2 or names[-2:] != [b"", b""] or not all(names[:-2]):
        raise PgWireError("a list of SASL mechanisms without end")
    if len(names) - 2 > MECHANISMS_MAX or not data.isascii():
        raise PgWireError("not a list of SASL mechanisms")
    return tuple(name.decode("ascii") for name in names[:-2])


# -- answers of the client ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaslInitialResponse:
    """The mechanism that a client chose, and its first message."""

    mechanism: str
    data: bytes | None  # None: the client waits for an empty challenge first


def password_message(password: bytes) -> bytes:
    """Build the answer to a request for a clear or an md5 password."""
    return message(b"p", string(password))


def parse_password_untrusted(body: bytes) -> bytes:
    """Return the password of a client."""
    password, end, rest = body.partition(b"\0")
    if not end or rest:
        raise PgWireError("invalid password packet size")
    return password


def sasl_initial_response(mechanism: str, data: bytes | None) -> bytes:
    """Build the choice of a mechanism, with the mechanism's first message unless it is None."""
    name = string(mechanism.encode("ascii"))
    if data is None:
        return message(b"p", name + _INT32.pack(_NO_RESPONSE))
    return message(b"p", name + _INT32.pack(len(data)) + data)


def parse_sasl_initial_untrusted(body: bytes) -> SaslInitialResponse:
    """Return which mechanism a client chose."""
    name, rest = split_string_untrusted(body, "SASL response")
    if not name.isascii():
        raise PgWireError("client selected an invalid SASL authentication mechanism")
    if len(rest) < _INT32.size:
        raise PgWireError("insufficient data left in message")
    length: int = _INT32.unpack_from(rest)[0]
    data = rest[_INT32.size :]
    if length == _NO_RESPONSE and not data:
        return SaslInitialResponse(name.decode("ascii"), None)
    if length > len(data):
        raise PgWireError("insufficient data left in message")
    if length < len(data):
        raise PgWireError("invalid message format")
    return SaslInitialResponse(name.decode("ascii"), data)


def sasl_response(data: bytes) -> bytes:
    """Build the answer to a mechanism's challenge; its body is the answer, nothing to parse."""
    return message(b"p", data)
