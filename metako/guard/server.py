"""One PostgreSQL server as the guard's children: start it, end it, know exactly when it is gone.

Input: requests of the program and its turns. Output: a list of notices (exited, gone) that
the program sends on. Invariant: `gone` is true only after waitpid said ECHILD. The guard is the
subreaper, so whatever the postmaster leaves behind becomes its child; no list of processes is
trusted for the verdict.

Ending takes SIGQUIT first, so that the postmaster tells its children; what is left after
`QUIT_GRACE_NS` gets SIGKILL. A stopped process would keep a SIGQUIT pending for ever, so then
everything gets SIGKILL at once. What a dead postmaster leaves gets SIGKILL at once: nobody else
will end it, and a backend may otherwise commit for as long as its client talks.

Does not know of terms, sockets or agents.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass

from metako.guard import linux, spawn

NS_PER_MS = 1_000_000
QUIT_GRACE_NS = 30 * NS_PER_MS
"""From SIGQUIT to SIGKILL when the lease has ended."""
LEFTOVER_GRACE_NS = 100 * NS_PER_MS
"""After a postmaster that ended in good order: the log collector still drains its pipe."""
SWEEP_NS = 5 * NS_PER_MS
"""Between two rounds of SIGKILL, for what was forked meanwhile or handed to us by a dead parent."""
SWEEP_SLOW_NS = 100 * NS_PER_MS
"""The same when processes do not die within a second: they hang in the kernel, haste is no use."""
HASTE_NS = 1000 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Exited:
    """The postmaster ended; others of its processes may be left."""

    pid: int
    status: int  # as waitpid gives it


@dataclass(frozen=True, slots=True)
class Gone:
    """Every process is reaped."""

    pid: int  # of the postmaster


Notice = Exited | Gone


class Server:
    """At most one server at a time."""

    def __init__(self) -> None:
        self.pid: int | None = None  # the postmaster, not reaped yet
        self.pidfd: int | None = None  # of `pid`
        self.gone = True  # see the module's invariant
        self.last_exit: int | None = None  # wait status of the last postmaster
        self.last_fence_ms: float | None = None
        self.last_stop_ms: float | None = None
        self.last_pid: int | None = None  # the postmaster whose processes are or were ours
        self._stop_began_ns: int | None = None  # monotonic; first signal or exit
        self._fence_began_ns: int | None = None  # monotonic; first SIGQUIT or SIGKILL
        self._kill_began_ns: int | None = None  # monotonic; first round of SIGKILL
        self._kill_at_ns: int | None = None  # monotonic; next round of SIGKILL
        self._notices: list[Notice] = []

    @property
    def is_ending(self) -> bool:
        return self._stop_began_ns is not None

    def start(self, command: spawn.Command, *, nice: int) -> int:
        """Fork the postmaster; return the descriptor of `spawn.read_outcome`.

        Raises:
            OSError: nothing was started.
        """
        assert self.gone, "the former server is not gone"
        pid, outcome = spawn.fork_exec(command, nice=nice)
        self.gone = False
        self.pid = self.last_pid = pid
        # The child is not reaped, so its number is its own.
        self.pidfd = os.pidfd_open(pid)
        return outcome

    def note_signal(self, number: int) -> None:
        """Take note that somebody stops the server, for the measured times."""
        if self.gone:
            return
        now_ns = time.monotonic_ns()
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL):
            self._stop_began_ns = self._stop_began_ns or now_ns
        # Only with the postmaster alive: clearing up behind a dead one is no measure for a fence.
        if number in (signal.SIGQUIT, signal.SIGKILL) and self.pid is not None:
            self._fence_began_ns = self._fence_began_ns or now_ns

    def signal(self, number: int) -> None:
        """Send a signal to the postmaster, if it is there."""
        self.note_signal(number)
        if self.pid is not None:
            os.kill(self.pid, number)

    def end(self) -> None:
        """SIGQUIT now, SIGKILL soon. Repeating it changes nothing."""
        if self.gone or self._kill_at_ns is not None:
            return
        self.signal(signal.SIGQUIT)
        own = os.getpid()
        stopped = any(linux.is_stopped(pid) for pid in linux.descendants_of(own))
        self._kill_at_ns = time.monotonic_ns() + (0 if stopped else QUIT_GRACE_NS)
        self.turn()

    def kill(self) -> None:
        """SIGKILL everything, now and again until nothing is left."""
        if self.gone:
            return
        self.note_signal(signal.SIGKILL)
        self._kill_at_ns = time.monotonic_ns()
        self.turn()

    def turn(self) -> None:
        """Reap what has died, kill what is due. Called after every wake-up of the guard."""
        self._reap()
        if self._kill_at_ns is None or self.gone:
            return
        now_ns = time.monotonic_ns()
        if now_ns < self._kill_at_ns:
            return
        for pid in linux.descendants_of(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.note_signal(signal.SIGKILL)
        self._kill_began_ns = self._kill_began_ns or now_ns
        slow = now_ns - self._kill_began_ns > HASTE_NS
        self._kill_at_ns = now_ns + (SWEEP_SLOW_NS if slow else SWEEP_NS)
        self._reap()

    def wakeup_ns(self) -> int | None:
        """Return when `turn` is due, on the monotonic clock."""
        return None if self.gone else self._kill_at_ns

    def take_notices(self) -> list[Notice]:
        """Return what has happened since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def _reap(self) -> None:
        # Ends when nothing more has died: a reaped process does not come back.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless()
                return
            if pid == 0:
                return
            if pid == self.pid:
                self._postmaster_exited(status)

    def _postmaster_exited(self, status: int) -> None:
        assert self.pid is not None
        assert self.pidfd is not None
        self._notices.append(Exited(self.pid, status))
        os.close(self.pidfd)
        self.pid = self.pidfd = None
        self.last_exit = status
        now_ns = time.monotonic_ns()
        self._stop_began_ns = self._stop_began_ns or now_ns
        if self._kill_at_ns is None or os.WIFSIGNALED(status):
            grace = LEFTOVER_GRACE_NS if os.WIFEXITED(status) else 0
            self._kill_at_ns = now_ns + grace

    def _childless(self) -> None:
        if self.gone:
            return
        now_ns = time.monotonic_ns()
        if self._stop_began_ns is not None:
            self.last_stop_ms = (now_ns - self._stop_began_ns) / NS_PER_MS
        if self._fence_began_ns is not None:
            self.last_fence_ms = (now_ns - self._fence_began_ns) / NS_PER_MS
        self._stop_began_ns = self._fence_began_ns = None
        self._kill_began_ns = self._kill_at_ns = None
        self.gone = True
        assert self.last_pid is not None
        self._notices.append(Gone(self.last_pid))
