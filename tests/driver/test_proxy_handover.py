"""A worker hands its sessions to another: what clients notice, and what goes wrong."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from legs_kit import LegServer, anna_by_trust
from proxy_kit import Client, FakeServer, Proxy, eventually, message, proxy_running
from test_proxy_cancels import key_of
from tls_kit import TlsServer, as_client, on_tls

from metako import unixsocket
from metako.model.ids import Address, NodeId, Term
from metako.model.sslmode import SslMode
from metako.pgwire.messages import BackendKey
from metako.pgwire.startup import cancel_packet, startup_packet
from metako.proxy import worklock
from metako.proxy.changes import Tie
from metako.proxy.console import Command, Failed, Verb
from metako.proxy.descriptors import Descriptors
from metako.proxy.estate import Ask, Estate, Ready, Server, Will, decode, encode
from metako.proxy.inherit import Inheritance, ask_elder
from metako.proxy.layers import Scope
from metako.proxy.limits import Timeouts
from metako.proxy.outside import heir_path, old_lock_path
from metako.proxy.process import find_running
from metako.proxy.routes import Route
from metako.proxy.serverlogin import LogIn
from metako.proxy.snapshot import Snapshot
from metako.proxy.who import Who
from metako.proxy.worklock import WorkerLock

WHO = Who(5, "anna", "shop", "", "127.0.0.1", 999, tls=False, since=-1.0)
PASSED_ON = Estate(WHO, False, False, None, None, None)


@contextlib.asynccontextmanager
async def heir_of(elder: Proxy, path: Path, **options) -> AsyncIterator[Proxy]:
    """Run the worker that takes the place of another, beside the same agent."""
    inheritance = await ask_elder(heir_path(elder.control, 1), "127.0.0.1", elder.port)
    assert inheritance is not None
    async with proxy_running(
        path, with_agent=False, replaceable=True, inheritance=inheritance, **options
    ) as heir:
        await eventually(lambda: not elder.accepts)
        yield heir


@contextlib.asynccontextmanager
async def elder_running(path: Path, server: FakeServer, **options) -> AsyncIterator[Proxy]:
    async with proxy_running(path, replaceable=True, **options) as elder:
        elder.route(1, server)
        await eventually(heir_path(elder.control, 1).exists)
        yield elder


async def test_who_is_at_rest_goes_on_with_the_same_server(tmp_path, server) -> None:
    async with elder_running(tmp_path, server) as elder:
        clients = [await elder.session() for _ in range(20)]
        async with heir_of(elder, tmp_path):
            await eventually(elder.ended.is_set)
            for client in clients:
                assert await client.query("select 1") == "a"
            assert (server.logins, server.ended) == (20, 0)
            # What happens to the server happens to the client, as ever.
            await clients[0].send(message(b"Q", b"bye\0"))
            assert await clients[0].at_end()
            await clients[1].send(message(b"X", b""))
            assert await clients[1].at_end()
            await eventually(lambda: server.ended == 2)


async def test_who_comes_meanwhile_is_served(tmp_path, server) -> None:
    async with elder_running(tmp_path, server) as elder:
        before = await elder.connect()  # has said nothing yet
        inheritance = await ask_elder(heir_path(elder.control, 1), "127.0.0.1", elder.port)
        # Nobody accepts at the heir yet; the elder does.
        assert await (await elder.session()).query("select 1") == "a"
        async with proxy_running(
            tmp_path, with_agent=False, replaceable=True, inheritance=inheritance
        ) as heir:
            for _ in range(5):
                assert await (await heir.session()).query("select 1") == "a"
            await before.send(startup_packet({"user": "anna", "database": "shop"}))
            await before.until_ready()
            assert await before.query("select 1") == "a"
            await eventually(elder.ended.is_set)


async def test_a_transaction_ends_where_it_began(tmp_path, server) -> None:
    async with elder_running(tmp_path, server) as elder:
        client = await elder.session()
        await client.query("begin")
        async with heir_of(elder, tmp_path):
            assert await client.query("begin") == "BEGIN"
            assert not elder.ended.is_set()
            assert await client.query("commit") == "a"
            await eventually(elder.ended.is_set)
            assert await client.query("select 1") == "a"
    assert server.logins == 1


async def test_who_is_paused_stays_so(tmp_path, server) -> None:
    async with elder_running(tmp_path, server) as elder:
        client = await elder.session()
        for database in ("other", "shop"):
            await ask(elder, Command(Verb.PAUSE, database=database))
        async with heir_of(elder, tmp_path) as heir:
            await client.send(message(b"Q", b"select 1\0"))
            late = await heir.log_in()
            for one in (client, late):
                with trio.move_on_after(0.1):
                    await one.message()
                    raise AssertionError("nobody may begin")
            await ask(elder, Command(Verb.RESUME))
            assert (await client.until_ready())[-1][1] == b"a\0"
            await late.until_ready()
            await eventually(elder.ended.is_set)


async def ask(elder: Proxy, command: Command) -> None:
    """Have all workers of the node do something, as a console would."""
    part = await elder.desk._ask_all(command, None)
    assert not isinstance(part.outcome, Failed), part


async def test_a_replaced_worker_does_not_wait_for_ever(tmp_path, server) -> None:
    timeouts = Timeouts(drain_s=0.2)
    async with elder_running(tmp_path, server, timeouts=timeouts) as elder:
        client = await elder.session()
        await client.query("begin")
        async with heir_of(elder, tmp_path):
            assert (await client.error())["C"] == "57P01"
            assert await client.at_end()
            await eventually(elder.ended.is_set)


async def test_what_encrypts_stays(tmp_path, server, papers) -> None:
    async with elder_running(tmp_path, server, tls=papers.offered()) as elder:
        client = await on_tls(elder, as_client(papers))
        await client.send(startup_packet({"user": "anna", "database": "shop"}))
        await client.until_ready()
        async with heir_of(elder, tmp_path, tls=papers.offered()):
            await trio.sleep(0.6)  # it is looked for twice in that time
            assert await client.query("select 1") == "a"
            assert not elder.ended.is_set()
            await client.send(message(b"X", b""))
            await eventually(elder.ended.is_set)


@pytest.mark.parametrize(
    "words",
    [
        [],
        [b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100],
        [encode(Ready())],
        [b'{"format":99}'],
        [encode(Ask("127.0.0.1", 1)), b"what"],
        [encode(Ask("127.0.0.1", 1)), encode(Will(0, 0, 0))],
    ],
)
async def test_an_heir_that_fails_changes_nothing(tmp_path, server, words, monkeypatch) -> None:
    async with elder_running(tmp_path, server) as elder:
        client = await elder.session()
        stranger = Descriptors(unixsocket.connect(heir_path(elder.control, 1)))
        for word in words:
            await stranger.send(lambda word=word: (word, ()))
        stranger.close()
        if words and b"ask" in words[0]:
            text = "a worker that was to replace this one has failed"
            await eventually(lambda: text in [event.message for event in elder.events])
        with monkeypatch.context() as patch:
            patch.setattr(worklock, "LOCK_TIMEOUT_S", 0.01)
            assert await WorkerLock.take(elder.control, 1) is None, "it has its lock"
        assert not old_lock_path(elder.control, 1, os.getpid()).exists()
        assert await client.query("select 1") == "a"
        assert await (await elder.session()).query("select 1") == "a"
        async with heir_of(elder, tmp_path):
            await eventually(elder.ended.is_set)
            assert await client.query("select 1") == "a"


async def test_a_worker_that_drains_is_found_by_a_file_of_its_own(tmp_path, server) -> None:
    async with elder_running(tmp_path, server) as elder:
        client = await elder.session()
        await client.query("begin")
        path = old_lock_path(elder.control, 1, os.getpid())
        async with heir_of(elder, tmp_path):
            found, _ = await find_running(path)
            # In this process nobody has announced anything.
            assert found is None
            assert path.exists()


async def test_without_its_heir_a_worker_keeps_who_is_still_there(tmp_path, server) -> None:
    async with elder_running(tmp_path, server) as elder:
        client = await elder.session()
        await client.query("begin")
        async with heir_of(elder, tmp_path):
            pass
        assert not elder.ended.is_set()
        assert await client.query("commit") == "a"
        await trio.sleep(0.6)
        assert await client.query("select 1") == "a"
        await client.send(message(b"X", b""))
        await eventually(elder.ended.is_set)


async def test_whom_we_have_logged_in_can_cancel_and_be_moved_as_before(tmp_path, nursery) -> None:
    server = LegServer("a", key=BackendKey(7, b"\0\0\0c"))
    await nursery.start(server.run)
    source = anna_by_trust()
    async with elder_running(tmp_path, server, credentials=source) as elder:
        before = [await elder.log_in() for _ in range(3)]
        keys = [await key_of(client) for client in before]
        await before[0].query("set a = 1")
        async with heir_of(elder, tmp_path, credentials=source) as heir:
            await eventually(elder.ended.is_set)
            assert len({*keys, await key_of(await heir.log_in())}) == 4
            for number, key in enumerate(keys, 1):
                client = await heir.connect()
                await client.send(cancel_packet(key.process_id, key.secret_key))
                assert await client.at_end()
                assert len(server.cancels) == number
            other = LegServer("b")
            await nursery.start(other.run)
            elder.route(2, other)
            await eventually(lambda: server.ended >= 3 + len(keys))
            for client in before:
                assert await client.query("select 1") == "b"
            assert b"set a = 1" in bytes(other.received)


async def test_a_server_on_tls_is_logged_in_to_again(tmp_path, nursery, papers) -> None:
    server = TlsServer("a", certificate=papers.server)
    await nursery.start(server.run)
    options = {"credentials": anna_by_trust(), "tls": papers.towards(SslMode.REQUIRE)}
    async with elder_running(tmp_path, server, **options) as elder:
        client, tied = await elder.session(), await elder.session()
        await client.query("set a = 1")
        await tied.query("listen b")
        async with heir_of(elder, tmp_path, **options):
            await eventually(lambda: server.ended == 1)
            assert await client.query("select 1") == "a"
            assert (server.logins, server.encrypted) == (3, 3)
            assert bytes(server.received).count(b"set a = 1") == 2
            # Who cannot be moved stays where it is.
            assert not elder.ended.is_set()
            assert await tied.query("select 1") == "a"
            await tied.send(message(b"X", b""))
            await eventually(elder.ended.is_set)


# -- an elder that is played ------------------------------------------------------------------


@contextlib.asynccontextmanager
async def played(
    path: Path, server: FakeServer, term: int = 1
) -> AsyncIterator[tuple[Proxy, Descriptors]]:
    """Give an heir, and its elder's end of the conversation, whose sessions it takes now."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    inheritance = Inheritance(Descriptors(theirs), Will(0, 100, 7), [])
    elder = Descriptors(ours)
    async with proxy_running(path, inheritance=inheritance) as heir:
        heir.route(term, server)
        assert decode((await elder.receive())[0]) == Ready()
        yield heir, elder
    elder.close()


