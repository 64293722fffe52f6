"""Servers that do TLS, or not, or say something else when they are asked for it."""

from __future__ import annotations

import contextlib
import socket

import pytest
import trio
from legs_kit import (
    PASSWORD,
    SHUTDOWN,
    anna_by_scram,
    anna_by_trust,
    cancel,
    keys_for,
    log_in_by_scram,
    stats,
    switch,
)
from proxy_kit import eventually, message, proxy_running
from tls_kit import (
    ANNA,
    TlsServer,
    as_client,
    binding_of,
    bound_login,
    on_tls,
)

from metako.model.ids import Address, NodeId, Term
from metako.model.sslmode import SslMode
from metako.pgwire import startup as pg
from metako.pgwire.login_client import ServerReady
from metako.pgwire.login_server import ScramLogin
from metako.pgwire.messages import parse_backend_key_untrusted
from metako.proxy import control, encryption
from metako.proxy.encryption import PLAIN_MAX, Encryption
from metako.proxy.pool import Key, Pool
from metako.proxy.routes import Route
from metako.proxy.tlsoptions import TlsOptions

KEYS, VERIFIER = keys_for(PASSWORD)
PREFER, REQUIRE = SslMode.PREFER, SslMode.REQUIRE


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


@pytest.fixture
async def server(papers, nursery) -> TlsServer:
    found = TlsServer("a", certificate=papers.server)
    await nursery.start(found.run)
    return found


async def test_a_server_without_tls_is_asked_once_in_each_term(tmp_path, papers, server) -> None:
    server.answer = pg.ENCRYPTION_REFUSED
    tls = papers.towards(PREFER)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls) as proxy:
        proxy.route(1, server)
        clients = [await proxy.session() for _ in range(3)]
        assert [await client.query("select 1") for client in clients] == ["a"] * 3
        assert (server.asked, server.attempts) == (1, 3)
        for client in clients:
            await client.stream.aclose()
        await eventually(lambda: stats(proxy).sessions == 0)
        await switch(proxy, 2, server)
        await proxy.session()
        assert server.asked == 2


async def test_servers_that_do_without_are_remembered_within_a_limit(papers) -> None:
    found = Encryption(papers.towards(PREFER))
    routes = [
        Route(Term(term), NodeId("a"), Address("127.0.0.1", 1)) for term in range(PLAIN_MAX + 5)
    ]
    for route in routes:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.send(b"N")
        assert await found.towards(near, route) is near
        assert far.recv(99) == pg.ssl_request_packet()
        far.setblocking(False)
        assert await found.towards(near, route) is near  # and nothing is asked
        with pytest.raises(BlockingIOError):
            far.recv(1)
        near.close()
        far.close()
    assert list(found._plain) == routes[5:]


@pytest.mark.parametrize("mode", [mode for mode in SslMode if mode is not SslMode.DISABLE])
async def test_a_server_with_tls_is_spoken_to_by_it(tmp_path, papers, server, mode) -> None:
    tls = papers.towards(mode)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        assert await client.query("select 1") == "a"
        assert await client.query("big") == "x" * 60_000
        assert (server.asked, server.encrypted) == (1, 1)


async def test_disabled_tls_is_not_asked_for(tmp_path, papers, server) -> None:
    tls = papers.towards(SslMode.DISABLE)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls) as proxy:
        proxy.route(1, server)
        assert await (await proxy.session()).query("select 1") == "a"
        assert server.asked == 0


async def test_our_login_is_bound_to_the_server_s_certificate(tmp_path, papers, server) -> None:
    server.credential = ScramLogin(VERIFIER)
    tls = papers.towards(REQUIRE)
    async with proxy_running(tmp_path, credentials=anna_by_scram(), tls=tls) as proxy:
        proxy.route(1, server)
        server.binding = binding_of(papers.server)
        _, ready = await log_in_by_scram(proxy, KEYS)
        assert isinstance(ready, ServerReady)
        server.binding = binding_of(papers.proxy)  # somebody stands between us
        _, refused = await log_in_by_scram(proxy, KEYS)
        assert refused.fields["M"] == "SCRAM channel binding check failed"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"N", "it does no TLS, and `proxy.server_tls` is require"),
        (b"E", "it answered neither yes nor no when asked for TLS"),
        (b"Sgarbage", "TLS failed: "),
        (b"S" + pg.error_response("XX000", "said by whoever stands between us"), "TLS failed: "),
    ],
)
async def test_what_is_no_tls_is_told_where_tls_is_required(
    tmp_path, papers, server, answer, words
) -> None:
    server.answer, server.stalls = answer, len(answer) > 1
    tls = papers.towards(REQUIRE)
    running = proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls, queue_timeout_s=0.3)
    async with running as proxy:
        proxy.route(1, server)
        error = await (await proxy.log_in()).error()
        assert error["C"] == "57P03"
        assert words in error["D"]
        assert server.startups == []  # not a word of the login in clear
        server.answer, server.stalls = b"S", False
        assert await (await proxy.session()).query("select 1") == "a"


