"""The trace: everything that happened, one JSON object a line, in the order in which it happened.

In: what the watchers are told. Out: lines, through a callable. Keys stand in a fixed order and
times are virtual nanoseconds, so that equal runs give equal bytes. docs/simulator.md lists the
lines; `sim.timeline` draws them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from metako.model.events import Event
from metako.model.ids import NodeId, TimelineId
from metako.wire.messages import Outbound
from sim.heap import NS_PER_MS
from sim.network import Fate
from sim.story import Line, Story
from sim.watch import ViolationError, Watcher
from sim.words import said_by

if TYPE_CHECKING:
    from sim.client import Operation, SimClient
    from sim.faults import Fault
    from sim.node import SimNode
    from sim.postgres.commits import Commit
    from sim.postgres.server import SimServer
    from sim.processes import Processes
    from sim.world import World

FORMAT = 1
HOLD_MOVES_NS = 2 * NS_PER_MS
"""A hold is shown by an engine in whole milliseconds: what is less is no other hold."""
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode


class Trace(Watcher):
    """Writes the trace of one run; see the module's docstring."""

    name = "trace"

    def __init__(self, world: World, write: Callable[[str], None]) -> None:
        self._world = world
        self._write = write
        self._number = 0
        self._messages = 0
        self._nodes: dict[NodeId, tuple[object, ...]] = {}  # newest state written
        self._servers: dict[NodeId, tuple[object, ...]] = {}
        self._leases: dict[NodeId, int] = {}
        self._holds: dict[NodeId, tuple[int, NodeId | None]] = {}
        self._story = Story()

    def line(self, event: str, **fields: object) -> int:
        """Write a line and return its number."""
        number = self._number
        self._number += 1
        self._write(_encode({"i": number, "t": self._world.heap.now_ns, "e": event, **fields}))
        return number

    # ------------------------------------------------------------ beginning and end

    def begin(self, scenario: str, seed: int, engine: str, command: str) -> None:
        world = self._world
        self.line(
            "run",
            format=FORMAT,
            scenario=scenario,
            seed=seed,
            nodes=list(world.names),
            witnesses=list(world.witnesses),
            clients=[client.name for client in world.clients],
            engine=engine,
            command=command,
        )

    def violated(self, error: ViolationError) -> None:
        """Write a violation with the lines that led to it."""
        causes = self._story.tell(error.nodes, error.about, self._world.heap.now_ns)
        self.line(
            "violation",
            check=error.check,
            text=error.text,
            nodes=list(error.nodes),
            causes=[line.number for line in causes],
            notes=[line.note for line in causes],
        )

    def _told(self, number: int, node: str) -> Line:
        return Line(number, self._world.heap.now_ns, node)

    def end(self, verdict: str, text: str) -> None:
        self.line("end", verdict=verdict, text=text)

    def phase(self, name: str) -> None:
        self.line("phase", name=name)

    # ------------------------------------------------------------ nodes

    def node_changed(self, node: Processes) -> None:
        self._node(node)

    def stepped(self, node: Processes) -> None:
        self._node(node)
        if node.lease_end_ns != self._leases.get(node.name, 0):
            self._leases[node.name] = node.lease_end_ns
            until = node.lease_end_ns if node.lease else 0
            number = self.line("lease", n=node.name, until=until)
            self._story.lease(self._told(number, node.name), until)

    def _hold(self, node: Processes, remaining_ms: int, leader: NodeId | None) -> None:
        until = self._world.heap.now_ns + remaining_ms * NS_PER_MS if remaining_ms else 0
        before, held_for = self._holds.get(node.name, (0, None))
        if held_for != leader or bool(until) != bool(before) or until - before > HOLD_MOVES_NS:
            self._holds[node.name] = until, leader
            number = self.line("hold", n=node.name, until=until, **{"for": leader})
            self._story.hold(self._told(number, node.name), until, leader)

    def _node(self, node: Processes) -> None:
        now = self._world.heap.now_ns
        agent, engine, guard = node.agent, node.engine, node.guard
        role, term, promised = "", 0, 0
        leader: NodeId | None = None
        if engine is not None:
            seen = engine.status(node.clock.instant(now))
            role, term, promised = seen.election_role, seen.term, seen.promised_term
            leader = seen.leader
            self._hold(node, seen.hold_remaining_ms, leader)
        paused = agent is not None and agent.alive and agent.paused
        up = "paused" if paused else "up" if node.agent_up else "down"
        host = "suspended" if node.suspended else "up" if node.host_up else "down"
        watched = "down"
        if guard is not None and guard.alive:
            watched = "frozen" if guard.frozen else "up"
        state = ("stopped" if node.stopped else up, host, watched, role, term, promised, leader)
        before = self._nodes.get(node.name)
        if before == state:
            return
        self._nodes[node.name] = state
        number = self.line(
            "node",
            n=node.name,
            agent=state[0],
            host=host,
            guard=watched,
            role=role,
            term=term,
            promised=promised,
            leader=leader,
        )
        line = self._told(number, node.name)
        self._story.wrote(line)
        if up == "up" and before is not None and before[0] == "down":
            self._story.started(line)

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            number = self.line(
                "log",
                n=node.name,
                name=str(event.name),
                level=str(event.severity),
                text=event.message,
                fields=dict(event.fields),
            )
            self._story.logged(self._told(number, node.name), event)

    def step_ended(
        self, node: Processes, step: object, begin_ns: int, ok: bool, error: str
    ) -> None:
        self.line(
            "step",
            n=node.name,
            step=type(step).__name__,
            begin=begin_ns,
            end=self._world.heap.now_ns,
            ok=ok,
            error=error,
        )

    def noted(self, node: NodeId, mark: str, text: str) -> None:
        self._story.wrote(self._told(self.line("mark", n=node, name=mark, text=text), node))

    # ------------------------------------------------------------ servers

    def server_changed(self, server: SimServer) -> None:
        self._server(server, always=False)

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        for node in nodes:
            if not node.witness:
                self._server(node.server, always=True)

    def _server(self, server: SimServer, *, always: bool) -> None:
        config, data = server.config, server.data
        lsn = data.end if data is not None else 0
        state: tuple[object, ...] = (
            str(server.process),
            server.in_recovery,
            server.frozen,
            data.tli if data is not None else 0,
            server.branch,
            config.upstream.node if config is not None and config.upstream is not None else None,
            tuple(config.sync.nodes) if config is not None else (),
            config.sync.k if config is not None else 0,
            server.admitting,
            str(server.data_state),
        )
        old = self._servers.get(server.node)
        changed = old is None or old[:-1] != state
        if not changed and not (always and old is not None and old[-1] != lsn):
            return
        self._servers[server.node] = (*state, lsn)
        process, recovery, frozen, tli, branch, upstream, sync, k, admit, held = state
        number = self.line(
            "pg",
            n=server.node,
            process=process,
            recovery=recovery,
            frozen=frozen,
            tli=tli,
            branch=branch,
            lsn=lsn,
            upstream=upstream,
            sync=sync,
            k=k,
            admit=admit,
            data=held,
        )
        if changed:
            self._story.wrote(self._told(number, server.node))

    def promoted(self, server: SimServer, tli: TimelineId) -> None:
        number = self.line("mark", n=server.node, name="promotion", text=f"timeline {tli}")
        self._story.promoted(self._told(number, server.node))

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        record = commit.record
        values = [value for _, value in commit.values]
        number = self.line(
            "ack",
            n=server.node,
            tli=record.tli,
            branch=record.branch,
            lsn=record.end,
            value=", ".join(values),
        )
        self._story.acknowledged(self._told(number, server.node), values)

    # ------------------------------------------------------------ messages and clients

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        self._messages += 1
        message = outbound.message
        term = getattr(message, "term", None)
        fields: dict[str, object] = {"id": self._messages, "from": node.name, "to": outbound.to}
        fields["kind"] = type(message).__name__
        if term is not None:
            fields["term"] = term
        fields["at"] = fate.arrivals[0] if fate is not None and fate.arrivals else None
        fields["fate"] = str(fate.kind) if fate is not None else "down"
        says = said_by(message)
        if says:
            fields["says"] = says
        self.line("msg", **fields)

    def operated(self, client: SimClient, operation: Operation, result: str, why: str) -> None:
        self.line(
            "op",
            id=operation.number,
            c=client.name,
            kind=operation.kind,
            key=operation.values[0][0],
            value=", ".join(value for _, value in operation.values if value),
            via=operation.via,
            n=operation.node,
            begin=operation.begin_ns,
            end=self._world.heap.now_ns,
            result=result,
            why=why,
        )

    # ------------------------------------------------------------ faults

    def fault_began(self, number: int, fault: Fault, text: str, nodes: tuple[str, ...]) -> None:
        line = self.line(
            "fault", id=number, do=fault.do, text=text, nodes=list(nodes), args=dict(fault.args)
        )
        self._story.fault_began(number, self._told(line, ""), nodes)

    def fault_ended(self, number: int) -> None:
        self._story.fault_ended(number, self._world.heap.now_ns)
        self.line("fault_end", id=number)
