"""What lasts of a real node's faults: clock, disk and server as the simulator's switches have them.

In: attributes that are set and read. Out: files, signals, a full file system. What has no signal
keeps its value of a server that is well, and `chaos.limits` leaves it out.
"""

from __future__ import annotations

import signal

from chaos.volume import Volume
from chaos.wallclock import WallClock
from chaos.wrappers import Wrappers
from metako.demo.layout import NodeLayout
from metako.demo.processes import Kind, Process, node_by_kind, send

_PROCESSES_OF = {"receive_stalled": "walreceiver", "replay_paused": "startup"}


class RealClock:
    """The clocks of a node: the machine's, but for the wall clock that it is shown."""

    rate_ppm = 0

    def __init__(self, wall: WallClock) -> None:
        self.wall = wall

    def jump_wall(self, seconds: float) -> None:
        self.wall.jump(seconds)


class RealDisk:
    """The file system of record and data; one that is full is full for both."""

    failing = lying = tear_next = False
    slow_ms = 0

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    @property
    def full(self) -> bool:
        return "record" in self._volume.filled_for

    @full.setter
    def full(self, value: bool) -> None:
        self._volume.fill("record", full=value)


class RealServer:
    """The PostgreSQL server of a node: switches that last until they are turned back."""

    hung = fsync_lies = promote_hangs = False
    fsync_ms = promote_extra_ms = checkpointer_stall_ms = 0.0
    recovery_failures = start_failures = wal_room = 0
    slow = 1.0
    slot_keep: int | None = None

    def __init__(self, layout: NodeLayout, volume: Volume, wrappers: Wrappers) -> None:
        self._layout = layout
        self._volume = volume
        self._wrappers = wrappers
        self._stalled: set[str] = set()  # names of switches
        self.frozen = False  # told by the node

    @property
    def wal_disk_full(self) -> bool:
        return "wal" in self._volume.filled_for

    @wal_disk_full.setter
    def wal_disk_full(self, value: bool) -> None:
        self._volume.fill("wal", full=value)

    @property
    def receive_stalled(self) -> bool:
        return "receive_stalled" in self._stalled

    @receive_stalled.setter
    def receive_stalled(self, value: bool) -> None:
        self._stall("receive_stalled", value=value)

    @property
    def replay_paused(self) -> bool:
        return "replay_paused" in self._stalled

    @replay_paused.setter
    def replay_paused(self, value: bool) -> None:
        self._stall("replay_paused", value=value)

    @property
    def rewind_failures(self) -> int:
        return self._wrappers.failures("pg_rewind")

    @rewind_failures.setter
    def rewind_failures(self, value: int) -> None:
        self._wrappers.fail("pg_rewind", value)

    @property
    def clone_failures(self) -> int:
        return self._wrappers.failures("pg_basebackup")

    @clone_failures.setter
    def clone_failures(self, value: int) -> None:
        self._wrappers.fail("pg_basebackup", value)

    def _stall(self, switch: str, *, value: bool) -> None:
        if value:
            self._stalled.add(switch)
        elif switch in self._stalled:
            self._stalled.discard(switch)
            send(self._processes(switch), signal.SIGCONT)
        self.keep()

    def keep(self) -> None:
        """Stop processes that have come since a switch was turned; called ten times a second."""
        for switch in self._stalled:
            send((p for p in self._processes(switch) if not p.stopped), signal.SIGSTOP)

    def _processes(self, switch: str) -> list[Process]:
        title = _PROCESSES_OF[switch]
        found = node_by_kind(self._layout).get(Kind.POSTGRES, [])
        return [process for process in found if title in " ".join(process.argv)]

    def remove_wal(self) -> bool:
        raise NotImplementedError("see chaos.limits")

    def create_slot(self, name: str) -> bool:
        raise NotImplementedError("see chaos.limits")

    def drop_slot(self, name: str) -> bool:
        raise NotImplementedError("see chaos.limits")