async def test_a_handshake_that_fails_is_done_without_by_prefer(tmp_path, papers, server) -> None:
    server.answer, server.stalls = b"Sgarbage", True
    tls = papers.towards(PREFER)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls) as proxy:
        proxy.route(1, server)
        assert await (await proxy.session()).query("select 1") == "a"
        assert (server.asked, server.attempts, server.encrypted) == (1, 2, 0)


@pytest.mark.parametrize("mode", [PREFER, REQUIRE])
async def test_a_server_that_stalls_in_the_handshake_is_tried_again(
    tmp_path, papers, server, monkeypatch, mode
) -> None:
    monkeypatch.setattr(encryption, "SERVER_HANDSHAKE_TIMEOUT_S", 0.1)
    server.stalls = True
    tls = papers.towards(mode)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        await eventually(lambda: server.ended >= 1)
        server.stalls = False
        await client.until_ready()
        assert server.encrypted == 1  # what took too long is no sign that it does no TLS


async def test_a_deposed_server_is_cut_off_in_the_middle_of_the_handshake(
    tmp_path, papers, server, nursery
) -> None:
    new = TlsServer("b", certificate=papers.server)
    await nursery.start(new.run)
    server.stalls = True
    tls = papers.towards(REQUIRE)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        await eventually(lambda: server.asked == 1)
        await switch(proxy, 2, new)
        await client.until_ready()
        assert await client.query("select 1") == "b"
        await eventually(lambda: server.ended == 1)
        assert server.startups == []


@pytest.mark.parametrize(
    ("mode", "signed_by", "host", "works"),
    [
        (SslMode.VERIFY_CA, "authority", "", True),
        (SslMode.VERIFY_CA, "authority", "other.example", True),
        (SslMode.VERIFY_CA, "stranger", "", False),
        (SslMode.VERIFY_FULL, "authority", "", True),
        (SslMode.VERIFY_FULL, "authority", "other.example", False),
        (SslMode.VERIFY_FULL, "stranger", "", False),
        (REQUIRE, "stranger", "other.example", True),
    ],
)
async def test_a_certificate_is_verified_as_far_as_is_asked(
    tmp_path, papers, server, mode, signed_by, host, works
) -> None:
    server.certificate = getattr(papers, signed_by).sign("db", host=host)
    running = proxy_running(
        tmp_path, credentials=anna_by_trust(), tls=papers.towards(mode), queue_timeout_s=0.3
    )
    async with running as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        if works:
            await client.until_ready()
        else:
            assert "the certificate is not accepted" in (await client.error())["D"]
            assert server.startups == []


# ------------------------------------------------------------------- what lasts


async def test_a_leg_is_lent_again_until_its_server_says_something(
    tmp_path, papers, server, monkeypatch
) -> None:
    parked: list[Key] = []
    lost: list[Key] = []
    give_back, lose = Pool.give_back, Pool.lost

    def note_parked(self, key, leg) -> None:
        parked.append(key)
        give_back(self, key, leg)

    def note_lost(self, key, leg) -> bool:
        lost.append(key)
        return lose(self, key, leg)

    monkeypatch.setattr(Pool, "give_back", note_parked)
    monkeypatch.setattr(Pool, "lost", note_lost)
    tls = papers.towards(REQUIRE)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls) as proxy:
        proxy.route(1, server)
        for count in (1, 2, 3):
            client = await proxy.session()
            await client.query("set x" if count == 2 else "select 1")
            await client.send(pg.TERMINATE)
            await eventually(lambda count=count: len(parked) == count)
            await trio.sleep(0.02)
        assert (server.logins, lost) == (1, [])  # tickets are nothing that was said
        assert bytes(server.received).count(b"DISCARD ALL") == 3
        with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            await server.shut_down(SHUTDOWN)  # we may be gone before it has said goodbye
        await eventually(lambda: len(lost) == 1)
        await proxy.session()
        assert server.logins == 2


async def test_a_request_to_cancel_is_encrypted_where_all_is(tmp_path, papers, server) -> None:
    for mode in (PREFER, REQUIRE):
        directory = tmp_path / mode
        directory.mkdir()
        tls = papers.towards(mode)
        async with proxy_running(directory, credentials=anna_by_trust(), tls=tls) as proxy:
            proxy.route(1, server)
            client = await proxy.log_in()
            told = dict(await client.until_ready())
            key = parse_backend_key_untrusted(told[b"K"], long_keys=False)
            before = (len(server.cancels), server.encrypted)
            await cancel(proxy, key.process_id, key.secret_key)
            assert len(server.cancels) - before[0] == 1
            assert server.encrypted - before[1] == (mode is REQUIRE)


