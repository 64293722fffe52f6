"""The model of `metako.postgres.supervisor`: production's planner, one step at a time.

In: targets, of which the latest wins; exits of the postmaster. Out: observations, each time that
they change, and how steps ended. It polls as production does, often for a while after anything
happened and rarely otherwise, and plans again only if something is different.

It is the agent's: a pause stops it and a kill ends it, together with the programs that it runs;
what was done to the server by then stays done. A new one adopts what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from metako.model.ids import NodeId
from metako.model.postgres import (
    Following,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    ReceiverState,
    Stopped,
    Untouched,
)
from metako.postgres import steps
from metako.postgres.facts import Facts
from metako.postgres.plan import LocalState, is_pointless, plan
from metako.postgres.steps import Step, step_name
from sim.clock import NEVER
from sim.heap import NS_PER_MS, NS_PER_S, Heap
from sim.postgres.leading import Leading
from sim.postgres.observe import Observer, member_map
from sim.postgres.rebuild import Rebuilder
from sim.postgres.server import SimServer
from sim.postgres.steps import WAIT_POLL_NS, Executor
from sim.postgres.task import Steps, Task
from sim.postgres.upkeep import SlotKeeper, slot_of

if TYPE_CHECKING:
    from sim.ports import Environment

POLL_STEADY_NS = 500 * NS_PER_MS
POLL_CHANGING_NS = 25 * NS_PER_MS
CHANGING_FOR_NS = 5 * NS_PER_S
LOOK_BEFORE_STOP_NS = 300 * NS_PER_MS
BACKOFF_FIRST_NS = 100 * NS_PER_MS
BACKOFF_MAX_NS = 5 * NS_PER_S
STARTS_HOPELESS = 5
STATEMENT_NS = 2 * NS_PER_S
"""After so long a statement of an observation is given up."""

Seen = tuple[int, bool, bool, int]
"""Version of the server, whether the guard answers, whether it is gone, and moves of the server."""

OnStep = Callable[[Step, int, bool, str], None]


class SimSupervisor:
    """Drives one server; see the module's docstring."""

    def __init__(
        self,
        env: Environment,
        server: SimServer,
        report: Callable[[PostgresObserved], None],
        *,
        on_step: OnStep,
    ) -> None:
        self.env = env
        self.server = server
        self.heap: Heap = env.heap
        self.alive = True
        self.paused = False
        self.observed = PostgresObserved()
        self.target: PostgresTarget = Untouched()
        self.step: Step | None = None  # that is being carried out
        self._report = report
        self._on_step = on_step
        self._members: list[NodeId] = []
        self._facts = Facts(members=member_map([server.node]))
        self._observer = Observer(server, self._facts)
        self._executor = Executor(server, self._facts, self._observer)
        self._rebuilder = Rebuilder(self._executor)
        self._leading = Leading(self._executor, lambda: not self.alive)
        self._slots = SlotKeeper(self._executor)
        server.primary_slot = slot_of(server.node)
        self._changing_until = self.heap.now_ns + CHANGING_FOR_NS
        self._failures = 0
        self._retry_at = 0
        self._look_until = NEVER  # a look that waits is given up then
        self._seen: Seen | None = None  # what `observed` shows; None: look again
        self._planned: tuple[object, object, object] | None = None  # what it was made from last
        self._plan_was: Step | None = None
        self._work: Task | None = None  # a step that may be abandoned
        self._probe: Task | None = None
        self._checkpoint: Task | None = None
        self._upkeep: Task | None = None
        self._main = Task(self, self._drive())
        server.watcher = self.poke
        self.heap.after(0, self._main.start)

    # ------------------------------------------------------------ what the agent calls

    def set_target(self, target: PostgresTarget) -> None:
        """Replace the target; takes effect at once, also on a running step."""
        if target != self.target:
            self.target = target
            self._seen = None
            self._failures, self._retry_at = 0, 0
            self.poke()
            self._limit_look()

    def set_members(self, nodes: Iterable[NodeId]) -> None:
        """Name the nodes with data: whose standbys are reported, and who has a slot here."""
        members = sorted(nodes)
        if members == self._members:  # told with every durable record
            return
        self._members = members
        self._facts.members = member_map(members)
        self._seen = None
        if self._slots.want(members):
            self._keep_slots()

    def poke(self) -> None:
        """Observe now, and often for a while."""
        self._changing_until = self.heap.now_ns + CHANGING_FOR_NS
        self._main.wake()

    def pause(self) -> None:
        """SIGSTOP of the agent; programs that it has started go on."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        for task in self._tasks():
            task.resume()

    def kill(self) -> None:
        """SIGKILL of the agent: nothing is cleaned up, its programs die with it."""
        self.alive = False
        if self.server.watcher == self.poke:
            self.server.watcher = None
        if self._rebuilder.program is not None:
            self._rebuilder.program.end()
        for task in self._tasks():
            task.cancel()

    def _tasks(self) -> list[Task]:
        tasks = (self._work, self._probe, self._checkpoint, self._upkeep, self._main)
        return [task for task in tasks if task is not None]

    # ------------------------------------------------------------ the loop

    def _drive(self) -> Steps:
        while True:
            yield from self._look()
            step = self._plan()
            now = self.heap.now_ns
            if step is None:
                yield self._interval()
            elif self._retry_at > now:
                yield min(self._retry_at - now, self._interval())
            else:
                yield from self._carry_out(step)

    def _interval(self) -> int:
        return POLL_CHANGING_NS if self.heap.now_ns < self._changing_until else POLL_STEADY_NS

    def _plan(self) -> Step | None:
        facts = self._facts
        local = (facts.written, facts.wal_lost, facts.failed_starts, facts.verified)
        made_from = (self.observed, self.target, local)
        if made_from != self._planned:
            self._plan_was = plan(self.observed, self.target, self._local())
            self._planned = made_from
        return self._plan_was

    def _local(self) -> LocalState:
        facts = self._facts
        written = facts.written
        runs = self.observed.process is ProcessState.RUNNING
        return LocalState(
            upstream=written.upstream if written is not None else None,
            wal_lost=facts.wal_lost,
            start_hopeless=facts.failed_starts >= STARTS_HOPELESS,
            settings_stale=written is not None and runs and not facts.verified,
        )

    def _state(self) -> Seen:
        server = self.server
        guard = server.guard
        return server.version, guard.answers, guard.lost, server.moves

    def _look(self) -> Steps:
        timed_out = False
        self._look_until = NEVER
        self._limit_look()
        shown = self._state()
        if shown == self._seen and self.step is None and not self.server.silent:
            return
        if self._observer.would_wait():
            deadline = self.heap.now_ns + STATEMENT_NS
            while self._observer.would_wait() and not timed_out:
                yield WAIT_POLL_NS
                if self._work is not None and self._work.over:
                    return  # whoever looked only watched the step
                if self.heap.now_ns >= self._look_until:  # the server is to be stopped
                    self.observed = replace(self.observed, silent=True)
                    self._report(self.observed)
                    return
                timed_out = self.heap.now_ns >= deadline
            shown = self._state()
        elif shown == self._seen and self.step is None:
            return
        before, seen = self.observed, self._seen
        self._seen = None if timed_out else shown
        if not timed_out and seen is not None and seen[:-1] == shown[:-1]:
            moved = self._observer.look_again(before)
            if moved is not None:
                if moved is not before:
                    self._moved(moved)
                return
        now = self._observer.look(self.target, timed_out=timed_out)
        if now == before:
            return
        self.observed = now
        if now.process is not before.process:
            self._changing_until = self.heap.now_ns + CHANGING_FOR_NS
        self._note_failed_start(before)
        self._in_background()
        self._report(now)

    def _limit_look(self) -> None:
        """Do not let a look hold up the stop of a server that was seen running."""
        if self.observed.process is ProcessState.RUNNING and isinstance(self.target, Stopped):
            until = self.heap.now_ns + LOOK_BEFORE_STOP_NS
            self._look_until = min(self._look_until, until)

    def _moved(self, now: PostgresObserved) -> None:
        """Report a standby that has only got more WAL, by which nothing is planned."""
        before, self.observed = self.observed, now
        planned = self._planned
        if planned is not None and planned[0] is before:
            self._planned = (now, *planned[1:])
        self._report(now)

    def _note_failed_start(self, before: PostgresObserved) -> None:
        """Report a server that ended before it ever answered, and pause before the next try."""
        ended = (ProcessState.STOPPED, ProcessState.DYING)
        starting = before.process is ProcessState.STARTING
        facts, written = self._facts, self._facts.written
        by_itself = self.observed.process in ended and not facts.stop_asked
        if starting and by_itself and facts.failed_starts:
            assert written is not None
            now = self.heap.now_ns
            self._failed(steps.Start(written), now, "PostgreSQL ended while it was starting")

    def _failed(self, step: Step, begun_ns: int, error: str) -> None:
        pause = min(BACKOFF_FIRST_NS * 2**self._failures, BACKOFF_MAX_NS)
        self._failures = min(self._failures + 1, 16)
        self._retry_at = self.heap.now_ns + pause
        self._on_step(step, begun_ns, False, error)

    # ------------------------------------------------------------ steps

    def _carry_out(self, step: Step) -> Steps:
        name, begun = step_name(step), self.heap.now_ns
        self.step = step
        self._changing_until = begun + CHANGING_FOR_NS
        work = self._work = Task(self, self._do(step), self._ended)
        work.start()
        abandoned = False
        while not work.over:
            if name not in steps.CANCELLABLE:
                yield POLL_STEADY_NS  # woken by its end
                continue
            yield self._interval()
            if work.over:
                break
            yield from self._look()
            if not work.over and is_pointless(step, self.observed, self.target, self._local()):
                work.cancel()
                abandoned = True
        self.step = self._work = None
        self._seen = None
        self._changing_until = self.heap.now_ns + CHANGING_FOR_NS
        if work.error is not None:
            self._failed(step, begun, " ".join(str(work.error).split()))
        elif not abandoned:
            if name != "Start":  # whether a start succeeded is seen later
                self._failures, self._retry_at = 0, 0
            self._on_step(step, begun, True, "")

    def _ended(self, _task: Task) -> None:
        self._main.wake()

    def _do(self, step: Step) -> Steps:
        execute, rebuild, leading = self._executor, self._rebuilder, self._leading
        match step:
            case steps.InitDb():
                return rebuild.initdb()
            case steps.Clone(upstream=clone_from):
                return rebuild.clone(clone_from)
            case steps.Rewind(upstream=rewind_to):
                return rebuild.rewind(rewind_to)
            case steps.Start(config=config):
                return execute.start(config)
            case steps.Stop(fast=fast, successor=successor, restart=order):
                return execute.stop(fast, successor, order)
            case steps.ApplySettings(config=config):
                return execute.apply_settings(config)
            case steps.Detach(promise=promise, prepared=prepared):
                return execute.detach(promise, prepared)
            case steps.MeasurePosition(promise=promise):
                return execute.measure(promise)
            case steps.Promote(term=term, tli=tli):
                return execute.promote(term, tli)
            case steps.EmitMarker(term=term):
                return leading.emit_marker(term, self._blocked)
            case steps.SyncBarrier(setting=setting):
                return leading.pass_barrier(setting)
            case steps.Checkpoint(handover=handover):
                return leading.checkpoint_for(handover)
            case _:
                assert_never(step)

    # ------------------------------------------------------------ beside the loop

    def _leads(self) -> bool:
        # Before its marker a primary is not probed: the marker itself is the first commit.
        seen = self.observed
        running = seen.process is ProcessState.RUNNING
        return running and seen.in_recovery is False and seen.marker_term > 0

    def _in_background(self) -> None:
        seen, facts = self.observed, self._facts
        if self._leads() and (self._probe is None or self._probe.over):
            self._probe = self._begin(self._leading.probe(self._leads, self._blocked))
        if self._executor.checkpoint_wanted:
            self._executor.checkpoint_wanted = False
            self._checkpoint = self._begin(self._leading.checkpoint())
        answers = seen.in_recovery if seen.process is ProcessState.RUNNING else None
        if self._slots.observed(answers):
            self._keep_slots()
        streams = seen.receiver is ReceiverState.STREAMING and isinstance(self.target, Following)
        if streams and facts.delete_superseded:
            facts.delete_superseded = False
            self.server.superseded.clear()

    def _keep_slots(self) -> None:
        if self._upkeep is None:
            self._upkeep = self._begin(self._slots.work())
        else:
            self._upkeep.wake()

    def _begin(self, body: Steps) -> Task:
        task = Task(self, body)
        self.heap.after(0, task.start)
        return task

    def _blocked(self, blocked: bool) -> None:
        if self._facts.commit_blocked != blocked:
            self._facts.commit_blocked = blocked
            self._seen = None
