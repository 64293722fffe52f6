"""Applications: numbered appends per key, reads, transactions, reconnects, cancelled commits.

A client has one operation under way at a time and knows of each how it ended: *ok* (the server said
so), *failed* (certainly not carried out), *unknown* (anything may have happened). It reaches the
servers through a proxy, or directly at one server's port, as somebody who bypasses the proxy does.

A client sees no ground truth. Where it lives decides which faults of the network are its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metako.model.ids import NodeId
from metako.proxy.routes import Route
from sim.heap import NS_PER_MS, NS_PER_S, Entry
from sim.network import Traffic
from sim.postgres.commits import Commit, Outcome, SyncLevel
from sim.proxy import Session

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

TIMEOUT_NS = 4 * NS_PER_S
RETRY_NS = NS_PER_S // 5
SERVER_NS = NS_PER_MS // 4
"""Parsing and executing a statement."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """One client. The mix are weights; what is not named is an append."""

    name: str
    home: NodeId | None = None  # lives on this host; None: elsewhere, reached unless cut off
    direct: NodeId | None = None  # connects to this server's own port; None: through proxies
    rate: float = 10.0  # operations per second
    read: float = 0.0
    txn: float = 0.0
    reconnect: float = 0.0
    cancel: float = 0.0
    keys: int = 3
    level: SyncLevel = SyncLevel.ON


@dataclass(slots=True)
class Operation:
    """One operation under way."""

    number: int
    kind: str  # append | txn | read
    values: tuple[tuple[str, str], ...]  # (key, value); a read names its key
    begin_ns: int
    via: NodeId | None = None  # the proxy
    node: NodeId | None = None  # the server that it was sent to
    sent: bool = False  # it has left for the server: from now on it may have been carried out
    commit: Commit | None = None
    cut: bool = False  # its session ended before the proxy had got it


class SimClient:
    """See the module's docstring."""

    def __init__(self, world: World, config: ClientConfig, rng: random.Random, number: int) -> None:
        self.config = config
        self.number = number
        self.name = config.name
        self.endpoint = config.home if config.home is not None else config.name
        self.failed_values: set[str] = set()  # certainly not carried out
        self.unknown_values: set[str] = set()
        self.ok_values: set[str] = set()
        self.counts = {"ok": 0, "failed": 0, "unknown": 0}
        self.operation: Operation | None = None
        self.active = True
        self._world = world
        self._heap = world.heap
        self._rng = rng
        self._session: Session | None = None
        self._via: NodeId | None = None
        self._count = 0
        self._timer: Entry | None = None  # looks whether the operation takes too long
        self._period_ns = round(NS_PER_S / config.rate) if config.rate > 0 else 0
        if self._period_ns:
            self._heap.after(round(rng.random() * self._period_ns), self._begin)

    # ------------------------------------------------------------ one operation

    def _begin(self) -> None:
        if not self.active:
            return
        config, rng = self.config, self._rng
        self._count += 1
        draw = rng.random()
        key = f"{self.name}.{self._count % config.keys}"
        kind = "append"
        values: tuple[tuple[str, str], ...] = ((key, f"{self.name}:{self._count}"),)
        if draw < config.read:
            kind, values = "read", ((key, ""),)
        elif draw < config.read + config.txn:
            other = f"{self.name}.{(self._count + 1) % config.keys}"
            kind, values = "txn", (*values, (other, f"{self.name}:{self._count}b"))
        elif draw < config.read + config.txn + config.reconnect:
            self._disconnect()
        operation = Operation(self._world.next_operation(), kind, values, self._heap.now_ns)
        self.operation = operation
        if self._timer is None:
            self._timer = self._heap.after(TIMEOUT_NS, self._look)
        if config.direct is not None:
            self._send(operation, config.direct)
        else:
            self._through_proxy(operation)

    def _through_proxy(self, operation: Operation) -> None:
        if self._via is None or self._session is None:
            self._via = self.config.home or self._rng.choice(self._reachable())
        operation.via = self._via
        node = self._world.nodes[self._via]
        self._hop(self.endpoint, self._via, Traffic.CLIENT, operation, self._at_proxy, node)

    def _reachable(self) -> list[NodeId]:
        """Return whose proxies are known: of the first members, and of those taken in since."""
        world = self._world
        return [n for n in world.names if n in world.members or world.nodes[n].invited]

    def _at_proxy(self, operation: Operation, node: SimNode) -> None:
        proxy = node.proxy
        if operation.cut or not node.host_up or (proxy is not None and proxy.frozen):
            return  # nobody answers; the time-out ends it
        if proxy is None or not proxy.alive:
            self._end(operation, "failed", "connection refused")
            return
        if operation.kind == "read" and proxy.replicas() and self._rng.random() < 0.5:
            replica = self._rng.choice(proxy.replicas())
            self._hop(node.name, replica, Traffic.PROXY, operation, self._at_server, replica)
            return
        session = self._session
        if session is not None and session.route is not None:
            self._forward(operation, node, session.route)
            return
        proxy.route(lambda route: self._routed(operation, node, route))

    def _routed(self, operation: Operation, node: SimNode, route: Route | None) -> None:
        if operation is not self.operation:
            return
        if route is None:
            self._end(operation, "failed", "no primary")
            return
        proxy = node.proxy
        session = Session(self._cut)
        if proxy is None or not proxy.attach(self.number, session, route):
            self._end(operation, "failed", "no primary")
            return
        self._session = session
        self._forward(operation, node, route)

    def _forward(self, operation: Operation, node: SimNode, route: Route) -> None:
        self._hop(node.name, route.node, Traffic.PROXY, operation, self._at_server, route.node)
        operation.sent = True

    def _send(self, operation: Operation, server: NodeId) -> None:
        self._hop(self.endpoint, server, Traffic.CLIENT, operation, self._at_server, server)
        operation.sent = True

    def _hop(
        self,
        src: str,
        dst: str,
        traffic: Traffic,
        operation: Operation,
        then: object,
        *args: object,
    ) -> None:
        arrived = False

        def arrive(corrupt: bool) -> None:
            # A connection delivers once and whole; what it would send again is lost here.
            nonlocal arrived
            if corrupt or arrived:
                return
            arrived = True
            if operation is self.operation or operation.kind != "read":
                then(operation, *args)  # type: ignore[operator]  # a method of this class

        if src == dst:
            self._heap.after(NS_PER_MS // 20, arrive, False)
        else:
            self._world.network.packet(src, dst, arrive, traffic)

    # ------------------------------------------------------------ at the server

    def _at_server(self, operation: Operation, name: NodeId) -> None:
        # A statement that is on its way is carried out, even if its client has given up.
        operation.node = name
        self._heap.after(SERVER_NS, self._execute, operation, name)

    def _execute(self, operation: Operation, name: NodeId) -> None:
        server = self._world.nodes[name].server
        if not self._world.nodes[name].host_up or server.frozen or server.hung:
            return
        if not server.can_login():
            self._reply(operation, name, "failed", "not accepted")
            return
        if operation.kind == "read":
            seen = server.read(operation.values[0][0])
            self._world.watch.read(self, operation, name, seen)
            self._reply(operation, name, "ok" if seen is not None else "failed", "")
            return

        def done(outcome: Outcome) -> None:
            match outcome:
                case Outcome.OK:
                    self._reply(operation, name, "ok", "")
                case Outcome.OK_WITH_WARNING:
                    self._reply(operation, name, "unknown", "the wait was cancelled")
                case Outcome.LOST:
                    self._reply(operation, name, "unknown", "connection lost")
                case Outcome.ERROR:
                    self._reply(operation, name, "failed", "error")

        commit = server.commit(operation.values, self.config.level, done)
        if commit is None:
            self._reply(operation, name, "failed", "read-only")
            return
        operation.commit = commit
        if self._rng.random() < self.config.cancel:
            delay = round(self._rng.uniform(0.2, 20) * NS_PER_MS)
            self._heap.after(delay, server.cancel, commit)

    def _reply(self, operation: Operation, name: NodeId, result: str, why: str) -> None:
        if operation is not self.operation:
            return
        home = operation.via or self.endpoint

        def back(_: bool) -> None:
            if home == self.endpoint or operation.via is None:
                self._end(operation, result, why)
            else:
                self._hop(home, self.endpoint, Traffic.CLIENT, operation, self._end, result, why)

        if name == home:
            self._heap.after(NS_PER_MS // 20, back, False)
        else:
            traffic = Traffic.CLIENT if operation.via is None else Traffic.PROXY
            self._world.network.packet(name, home, back, traffic)

    # ------------------------------------------------------------ ends

    def _look(self) -> None:
        """End an operation that takes too long. One timer does for all of them in turn."""
        self._timer = None
        operation = self.operation
        if operation is None:
            return
        end_ns = operation.begin_ns + TIMEOUT_NS
        if self._heap.now_ns >= end_ns:
            self._end(operation, "unknown", "time-out")
        else:
            self._timer = self._heap.at(end_ns, self._look)

    def _cut(self) -> None:
        """The proxy ended the session: a commit under way is in doubt."""
        self._session = None
        operation = self.operation
        if operation is not None and operation.via is not None:
            operation.cut = not operation.sent  # what is on its way finds the connection closed
            result = "unknown" if operation.sent and operation.kind != "read" else "failed"
            self._end(operation, result, "the session was cut")

    def _disconnect(self) -> None:
        if self._session is not None and self._via is not None:
            proxy = self._world.nodes[self._via].proxy
            if proxy is not None:
                proxy.detach(self.number)
        self._session, self._via = None, None

    def _end(self, operation: Operation, result: str, why: str) -> None:
        if operation is not self.operation:
            return
        self.operation = None
        if operation.kind != "read":
            kept = {"ok": self.ok_values, "failed": self.failed_values}.get(
                result, self.unknown_values
            )
            kept.update(value for _, value in operation.values)
        self.counts[result] += 1
        if result != "ok":
            self._disconnect()
        self._world.watch.operated(self, operation, result, why)
        pause = self._period_ns if result == "ok" else max(self._period_ns, RETRY_NS)
        later = round(pause * (0.5 + self._rng.random()))
        if self.active:
            self._heap.after(later, self._begin)

    def set_load(self, factor: float) -> None:
        """Work `factor` times as fast as configured."""
        if self.config.rate > 0 and factor > 0:
            self._period_ns = round(NS_PER_S / self.config.rate / factor)

    def reconnect(self) -> None:
        """Drop the connection; the next operation opens a new one."""
        self._disconnect()

    def cancel_waiting(self) -> bool:
        """Cancel the commit under way, as an impatient user does."""
        operation = self.operation
        if operation is None or operation.commit is None or operation.node is None:
            return False
        self._world.nodes[operation.node].server.cancel(operation.commit)
        return True

    def stop(self) -> None:
        """Begin nothing more."""
        self.active = False
