"""A very small PostgreSQL client: one connection, simple queries, passwords by SCRAM-SHA-256.

The writer must know exactly what became of each statement: whether any byte of it left, whether
the server answered, and whether a warning came with the answer (a commit whose wait for the
standbys was cancelled says so in a warning, and is then no acknowledged commit). Drivers made for
applications hide these, so the writer has a client of its own. It does no TLS: it talks over
loopback. Every operation has a deadline; after an error other than `ServerError` the connection
is closed.

Source: PostgreSQL documentation, "Frontend/Backend Protocol"; RFC 5802, RFC 7677 (SCRAM).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

PROTOCOL_VERSION = 3 << 16
MESSAGE_BYTES_MAX = 64 << 20
RECEIVE_BYTES = 64 << 10
SCRAM_ITERATIONS_MAX = 100_000
LOGIN_MESSAGES_MAX = 200


class ClientError(Exception):
    """The connection failed and is closed; a statement in flight may or may not have happened."""


class ServerError(Exception):
    """The server answered with an error. `fatal`: the server has ended the session."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.severity = fields.get("V", fields.get("S", "ERROR"))
        self.sqlstate = fields.get("C", "XX000")
        self.text = fields.get("M", "")
        super().__init__(f"{self.severity} {self.sqlstate}: {self.text}")

    @property
    def fatal(self) -> bool:
        return self.severity != "ERROR"


@dataclass(slots=True)
class QueryResult:
    """Answer to one simple query; values are PostgreSQL's text forms."""

    tag: str = ""  # of the last statement, such as INSERT 0 1
    rows: list[tuple[str | None, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # SQLSTATE and text of each warning


class Scram:
    """One SCRAM-SHA-256 exchange, without channel binding, without I/O."""

    def __init__(self, password: str, *, nonce: str | None = None, user: str = "") -> None:
        # PostgreSQL takes the user from the startup message and ignores the one given here.
        self._password = password.encode()
        self._nonce = nonce or base64.b64encode(secrets.token_bytes(18)).decode()
        self._bare = f"n={user},r={self._nonce}"
        self._server_signature = b""  # expected from the server; empty before `final`

    def first(self) -> bytes:
        return f"n,,{self._bare}".encode()

    def final(self, server_first: bytes) -> bytes:
        """Return the proof for the server's challenge.

        Raises:
            ClientError: the challenge is malformed or not an answer to our nonce.
        """
        try:
            text = server_first.decode("ascii")
            parts = dict(item.split("=", 1) for item in text.split(","))
            nonce, salt, rounds = parts["r"], base64.b64decode(parts["s"]), int(parts["i"])
        except (ValueError, KeyError) as error:
            raise ClientError(f"malformed SCRAM challenge: {error}") from None
        if not nonce.startswith(self._nonce) or not 1 <= rounds <= SCRAM_ITERATIONS_MAX:
            raise ClientError("the SCRAM challenge is not an answer to ours")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, rounds)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={nonce}"
        message = f"{self._bare},{text},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        self._server_signature = hmac.digest(server_key, message, "sha256")
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final: bytes) -> None:
        """Check that the server knows the password too.

        Raises:
            ClientError: it does not.
        """
        expected = b"v=" + base64.b64encode(self._server_signature)
        if not self._server_signature or not hmac.compare_digest(server_final, expected):
            raise ClientError("the server does not know the password")


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _fields(body: bytes) -> dict[str, str]:
    parts = (part.decode("utf-8", "replace") for part in body.split(b"\0") if part)
    return {part[0]: part[1:] for part in parts}


def _row(body: bytes) -> tuple[str | None, ...]:
    (count,) = struct.unpack_from("!H", body)
    values: list[str | None] = []
    offset = 2
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, offset)
        offset += 4
        if size < 0:
            values.append(None)
            continue
        values.append(body[offset : offset + size].decode())
        offset += size
    return tuple(values)