async def test_a_client_is_moved_from_one_server_with_tls_to_another(
    tmp_path, papers, server, nursery
) -> None:
    new = TlsServer("b", certificate=papers.server)
    await nursery.start(new.run)
    tls = papers.offered(server_mode=REQUIRE)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls) as proxy:
        proxy.route(1, server)
        client = await on_tls(proxy, as_client(papers))
        await client.send(pg.startup_packet(ANNA))
        await client.until_ready()
        await client.query("set search_path to a")
        await switch(proxy, 2, new)
        await client.send(message(b"Q", b"select 1\0"))
        assert (await client.until_ready())[-1] == (b"C", b"b\0")
        await eventually(lambda: stats(proxy).moved == 1)
        assert (server.encrypted, new.encrypted) == (1, 1)


# ------------------------------------------------------------------- logins that are passed on


@pytest.mark.parametrize("mode", [PREFER, REQUIRE])
async def test_a_login_that_is_passed_on_is_not_bound(tmp_path, papers, server, mode) -> None:
    server.credential, server.binding = ScramLogin(VERIFIER), binding_of(papers.server)
    async with proxy_running(tmp_path, tls=papers.towards(mode)) as proxy:
        proxy.route(1, server)
        client, ready = await log_in_by_scram(proxy, KEYS)
        assert isinstance(ready, ServerReady)
        assert await client.query("select 1") == "a"
        assert server.encrypted == 1


async def test_a_login_of_a_client_on_tls_is_passed_on_in_clear_if_it_may_be(
    tmp_path, papers, server
) -> None:
    server.credential, server.binding = ScramLogin(VERIFIER), binding_of(papers.server)
    tls = papers.offered(server_mode=PREFER)

    async def log_in(stream, first) -> bool:
        if isinstance(stream, trio.SocketStream):
            server.binding = None  # a server offers this on TLS alone
        return await TlsServer.log_in(server, stream, first)

    server.log_in = log_in  # type: ignore[method-assign]
    async with proxy_running(tmp_path, tls=tls) as proxy:
        proxy.route(1, server)
        client = await on_tls(proxy, as_client(papers))
        ready = await bound_login(client, KEYS, binding_of(papers.proxy))
        assert isinstance(ready, ServerReady)
        assert await client.query("select 1") == "a"
        assert (server.encrypted, server.attempts) == (1, 2)


async def test_a_client_that_binds_nothing_is_passed_on_where_tls_is_required(
    tmp_path, papers, server
) -> None:
    server.credential, server.binding = ScramLogin(VERIFIER), binding_of(papers.server)
    tls = papers.offered(server_mode=REQUIRE)
    async with proxy_running(tmp_path, tls=tls) as proxy:
        proxy.route(1, server)
        client = await on_tls(proxy, as_client(papers))
        refused = await bound_login(client, KEYS, binding_of(papers.proxy))
        assert refused.fields["M"] == "SCRAM channel binding negotiation error"
        assert server.encrypted == 1


# ------------------------------------------------------------------- files


async def test_files_that_change_are_used_soon_and_broken_ones_are_told_once(
    tmp_path, papers, server, monkeypatch
) -> None:
    monkeypatch.setattr(encryption, "LOOK_INTERVAL_S", 0.02)
    cert, key = tmp_path / "proxy.crt", tmp_path / "proxy.key"

    def put(certificate) -> None:
        cert.write_bytes(certificate.read_bytes())
        key.write_bytes(certificate.with_suffix(".key").read_bytes())

    put(papers.proxy)
    tls = TlsOptions(cert_file=cert, key_file=key)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=tls) as proxy:
        proxy.route(1, server)

        async def shown() -> bytes:
            client = await on_tls(proxy, as_client(papers))
            der = client.stream.getpeercert(binary_form=True)
            await client.stream.aclose()
            return der

        def told(words: str) -> int:
            return sum(words in event.message for event in proxy.events)

        first = await shown()
        put(papers.server)
        await eventually(lambda: told("uses the new certificates") == 1)
        second = await shown()
        assert second != first
        key.write_text("no key")
        await eventually(lambda: told("cannot be used") == 1)
        assert [event.level for event in proxy.events if "cannot" in event.message] == ["ERROR"]
        key.unlink()
        await eventually(lambda: told("cannot be used") == 2)
        await trio.sleep(0.2)
        assert told("cannot be used") == 2
        assert await shown() == second
        put(papers.proxy)
        await eventually(lambda: told("uses the new certificates") == 2)
        assert await shown() == first
