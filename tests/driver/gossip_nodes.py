"""Nodes of a cluster reduced to their gossip port, for the tests of the transport."""

import contextlib
import os

import trio

from metako.model.ids import NodeId
from metako.runtime.binding import bind_gossip
from metako.runtime.transport import Transport
from metako.wire.messages import (
    Outbound,
)
from metako.wire.seal import Opener, Sealer

KEY, OTHER = b"k" * 32, b"o" * 32
LOOPBACK = "127.0.0.1"


class Node:
    """One transport with its inbox."""

    def __init__(
        self, name, *, cluster="main", keys=(KEY,), epoch=1, inbox_max=16, host=LOOPBACK, **options
    ):
        self.name = NodeId(name)
        self.sealer = Sealer(cluster, self.name, epoch, os.urandom(16), keys)
        opener = Opener(cluster, self.name, keys)
        send, self.inbox = trio.open_memory_channel(inbox_max)
        self.sockets = bind_gossip(host, 0)
        self.transport = Transport(self.sockets, self.sealer, opener, send, **options)

    @property
    def address(self):
        return self.transport.address

    @property
    def dropped(self):
        return {reason: n for reason, n in self.transport.counters.dropped.items() if n}

    def send(self, to, message, *, stream=False, address=None):
        self.transport.send(Outbound(to.name, address or to.address, message, stream))

    async def next(self):
        with trio.fail_after(5):
            return await self.inbox.receive()


def node_factory():
    """Yield Node as a factory whose sockets are closed after the test, run or not; a fixture."""
    made = []

    def make(*args, **options):
        made.append(Node(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.sockets.close()


@contextlib.asynccontextmanager
async def running(*nodes):
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for node in nodes:
                await nursery.start(node.transport.run)
            yield
            nursery.cancel_scope.cancel()


async def until(condition):
    """Wait for something that other tasks or the kernel are about to do."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - the kernel sets no trio.Event
            await trio.sleep(0.001)
