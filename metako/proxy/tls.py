"""TLS for the reactor: a connection that encrypts in `send` and decrypts in `recv_into`.

    handshake (a task waits) ──▶ TlsTransport (nobody waits) ──▶ close_notify, end

OpenSSL works on two buffers in memory, and the socket stays an ordinary non-blocking one, so a
`TlsTransport` takes the place of a socket in a `Link`. Two things follow from what a `Transport`
promises:

* Nothing that was decrypted is kept back from a link, since the kernel tells of new bytes only. So
  no more is read from the socket at a time than fits, decrypted, into the buffer of a link. Who
  reads less, as a login does, or only looks, leaves the rest here; that it is there, `held` tells.
* What was encrypted cannot be taken back, while a link offers again what was not taken. If the
  kernel does not take all of the ciphertext, the last byte is reported as not taken: the link then
  waits until the socket is writable and offers that byte again, and it is known to be done with.

In: certificates, sockets. Out: contexts, transports. Whoever is given a context may keep it: files
that have changed make a new one.

Deliberately unknown here: PostgreSQL's requests for encryption, and who must use it.

Source: PostgreSQL documentation, "SSL Session Encryption" (ALPN, direct TLS).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from metako.pgwire.binding import channel_binding_data
from metako.proxy import sockets
from metako.proxy.transport import SCRATCH_BYTES

ALPN_PROTOCOL = "postgresql"
# With what is left of the record before, at most 16 KiB, it fits into the buffer of a link.
CIPHERTEXT_BYTES_MAX = SCRATCH_BYTES // 2
PLAINTEXT_BYTES_MAX = SCRATCH_BYTES  # encrypted at a time


class TlsError(Exception):
    """Certificates cannot be used, or a handshake failed. The connection is of no further use."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What clients are offered."""

    context: ssl.SSLContext
    binding: bytes | None  # channel-binding data of our certificate; None: it cannot be bound to


def server_tls(cert_file: Path, key_file: Path, client_ca_file: Path | None = None) -> ServerTls:
    """Return what is offered to clients with this certificate.

    Args:
        client_ca_file: who vouches for the certificates of clients. They are asked for one if it
            is given, and may come without.

    Raises:
        TlsError: a file cannot be read or does not hold what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0  # nobody resumes a session, and they would arrive behind the handshake
    context.set_alpn_protocols([ALPN_PROTOCOL])
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
        if client_ca_file is not None:
            context.load_verify_locations(client_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
        first, _, _ = cert_file.read_text().partition(ssl.PEM_FOOTER)
        begin = first.index(ssl.PEM_HEADER)
        certificate = ssl.PEM_cert_to_DER_cert(f"{first[begin:]}{ssl.PEM_FOOTER}\n")
    except (OSError, ValueError) as error:
        raise TlsError(f"{cert_file} with {key_file}: {_words(error)}") from error
    return ServerTls(context, channel_binding_data(certificate))


def _no_password() -> str:
    # OpenSSL would ask on the terminal, of which a worker has none.
    raise ValueError("the key is protected by a password")


def client_context(ca_file: Path | None, *, verify_name: bool) -> ssl.SSLContext:
    """Return the context for connections to servers.

    Args:
        ca_file: who vouches for the servers' certificates; None: any certificate will do, which
            keeps out those who only listen.
        verify_name: the certificate must be that of the host that was connected to.

    Raises:
        TlsError: the file cannot be read or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([ALPN_PROTOCOL])
    context.check_hostname = verify_name and ca_file is not None
    if ca_file is None:
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise TlsError(f"{ca_file}: {_words(error)}") from error
    return context