async def pair() -> tuple[trio.SocketStream, socket.socket]:
    """Return both ends of a TCP connection: ours, and one that can be given away."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        stream = await trio.open_tcp_stream(*listener.socket.getsockname())
        accepted = await listener.accept()
    sock = socket.socket(fileno=os.dup(accepted.socket.fileno()))
    await trio.aclose_forcefully(accepted)
    sock.setblocking(False)
    return stream, sock


async def bequeathed(
    heir: Proxy, elder: Descriptors, estate: Estate, *more: socket.socket
) -> Client:
    """Return a client whose session was handed over; it is closed with the heir."""
    stream, sock = await pair()
    heir.clients.append(Client(stream))
    files = [one.fileno() for one in (sock, *more)]
    await elder.send(lambda: (encode(estate), files))
    for one in (sock, *more):
        one.close()
    return heir.clients[-1]


def snapshot(*ties: Tie) -> Snapshot:
    return Snapshot(Scope(), {}, False, ties, bool(ties), {}, False)


async def test_a_session_without_its_server_is_rebuilt(tmp_path, server) -> None:
    async with played(tmp_path, server) as (heir, elder):
        login = LogIn((("user", "anna"), ("database", "shop")), 0, None)
        client = await bequeathed(heir, elder, Estate(WHO, True, False, login, None, snapshot()))
        assert await client.query("select 1") == "a"
        assert server.logins == 1
        tied = Estate(WHO, True, False, login, None, snapshot(Tie.TEMPORARY))
        client = await bequeathed(heir, elder, tied)
        error = await client.error()
        assert (error["C"], "temporary" in error["D"]) == ("57P01", True)
        assert await client.at_end()
        client = await bequeathed(heir, elder, PASSED_ON)
        assert (await client.error())["D"] == "The session was the server's alone."
        assert await client.at_end()


async def test_a_server_that_was_deposed_on_the_way_is_not_written_to(tmp_path, server) -> None:
    async with played(tmp_path, server, term=2) as (heir, elder):
        far, near = await pair()
        heir.clients.append(Client(far))
        route = Route(Term(1), NodeId("a"), Address("127.0.0.1", server.port))
        along = Server(route, None, True, 0)
        login = LogIn((("user", "anna"), ("database", "shop")), 0, None)
        estate = Estate(WHO, True, False, login, None, snapshot(), along)
        client = await bequeathed(heir, elder, estate, near)
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()  # a reset, before anything
        assert await client.query("select 1") == "a"
        assert server.logins == 1
        await client.send(message(b"X", b""))
        assert await client.at_end()


@pytest.mark.parametrize(
    ("body", "files"),
    [
        (b"", 1),
        (b"{}", 2),
        (encode(Ready()), 0),
        (encode(Estate(WHO, False, False, None, None, None)), 2),
    ],
)
async def test_what_is_no_session_is_closed_and_told(tmp_path, server, body, files) -> None:
    async with played(tmp_path, server) as (heir, elder):
        pairs = [await pair() for _ in range(files)]
        await elder.send(lambda: (body, [sock.fileno() for _, sock in pairs]))
        for stream, sock in pairs:
            sock.close()
            async with stream:
                with trio.fail_after(5):
                    assert await stream.receive_some() == b""
        text = "a session of the worker before was not understood"
        await eventually(lambda: text in [event.message for event in heir.events])
        login = LogIn((("user", "anna"), ("database", "shop")), 0, None)
        client = await bequeathed(heir, elder, Estate(WHO, True, False, login, None, snapshot()))
        assert await client.query("select 1") == "a"
