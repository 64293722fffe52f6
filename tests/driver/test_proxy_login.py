"""Clients that log in at the proxy, and the logins that it makes of theirs."""

from __future__ import annotations

import pytest
import trio
from legs_kit import (
    PASSWORD,
    STEPS,
    Known,
    LegServer,
    anna_by_scram,
    anna_by_trust,
    keys_for,
    log_in_by_scram,
)
from proxy_kit import DEADLINE_S, LOGIN, eventually, message, proxy_running
from trio.testing import wait_all_tasks_blocked

from metako.pgwire import startup as pg
from metako.pgwire.login_client import Refusal, ServerReady, ServerRefused
from metako.pgwire.login_server import RejectLogin, ScramLogin
from metako.pgwire.messages import BackendKey, notice_response, parameter_status
from metako.proxy import control, serverlogin
from metako.proxy.limits import Timeouts

KEYS, VERIFIER = keys_for(PASSWORD)
ANNA = pg.startup_packet({"user": "anna", "database": "shop", "application_name": "till"})


@pytest.fixture(autouse=True)
def _frequent_stats(monkeypatch):
    monkeypatch.setattr(control, "STATS_INTERVAL_S", 0.02)


async def test_the_client_is_told_what_the_server_told_us(tmp_path, nursery) -> None:
    notice = notice_response("01000", "welcome")
    server = LegServer("a", settings={"TimeZone": "UTC", "DateStyle": "ISO"}, notices=notice)
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        told = await client.until_ready()
        assert [kind for kind, _ in told] == [b"R", b"S", b"S", b"K", b"N"]
        assert told[1][1] == b"TimeZone\0UTC\0"
        assert len(told[3][1]) == 8  # a key of ours: see test_proxy_cancels
        assert told[4][1] == notice[5:]
        assert await client.query("select 1") == "a"


async def test_startup_parameters_reach_the_server_without_protocol_options(
    tmp_path, nursery
) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    source = anna_by_trust()
    async with proxy_running(tmp_path, credentials=source) as proxy:
        proxy.route(1, server)
        client = await proxy.connect()
        asked = {"user": "anna", "application_name": "till", "_pq_.more": "1"}
        await client.send(pg.startup_packet(asked))
        assert await client.message() == (b"v", b"\0\3\0\0\0\0\0\1_pq_.more\0")
        await client.until_ready()
        assert dict(server.startups[0].parameters) == {"user": "anna", "application_name": "till"}
        asking = source.asked[0]
        assert (asking.user, asking.database, asking.address) == ("anna", "anna", "127.0.0.1")
        assert (asking.tls, asking.replication) == (False, False)


@pytest.mark.parametrize("minor", [0, 2])
async def test_scram_with_the_client_becomes_scram_with_the_server(
    tmp_path, nursery, minor
) -> None:
    key = BackendKey(7, b"k" * 32 if minor else b"abcd")
    server = LegServer("a", credential=ScramLogin(VERIFIER), key=key)
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_scram()) as proxy:
        proxy.route(1, server)
        client, ready = await log_in_by_scram(proxy, KEYS, minor=minor)
        assert isinstance(ready, ServerReady)
        assert (ready.minor, len(ready.secret_key)) == (minor, len(key.secret_key))
        assert await client.query("select 1") == "a"
        assert server.startups[0].minor == minor


async def test_a_wrong_password_is_refused_without_a_word_to_the_server(tmp_path, nursery) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    source = anna_by_scram()
    async with proxy_running(tmp_path, credentials=source) as proxy:
        proxy.route(1, server)
        client, refused = await log_in_by_scram(proxy, keys_for("wrong")[0])
        assert isinstance(refused, ServerRefused)
        assert (refused.reason, refused.fields["M"]) == (
            Refusal.KEY_REFUSED,
            'password authentication failed for user "anna"',
        )
        assert await client.at_end()
        assert (server.attempts, source.forgotten) == (0, ["anna"])
        await eventually(lambda: proxy.reports[-1].stats.refused == 1)
        await eventually(lambda: proxy.reports[-1].stats.sessions == 0)


async def test_a_rule_that_rejects_is_told_and_forgets_nothing(tmp_path, nursery) -> None:
    source = Known(anna=RejectLogin("no entry"))
    async with proxy_running(tmp_path, credentials=source) as proxy:
        error = await (await proxy.log_in()).error()
        assert (error["C"], error["M"], source.forgotten) == ("28000", "no entry", [])


async def test_whom_the_source_does_not_know_is_left_to_the_server(tmp_path, nursery) -> None:
    server = LegServer("a", refuse_with="28P01")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=Known()) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        assert (await client.error())["M"] == "the server says no"
        server.refuse_with = None
        client = await proxy.session()
        assert await client.query("select 1") == "a"
        proxy.route(2, None)
        assert (await client.error())["C"] == "57P01"


