"""The guard of one host: the production rules of the fence on a simulated clock and server.

In: requests of the agent, faults, and the passing of CLOCK_BOOTTIME. Out: the end of the server.
Invariant: a guard that is alive and not frozen ends the server within a tick of its deadline,
whatever the agent does; a guard that dies takes the server with it (PDEATHSIG).

Does not know terms' meaning, agents' reasons or any other node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from metako.guard.fence import Fence
from metako.model.postgres import ProcessState
from sim.clock import NodeClock
from sim.heap import NS_PER_MS, NS_PER_S, Entry, Heap

if TYPE_CHECKING:
    from sim.postgres.server import SimServer

TICK_ARMED_NS = 50 * NS_PER_MS
"""How late an armed guard may look at its clock after a suspend: poll() sleeps through it."""
ORPHAN_TIMEOUT_NS = 60 * NS_PER_S
IDLE_EXIT_NS = 5 * NS_PER_S
DIES = (0.02, 0.93)
"""Time from the deadline to the end of the last process, in shares of F: less than that."""
SOCKET_NS = NS_PER_MS // 5
"""From the agent's request until the guard has acted on it."""
NEVER = 2**63 - 1


class SimGuard:
    """One guard process. A new one is made when an agent starts and finds none."""

    def __init__(
        self,
        heap: Heap,
        clock: NodeClock,
        server: SimServer,
        note: Callable[[str, str], None],
        *,
        fence_margin_ms: int,
    ) -> None:
        self.alive = True
        self.frozen = False
        self.fenced = 0  # times that a deadline ended the server
        self._heap = heap
        self._clock = clock
        self._server = server
        self._margin_ns = fence_margin_ms * NS_PER_MS
        self._rng = server.env.rng(server.node, "guard")
        self._note = note
        self._fence = Fence()
        self._timer: Entry | None = None
        self._alone: Entry | None = None  # when an orphaned server is stopped, or the guard exits
        self._waiting: list[tuple[str, int, int]] = []  # requests that a frozen guard has not read

    # ------------------------------------------------------------ what others see

    @property
    def answers(self) -> bool:
        return self.alive and not self.frozen

    @property
    def armed_term(self) -> int:
        """Return the armed term; 0 when not armed or dead."""
        return self._fence.armed_term if self.alive else 0

    @property
    def deadline_boot_ns(self) -> int | None:
        return self._fence.deadline_boot_ns if self.alive else None

    @property
    def _gone(self) -> bool:
        return self._server.process is ProcessState.STOPPED

    # ------------------------------------------------------------ requests of the agent

    def request(self, what: str, term: int, deadline_boot_ns: int) -> None:
        """Take an `arm` or `disarm` a moment after the agent sent it."""
        self._heap.after(SOCKET_NS, self._receive, what, term, deadline_boot_ns)

    def _receive(self, what: str, term: int, deadline_boot_ns: int) -> None:
        if not self.alive:
            return
        if self.frozen:
            self._waiting.append((what, term, deadline_boot_ns))
            return
        refused = (
            self._fence.arm(term, deadline_boot_ns) if what == "arm" else self._fence.disarm(term)
        )
        if refused:
            self._note("guard_refused", refused)
        self.look()

    # ------------------------------------------------------------ the deadline

    def look(self) -> None:
        """Fence if the deadline has passed, else sleep until it does."""
        if not self.answers:
            return
        now = self._heap.now_ns
        if self._fence.is_due(self._clock.instant(now).boot_ns):
            term = self._fence.fire()
            self.fenced += 1
            if not self._gone:
                was = "writable" if self._server.writable else "not writable"
                self._note("fenced_by_guard", f"term {term}: the lease ended, the server was {was}")
            self._kill_server()
        self._sleep()

    def _kill_server(self) -> None:
        """SIGKILL every process. Busy ones take their time to end, which F is there to cover."""
        server = self._server
        if server.frozen or self._gone:
            server.kill()
        else:
            server.killed_epoch = server.epoch
            share = self._rng.uniform(*DIES)
            self._heap.after(round(share * self._margin_ns), self._ended, server.epoch)

    def _ended(self, epoch: int) -> None:
        if self._server.epoch == epoch:
            self._server.kill()

    def _sleep(self) -> None:
        deadline = self._fence.deadline_boot_ns
        if deadline is None:
            Heap.cancel(self._timer)
            self._timer = None
            return
        due = self._clock.true_at_boot(deadline, self._heap.now_ns)
        if due <= self._heap.now_ns:
            due = self._heap.now_ns + TICK_ARMED_NS  # passed, and `look` did not fence
        if self._timer is not None and self._timer[2] is not None:
            if self._timer[0] <= due:
                return  # it will look again in time, and sleep on
            Heap.cancel(self._timer)
        if due < NEVER:
            self._timer = self._heap.at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.look()

    def clock_changed(self) -> None:
        """The clock's rate changed, or the host woke from a suspend: the deadline may be near."""
        Heap.cancel(self._timer)
        self._timer = None
        if self.answers:
            self._heap.after(TICK_ARMED_NS, self.look)
            self._sleep()

    # ------------------------------------------------------------ the agent comes and goes

    def agent_came(self) -> None:
        Heap.cancel(self._alone)
        self._alone = None

    def agent_went(self) -> None:
        Heap.cancel(self._alone)
        delay = IDLE_EXIT_NS if self._gone else ORPHAN_TIMEOUT_NS
        self._alone = self._heap.after(delay, self._orphaned)

    def _orphaned(self) -> None:
        if not self.alive:
            return
        if self.frozen or (self._fence.armed_term and not self._gone):
            self._alone = self._heap.after(NS_PER_S, self._orphaned)
        elif self._gone:
            self._end()
        else:
            self._note("orphan_stopped", "no agent came back: PostgreSQL is stopped")
            self._server.stop(fast=True)
            self._alone = self._heap.after(IDLE_EXIT_NS, self._orphaned)

    # ------------------------------------------------------------ faults

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        """Go on: requests that waited are read before the deadline is looked at."""
        if not self.alive or not self.frozen:
            return
        self.frozen = False
        waiting, self._waiting = self._waiting, []
        for what, term, deadline in waiting:
            self._receive(what, term, deadline)
        self.look()

    def kill(self) -> None:
        """End at once; the kernel tells the postmaster to quit."""
        if self.alive:
            self._end()
            if not self._gone:
                self._server.kill()

    def power_off(self) -> None:
        """End with the host."""
        self._end()

    def _end(self) -> None:
        self.alive = False
        Heap.cancel(self._timer)
        Heap.cancel(self._alone)
        self._timer = self._alone = None