class TlsTransport:
    """See the module's docstring. Made by `shake_hands`; like a socket, it is closed by `sockets`.

    Raises `OSError`, of which `ssl.SSLError` is one, where a socket does, also if the peer breaks
    the protocol of TLS.
    """

    __slots__ = ("_again", "_incoming", "_outgoing", "_over", "_peeked", "_sock", "_tls", "_unsent")

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, out: ssl.MemoryBIO
    ) -> None:
        self._sock = sock
        self._tls = tls
        self._incoming = incoming
        self._outgoing = out
        self._unsent = memoryview(b"")  # ciphertext that the kernel has not taken
        self._again = False  # the next byte to be sent was encrypted before
        self._over = False  # the peer sends no more
        self._peeked = b""  # decrypted, looked at, and not read yet

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def sock(self) -> socket.socket:
        """The TCP connection below."""
        return self._sock

    @property
    def held(self) -> bool:
        """Whether there is something to be read, or the end, that the kernel does not tell of."""
        pending = self._tls.pending() or self._incoming.pending
        return bool(self._peeked or pending) or self._over

    @property
    def certified(self) -> bool:
        """Whether the peer has shown a certificate. Where it is asked for, it was verified."""
        return self._tls.getpeercert(binary_form=True) is not None

    def binding(self) -> bytes | None:
        """Return the channel-binding data of the peer's certificate, if it has shown one."""
        certificate = self._tls.getpeercert(binary_form=True)
        return channel_binding_data(certificate) if certificate else None

    def common_name(self) -> str | None:
        """Return the common name of the peer's verified certificate, None if it has none."""
        certificate = self._tls.getpeercert()
        subject = certificate.get("subject", ()) if certificate else ()
        assert isinstance(subject, tuple)
        for attributes in subject:
            for attribute in attributes:
                if attribute[0] == "commonName":
                    return str(attribute[1])
        return None

    # -- as a Transport ---------------------------------------------------------------------

    def recv_into(self, buffer: memoryview, /) -> int:
        while True:
            count = self._decrypt(buffer)
            if count or self._over:
                return count
            self._read_socket()

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        if flags & socket.MSG_PEEK and len(self._peeked) >= size:
            return self._peeked[:size]
        part = bytearray(size)
        found = bytes(part[: self.recv_into(memoryview(part))])
        if flags & socket.MSG_PEEK:
            self._peeked = found
        return found

    def send(self, data: bytes | memoryview, /) -> int:
        if self._unsent:
            self._flush()
            if self._unsent:
                raise BlockingIOError
        assert data
        view = memoryview(data)
        done = int(self._again)  # how much of it is encrypted
        self._again = False
        while done < len(view):
            # Not all at once: buffers of OpenSSL stay as large as they have been.
            part = view[done : done + PLAINTEXT_BYTES_MAX]
            written = self._tls.write(part)
            assert written == len(part)  # a buffer in memory takes everything
            done += written
            self._flush()
            if self._unsent:
                self._again = True
                if done == 1:
                    raise BlockingIOError
                return done - 1
        return done

    def shutdown(self, how: int, /) -> None:
        self._say_goodbye()
        self._sock.shutdown(how)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._say_goodbye()
        self._sock.close()

    # -- between OpenSSL and the socket -----------------------------------------------------

    def _say_goodbye(self) -> None:
        # It returns only after the peer's goodbye too; ours has been written by then, or before.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def _decrypt(self, buffer: memoryview) -> int:
        """Return how much of the buffer was filled with what is there."""
        count = 0
        if self._peeked:
            count = min(len(self._peeked), len(buffer))
            buffer[:count] = self._peeked[:count]
            self._peeked = self._peeked[count:]
        while count < len(buffer) and not self._over:
            part = 0
            try:
                part = self._read_into(buffer[count:])
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                pass
            # PostgreSQL's messages tell where they end, so a missing goodbye cuts nothing short.
            self._over = not part
            count += part
        if self._outgoing.pending:
            self._flush()  # an answer of OpenSSL's own, to a new key for example
        return count

    def _read_into(self, buffer: memoryview) -> int:
        count = self._tls.read(len(buffer), buffer)
        assert isinstance(count, int)  # not so only without a buffer
        return count

    def _read_socket(self) -> None:
        part = self._sock.recv(CIPHERTEXT_BYTES_MAX)
        if part:
            self._incoming.write(part)
        else:
            # Not told to OpenSSL, which would let nothing out any more either.
            self._over = True

    def _flush(self) -> None:
        """Hand ciphertext to the kernel, as much as it takes."""
        if self._outgoing.pending:
            self._unsent = memoryview(bytes(self._unsent) + self._outgoing.read())
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except BlockingIOError:
                return
            self._unsent = self._unsent[sent:]


async def shake_hands(
    sock: socket.socket,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    name: str | None = None,
    direct: bool = False,
    received: bytes = b"",
) -> TlsTransport:
    """Return the encrypted connection on `sock`. The caller sets the deadline, and closes.

    If cancelled or failed, `sock` is still open and of no further use.

    Args:
        name: of the server, on the client's side.
        direct: TLS began without a request, so it has to be agreed that this is PostgreSQL.
        received: what was read already.

    Raises:
        TlsError: the peers cannot agree, or one does not believe the other.
        OSError, trio.ClosedResourceError: the connection broke.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(received)
    try:
        tls = context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=name)
    except ValueError as error:
        raise TlsError(f"{name} is no name for a certificate: {error}") from error
    while True:
        failure: ssl.SSLError | None = None
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        except ssl.SSLError as error:
            failure = error
        if outgoing.pending:
            await sockets.send_all(sock, outgoing.read())  # an alert, if it failed
        if failure is not None:
            raise TlsError(_words(failure)) from failure
        if done:
            break
        part = await sockets.receive_some(sock, CIPHERTEXT_BYTES_MAX)
        if part:
            incoming.write(part)
        else:
            incoming.write_eof()
    if direct and tls.selected_alpn_protocol() != ALPN_PROTOCOL:
        raise TlsError("TLS without a request needs ALPN, and nobody named postgresql")
    return TlsTransport(sock, tls, incoming, outgoing)


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
