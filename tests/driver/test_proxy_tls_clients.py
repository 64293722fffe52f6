"""Clients that come with TLS: by request, at once, or although they should not have."""

from __future__ import annotations

import ssl

import pytest
import trio
from legs_kit import PASSWORD, LegServer, anna_by_scram, anna_by_trust, kept, keys_for, stats
from proxy_kit import FakeServer, eventually, message, proxy_running
from tls_kit import ANNA, as_client, binding_of, bound_login, encrypt, on_tls

from metako.pgwire import startup as pg
from metako.pgwire.login_client import ServerReady, ServerRefused
from metako.pgwire.messages import parse_backend_key_untrusted
from metako.pgwire.startup import TERMINATE
from metako.proxy import board, control

KEYS, VERIFIER = keys_for(PASSWORD)
STARTUP = pg.startup_packet(ANNA)
QUERY = message(b"Q", b"select 1\0")


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


@pytest.fixture
async def server(nursery) -> LegServer:
    found = LegServer("a")
    await nursery.start(found.run)
    return found


@pytest.mark.parametrize("direct", [False, True])
async def test_a_login_on_tls_is_bound_to_our_certificate(tmp_path, papers, server, direct) -> None:
    source = anna_by_scram()
    async with proxy_running(tmp_path, credentials=source, tls=papers.offered()) as proxy:
        proxy.route(1, server)
        client = await on_tls(proxy, as_client(papers), direct=direct)
        ready = await bound_login(client, KEYS, binding_of(papers.proxy))
        assert isinstance(ready, ServerReady)
        assert await client.query("select 1") == "a"
        assert source.asked[0].tls
        other = await on_tls(proxy, as_client(papers), direct=direct)
        refused = await bound_login(other, KEYS, binding_of(papers.server))
        assert isinstance(refused, ServerRefused)
        assert refused.fields["M"] == "SCRAM channel binding check failed"


async def test_encryption_by_gssapi_is_refused_and_tls_may_follow(tmp_path, papers, server) -> None:
    credentials = anna_by_trust()
    async with proxy_running(tmp_path, credentials=credentials, tls=papers.offered()) as proxy:
        proxy.route(1, server)
        client = await proxy.connect()
        await client.send(pg.gssenc_request_packet())
        assert await client.stream.receive_some(1) == b"N"
        client = await encrypt(client, as_client(papers))
        await client.send(STARTUP)
        await client.until_ready()
        assert credentials.asked[0].tls


async def test_without_a_certificate_tls_is_refused(tmp_path, papers, server) -> None:
    credentials = anna_by_trust()
    async with proxy_running(tmp_path, credentials=credentials) as proxy:
        proxy.route(1, server)
        client = await proxy.connect()
        await client.send(pg.ssl_request_packet())
        assert await client.stream.receive_some(1) == b"N"
        await client.send(STARTUP)
        await client.until_ready()
        assert not credentials.asked[0].tls
        with pytest.raises(trio.BrokenResourceError):
            await on_tls(proxy, as_client(papers), direct=True)


async def test_tls_at_once_needs_the_name_of_the_protocol(tmp_path, papers) -> None:
    async with proxy_running(tmp_path, tls=papers.offered()) as proxy:
        client = await on_tls(proxy, as_client(papers, alpn=False), direct=True)
        assert await client.at_end()
        await eventually(lambda: stats(proxy).malformed == 1)


@pytest.mark.parametrize("again", [pg.ssl_request_packet(), pg.gssenc_request_packet()])
@pytest.mark.parametrize("direct", [False, True])
async def test_a_second_request_for_encryption_is_an_error(tmp_path, papers, again, direct) -> None:
    async with proxy_running(tmp_path, tls=papers.offered()) as proxy:
        client = await on_tls(proxy, as_client(papers), direct=direct)
        await client.send(again)
        assert (await client.error())["C"] == "08P01"
        assert await client.at_end()


async def test_what_was_said_in_clear_before_the_handshake_is_not_heard(
    tmp_path, papers, server
) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=papers.offered()) as proxy:
        proxy.route(1, server)
        client = await proxy.connect()
        await client.send(pg.ssl_request_packet() + STARTUP)
        assert await client.stream.receive_some(1) == b"S"
        stream = trio.SSLStream(client.stream, as_client(papers), server_hostname="127.0.0.1")
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await eventually(lambda: stats(proxy).malformed == 1)
        assert server.attempts == 0


async def test_a_client_without_tls_is_refused_where_it_is_required(
    tmp_path, papers, server
) -> None:
    credentials = anna_by_trust()
    tls = papers.offered(required=True)
    async with proxy_running(tmp_path, credentials=credentials, tls=tls) as proxy:
        proxy.route(1, server)
        error = await (await proxy.log_in()).error()
        assert (error["C"], "TLS" in error["M"], "sslmode" in error["H"]) == ("28000", True, True)
        assert credentials.asked == []
        client = await on_tls(proxy, as_client(papers))
        await client.send(STARTUP)
        await client.until_ready()
        assert await client.query("select 1") == "a"
        await eventually(lambda: stats(proxy).refused == 1)


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01"])
async def test_a_handshake_that_takes_too_long_ends(tmp_path, papers, monkeypatch, begun) -> None:
    monkeypatch.setattr(board, "HANDSHAKE_TIMEOUT_S", 0.1)
    async with proxy_running(tmp_path, tls=papers.offered()) as proxy:
        client = await proxy.connect()
        await client.send(pg.ssl_request_packet() + begun)
        assert await client.stream.receive_some(1) == b"S"
        assert await client.stream.receive_some() == b""
        await eventually(lambda: stats(proxy).malformed == 1)


