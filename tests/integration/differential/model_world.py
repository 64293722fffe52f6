"""The world that the model's servers stand on in this test: a heap, a calm network, nobody else."""

from __future__ import annotations

import random
from functools import partial

from metako.model.ids import NodeId, TimelineId
from sim.heap import Heap
from sim.network import LinkProperties, Network
from sim.postgres.commits import Commit
from sim.postgres.server import SimServer
from sim.streams import stream

CALM = LinkProperties(delay_ms=(0.2, 0.5))


class CalmGuard:
    """A guard that lets everything happen."""

    armed_term = 0
    answers = True
    lost = False


class SilentTruth:
    """Nobody listens; what was noted is kept for a report."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def server_changed(self, server: SimServer) -> None:
        pass

    def promoted(self, server: SimServer, tli: TimelineId) -> None:
        pass

    def acknowledged(self, server: SimServer, commit: Commit) -> None:
        pass

    def note(self, node: NodeId, mark: str, text: str = "") -> None:
        self.notes.append(f"{node}: {mark} {text}".strip())


class SmallWorld:
    """The environment of three servers, and the owner of the tasks that rebuild one."""

    alive = True
    paused = False

    def __init__(self, seed: int) -> None:
        self.heap = Heap()
        self.truth = SilentTruth()
        self.postgres_version = 15
        self.network = Network(self.heap, partial(stream, seed), base=CALM)
        self.network.listening = self._listening
        self.servers: dict[str, SimServer] = {}
        self._seed = seed
        self._streams: dict[tuple[str, str], random.Random] = {}
        self._ids = 0

    def rng(self, node: NodeId, purpose: str) -> random.Random:
        key = (node, purpose)
        if key not in self._streams:
            self._streams[key] = stream(self._seed, node, purpose)
        return self._streams[key]

    def server(self, node: NodeId) -> SimServer | None:
        return self.servers.get(node)

    def new_id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}{self._ids}"

    def _listening(self, endpoint: str, _traffic: object) -> bool | None:
        found = self.servers.get(endpoint)
        return found is not None and found.listens
