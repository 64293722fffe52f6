"""The whole rig: a lab, file systems, a cluster, clients; rounds of faults; the evidence; no trace.

In: choices. Out: a directory with history, logs and final contents of every node. Invariant: when
`Rig.open` has been left, in whatever way, no process, namespace or mount of it is there any more;
what would not go is in the history as `left`.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import trio

from chaos.clients import Clients
from chaos.cluster import LabCluster, plan
from chaos.final import Finals
from chaos.lab import RUN_DIRECTORY, SWITCH, Lab
from chaos.node import RealNode
from chaos.recorder import Recorder, merge
from chaos.round import Round, RoundResult
from chaos.starving import Starving
from chaos.volume import Volume
from chaos.wallclock import WallClock, library, remove_leftovers
from chaos.watch import Watch
from chaos.wire import Wire, new_network
from chaos.wrappers import Wrappers
from metako.demo.prepare import ensure_os_user
from metako.demo.processes import kill_all
from metako.postgres.install import find_installation
from metako.postgres.osuser import resolve_os_user
from sim.scenario import Cluster, Scenario

PLACES = Path("/tmp")  # short paths, for Unix sockets
VOLUME_MIB = 2048
_PLACE = re.compile(r"mk[0-9a-f]{4}-\w+")
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
ARGV_SHOWN = 100
RECOVERY_LIMIT_S = 60.0
SETTLE_S = 10.0
"""So long after the peace writes have to go through again; the checker is told so."""
PEACE_KEPT_S = 3.0
"""And for so long the clients go on, so that it shows."""


@dataclass(frozen=True, slots=True)
class RigOptions:
    """What the user asked for."""

    title: str = ""  # what is played, for the report
    seed: int = 1
    cluster: Cluster = field(default_factory=Cluster)
    bindir: str | None = None
    rate: float = 10.0  # operations of one client in a second
    recovery_limit_s: float = RECOVERY_LIMIT_S


class Rig:
    """See the module's docstring. Made by `Rig.open`."""

    def __init__(self, options: RigOptions, directory: Path, say: Callable[[str], None]) -> None:
        self.options = options
        self.directory = directory
        self.recorder = Recorder(directory / "rig.jsonl")
        self.lab = Lab(options.cluster.names)
        self.starving = Starving()
        self.results: list[RoundResult] = []
        self._say = say
        self._round: Round | None = None  # the newest
        self._last: RoundResult | None = None  # what came of it; None while it is played
        self.wire: Wire  # from `_start` on, and so are these
        self.cluster: LabCluster
        self.nodes: tuple[RealNode, ...]
        self._programs: Path
        self.clients: Clients

    @staticmethod
    @asynccontextmanager
    async def open(
        options: RigOptions, directory: Path, say: Callable[[str], None]
    ) -> AsyncIterator[Rig]:
        """Start everything; end and collect everything when this is left.

        If it is left by an exception, nothing is collected. If cancelled, it is cleaned up first.

        Raises:
            LabError, MetakoError: it cannot be started here; nothing is left.
        """
        sweep()
        rig = Rig(options, directory, say)
        async with AsyncExitStack() as stack:
            await rig._start(stack)
            async with trio.open_nursery() as nursery:
                watch = Watch(rig.cluster, rig.nodes, rig.recorder, rig.on_event)
                nursery.start_soon(watch.run)
                yield rig
                nursery.cancel_scope.cancel()
            await rig._collect()

    # ------------------------------------------------------------ playing

    def on_event(self, name: str, node: str) -> None:
        """Take an event from the log of an agent."""
        if self._round is not None:
            self._round.on_event(name, node)

    async def play(
        self, scenario: Scenario, seed: int, *, extra_faults: bool = False
    ) -> RoundResult:
        """Play one scenario to its peace."""
        self._round = Round(
            scenario, seed, self.nodes, self.recorder, self.wire, extra_faults=extra_faults
        )
        self._last = None
        result = await self._round.play(self.cluster, limit_s=self.options.recovery_limit_s)
        self._last = result
        self.results.append(result)
        return result

    @property
    def peace_s(self) -> float:
        """Return when the newest peace was made, in the time of the record."""
        assert self._round is not None, "nothing was played"
        return self._round.peace_s

    async def settle(self) -> None:
        """Let the last peace last, also that of a round that was cancelled, so it can be judged."""
        if self._round is None:
            return
        if self._last is None:
            limit_s = self.options.recovery_limit_s
            self.results.append(await self._round.recover(self.cluster, limit_s=limit_s))
        wanted_s = SETTLE_S + PEACE_KEPT_S
        await trio.sleep(max(0.0, self._round.peace_s + wanted_s - self.recorder.now_s()))

    # ------------------------------------------------------------ starting

    async def _start(self, stack: AsyncExitStack) -> None:
        """Start everything; each thing's end is on the stack before the next one begins."""
        options, directory = self.options, self.directory
        os_user = ensure_os_user(self._say)
        stack.callback(self.recorder.close)
        stack.callback(self._note_leftovers)
        stack.callback(remove_leftovers, time.time())
        stack.callback(self.lab.close)
        self.lab.start()
        self.recorder.write(
            "run",
            id=self.lab.run_id,
            scenario=options.title,
            seed=options.seed,
            timing=options.cluster.timing,
            nodes=options.cluster.names,
            witnesses=options.cluster.witnesses,
            wall=datetime.now(UTC).isoformat(timespec="seconds"),
            start_mono=self.recorder.start_s,
        )
        self.wire = stack.enter_context(Wire(self.lab, new_network(0)))
        place = _place(self.lab.run_id)
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        layout = plan(self.lab, place, options.cluster, os_user=os_user)
        user = resolve_os_user(os_user)
        self._programs = find_installation(options.bindir, user, place / "postgresql").bindir
        nodes = []
        walls = {
            node.name: WallClock(place / f"{node.name}.clock", library()) for node in layout.nodes
        }
        for wall in walls.values():
            wall.make()
        self.cluster = LabCluster(layout, self.lab, walls=walls, say=lambda _: None)
        for node in layout.nodes:
            volume = Volume(node.directory, VOLUME_MIB)
            stack.callback(volume.unmount)
            volume.mount()
            assert node.bindir is not None
            wall = walls[node.name]
            wrappers = Wrappers(Path(node.bindir), self._programs, wall.environment())
            wrappers.make()
            nodes.append(RealNode(self.cluster, node, volume, wrappers, wall, self.starving))
        self.nodes = tuple(nodes)
        stack.callback(self.starving.end)
        stack.push_async_callback(self._kill_all)
        self._say("starting the cluster")
        await self.cluster.start(timeout_s=START_TIMEOUT_S)
        self.clients = Clients(self.lab, layout, directory, self.recorder.start_s, options.rate)
        stack.push_async_callback(self.clients.kill)
        await self.clients.start(self.cluster)

    async def _kill_all(self) -> None:
        with trio.CancelScope(shield=True):
            for node in self.nodes:
                with suppress(Exception):
                    node.let_go()
            await self.cluster.stop()
            await kill_all(node.layout.directory for node in self.nodes)

    def _note_leftovers(self) -> None:
        place = [str(node.layout.directory) for node in getattr(self, "nodes", ())]
        self.recorder.write(
            "left",
            processes=[f"{pid} in {name}" for pid, name in self.lab.processes().items()],
            namespaces=self.lab.leftovers(),
            files=[path for path in place if os.path.ismount(path)],
        )

    # ------------------------------------------------------------ the end

    async def _collect(self) -> None:
        """End the clients, take the contents of every node, and stop the cluster in order."""
        self.recorder.write("phase", name="end")
        await self.clients.stop()
        with_data = [node for node in self.nodes if not node.witness]
        finals = Finals(self.cluster, with_data, self.recorder, self.directory, self._programs)
        await finals.take()
        await self.cluster.terminate(timeout_s=STOP_TIMEOUT_S)
        # Before anything is killed: whoever did not end with its agent is an orphan.
        self.recorder.write("left", processes=self._orphans(), namespaces=[], files=[])
        await finals.checksums()

    def _orphans(self) -> list[str]:
        """Return what still runs of nodes and clients, though everything was told to stop."""
        found = {
            process.pid: f"{process.pid} of {name}: {' '.join(process.argv)[:ARGV_SHOWN]}"
            for name, processes in self.cluster.processes().items()
            for process in processes
        }
        relay = self.lab.namespace(SWITCH)
        for pid, namespace in self.lab.processes().items():
            if namespace != relay:
                found.setdefault(pid, f"{pid} in {namespace}")
        return [found[pid] for pid in sorted(found)]

    def merge(self) -> Path:
        """Make one history of all parts; call it after `open` was left."""
        path = self.directory / "history.jsonl"
        merge([self.directory / "rig.jsonl", *self.clients.parts], path)
        return path


def sweep() -> None:
    """Remove what runs that were killed have left: namespaces, processes, mounts, directories.

    Raises:
        LabError: something would not go.
    """
    Lab.sweep()
    for place in PLACES.glob("mk????-*"):
        if not _PLACE.fullmatch(place.name) or (RUN_DIRECTORY / f"{place.name[2:6]}.pid").exists():
            continue  # no rig's, or that of one that runs
        for mount in sorted(place.iterdir()):
            if mount.is_mount():
                Volume(mount, VOLUME_MIB).unmount()
        shutil.rmtree(place, ignore_errors=True)


def _place(run_id: str) -> Path:
    """Return a new directory for the nodes, by a path that is short enough for Unix sockets."""
    place = Path(tempfile.mkdtemp(prefix=f"mk{run_id}-", dir=PLACES))
    place.chmod(0o755)
    return place
