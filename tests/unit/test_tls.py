"""Connections that encrypt: they keep what a `Transport` promises, and fail as sockets do."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from link_kit import ANSWER, LOGIN, QUERY, READY, rig, tcp_pair

from certificates import write_certificate
from metako.pgwire.binding import channel_binding_data
from metako.proxy import sockets
from metako.proxy.link import Link
from metako.proxy.tls import (
    TlsError,
    TlsTransport,
    client_context,
    server_tls,
    shake_hands,
)
from metako.proxy.transport import SCRATCH_BYTES, Ended, speaks

DEADLINE_S = 5.0


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    certificate = tmp_path_factory.mktemp("tls") / "server.crt"
    return certificate, write_certificate(certificate, "the proxy")


@contextlib.asynccontextmanager
async def joined(files, *, small: bool = False):
    """Give both ends of an encrypted connection: the server's and the client's."""
    near, far = tcp_pair()
    if small:
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ends: list[TlsTransport] = []

    async def accept() -> None:
        ends.append(await shake_hands(near, server_tls(*files).context, server_side=True))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            context = client_context(files[0], verify_name=True)
            client = await shake_hands(far, context, server_side=False, name="localhost")
        yield ends[0], client
    finally:
        for end in (near, far):
            sockets.close(end)


# ------------------------------------------------------------------- bytes


async def test_what_is_offered_again_is_sent_once(files) -> None:
    data = random.Random(5).randbytes(8_000_000)
    chance = random.Random(7)
    got = bytearray()
    async with joined(files, small=True) as (server, client), trio.open_nursery() as nursery:
        refused = 0

        async def send() -> None:
            nonlocal refused
            view = memoryview(data)
            while view:
                part = view[: chance.choice((1, 1, 2, 100, 5000, 70_000, 500_000))]
                while part:
                    try:
                        taken = server.send(part)
                    except BlockingIOError:
                        refused += 1
                        await trio.lowlevel.wait_writable(server.sock)
                    else:
                        assert 1 <= taken <= len(part)
                        part, view = part[taken:], view[taken:]

        nursery.start_soon(send)
        buffer = memoryview(bytearray(SCRATCH_BYTES))
        while len(got) < len(data):
            await trio.lowlevel.wait_readable(client.sock)
            with contextlib.suppress(BlockingIOError):
                count = client.recv_into(buffer[: chance.choice((1, 900, SCRATCH_BYTES))])
                got += buffer[:count]
            # What the kernel does not tell of may be kept back where the buffer was too small.
            with contextlib.suppress(BlockingIOError):
                count = client.recv_into(buffer)
                got += buffer[:count]
    assert got == data
    assert refused


async def test_nothing_that_was_decrypted_is_kept_back(files) -> None:
    async with joined(files) as (server, client):
        total = 0
        while True:  # records of all sizes, until the kernel takes no more
            try:
                total += server.send(b"x" * (1 + total % 16_384))
            except BlockingIOError:
                break
        buffer = memoryview(bytearray(SCRATCH_BYTES))
        got = 0
        last = False  # the byte that was not taken has been offered again
        with trio.fail_after(DEADLINE_S):
            while got < total + 1:
                await trio.lowlevel.wait_readable(client.sock)  # it hangs if bytes are kept back
                with contextlib.suppress(BlockingIOError):
                    got += client.recv_into(buffer)
                if not last:
                    with contextlib.suppress(BlockingIOError):
                        last = server.send(b"x") == 1
        assert last


async def test_a_byte_alone_that_is_not_taken_is_not_encrypted_twice(files) -> None:
    async with joined(files, small=True) as (server, client):
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += server.send(b"%d" % (sent % 10))
        for _ in range(3):
            with contextlib.suppress(BlockingIOError):
                server.send(b"%d" % (sent % 10))
        got = b""
        while len(got) < sent:
            got += await sockets.receive_some(client)
        await sockets.send_all(server, b"%d" % (sent % 10))
        got += await sockets.receive_some(client)
        assert got == b"".join(b"%d" % (i % 10) for i in range(sent + 1))


async def test_a_goodbye_is_the_end_and_so_is_none(files) -> None:
    for goodbye in (True, False):
        async with joined(files) as (server, client):
            await sockets.send_all(server, b"last words")
            if goodbye:
                server.shutdown(socket.SHUT_WR)
            else:
                server.sock.shutdown(socket.SHUT_WR)
            assert await sockets.receive_exactly(client, 100) == b"last words"
            assert await sockets.receive_some(client) == b""
            await sockets.send_all(client, b"and still heard")  # each direction ends by itself
            assert await sockets.receive_some(server) == b"and still heard"


async def test_closing_says_goodbye_and_aborting_says_nothing(files) -> None:
    async with joined(files) as (server, client):
        sockets.close(server)
        assert await sockets.receive_some(client.sock) != b""
    async with joined(files) as (server, client):
        sockets.abort(server)
        with pytest.raises(ConnectionResetError):
            await sockets.receive_some(client.sock)
        sockets.abort(server)  # twice is harmless
        assert server.fileno() == -1


async def test_garbage_breaks_the_connection_as_an_os_error(files) -> None:
    async with joined(files) as (server, client):
        await sockets.send_all(client.sock, b"\x17\x03\x03\x00\x20" + b"?" * 32)
        with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
            await sockets.receive_some(server)


async def test_what_is_looked_at_or_left_is_held_until_it_is_read(files) -> None:
    async with joined(files) as (server, client):
        assert not client.held
        await sockets.send_all(server, b"abcdef")
        assert await sockets.receive_exactly(client, 2) == b"ab"
        assert client.held  # and the kernel has nothing to tell
        with pytest.raises(BlockingIOError):
            client.sock.recv(1, socket.MSG_PEEK)
        for size in (1, 3, 1):
            assert client.recv(size, socket.MSG_PEEK) == b"cdef"[:size]
        buffer = bytearray(3)
        assert client.recv_into(memoryview(buffer)) == 3
        assert buffer == b"cde"
        assert client.held
        assert client.recv(9) == b"f"
        assert not client.held
        with pytest.raises(BlockingIOError):
            client.recv(1, socket.MSG_PEEK)
        server.shutdown(socket.SHUT_WR)
        await trio.lowlevel.wait_readable(client.sock)
        assert client.recv(1, socket.MSG_PEEK) == b""
        assert client.held  # the end, of which the kernel may not tell again


async def test_what_is_no_data_is_nothing_that_was_said(files) -> None:
    near, far = tcp_pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)  # with tickets
    near.setblocking(True)
    try:
        async with trio.open_nursery() as nursery:
            wrap = partial(context.wrap_socket, near, server_side=True)
            tls: list[ssl.SSLSocket] = []

            async def accept() -> None:
                tls.append(await trio.to_thread.run_sync(wrap))

            nursery.start_soon(accept)
            own = client_context(None, verify_name=False)
            client = await shake_hands(far, own, server_side=False, name="localhost")
        await trio.lowlevel.wait_readable(far)
        assert not speaks(client)
        with pytest.raises(BlockingIOError):
            far.recv(1, socket.MSG_PEEK)
        tls[0].send(b"x")
        await trio.lowlevel.wait_readable(far)
        assert speaks(client)
        assert client.recv(1) == b"x"
        tls[0].close()
        await trio.lowlevel.wait_readable(far)
        assert speaks(client)
    finally:
        sockets.close(near)
        sockets.close(far)


# ------------------------------------------------------------------- in a link


async def test_what_a_login_left_is_relayed_and_so_is_the_end_behind_it(files) -> None:
    async with rig() as made, joined(files) as (near_client, client), joined(files) as servers:
        server, near_server = servers
        await sockets.send_all(client, b"login" + QUERY)
        await sockets.send_all(server, b"granted" + LOGIN)
        assert await sockets.receive_exactly(near_client, 5) == b"login"
        assert await sockets.receive_exactly(near_server, 7) == b"granted"
        client.shutdown(socket.SHUT_WR)
        await trio.lowlevel.wait_readable(near_client.sock)
        assert near_client.recv(99, socket.MSG_PEEK) == QUERY  # the end was decrypted, too
        link = Link(made.context, near_client)
        link.attach(near_server, logging_in=True)
        assert await sockets.receive_exactly(client, len(LOGIN)) == LOGIN
        assert await sockets.receive_exactly(server, len(QUERY)) == QUERY
        assert await sockets.receive_some(server) == b""


async def test_a_link_relays_from_an_encrypted_client_to_an_encrypted_server(files) -> None:
    async with rig() as made, joined(files) as (near_client, client), joined(files) as servers:
        server, near_server = servers
        link = Link(made.context, near_client)
        link.attach(near_server, LOGIN, logging_in=True)
        assert await sockets.receive_exactly(client, len(LOGIN)) == LOGIN
        for _ in range(3):
            await sockets.send_all(client, QUERY)
            assert await sockets.receive_exactly(server, len(QUERY)) == QUERY
            await sockets.send_all(server, ANSWER)
            assert await sockets.receive_exactly(client, len(ANSWER)) == ANSWER
        assert link.at_rest
        client.shutdown(socket.SHUT_WR)
        assert await sockets.receive_some(server) == b""
        sockets.close(server)
        assert await link.wait_end() is Ended.SERVER


async def test_a_slow_reader_stops_the_server_and_gets_every_byte(files) -> None:
    row = b"D" + struct.pack("!I", 50_004) + random.Random(1).randbytes(50_000)
    rows = 400
    async with rig() as made, joined(files) as (near_client, client), joined(files) as servers:
        server, near_server = servers
        async with trio.open_nursery() as nursery:
            link = Link(made.context, near_client)
            link.attach(near_server, LOGIN, logging_in=True)
            await sockets.receive_exactly(client, len(LOGIN))
            await sockets.send_all(client, QUERY)
            await sockets.receive_exactly(server, len(QUERY))

            async def answer() -> None:
                for _ in range(rows):
                    await sockets.send_all(server, row)
                await sockets.send_all(server, READY)

            nursery.start_soon(answer)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(link._pending_down) > 0
            for _ in range(rows):
                assert await sockets.receive_exactly(client, len(row)) == row
            assert await sockets.receive_exactly(client, len(READY)) == READY
            assert link.at_rest


# ------------------------------------------------------------------- handshakes


async def test_both_see_the_certificate_that_logins_are_bound_to(files) -> None:
    offered = server_tls(*files)
    der = ssl.PEM_cert_to_DER_cert(files[0].read_text())
    assert offered.binding == channel_binding_data(der)
    assert offered.binding is not None
    async with joined(files) as (server, client):
        assert client.binding() == offered.binding
        assert server.binding() is None  # the client showed no certificate
        assert client.common_name() == "the proxy"
        assert server.common_name() is None


async def shaken(files, context: ssl.SSLContext, *, direct: bool = False) -> list[str]:
    """Return why both sides gave up, the server's words first; empty if they agreed."""
    near, far = tcp_pair()
    words: list[str] = []

    async def side(sock, using: ssl.SSLContext, *, server_side: bool) -> None:
        name = None if server_side else "localhost"
        try:
            await shake_hands(sock, using, server_side=server_side, name=name, direct=direct)
        except (TlsError, OSError) as error:
            words.append(f"{server_side}: {error}")
            sockets.close(sock)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: side(near, server_tls(*files).context, server_side=True))
            nursery.start_soon(lambda: side(far, context, server_side=False))
    finally:
        for end in (near, far):
            sockets.close(end)
    return sorted(words, reverse=True)


