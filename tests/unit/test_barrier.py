"""A barrier waits for all that a WAL sender can have released by its old copy of the setting."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from metako.model.ids import NodeId
from metako.model.postgres import SyncSetting
from metako.postgres import commit
from sim.postgres.leading import REPLIES_NEEDED, Replies

NAMES = ["b", "c"]


@dataclass
class Sender:
    flush: int
    reply: int = 0


class Server:
    """A primary that raises k from 1 to 2: each of its senders still has its old copy."""

    def __init__(self) -> None:
        self.end = 100
        self.senders = {name: Sender(100) for name in NAMES}
        self.polls = 0

    async def rows(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        if "pg_stat_replication" not in query:
            return []
        self.polls += 1
        if self.polls == 2:
            # By its old copy the sender of `b` alone releases a commit.
            self.end = self.senders["b"].flush = 200
        for sender in self.senders.values():
            sender.reply += 1
        return [
            (number, name, f"0/{sender.flush:X}", str(sender.reply))
            for number, (name, sender) in enumerate(self.senders.items())
        ]

    async def row(self, query: str, *arguments: object) -> tuple[object, ...]:
        assert "pg_current_wal_insert_lsn" in query
        return (f"0/{self.end:X}",)


async def test_the_real_one(autojump_clock: object) -> None:
    server = Server()
    passed = False

    async def wait() -> None:
        nonlocal passed
        await commit._wait_for_replies(server, NAMES, 2)  # type: ignore[arg-type]  # a fake
        passed = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(5)
        assert server.polls > 10
        assert not passed
        server.senders["c"].flush = 200
        await trio.sleep(1)
        assert passed


@dataclass(eq=False)
class SimulatedSender:
    node: NodeId
    flush_lsn: int = 100
    reply_ns: int = 0


def test_the_simulated_one() -> None:
    senders = [SimulatedSender(NodeId(name)) for name in NAMES]
    replies = Replies(SyncSetting((NodeId("b"), NodeId("c")), 2))

    def enough(end: int) -> bool:
        for sender in senders:
            sender.reply_ns += 1
        return replies.enough(senders, end)  # type: ignore[arg-type]  # stand-ins

    assert not enough(100)
    senders[0].flush_lsn = 200
    assert not any(enough(200) for _ in range(REPLIES_NEEDED + 10))
    senders[1].flush_lsn = 200
    assert enough(200)