class PgClient:
    """One logged-in connection. Use as a context manager, or call `close`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream: trio.abc.Stream = stream
        self._socket = stream.socket
        self._buffer = bytearray()
        self._ready = False  # True once the login has been completed
        self.closed = False

    @classmethod
    async def connect(
        cls, host: str, port: int, *, user: str, password: str, database: str, timeout_s: float
    ) -> PgClient:
        """Return a connection that is ready for a query.

        If cancelled, nothing is left open.

        Raises:
            ClientError: no connection, or none that answered in time.
            ServerError: the server, or a proxy on the way, refused the login.
        """
        client: PgClient | None = None
        try:
            with trio.fail_after(timeout_s):
                client = cls(await trio.open_tcp_stream(host, port))
                await client._login(user, password, database)
        except (trio.TooSlowError, OSError, trio.BrokenResourceError) as error:
            reason = "no answer in time" if isinstance(error, trio.TooSlowError) else error
            raise ClientError(f"login through {host}:{port}: {reason}") from None
        finally:
            if client is not None and not client._ready:
                client.close()
        return client

    async def _login(self, user: str, password: str, database: str) -> None:
        pairs = {
            "user": user,
            "database": database,
            "application_name": "metako-demo",
            # Without it a cancelled wait for the standbys would go unnoticed.
            "client_min_messages": "warning",
        }
        body = b"".join(f"{k}\0{v}\0".encode() for k, v in pairs.items()) + b"\0"
        start = struct.pack("!II", len(body) + 8, PROTOCOL_VERSION) + body
        await self._stream.send_all(start)
        scram = Scram(password)
        for _ in range(LOGIN_MESSAGES_MAX):
            kind, body = await self._receive()
            match kind:
                case b"R":
                    await self._authenticate(body, password, scram)
                case b"E":
                    raise ServerError(_fields(body))
                case b"Z":
                    self._ready = True
                    return
                case _:  # parameters, the cancel key and notices are of no use here
                    pass
        raise ClientError("the login does not end")

    async def _authenticate(self, body: bytes, password: str, scram: Scram) -> None:
        (method,) = struct.unpack_from("!I", body)
        rest = body[4:]
        match method:
            case 0:
                return
            case 3:
                await self._stream.send_all(_message(b"p", password.encode() + b"\0"))
            case 10:
                if b"SCRAM-SHA-256" not in rest.split(b"\0"):
                    raise ClientError("the server does not offer SCRAM-SHA-256")
                first = scram.first()
                payload = b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first
                await self._stream.send_all(_message(b"p", payload))
            case 11:
                await self._stream.send_all(_message(b"p", scram.final(rest)))
            case 12:
                scram.verify(rest)
            case _:
                raise ClientError(f"authentication method {method} is not supported")

    async def query(self, sql: str, *, timeout_s: float) -> QueryResult:
        """Run `sql` as one simple query and return its answer.

        If cancelled or too late, the connection is closed: what became of the statement is
        unknown.

        Raises:
            ServerError: the server refused; the connection is still good unless it is `fatal`.
            ClientError: the answer did not come; the statement may have happened.
        """
        done = False
        try:
            with trio.fail_after(timeout_s):
                await self._stream.send_all(_message(b"Q", sql.encode() + b"\0"))
                result = await self._answer()
                done = True
                return result
        except ServerError as error:
            done = not error.fatal
            raise
        except trio.TooSlowError:
            raise ClientError(f"no answer within {timeout_s} s") from None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientError(f"connection lost: {error}") from None
        finally:
            if not done:
                self.close()

    async def _answer(self) -> QueryResult:
        result = QueryResult()
        error: ServerError | None = None
        while True:  # ends with ReadyForQuery, the end of the stream, or the caller's deadline
            kind, body = await self._receive()
            match kind:
                case b"D":
                    result.rows.append(_row(body))
                case b"C":
                    result.tag = body.rstrip(b"\0").decode()
                case b"N":
                    fields = _fields(body)
                    result.warnings.append(f"{fields.get('C', '')} {fields.get('M', '')}")
                case b"E":
                    error = ServerError(_fields(body))
                    if error.fatal:
                        raise error
                case b"Z":
                    if error is not None:
                        raise error
                    return result
                case _:
                    pass

    async def _receive(self) -> tuple[bytes, bytes]:
        while True:  # each turn needs more bytes from the peer; the caller has the deadline
            if len(self._buffer) >= 5:
                (size,) = struct.unpack_from("!I", self._buffer, 1)
                if not 4 <= size <= MESSAGE_BYTES_MAX:
                    raise ClientError(f"malformed message of {size} bytes")
                if len(self._buffer) > size:
                    kind, body = bytes(self._buffer[:1]), bytes(self._buffer[5 : size + 1])
                    del self._buffer[: size + 1]
                    return kind, body
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                raise ClientError("the connection was closed")
            self._buffer += data

    def close(self) -> None:
        """Close at once, without a goodbye: the peer may be frozen."""
        self.closed = True
        self._socket.close()

    def __enter__(self) -> PgClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
