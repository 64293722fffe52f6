"""A small deterministic network of `Membership` cores, for tests.

An event heap with integer time carries messages with a delay, drops them by a seeded chance or a
one-way cut, and calls `tick` when `wakeup` says. A stream is retransmitted instead of lost, 200 ms
each time. Same seed, same run. It knows nothing of membership's insides.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from metako.membership import Membership, MembershipConfig, MembershipOutput
from metako.model.events import Event, EventName
from metako.model.ids import Address, NodeId
from metako.model.instant import Instant, milliseconds, seconds
from metako.model.member import Member, MemberMeta, MemberState
from metako.wire.messages import Outbound, Received

STEPS_MAX = 2_000_000
RETRANSMIT_NS = milliseconds(200)


@dataclass(frozen=True)
class Happened:
    """An event as one node reported it."""

    at_s: float
    observer: NodeId
    event: Event

    @property
    def subject(self) -> str:
        return str(dict(self.event.fields)["node"])


@dataclass
class Host:
    """One process slot of the network; `core` is None while it is down."""

    node: NodeId
    address: Address
    boot_epoch: int = 1
    core: Membership | None = None
    paused: bool = False
    inbox: list[Received] = field(default_factory=list)  # while paused
    ticket: int = 0  # of the newest scheduled tick; older ones are void


class Network:
    """Hosts n1..nN that all have each other in their configuration."""

    def __init__(
        self,
        size: int,
        *,
        seed: int = 1,
        loss: float = 0.0,
        delay_ms: tuple[float, float] = (0.5, 3.0),
        config: MembershipConfig | None = None,
        start: bool = True,
    ) -> None:
        self.config = config or MembershipConfig()
        self.rng = random.Random(seed)
        self.loss = loss
        self.delay_ms = delay_ms
        self.now_ns = 0
        self.cuts: set[tuple[str, str]] = set()
        self.happened: list[Happened] = []
        self.sent: list[tuple[int, NodeId, Outbound]] = []
        self.keep_sent = False
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        names = [NodeId(f"n{i}") for i in range(1, size + 1)]
        self.hosts = {
            name: Host(name, Address(f"10.0.0.{i}", 7946)) for i, name in enumerate(names, 1)
        }
        if start:
            for name in names:
                self.boot(name)

    # -------------------------------------------------------- faults

    def boot(self, name: str, *, boot_epoch: int | None = None) -> None:
        host = self.hosts[NodeId(name)]
        if boot_epoch is not None:
            host.boot_epoch = boot_epoch
        host.core = Membership(
            config=self.config,
            node=host.node,
            boot_epoch=host.boot_epoch,
            address=host.address,
            meta=MemberMeta(agent_version="1"),
            peers=[(node, Address(f"10.0.0.{i}", 7946)) for i, node in enumerate(self.hosts, 1)],
            rng=random.Random(self.rng.getrandbits(64)),
        )
        self.do(host, host.core.start(self.now))

    def crash(self, name: str) -> None:
        host = self.hosts[NodeId(name)]
        host.core = None
        host.inbox.clear()

    def restart(self, name: str) -> None:
        self.crash(name)
        self.boot(name, boot_epoch=self.hosts[NodeId(name)].boot_epoch + 1)

    def pause(self, name: str) -> None:
        self.hosts[NodeId(name)].paused = True

    def resume(self, name: str) -> None:
        """Let the process run again: it sees the time first, then what waited for it."""
        host = self.hosts[NodeId(name)]
        host.paused = False
        self._tick(host, host.ticket)
        waiting, host.inbox = host.inbox, []
        for received in waiting:
            self._receive(host, received)

    def cut(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        self.cuts |= {(a, b) for a in senders for b in receivers if a != b}

    def partition(self, *groups: Iterable[str]) -> None:
        sides = [list(group) for group in groups]
        for side in sides:
            for other in sides:
                if side is not other:
                    self.cut(side, other)

    def heal(self) -> None:
        self.cuts.clear()

    # -------------------------------------------------------- running

    @property
    def now(self) -> Instant:
        return Instant(self.now_ns, self.now_ns)

    @property
    def now_s(self) -> float:
        return self.now_ns / 1e9

    def run(self, duration_s: float, *, until: Callable[[], bool] | None = None) -> bool:
        """Run for so long, or until the condition holds; return whether it did."""
        end_ns = self.now_ns + seconds(duration_s)
        for _ in range(STEPS_MAX):
            if until is not None and until():
                return True
            if not self._heap or self._heap[0][0] > end_ns:
                self.now_ns = end_ns
                return False
            self.now_ns, _, action = heapq.heappop(self._heap)
            action()
        raise AssertionError("the network does not come to rest")

    def core(self, name: str) -> Membership:
        core = self.hosts[NodeId(name)].core
        assert core is not None
        return core

    def do(self, host: Host, output: MembershipOutput) -> None:
        """Carry an output out and schedule the host's next tick."""
        assert host.core is not None
        assert host.core._roster.is_current(), "an entry was changed without a word"
        for event in output.events:
            self.happened.append(Happened(self.now_s, host.node, event))
        for outbound in output.outbound:
            self._transmit(host, outbound)
        due_ns = host.core.wakeup()
        host.ticket += 1
        if due_ns is not None:
            ticket = host.ticket
            self._at(due_ns, lambda: self._tick(host, ticket))

    def _at(self, time_ns: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (max(time_ns, self.now_ns), self._order, action))

    def _tick(self, host: Host, ticket: int) -> None:
        if ticket == host.ticket and host.core is not None and not host.paused:
            self.do(host, host.core.tick(self.now))

    def _transmit(self, sender: Host, outbound: Outbound) -> None:
        if self.keep_sent:
            self.sent.append((self.now_ns, sender.node, outbound))
        delay_ns = milliseconds(self.rng.uniform(*self.delay_ms))
        while self.rng.random() < self.loss:
            if not outbound.stream:
                return
            delay_ns += RETRANSMIT_NS
        receiver = self._receiver(outbound)
        if receiver is None or (sender.node, receiver.node) in self.cuts:
            return
        received = Received(sender.node, sender.boot_epoch, outbound.message)
        self._at(self.now_ns + delay_ns, lambda: self._receive(receiver, received))

    def _receiver(self, outbound: Outbound) -> Host | None:
        likely = self.hosts.get(outbound.to)
        if likely is not None and likely.address == outbound.address:
            return likely
        return next((h for h in self.hosts.values() if h.address == outbound.address), None)

    def _receive(self, host: Host, received: Received) -> None:
        if host.core is None:
            return
        if host.paused:
            host.inbox.append(received)
            return
        self.do(host, host.core.receive(self.now, received))

    # -------------------------------------------------------- questions

    def member(self, observer: str, subject: str) -> Member:
        return next(m for m in self.core(observer).members() if m.node == subject)

    def state(self, observer: str, subject: str) -> MemberState:
        return self.member(observer, subject).state

    def all_hold(self, subject: str, state: MemberState) -> bool:
        """Return whether every running host but the subject holds it in that state."""
        running = [h.node for h in self.hosts.values() if h.core is not None]
        return all(self.state(o, subject) is state for o in running if o != subject)

    def all_alive(self) -> bool:
        return all(self.all_hold(node, MemberState.ALIVE) for node in self.hosts)

    def reports(self, name: EventName, subject: str | None = None) -> list[Happened]:
        return [
            h
            for h in self.happened
            if h.event.name is name and (subject is None or h.subject == subject)
        ]
