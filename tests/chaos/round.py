"""One scenario on the real cluster: its faults in their time, and then peace.

In: a scenario as the simulator reads it, a seed, the nodes. Out: faults done to processes, disks
and the packet filter, all of it recorded; and how long each node took to come back after the peace.
The timeline, the selectors and the random faults are the simulator's own code; so are the
descriptions of what a fault does to the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import trio

from chaos.cluster import LabCluster
from chaos.limits import impossible_templates
from chaos.node import RealNode
from chaos.recorder import Recorder
from chaos.wire import Wire, caveat
from chaos.world import RealWorld
from metako.demo.view import active_primary, streaming_standbys
from metako.model.events import EventName
from sim.faults import Fault, Injector
from sim.heap import NS_PER_S
from sim.marks import BY_EVENT
from sim.scenario import Scenario
from sim.scenario.plan import Plan, Script
from sim.scenario.random_faults import RandomFaults

LOOK_S = 0.1
RESTART_EVERY_S = 1.0
FORMED_S = 3.0
"""Scenarios allow this long for a cluster to form; here it runs already, and their clock is set."""
KEPT_S = 2.0
"""Peace has to last for so long before it counts."""

_MARKS = {str(name): mark for name, mark in BY_EVENT.items()}
_EVENTS = frozenset(map(str, EventName))


@dataclasses.dataclass(frozen=True, slots=True)
class RoundResult:
    """What came of one scenario."""

    scenario: str
    seed: int
    faults: tuple[str, ...]  # what was done, in words
    recovered_s: float | None  # until everybody streamed again; None: not within the limit


class Round:
    """See the module's docstring. `on_event` is to be told of every event of every agent."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        nodes: Sequence[RealNode],
        recorder: Recorder,
        wire: Wire,
        *,
        extra_faults: bool,
    ) -> None:
        """Prepare a round.

        Args:
            wire: makes true what its network says.
            extra_faults: add random faults, of those kinds that real hosts can do.
        """
        self.scenario = scenario
        self.seed = seed
        self.peace_s = 0.0  # when the peace was made, in the time of the record
        self._nodes = nodes
        self._recorder = recorder
        self._wire = wire
        self._world = RealWorld(nodes, wire.network)
        self._injector = Injector(self._world, self)
        self._scripts: list[Script] = [Plan(scenario, seed)]
        if extra_faults:
            self._scripts.append(RandomFaults(scenario, seed, off=impossible_templates()))
        self._texts: list[str] = []
        self._numbers: dict[int, int] = {}  # of the injector → in the record

    # ------------------------------------------------------------ what the injector tells

    def fault_began(self, number: int, fault: Fault, text: str, nodes: tuple[str, ...]) -> None:
        """Record a fault and let the packet filter follow."""
        self._texts.append(text)
        self._numbers[number] = self._recorder.next_number()
        self._recorder.write(
            "fault",
            id=self._numbers[number],
            do=fault.do,
            text=text,
            nodes=nodes,
            for_s=None if fault.for_ns is None else fault.for_ns / NS_PER_S,
            caveat=caveat(fault) or "",
        )
        self._wire.show()

    def fault_ended(self, number: int) -> None:
        """Record the end of a fault and let the packet filter follow."""
        self._recorder.write("fault_end", id=self._numbers[number])
        self._wire.show()

    def on_event(self, name: str, node: str) -> None:
        """Take an event from the log of an agent."""
        mark = _MARKS.get(name)
        for script in self._scripts:
            if mark is not None:
                script.on_mark(mark, node)
            elif name in _EVENTS:
                script.on_event(name, node)

    # ------------------------------------------------------------ playing

    async def play(self, cluster: LabCluster, *, limit_s: float) -> RoundResult:
        """Play the scenario, then make peace and wait until every node is back.

        If cancelled, peace is made before this returns, and `recover` can be called.
        """
        world = self._world
        world.begin(round(FORMED_S * NS_PER_S))
        async with trio.open_nursery() as nursery:
            try:
                self._recorder.write("phase", name="faults", scenario=self.scenario.name)
                for script in self._scripts:
                    script.begin(self._injector)
                nursery.start_soon(world.run)
                await self._until_nothing_comes()
            finally:
                self._make_peace()
            result = await self.recover(cluster, limit_s=limit_s)
            nursery.cancel_scope.cancel()
        return result

    async def _until_nothing_comes(self) -> None:
        """Wait for the end of the scenario, or until it has nothing more to do."""
        world, end_ns = self._world, self.scenario.duration_ns
        while (  # noqa: ASYNC110 - the heap is no trio object
            world.heap.now_ns < end_ns and (len(world.heap) or self._injector.active)
        ):
            await trio.sleep(LOOK_S)

    def _make_peace(self) -> None:
        for script in self._scripts:
            script.end()
        self._injector.end_all()
        self._world.network.heal()
        self._wire.show()
        for node in self._nodes:
            node.let_go()
            node.start()
        self.peace_s = self._recorder.now_s()
        self._recorder.write("phase", name="peace")

    async def recover(self, cluster: LabCluster, *, limit_s: float) -> RoundResult:
        """Wait until everybody is back after the peace, which was made; return what came of it."""
        recovered = await self._recovered_s(cluster, limit_s)
        return RoundResult(self.scenario.name, self.seed, tuple(self._texts), recovered)

    async def _recovered_s(self, cluster: LabCluster, limit_s: float) -> float | None:
        """Wait until one node is the primary and all others stream; return how long it took."""
        began = trio.current_time()
        since: float | None = None
        back: dict[str, float] = {}
        restart_at = 0.0
        while trio.current_time() - began < limit_s:
            now = trio.current_time()
            if now >= restart_at:
                restart_at = now + RESTART_EVERY_S
                for node in self._nodes:
                    node.start()  # one whose agent has ended since, as a service manager would
            views = await cluster.views()
            primary = active_primary(views)
            well = set() if primary is None else {primary.node, *streaming_standbys(primary)}
            well |= {node.name for node in self._nodes if node.witness and node.name in views}
            for name in well - set(back):
                back[name] = now - began
            standbys = sum(not node.witness for node in self._nodes) - 1
            counted = primary is not None and len(primary.sync) == standbys
            if counted and len(well) == len(self._nodes) == len(views):
                since = since if since is not None else now
                if now - since >= KEPT_S:
                    for name, after_s in sorted(back.items()):
                        self._recorder.write("recovered", n=name, after_s=round(after_s, 3))
                    return since - began
            else:
                since = None
            await trio.sleep(LOOK_S)
        return None