async def test_direct_tls_needs_the_name_of_the_protocol(files) -> None:
    right = client_context(None, verify_name=False)
    assert await shaken(files, right, direct=True) == []
    wrong = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    wrong.check_hostname, wrong.verify_mode = False, ssl.CERT_NONE
    refused = await shaken(files, wrong, direct=True)
    assert any("needs ALPN" in words for words in refused)


async def test_old_versions_and_unknown_certificates_are_refused_in_words(files, tmp_path) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert await shaken(files, old)
    other = tmp_path / "other.crt"
    write_certificate(other)
    refused = await shaken(files, client_context(other, verify_name=True))
    assert any("False: the certificate is not accepted: self" in words for words in refused)


@pytest.mark.parametrize(
    "said", [b"", b"\x16", b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f", b"\x16" * 900]
)
async def test_no_handshake_is_an_error_and_no_exception_of_another_kind(files, said) -> None:
    near, far = tcp_pair()
    try:
        await sockets.send_all(far, said)
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(TlsError):
            await shake_hands(near, server_tls(*files).context, server_side=True)
    finally:
        sockets.close(near)
        sockets.close(far)


async def test_who_says_nothing_is_waited_for_no_longer_than_the_caller_wants(files) -> None:
    near, far = tcp_pair()
    try:
        with trio.move_on_after(0.01) as scope:
            await shake_hands(near, server_tls(*files).context, server_side=True)
        assert scope.cancelled_caught
        assert near.fileno() != -1
    finally:
        sockets.close(near)
        sockets.close(far)


# ------------------------------------------------------------------- files


def test_files_that_cannot_be_used_are_told_by_name(files, tmp_path) -> None:
    certificate, key = files
    other = tmp_path / "other.crt"
    other_key = write_certificate(other)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    for wrong in (
        (certificate, other_key),
        (empty, key),
        (certificate, empty),
        (tmp_path / "none", key),
        (certificate, key, empty),
    ):
        with pytest.raises(TlsError, match=str(wrong[0])):
            server_tls(*wrong)
    with pytest.raises(TlsError, match="none"):
        client_context(tmp_path / "none", verify_name=True)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(files, tmp_path) -> None:
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        rsa.generate_private_key(65537, 1024).private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")
        )
    )
    with pytest.raises(TlsError, match="protected by a password"):
        server_tls(files[0], locked)