async def test_what_is_sent_behind_the_login_is_served(tmp_path, nursery) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        client = await proxy.connect()
        await client.send(ANNA + message(b"Q", b"select 1\0"))
        await client.until_ready()
        assert (await client.until_ready())[-1] == (b"C", b"a\0")


@pytest.mark.parametrize("step", [*STEPS[:3], "done"])
async def test_a_login_that_is_not_finished_in_time_ends_without_a_word(
    tmp_path, nursery, step
) -> None:
    timeouts = Timeouts(login_s=0.1)
    source = anna_by_scram()
    async with proxy_running(tmp_path, credentials=source, timeouts=timeouts) as proxy:
        if step == "startup":
            source.hold = trio.Event()
        client = await proxy.log_in()
        if step != "startup":
            assert await client.message() == (b"R", b"\0\0\0\nSCRAM-SHA-256\0\0")
        if step == "challenge":
            first = b"n,,n=,r=" + b"c" * 18
            await client.send(
                message(b"p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first)
            )
            kind, _ = await client.message()
            assert kind == b"R"
        if step == "done":
            await client.send(b"p\0\0")
        assert await client.at_end()
        await eventually(lambda: proxy.reports[-1].stats.refused == 1)


async def test_a_client_that_leaves_in_the_middle_of_its_login_frees_its_place(
    tmp_path, nursery
) -> None:
    async with proxy_running(tmp_path, sessions_max=1, credentials=anna_by_scram()) as proxy:
        client = await proxy.log_in()
        await client.message()
        await eventually(lambda: proxy.reports[-1].stats.sessions == 1)
        await client.stream.aclose()
        await eventually(lambda: proxy.reports[-1].stats.sessions == 0)


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"p\xff\xff\xff\xff", b"p\0\0\0\0", b"Q\0\0\0\4", b"p\0\0\0\4"],
)
async def test_garbage_in_a_login_is_answered_and_ends_it(tmp_path, garbage) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_scram()) as proxy:
        client = await proxy.log_in()
        await client.message()
        await client.send(garbage)
        assert (await client.error())["C"] == "08P01"
        assert await client.at_end()
        assert not [event for event in proxy.events if event.level == "ERROR"]


async def test_stopping_ends_a_login_with_a_reason(tmp_path, monkeypatch) -> None:
    async with proxy_running(tmp_path, credentials=anna_by_scram()) as proxy:
        client = await proxy.log_in()
        await client.message()
        proxy.stop.set()
        assert (await client.error())["C"] == "57P01"


# -- the login at the server ------------------------------------------------------------------


@pytest.mark.parametrize("sqlstate", ["3D000", "28000", "42501"])
async def test_a_refusal_is_told_as_the_server_said_it(tmp_path, nursery, sqlstate) -> None:
    server = LegServer("a", refuse_with=sqlstate)
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        assert await client.error() == {
            "S": "FATAL",
            "V": "FATAL",
            "C": sqlstate,
            "M": "the server says no",
        }
        assert await client.at_end()
        assert server.attempts == 1


async def test_a_key_that_the_server_refuses_is_forgotten(tmp_path, nursery) -> None:
    server = LegServer("a", credential=ScramLogin(keys_for("changed")[1]))
    await nursery.start(server.run)
    source = anna_by_scram()
    async with proxy_running(tmp_path, credentials=source) as proxy:
        proxy.route(1, server)
        client, refused = await log_in_by_scram(proxy, KEYS)
        assert isinstance(refused, ServerRefused)
        assert refused.reason is Refusal.KEY_REFUSED
        assert source.forgotten == ["anna"]
        assert await client.at_end()


async def test_a_server_that_wants_a_password_from_a_trusted_client_is_told_so(
    tmp_path, nursery
) -> None:
    server = LegServer("a", credential=ScramLogin(VERIFIER))
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        error = await (await proxy.log_in()).error()
        assert (error["S"], error["C"]) == ("FATAL", "28000")
        assert "there is no key that answers this" in error["M"]


@pytest.mark.parametrize("sqlstate", ["57P03", "57P01", "53300"])
async def test_a_server_that_takes_nobody_yet_is_tried_again(tmp_path, nursery, sqlstate) -> None:
    server = LegServer("a", refuse_with=sqlstate)
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        await eventually(lambda: server.attempts >= 2)
        server.refuse_with = None
        await client.until_ready()
        assert await client.query("select 1") == "a"


