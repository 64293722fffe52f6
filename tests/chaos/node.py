"""One real node, as far as faults go: real signals, real files, a file system of its own.

In: verbs of `sim.faults`, in the main thread. Out: whether there was anything to do. A verb takes
milliseconds. Whatever stands still is let go again by `let_go`, and whatever fills the disk is
removed; what a verb cannot do on a real host is listed in `chaos.limits` and never asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable

from chaos.cluster import LabCluster
from chaos.ordering import request_of
from chaos.starving import BURNERS_PER_CORE
from chaos.switches import RealClock, RealDisk, RealServer
from chaos.volume import Volume
from chaos.wallclock import WallClock
from chaos.wrappers import Wrappers
from metako import unixsocket
from metako.demo.layout import NodeLayout
from metako.demo.processes import (
    Kind,
    Process,
    node_by_kind,
    node_processes,
    postmaster_pid,
    send,
)
from metako.demo.view import NodeView, is_active_primary
from metako.model.orders import Order

SWEEPS_MAX = 200
SWEEP_PAUSE_S = 0.005
VIEW_AGE_MAX_S = 1.0
_POSTGRES = (Kind.POSTMASTER, Kind.POSTGRES, Kind.TOOL)


def _is_session(title: str) -> bool:
    """Return whether a process of PostgreSQL, by its title, serves an application."""
    return "(" in title and "walsender" not in title


def _is(part: str) -> Callable[[str], bool]:
    """Return what tells by its title whether a process of PostgreSQL is a part of that name."""
    return lambda title: title.startswith("postgres:") and part in title


class RealNode:
    """See the module's docstring."""

    def __init__(
        self,
        cluster: LabCluster,
        layout: NodeLayout,
        volume: Volume,
        wrappers: Wrappers,
        wall: WallClock,
        starve: Callable[[str, int], None],
    ) -> None:
        self.layout = layout
        self.witness = layout.witness
        self.invited = self.lost = False
        self.clock = RealClock(wall)
        self.disk = RealDisk(volume)
        self.server = RealServer(layout, volume, wrappers)
        self.host_up = True
        self.view: tuple[float, NodeView] | None = None  # newest, and when it came
        self._cluster = cluster
        self._starve = starve
        self._asked: list[socket.socket] = []

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def agent_up(self) -> bool:
        return self._cluster.runs_agent(self.name)

    def newest_view(self) -> NodeView | None:
        """Return the node's own view of the cluster, if it is fresh."""
        if self.view is None or time.monotonic() - self.view[0] > VIEW_AGE_MAX_S:
            return None
        return self.view[1]

    @property
    def taken_in_again(self) -> bool:
        """Return whether it counts by the record that it has made since it lost one."""
        view = self.newest_view()
        own = view.member(self.name) if view is not None else None
        return self.invited and own is not None and own.record == "ok"

    def leads(self, now_ns: int) -> bool:
        """Return whether it holds the lease, by its own account."""
        view = self.newest_view()
        return view is not None and view.role == "leader" and view.lease_ms > 0

    @property
    def serves(self) -> bool:
        """Return whether it is the active primary, by its own account."""
        view = self.newest_view()
        return view is not None and is_active_primary(view)

    # ------------------------------------------------------------ starting and ending

    def start(self) -> bool:
        """Start the agent. A host that was switched off comes back with it."""
        if self.agent_up:
            return False
        self.host_up = True
        self._cluster.start_agent(self.name)
        return True

    def stop(self) -> bool:
        """SIGTERM to the agent: the clean way down."""
        return self._signal(signal.SIGTERM, Kind.AGENT)

    def order(self, order: Order) -> bool:
        """Give the agent an order by its socket; whatever it answers is not waited for.

        What it is to be begun at counts from now, by the clock that the agent is shown.
        """
        line, body = request_of(order, self.clock.wall.shown_s(time.time()))
        text = "" if body is None else json.dumps(body)
        head = f"{line} HTTP/1.1\r\nHost: metako\r\n"
        try:
            asked = unixsocket.connect(self.layout.agent_socket)
        except OSError:
            return False
        self._asked.append(asked)  # closed now, it would be taken for given up
        with contextlib.suppress(OSError):
            asked.send(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
        return True

    def kill_host(self) -> bool:
        """SIGKILL everything, until nothing is left. What the kernel holds in memory stays."""
        was = self.host_up
        self.host_up = False
        for _ in range(SWEEPS_MAX):
            left = node_processes(self.layout.directory)
            if not left:
                break
            send(left, signal.SIGKILL)
            time.sleep(SWEEP_PAUSE_S)
        return was

    def kill_agent(self) -> bool:
        return self._signal(signal.SIGKILL, Kind.AGENT)

    def kill_guard(self) -> bool:
        return self._signal(signal.SIGKILL, Kind.GUARD)

    def kill_proxy(self) -> bool:
        return self._signal(signal.SIGKILL, Kind.WORKER)

    def kill_backend(self) -> bool:
        """SIGKILL a session's process, whichever comes first."""
        return self._kill_one(_is_session)

    def kill_receiver(self) -> bool:
        return self._kill_one(_is("walreceiver"))

    def kill_sender(self) -> bool:
        """SIGKILL a WAL sender, whichever comes first."""
        return self._kill_one(_is("walsender"))

    def kill_startup(self) -> bool:
        return self._kill_one(_is("startup"))

    def _kill_one(self, is_meant: Callable[[str], bool]) -> bool:
        return self._signal_one(is_meant, signal.SIGKILL)

    def _pause_one(self, is_meant: Callable[[str], bool]) -> bool:
        return self._signal_one(is_meant, signal.SIGSTOP)

    def _signal_one(self, is_meant: Callable[[str], bool], number: int) -> bool:
        """Signal one process of the server, chosen by its title."""
        found = [p for p in self._of(Kind.POSTGRES) if is_meant(" ".join(p.argv))]
        send(found[:1], number)
        return bool(found)

    def kill_postgres(self) -> bool:
        pid = postmaster_pid(self.layout)
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    # ------------------------------------------------------------ standing still

    def pause_host(self) -> bool:
        """SIGSTOP everything, also what is forked meanwhile."""
        done = False
        for _ in range(SWEEPS_MAX):
            running = [p for p in node_processes(self.layout.directory) if not p.stopped]
            if not running:
                break
            send(running, signal.SIGSTOP)
            done = True
            time.sleep(SWEEP_PAUSE_S)
        self.server.frozen = self.server.frozen or done
        return done

    def resume_host(self) -> bool:
        return self._resume(*Kind)

    def pause_agent(self) -> bool:
        return self._pause(Kind.AGENT)

    def resume_agent(self) -> bool:
        return self._resume(Kind.AGENT)

    def pause_guard(self) -> bool:
        return self._pause(Kind.GUARD)

    def resume_guard(self) -> bool:
        return self._resume(Kind.GUARD)

    def pause_proxy(self) -> bool:
        return self._pause(Kind.WORKER)

    def resume_proxy(self) -> bool:
        return self._resume(Kind.WORKER)

    def pause_backend(self) -> bool:
        """SIGSTOP a session's process, whichever comes first."""
        return self._pause_one(_is_session)

    def resume_backend(self) -> bool:
        return self._resume(Kind.POSTGRES)

    def pause_sender(self) -> bool:
        """SIGSTOP a WAL sender, whichever comes first."""
        return self._pause_one(_is("walsender"))

    def resume_sender(self) -> bool:
        return self._resume(Kind.POSTGRES)

    def pause_postgres(self) -> bool:
        self.server.frozen = True
        return self._pause(*_POSTGRES)

    def resume_postgres(self) -> bool:
        return self._resume(*_POSTGRES)

    def suspend(self, *, hidden: bool = False) -> bool:
        raise NotImplementedError("see chaos.limits")

    def wake(self) -> bool:
        return False

    def slow_agent(self, step_ms: float) -> bool:
        """Starve the agent, and everything else on this machine: there is no CPU of its own."""
        self._starve(f"agent of {self.name}", BURNERS_PER_CORE if step_ms > 0 else 0)
        return True

    def burn(self, per_core: int) -> bool:
        """Keep the cores of this machine busy; every node of the lab is on it."""
        self._starve(self.name, per_core)
        return True

    def set_clock_rate(self, ppm: int) -> bool:
        raise NotImplementedError("see chaos.limits")

    def let_go(self) -> None:
        """Resume everything, give the disk its room back, and set the clock right."""
        self.slow_agent(0)
        self.burn(0)
        self.disk.full = self.server.wal_disk_full = False
        self.server.receive_stalled = self.server.replay_paused = False
        self.server.rewind_failures = self.server.clone_failures = 0
        self.clock.wall.set_right()
        self.resume_host()
        while self._asked:
            self._asked.pop().close()

    # ------------------------------------------------------------ files

    def lose_data(self) -> bool:
        """Remove the data directory of a node that is down."""
        data = self.layout.data_dir
        if self.agent_up or not data.is_dir() or node_processes(self.layout.directory):
            return False
        shutil.rmtree(data)
        return True

    def lose_record(self) -> bool:
        """Remove the durable record of a node that is down."""
        record = self.layout.state_dir / "record"
        if self.agent_up or not record.is_file() or node_processes(self.layout.directory):
            return False
        record.unlink()
        self.lost, self.invited = True, False
        return True

    def rot_record(self) -> bool:
        raise NotImplementedError("see chaos.limits")

    def restore_old_record(self) -> bool:
        raise NotImplementedError("see chaos.limits")

    def restore_lost_record(self) -> bool:
        raise NotImplementedError("see chaos.limits")

    def foreign_data(self) -> bool:
        raise NotImplementedError("see chaos.limits")

    def take_backup(self) -> bool:
        raise NotImplementedError("see chaos.limits")

    def restore_backup(self) -> bool:
        raise NotImplementedError("see chaos.limits")

    # ------------------------------------------------------------ signals

    def _of(self, *kinds: Kind) -> list[Process]:
        by_kind = node_by_kind(self.layout)
        return [process for kind in kinds for process in by_kind.get(kind, [])]

    def _signal(self, number: int, *kinds: Kind) -> bool:
        found = self._of(*kinds)
        send(found, number)
        return bool(found)

    def _pause(self, *kinds: Kind) -> bool:
        running = [process for process in self._of(*kinds) if not process.stopped]
        send(running, signal.SIGSTOP)
        return bool(running)

    def _resume(self, *kinds: Kind) -> bool:
        stopped = [process for process in self._of(*kinds) if process.stopped]
        send(stopped, signal.SIGCONT)
        if Kind.POSTMASTER in kinds:
            self.server.frozen = False
            self.server.keep()
        return bool(stopped)
