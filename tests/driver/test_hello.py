"""Before a node starts: greeting its peers, and having its port."""

import os
import socket
from functools import partial

import pytest
import trio
from gossip_nodes import LOOPBACK, OTHER, node_factory, running

from metako.model.errors import ConfigError, PortInUseError
from metako.model.ids import Address, NodeId
from metako.runtime import binding
from metako.runtime.binding import bind_gossip
from metako.runtime.hello import HelloMismatch, HelloOk, HelloUnreachable
from metako.wire.answer import AnswerReason
from metako.wire.messages import Nack

node = pytest.fixture(node_factory)


async def test_two_nodes_that_fit_greet_each_other(node):
    a, b = node("a"), node("b")
    async with running(b):
        assert await a.transport.hello(b.address, b.name) == HelloOk("b")
        assert b.inbox.statistics().current_buffer_used == 0


@pytest.mark.parametrize(
    ("options", "reason", "words"),
    [
        ({"keys": (OTHER,)}, AnswerReason.KEY, "another gossip key"),
        ({"keys": ()}, AnswerReason.KEY, "another gossip key"),
        ({"cluster": "blue"}, AnswerReason.CLUSTER, "cluster 'blue', this node to 'main'"),
        ({"wall_ms": lambda: 1_000_000 + 31_000}, AnswerReason.CLOCK, "31.0 s ahead of"),
        ({"wall_ms": lambda: 1_000_000 - 31_000}, AnswerReason.CLOCK, "31.0 s behind"),
    ],
)
async def test_a_peer_that_does_not_fit_says_what_is_wrong(node, options, reason, words):
    a, b = (
        node("a", wall_ms=lambda: 1_000_000),
        node("b", **{"wall_ms": lambda: 1_000_000, **options}),
    )
    async with running(b):
        result = await a.transport.hello(b.address, b.name)
    assert isinstance(result, HelloMismatch)
    assert result.reason is reason
    assert words in result.detail


async def test_clocks_that_differ_less_than_the_limit_fit(node):
    a = node("a", wall_ms=lambda: 1_000_000)
    b = node("b", wall_ms=lambda: 1_004_900, clock_skew_max_s=5)
    async with running(b):
        assert await a.transport.hello(b.address, b.name) == HelloOk("b")


async def test_a_wrong_address_in_the_configuration_is_recognised(node):
    a, b = node("a"), node("b")
    async with running(b):
        result = await a.transport.hello(b.address, NodeId("c"))
    assert result.reason is AnswerReason.RECIPIENT
    assert "is node 'b', not 'c'" in result.detail


async def test_a_node_whose_boot_epoch_went_back_is_told_so(node):
    new, old, b = node("a", epoch=5), node("a", epoch=4), node("b")
    async with running(b, new):
        new.send(b, Nack(1))
        await b.next()
        result = await old.transport.hello(b.address, b.name)
    assert result.reason is AnswerReason.EPOCH


async def test_a_name_that_runs_elsewhere_is_told_to_the_newcomer_only(node):
    first, other, b = node("a", epoch=5), node("a", epoch=900), node("b")
    async with running(b, first):
        first.send(b, Nack(1))
        await b.next()
        result = await other.transport.hello(b.address, b.name)
        assert result.reason is AnswerReason.NAME
        assert "'a' is used twice" in result.detail
        # The newcomer does not start, so the one that runs must still be heard.
        first.send(b, Nack(2))
        assert (await b.next()).message == Nack(2)


async def test_a_node_that_is_started_again_is_no_second_one(node):
    before, after, b = node("a", epoch=5), node("a", epoch=6), node("b")
    async with running(b, before):
        before.send(b, Nack(1))
        await b.next()
        assert await after.transport.hello(b.address, b.name) == HelloOk("b")


async def test_a_hello_to_nobody_is_unreachable(node):
    a, silent = node("a"), node("silent")
    closed = bind_gossip(LOOPBACK, 0)
    closed.close()
    for address in (closed.address, silent.address, Address("no-such-host.invalid", 1)):
        with trio.fail_after(5):
            result = await a.transport.hello(address, NodeId("b"), timeout_s=0.3)
        assert isinstance(result, HelloUnreachable)


async def test_something_that_is_no_agent_is_recognised(node, nursery):
    async def serve(stream):
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    a = node("a")
    (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host=LOOPBACK))
    port = listener.socket.getsockname()[1]
    result = await a.transport.hello(Address(LOOPBACK, port), NodeId("b"))
    nursery.cancel_scope.cancel()
    assert result.reason is AnswerReason.FORMAT
    assert "no metako agent" in result.detail


# ---------------------------------------------------------------- binding


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_port_names_who_has_it(kind):
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind((LOOPBACK, 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"{port} .*\(pid {os.getpid()}\)"):
            bind_gossip(LOOPBACK, port)


def test_both_sockets_have_the_same_port():
    sockets = bind_gossip(LOOPBACK, 0)
    ports = {sockets.tcp.getsockname()[1], sockets.udp.getsockname()[1]}
    sockets.close()
    assert ports == {sockets.address.port}


def test_a_free_port_is_free_in_both_protocols(monkeypatch):
    real, refused = binding._bind, []

    def refuse_udp_twice(protocol, family, literal, port, *, shown):
        if protocol == "udp" and len(refused) < 2:
            refused.append(port)
            raise PortInUseError("taken")
        return real(protocol, family, literal, port, shown=shown)

    monkeypatch.setattr(binding, "_bind", refuse_udp_twice)
    sockets = bind_gossip(LOOPBACK, 0)
    sockets.close()
    assert len(refused) == 2
    assert sockets.address.port


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_is_not_ours_is_a_configuration_error(host):
    with pytest.raises(ConfigError):
        bind_gossip(host, 0)