@pytest.mark.parametrize(
    ("sqlstate", "told", "text"),
    [("57P03", "57P03", "no primary within 0.2 s"), ("53300", "53300", "the server says no")],
)
async def test_a_server_that_takes_nobody_in_time_is_told(
    tmp_path, nursery, sqlstate, told, text
) -> None:
    server = LegServer("a", refuse_with=sqlstate)
    await nursery.start(server.run)
    source = anna_by_trust()
    async with proxy_running(tmp_path, queue_timeout_s=0.2, credentials=source) as proxy:
        proxy.route(1, server)
        error = await (client := await proxy.log_in()).error()
        assert (error["C"], error["M"]) == (told, text)
        assert await client.at_end()


@pytest.mark.parametrize(
    ("step", "limit"), [("startup", "FIRST_MESSAGE_TIMEOUT_S"), ("granted", "LOGIN_TIMEOUT_S")]
)
async def test_a_server_that_does_not_let_us_in_in_time_is_tried_again(
    tmp_path, nursery, monkeypatch, step, limit
) -> None:
    monkeypatch.setattr(serverlogin, limit, 0.05)
    server = LegServer("a", stop_at=step)
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        await eventually(lambda: server.stopped == 2)
        server.stop_at = ""
        monkeypatch.undo()
        await client.until_ready()
        assert await client.query("select 1") == "a"


async def test_why_a_server_did_not_let_us_in_is_told(tmp_path, nursery, monkeypatch) -> None:
    monkeypatch.setattr(serverlogin, "LOGIN_TIMEOUT_S", 0.1)
    server = LegServer("a", stop_at="granted")
    await nursery.start(server.run)
    source = anna_by_trust()
    async with proxy_running(tmp_path, queue_timeout_s=0.3, credentials=source) as proxy:
        proxy.route(1, server)
        client = await proxy.log_in()
        error = await client.error()
        assert error["C"] == "57P03"
        assert error["D"].endswith("did not let us in within 0.1 s")


@pytest.mark.parametrize("step", STEPS)
async def test_a_cut_at_any_step_of_the_login_goes_on_at_the_new_primary(
    tmp_path, nursery, step
) -> None:
    old = LegServer("old", credential=ScramLogin(VERIFIER), stop_at=step)
    new = LegServer("new", credential=ScramLogin(VERIFIER))
    await nursery.start(old.run)
    await nursery.start(new.run)
    async with proxy_running(tmp_path, credentials=anna_by_scram()) as proxy:
        proxy.route(1, old)

        async def switch() -> None:
            await eventually(lambda: old.stopped == 1)
            proxy.route(2, new)

        nursery.start_soon(switch)
        client, ready = await log_in_by_scram(proxy, KEYS)
        assert isinstance(ready, ServerReady)
        assert await client.query("select 1") == "new"
        await eventually(lambda: old.ended == 1)
        assert (old.logins, proxy.reports[-1].stats.moved) == (0, 0)


@pytest.mark.parametrize("step", STEPS)
async def test_a_client_that_leaves_at_any_step_frees_its_place_and_the_servers(
    tmp_path, nursery, step
) -> None:
    server = LegServer("a", credential=ScramLogin(VERIFIER), stop_at=step)
    await nursery.start(server.run)
    async with proxy_running(tmp_path, sessions_max=1, credentials=anna_by_scram()) as proxy:
        proxy.route(1, server)
        with trio.CancelScope() as scope:

            async def leave() -> None:
                await eventually(lambda: server.stopped == 1)
                scope.cancel()

            nursery.start_soon(leave)
            await log_in_by_scram(proxy, KEYS)
        await trio.aclose_forcefully(proxy.clients[0].stream)
        await eventually(lambda: server.ended == 1)
        await eventually(lambda: proxy.reports[-1].stats.sessions == 0)


async def test_a_proxy_that_is_cancelled_in_the_middle_of_a_login_leaves_nothing(
    tmp_path, nursery
) -> None:
    server = LegServer("a", stop_at="granted")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        await proxy.log_in()
        await eventually(lambda: server.stopped == 1)
    await wait_all_tasks_blocked(0.01)
    await eventually(lambda: server.ended == 1)


async def test_settings_that_come_behind_the_login_are_passed_on(tmp_path, nursery) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path, credentials=anna_by_trust()) as proxy:
        proxy.route(1, server)
        client = await proxy.session()
        with trio.fail_after(DEADLINE_S):
            await server.streams[0].send_all(parameter_status("TimeZone", "GMT"))
        assert await client.message() == (b"S", b"TimeZone\0GMT\0")


async def test_passed_on_logins_are_what_they_were(tmp_path, nursery) -> None:
    server = LegServer("a")
    await nursery.start(server.run)
    async with proxy_running(tmp_path) as proxy:
        proxy.route(1, server)
        client = await proxy.connect()
        await client.send(ANNA)
        told = await client.until_ready()
        assert [kind for kind, _ in told] == [b"R", b"S", b"K"]
        assert server.startups[0].packet == ANNA
        assert LOGIN.startswith(b"R")
