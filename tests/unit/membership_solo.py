"""One `Membership` with a clock, and peers whose words the test speaks."""

from __future__ import annotations

import random

from metako.membership import Membership, MembershipConfig, MembershipOutput
from metako.model.events import EventName
from metako.model.ids import Address, NodeId
from metako.model.instant import Instant, seconds
from metako.model.member import Member, MemberMeta, MemberState
from metako.wire.messages import (
    Gossip,
    MemberUpdate,
    Message,
    Received,
)

ME, A, B, C, STRANGER = (NodeId(name) for name in ("me", "a", "b", "c", "stranger"))
ADDRESSES = {node: Address(f"10.0.0.{i}", 7946) for i, node in enumerate([ME, A, B, C, STRANGER])}
META = MemberMeta(agent_version="1")


class Solo:
    """A core with a clock, and peers whose words the test speaks."""

    def __init__(self, *peers: NodeId, config: MembershipConfig | None = None) -> None:
        self.now_ns = seconds(1000)
        self.core = Membership(
            config=config or MembershipConfig(),
            node=ME,
            boot_epoch=3,
            address=ADDRESSES[ME],
            meta=META,
            peers=[(node, ADDRESSES[node]) for node in peers],
            rng=random.Random(1),
        )
        self.out = self.core.start(self.now)

    @property
    def now(self) -> Instant:
        return Instant(self.now_ns, self.now_ns)

    def hear(self, sender: NodeId, message: Message, epoch: int = 1) -> MembershipOutput:
        return self.core.receive(self.now, Received(sender, epoch, message))

    def advance(self, duration_s: float) -> list[MembershipOutput]:
        """Tick at every wakeup until so much time has passed."""
        end_ns = self.now_ns + seconds(duration_s)
        outputs = []
        for _ in range(100_000):
            due_ns = self.core.wakeup()
            if due_ns is None or due_ns > end_ns:
                break
            self.now_ns = max(self.now_ns, due_ns)
            outputs.append(self.core.tick(self.now))
        self.now_ns = end_ns
        return outputs

    def member(self, node: NodeId) -> Member:
        return next(m for m in self.core.members() if m.node == node)

    def state(self, node: NodeId) -> MemberState:
        return self.member(node).state


def alive(node: NodeId, incarnation: int = 1, epoch: int = 1) -> MemberUpdate:
    return MemberUpdate(
        node, epoch, incarnation, MemberState.ALIVE, address=ADDRESSES[node], meta=META
    )


def accused(node: NodeId, state: MemberState, incarnation: int = 1, epoch: int = 1) -> MemberUpdate:
    return MemberUpdate(node, epoch, incarnation, state)


def joined(*peers: NodeId, config: MembershipConfig | None = None) -> Solo:
    solo = Solo(*peers, config=config)
    for node in peers:
        solo.hear(node, Gossip((alive(node),)))
    return solo


def messages(outputs: list[MembershipOutput], to: NodeId | None = None) -> list[Message]:
    return [o.message for out in outputs for o in out.outbound if to is None or o.to == to]


def names(output: MembershipOutput) -> list[EventName]:
    return [event.name for event in output.events]
