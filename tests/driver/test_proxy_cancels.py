"""Requests to cancel: they reach the session whose key they have, from wherever they come."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from legs_kit import LegServer, anna_by_trust
from proxy_kit import Client, Proxy, eventually, proxy_running

from metako.model.ids import Address, NodeId
from metako.model.routing import Peer
from metako.pgwire.cancel import SESSION_MAX
from metako.pgwire.messages import BackendKey, parse_backend_key_untrusted
from metako.pgwire.startup import CancelRequest, cancel_packet
from metako.proxy.cancels import Cancels, CancelTarget, node_number
from metako.proxy.loginframes import Welcome

SECRET = bytes(range(32))
WELCOME = Welcome(SECRET, SECRET, ("host all all all trust",))
KEY = BackendKey(7, b"\0\0\0c")  # of a LegServer


async def key_of(client: Client) -> BackendKey:
    """Log in; return the key that the client is given."""
    told = dict(await client.until_ready())
    return parse_backend_key_untrusted(told[b"K"], long_keys=False)


async def cancel(proxy: Proxy, key: BackendKey) -> None:
    """Ask for it, and wait until the proxy has closed the connection."""
    client = await proxy.connect()
    await client.send(cancel_packet(key.process_id, key.secret_key))
    assert await client.at_end()


async def nodes(stack: AsyncExitStack, tmp_path, server: LegServer, *names: str) -> list[Proxy]:
    """Run the proxies of some nodes of one cluster, all of which lead to one server."""
    proxies = []
    for name in names:
        (tmp_path / name).mkdir()
        running = proxy_running(tmp_path / name, credentials=anna_by_trust(), node=name)
        proxies.append(await stack.enter_async_context(running))
    for name, proxy in zip(names, proxies, strict=True):
        peers = tuple(
            Peer(NodeId(other), Address("127.0.0.1", one.port))
            for other, one in zip(names, proxies, strict=True)
            if other != name
        )
        proxy.feed.greet(WELCOME)
        proxy.route(1, server, peers=peers)
    return proxies


async def test_the_session_is_found_from_every_node(tmp_path, nursery) -> None:
    server = LegServer("a", key=KEY)
    await nursery.start(server.run)
    async with AsyncExitStack() as stack:
        one, two = await nodes(stack, tmp_path, server, "n1", "n2")
        client = await one.log_in()
        key = await key_of(client)
        assert key != KEY
        for proxy in (one, two):
            before = len(server.cancels)
            await cancel(proxy, key)
            assert server.cancels[before:] == [cancel_packet(KEY.process_id, KEY.secret_key)]
        assert await client.query("select 1") == "a"


async def test_the_session_is_found_from_another_worker_of_its_node(tmp_path, nursery) -> None:
    server = LegServer("a", key=KEY)
    await nursery.start(server.run)
    source = anna_by_trust()
    async with proxy_running(tmp_path, credentials=source) as one:
        one.feed.greet(WELCOME)
        one.route(1, server)
        key = await key_of(await one.log_in())
        async with proxy_running(tmp_path, credentials=source, index=2) as two:
            two.feed.greet(WELCOME)
            two.route(1, server)
            await two.session()
            await cancel(two, key)
            assert server.cancels == [cancel_packet(KEY.process_id, KEY.secret_key)]


async def test_a_key_that_is_not_ours_is_for_the_server_to_judge(tmp_path, nursery) -> None:
    server = LegServer("a", key=KEY)
    await nursery.start(server.run)
    async with AsyncExitStack() as stack:
        (one,) = await nodes(stack, tmp_path, server, "n1")
        key = await key_of(await one.log_in())
        wrong = bytes((key.secret_key[0] ^ 1, *key.secret_key[1:]))
        await cancel(one, BackendKey(key.process_id, wrong))
        # It may be the key of a client whose login was passed on: the server knows its own.
        assert server.cancels == [cancel_packet(key.process_id, wrong)]


async def test_the_key_of_a_session_that_has_ended_is_nobodys(tmp_path, nursery) -> None:
    server = LegServer("a", key=KEY)
    await nursery.start(server.run)
    async with AsyncExitStack() as stack:
        one, two = await nodes(stack, tmp_path, server, "n1", "n2")
        client = await one.log_in()
        key = await key_of(client)
        await client.stream.aclose()
        await eventually(lambda: server.ended >= 1)
        other = await one.session()
        for proxy in (one, two):
            await cancel(proxy, key)
        assert server.cancels == []
        assert await other.query("select 1") == "a"


async def test_a_key_follows_its_session_to_the_next_primary(tmp_path, nursery) -> None:
    old, new = LegServer("a", key=KEY), LegServer("b", key=BackendKey(8, b"next"))
    for server in (old, new):
        await nursery.start(server.run)
    async with AsyncExitStack() as stack:
        (one,) = await nodes(stack, tmp_path, old, "n1")
        client = await one.log_in()
        key = await key_of(client)
        one.route(2, new)
        await eventually(lambda: any(("term", 2) in event.fields for event in one.events))
        assert await client.query("select 1") == "b"
        await cancel(one, key)
        assert (old.cancels, new.cancels) == ([], [cancel_packet(8, b"next")])


async def test_nothing_is_cancelled_for_a_session_without_a_server(tmp_path, nursery) -> None:
    old, new = LegServer("a", key=KEY), LegServer("b", key=BackendKey(8, b"next"))
    new.stop_at = "startup"
    for server in (old, new):
        await nursery.start(server.run)
    async with AsyncExitStack() as stack:
        (one,) = await nodes(stack, tmp_path, old, "n1")
        key = await key_of(await one.log_in())
        one.route(2, new)
        await eventually(lambda: new.stopped == 1)
        await cancel(one, key)
        assert (old.cancels, new.cancels) == ([], [])


async def test_nodes_that_disagree_do_not_pass_a_request_on_for_ever(tmp_path, nursery) -> None:
    server = LegServer("a", key=KEY)
    await nursery.start(server.run)
    async with AsyncExitStack() as stack:
        one, two = await nodes(stack, tmp_path, server, "n1", "n2")
        # A session of a third node, which each believes to be the other one.
        third = NodeId("n3")
        for proxy, other in ((one, two), (two, one)):
            proxy.route(1, server, peers=(Peer(third, Address("127.0.0.1", other.port)),))
        cancels = Cancels(third, 1)
        cancels.receive_secret(SECRET)
        issued = cancels.issue(lambda: None, long_keys=False)
        await one.session()
        await cancel(one, issued.key)
        assert server.cancels == []
        await eventually(lambda: one.reports[-1].stats.total + two.reports[-1].stats.total == 5)


async def test_numbers_go_round_and_leave_out_those_in_use() -> None:
    cancels = Cancels(NodeId("n1"), 1)
    cancels._next = SESSION_MAX
    last, first = (cancels.issue(lambda: None, long_keys=False) for _ in range(2))
    assert (last.number, first.number) == (SESSION_MAX, 0)
    cancels._next = SESSION_MAX
    assert cancels.issue(lambda: None, long_keys=False).number == 1
    cancels.take_back(last)
    cancels._next = SESSION_MAX
    assert cancels.issue(lambda: None, long_keys=True).number == SESSION_MAX


@pytest.mark.parametrize("long_keys", [False, True])
async def test_a_new_secret_leaves_keys_by_the_one_before_good(long_keys) -> None:
    cancels = Cancels(NodeId("n1"), 1)
    target: list[CancelTarget] = []
    own = cancels.issue(lambda: None, long_keys=long_keys)
    cancels.receive_secret(SECRET)
    cancels.receive_secret(SECRET)
    told = cancels.issue(lambda: target[0], long_keys=long_keys)
    for issued in (own, told):
        request = CancelRequest(b"", issued.key.process_id, issued.key.secret_key)
        found = cancels.read_untrusted(request)
        assert found is not None
        assert cancels.find(found) is issued
    cancels.receive_secret(bytes(32))
    request = CancelRequest(b"", own.key.process_id, own.key.secret_key)
    assert cancels.read_untrusted(request) is None
    await trio.lowlevel.checkpoint()


def test_a_node_has_the_same_number_everywhere() -> None:
    numbers = {node_number(NodeId(f"n{index}")) for index in range(2000)}
    assert numbers == set(range(1, 128))
    assert node_number(NodeId("n1")) == node_number(NodeId("n1"))


def test_keys_of_another_process_are_good_and_their_numbers_are_not_given_again() -> None:
    elder, heir = Cancels(NodeId("n1"), 1), Cancels(NodeId("n1"), 1)
    for one in (elder, heir):
        one.receive_secret(SECRET)
    several = [elder.issue(lambda: None, long_keys=False) for _ in range(300)]
    heir.begin_at(elder.numbers_end())
    # Whoever logs in at either of them meanwhile.
    newer = [one.issue(lambda: None, long_keys=False) for _ in range(300) for one in (elder, heir)]
    adopted = [heir.adopt(one.number, one.key, lambda: None) for one in several]
    assert None not in adopted
    numbers = [one.number for one in (*several, *newer)]
    assert len(set(numbers)) == len(numbers)
    first = several[0].key
    request = CancelRequest(b"", first.process_id, first.secret_key)
    cancel_ = heir.read_untrusted(request)
    assert cancel_ is not None
    assert heir.find(cancel_) is adopted[0]
    assert heir.adopt(several[0].number, first, lambda: None) is None
    assert heir.adopt(SESSION_MAX + 1, first, lambda: None) is None
    assert heir.find(cancel_) is adopted[0]