async def test_a_client_that_leaves_in_the_handshake_leaves_nothing(tmp_path, papers) -> None:
    async with proxy_running(tmp_path, tls=papers.offered()) as proxy:
        client = await proxy.connect()
        await client.send(pg.ssl_request_packet())
        assert await client.stream.receive_some(1) == b"S"
        await client.stream.aclose()
        await eventually(lambda: stats(proxy).malformed == 1)
        client = await on_tls(proxy, as_client(papers))
        await client.send(pg.gssenc_request_packet())
        assert (await client.error())["C"] == "08P01"  # others are served


@pytest.mark.parametrize("routed", [True, False])
async def test_what_is_sent_behind_the_login_is_served(tmp_path, papers, server, routed) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=papers.offered()) as proxy:
        if routed:
            proxy.route(1, server)
        client = await on_tls(proxy, as_client(papers))
        await client.send(STARTUP + QUERY)  # in one record
        if not routed:
            await eventually(lambda: stats(proxy).waiting == 1)
            proxy.route(1, server)
        await client.until_ready()
        assert (await client.until_ready())[-1] == (b"C", b"a\0")
        assert await client.query("select 1") == "a"


async def test_a_goodbye_behind_the_login_is_heard(tmp_path, papers, server) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=papers.offered()) as proxy:
        proxy.route(1, server)
        client = await on_tls(proxy, as_client(papers))
        await client.send(STARTUP + TERMINATE)
        await client.until_ready()
        await eventually(lambda: (stats(proxy).total, stats(proxy).sessions) == (1, 0))


async def test_a_cancel_request_on_tls_is_acted_on(tmp_path, papers, server) -> None:
    async with proxy_running(
        tmp_path, credentials=anna_by_trust(), tls=papers.offered(required=True)
    ) as proxy:
        proxy.route(1, server)
        client = await on_tls(proxy, as_client(papers))
        await client.send(STARTUP)
        key = parse_backend_key_untrusted(dict(await client.until_ready())[b"K"], long_keys=False)
        request = pg.cancel_packet(key.process_id, key.secret_key)
        for context in (as_client(papers), None):  # in clear as well, as clients up to libpq 16 do
            before = len(server.cancels)
            canceller = await proxy.connect()
            if context is not None:
                canceller = await encrypt(canceller, context)
            await canceller.send(request)
            assert await canceller.at_end()
            assert server.cancels[before:] == [pg.cancel_packet(7, b"\0\0\0c")]


async def test_an_idle_client_is_moved_and_may_leave_while_there_is_no_primary(
    tmp_path, papers, server, nursery
) -> None:
    new = LegServer("b")
    await nursery.start(new.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=papers.offered()) as proxy:
        proxy.route(1, server)
        client = await on_tls(proxy, as_client(papers))
        await client.send(STARTUP)
        await client.until_ready()
        proxy.route(2, None)
        await kept(proxy)
        await client.send(QUERY)
        await eventually(lambda: stats(proxy).waiting == 1)
        proxy.route(2, new)
        assert (await client.until_ready())[-1] == (b"C", b"b\0")
        proxy.route(3, None)
        await eventually(lambda: new.ended == 1)
        await client.send(TERMINATE)  # seen through the encryption, and nobody is asked for
        await eventually(lambda: stats(proxy).sessions == 0)
        assert new.attempts == 1


async def test_a_large_answer_reaches_a_client_on_tls(tmp_path, papers, server) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_trust(), tls=papers.offered()) as proxy:
        proxy.route(1, server)
        client = await on_tls(proxy, as_client(papers))
        await client.send(STARTUP)
        await client.until_ready()
        for _ in range(3):
            await client.send(message(b"Q", b"big\0"))
            rows = await client.until_ready()
            assert rows == [(b"D", b"x" * 60_000)] * 100


# ------------------------------------------------------------------- certificates of clients


@pytest.mark.parametrize("direct", [False, True])
async def test_a_certificate_is_told_to_whoever_judges(tmp_path, papers, server, direct) -> None:
    source = anna_by_trust()
    tls = papers.offered(client_ca_file=papers.authority.path)
    async with proxy_running(tmp_path, credentials=source, tls=tls) as proxy:
        proxy.route(1, server)
        for own in (None, papers.authority.sign("anna")):
            client = await on_tls(proxy, as_client(papers, own), direct=direct)
            await client.send(STARTUP)
            await client.until_ready()
        await (await proxy.session()).stream.aclose()
        found = [(ask.tls, ask.certifies, ask.certified, ask.common_name) for ask in source.asked]
        assert found == [
            (True, True, False, None),
            (True, True, True, "anna"),
            (False, True, False, None),
        ]


async def test_a_certificate_of_a_stranger_is_refused(tmp_path, papers, server) -> None:
    source = anna_by_trust()
    tls = papers.offered(client_ca_file=papers.authority.path)
    async with proxy_running(tmp_path, credentials=source, tls=tls) as proxy:
        proxy.route(1, server)
        context = as_client(papers, papers.stranger.sign("anna"))
        client = await on_tls(proxy, context)  # the client has done its part by then
        with pytest.raises(trio.BrokenResourceError) as refused:
            await client.message()
        cause = refused.value.__cause__
        assert isinstance(cause, ssl.SSLError)
        assert "UNKNOWN_CA" in str(cause)
        assert source.asked == []


async def test_a_server_that_was_passed_a_login_in_clear_as_before(tmp_path, papers) -> None:
    async with trio.open_nursery() as nursery:
        server = FakeServer("a")
        await nursery.start(server.run)
        async with proxy_running(tmp_path, tls=papers.offered()) as proxy:
            proxy.route(1, server)
            client = await on_tls(proxy, as_client(papers))
            await client.send(STARTUP + QUERY)
            await client.until_ready()
            assert (await client.until_ready())[-1] == (b"C", b"a\0")
        nursery.cancel_scope.cancel()
