"""The processes of one host: agent, guard, PostgreSQL with its supervisor, proxy workers.

In: what the agent wants done. Out: messages to the network, requests to the guard, targets to the
supervisor, tables to the proxy, facts to the watchers. Invariant: what belongs to an agent that has
ended is never carried out.

Decides nothing that production decides, and knows no faults: `sim.node` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metako.cluster.engine import Engine, blank_hard_state, next_boot
from metako.cluster.ready import Ready
from metako.election.wants import GuardDeadline
from metako.model.durable import HardState
from metako.model.errors import StateError
from metako.model.ids import NodeId, RecordId, Term
from metako.model.postgres import DataState, PostgresObserved, ProcessState
from metako.model.routing import RoutingTable
from sim.agent import SimAgent
from sim.clock import NodeClock
from sim.disk import SimDisk
from sim.guard import SimGuard
from sim.heap import NS_PER_MS, NS_PER_S, Heap
from sim.postgres.server import SimServer
from sim.postgres.supervisor import SimSupervisor
from sim.proxy import SimProxy
from sim.record import CorruptRecord, SimRecordStore
from sim.standing import record_named

if TYPE_CHECKING:
    from sim.world import World

AGENT_START_MS = (250, 500)
"""From exec to the first step of the engine: imports, checks, the record."""
GUARD_LOST_GRACE_NS = NS_PER_S // 2
GUARD_ANSWER_NS = 2 * NS_PER_S
"""After so long without an answer the agent ends a guard that is stopped."""
WORKER_TABLE_NS = NS_PER_MS // 2
WITNESS = PostgresObserved(data=DataState.NONE, process=ProcessState.STOPPED)


class GuardSeat:
    """The guard that is there at the moment, behind one name for the server."""

    def __init__(self) -> None:
        self.guard: SimGuard | None = None

    @property
    def armed_term(self) -> int:
        return self.guard.armed_term if self.guard is not None else 0

    @property
    def answers(self) -> bool:
        return self.guard is not None and self.guard.answers

    @property
    def lost(self) -> bool:
        """Return whether there is no guard, as opposed to one that is stopped."""
        return self.guard is None or not self.guard.alive


class Processes:
    """See the module's docstring. `agent`, `supervisor` and `proxy` are None while down."""

    def __init__(self, world: World, name: NodeId, clock: NodeClock) -> None:
        self.name = name
        self.world = world
        self.clock = clock
        self.heap: Heap = world.heap
        self.witness = name in world.witnesses
        self.disk = SimDisk(world.heap, world.rng(name, "disk"))
        self.disk.on_torn = self._torn
        self.seat = GuardSeat()
        self.server = SimServer(world, name, self.seat)
        self.agent: SimAgent | None = None
        self.supervisor: SimSupervisor | None = None
        self.proxy: SimProxy | None = None
        self.store: SimRecordStore | None = None
        self.boots = 0  # starts of the agent so far
        self.records = 0  # durable records that were made so far
        self.host_up = True
        self.suspended = False
        self.hidden = False  # the pause under way is one that no clock shows
        self.starting = False
        self.stopped = False  # left on purpose
        self.orders = 0  # that operators gave to its agents
        self.excused_until_ns = 0  # "one writable" does not hold before: a pause nobody could see
        self.lost = False  # its record is gone: it must count in no quorum until it is re-admitted
        self.invited = False  # an operator has ordered that it be taken in, as it is then
        self.wiped = False  # its record was lost or rolled back by a fault: promises are off
        self.void: set[RecordId] = set()  # of records that a fault has taken or rolled back
        self.lease: tuple[Term, int] | None = None  # (term, CLOCK_BOOTTIME) as last told the guard
        self.lease_end_ns = 0  # virtual time at which that lease ends or was given up
        self.was_hidden = False  # a pause that no clock shows has happened here
        self.hard: HardState | None = None  # newest durable record
        self.unsure: HardState | None = None  # its write failed, and it may be on the disk
        self.routing: RoutingTable | None = None  # newest table of the running agent
        self.slow_factor_ns = 0  # time that a step of a starved agent takes
        self.burnt_ns = 0  # time that it waits for a core on a host that is kept busy
        self._incarnation = 0  # of the agent's process, so that what was scheduled for one is dead

    # ------------------------------------------------------------ what others see

    @property
    def step_ns(self) -> int:
        """Return the time that a step of the agent takes for want of CPU."""
        return max(self.slow_factor_ns, self.burnt_ns)

    @property
    def guard(self) -> SimGuard | None:
        return self.seat.guard

    @property
    def agent_up(self) -> bool:
        return self.agent is not None and self.agent.alive

    @property
    def engine(self) -> Engine | None:
        return self.agent.engine if self.agent is not None and self.agent.alive else None

    @property
    def taken_in_again(self) -> bool:
        """Return whether an operator has ordered that, and a document says so of its new record."""
        hard = self.hard
        if not self.invited or hard is None or hard.document is None:
            return False
        named = record_named(hard.document, self.name)
        return hard.record_id == named and hard.record_id not in self.void

    @property
    def forgetful(self) -> bool:
        """Return whether it may have promised what it knows nothing of any more."""
        return self.wiped and not self.taken_in_again

    def leads(self, now_ns: int) -> bool:
        """Return whether this node holds a lease now, by its own clock."""
        return self.lease is not None and self.clock.instant(now_ns).boot_ns < self.lease[1]

    def _torn(self) -> None:
        """Lose power in the middle of a write; overridden by the node."""

    # ------------------------------------------------------------ starting

    def start(self) -> bool:
        """Power on and start the agent, if it does not run; return whether there was to do."""
        if self.suspended or self.agent_up or self.starting:
            return False
        self.host_up = True
        self.starting = True
        self.stopped = False
        self._incarnation += 1
        delay = self.world.rng(self.name, "start").uniform(*AGENT_START_MS) * NS_PER_MS
        self.heap.after(round(delay), self._boot, self._incarnation)
        self.world.watch.node_changed(self)
        return True

    def _boot(self, incarnation: int) -> None:
        if incarnation != self._incarnation:
            return
        store = SimRecordStore(self.heap, self.disk, self.name)
        try:
            loaded = store.load()
        except StateError as error:
            self.starting = False
            self.world.note(self.name, "agent_refused_to_start", str(error))
            return
        if isinstance(loaded.record, CorruptRecord):
            self.starting = False
            self.world.note(self.name, "record_corrupt", loaded.record.detail)
            return
        if loaded.note:
            self.world.note(self.name, "older_slot_used", loaded.note)
        if loaded.record is None:
            self.records += 1
            identity = RecordId(f"{self.name}.{self.records}")
            epoch = self.clock.wall_ms(self.heap.now_ns) // 1000
            hard = blank_hard_state(self.name, epoch, identity)
        else:
            hard = next_boot(loaded.record)
        self.store = store

        def persisted(error: Exception | None) -> None:
            if incarnation != self._incarnation:
                return
            self.starting = False
            if error is not None:
                self.world.note(self.name, "agent_refused_to_start", str(error))
                return
            self._run(hard)

        store.persist(hard, persisted)

    def _run(self, hard: HardState) -> None:
        world, now = self.world, self.heap.now_ns
        self.boots += 1
        self.lease = None
        armed = None if self.witness else self._open_guard()
        engine = Engine(
            settings=world.settings_of(self.name),
            hard=hard,
            rng=world.rng(self.name, f"{self.boots}/engine"),
            now=self.clock.instant(now),
            armed=armed,
        )
        world.watch.booted(self, self.hard, hard)
        self.hard, self.unsure = hard, None
        agent = self.agent = SimAgent(self.heap, self.clock, self, engine, hard.boot_epoch)
        agent.step_ns = self.step_ns
        if not self.witness:
            self.supervisor = SimSupervisor(
                world, self.server, agent.give, on_step=self._step_ended
            )
            if hard.document is not None:
                self.supervisor.set_members(hard.document.data_members())
        if self.proxy is None or not self.proxy.alive:
            self._open_proxy()
        elif self.proxy is not None:
            self.proxy.agent_came()
        world.watch.node_changed(self)
        if str(engine.role) == "leader":
            world.note(self.name, "leadership_resumed")
        agent.begin()
        if self.witness:
            agent.give(WITNESS)

    def _open_proxy(self) -> None:
        self.proxy = SimProxy(self.world, self)
        self.proxy.agent_came()
        if self.routing is not None:
            self.proxy.receive(self.routing)

    def _new_guard(self) -> SimGuard:
        margin_ms = self.world.election.fence_margin_ms
        return SimGuard(self.heap, self.clock, self.server, self._note, fence_margin_ms=margin_ms)

    def _open_guard(self) -> GuardDeadline | None:
        """Adopt the guard that is there or start one; return what an earlier agent armed."""
        guard = self.guard
        if guard is None or not guard.alive:
            self.seat.guard = self._new_guard()
            return None
        guard.agent_came()
        if guard.frozen:
            # It does not answer: the agent ends it before it goes on.
            guard.kill()
            self.seat.guard = self._new_guard()
            return None
        if not guard.armed_term:
            return None
        return GuardDeadline(Term(guard.armed_term), guard.deadline_boot_ns)

    def _note(self, mark: str, text: str) -> None:
        self.world.note(self.name, mark, text)

    def _step_ended(self, step: object, begin_ns: int, ok: bool, error: str) -> None:
        self.world.watch.step_ended(self, step, begin_ns, ok, error)

    # ------------------------------------------------------------ the agent's wishes

    def persist(self, agent: SimAgent, hard: HardState) -> None:
        assert self.store is not None
        before = self.hard

        def done(error: Exception | None) -> None:
            if self.agent is not agent or not agent.alive:
                if error is None:
                    self.hard = hard  # it is on the disk, whoever asked for it
                return
            if error is not None:
                self.unsure = hard
                self._fence_and_end(str(error))
                return
            self.hard = hard
            self.world.watch.persisted(self, before, hard)
            if hard.document is not None and self.supervisor is not None:
                self.supervisor.set_members(hard.document.data_members())
            agent.persisted()

        self.store.persist(hard, done)

    def carry_out(self, agent: SimAgent, ready: Ready) -> None:
        world = self.world
        _, messages, deadline, target, routing, events, answers, stopped = ready
        for message in messages:
            world.send(self, agent, message)
        if deadline is not None:
            self._arm(deadline)
        if target is not None and self.supervisor is not None:
            self.supervisor.set_target(target)
        if routing is not None and self.proxy is not None:
            self.routing = routing
            world.watch.routed(self, routing)
            self.heap.after(WORKER_TABLE_NS, self.proxy.receive, routing)
        if events:
            world.watch.happened(self, events)
        if answers:
            world.watch.answered(self, answers)
        world.watch.stepped(self)
        if stopped:
            self.stopped = True
            self._end_agent()
            guard = self.guard
            if guard is not None and self.server.process is ProcessState.STOPPED:
                guard.power_off()
            if self.proxy is not None:
                self.proxy.kill()
            self.world.watch.node_changed(self)

    def _arm(self, wish: GuardDeadline) -> None:
        now = self.heap.now_ns
        if wish.deadline_boot_ns is None:
            self.lease, self.lease_end_ns = None, now
        else:
            until = wish.deadline_boot_ns + self.world.election.fence_margin_ms * NS_PER_MS
            self.lease = (wish.term, until)
            self.lease_end_ns = now + until - self.clock.instant(now).boot_ns
        guard = self.guard
        if guard is None or not guard.alive:
            return
        if guard.frozen:
            self.heap.after(GUARD_ANSWER_NS, self._guard_silent, guard)
        what = "disarm" if wish.deadline_boot_ns is None else "arm"
        guard.request(what, wish.term, wish.deadline_boot_ns or 0)

    def _guard_silent(self, guard: SimGuard) -> None:
        """The guard has not answered for a whole request: end it, and PostgreSQL with it."""
        if self.guard is guard and guard.alive and guard.frozen and self._agent_runs():
            self.world.note(self.name, "silent_guard_ended")
            self.guard_silent()

    def guard_silent(self) -> None:
        """End a guard that does not answer; overridden by the node, which knows what follows."""
        raise NotImplementedError

    def _agent_runs(self) -> bool:
        return self.agent is not None and self.agent.alive and not self.agent.paused

    def engine_failed(self, agent: SimAgent, error: Exception) -> None:
        self.world.watch.engine_failed(self, error)

    def _fence_and_end(self, why: str) -> None:
        """The record cannot be written: PostgreSQL is killed, the agent ends (exit status 20)."""
        self.world.note(self.name, "record_unwritable", why)
        self._end_agent()
        if self.guard is not None:
            self.guard.kill()
        self.server.kill()
        if self.proxy is not None:
            self.proxy.kill()
        self.world.watch.node_changed(self)

    def _end_agent(self) -> None:
        self._incarnation += 1
        self.starting = False
        if self.agent is not None:
            self.agent.kill()
        if self.supervisor is not None:
            self.supervisor.kill()
        self.agent = self.supervisor = self.routing = None
        self.store = None
        if self.guard is not None and self.guard.alive:
            self.guard.agent_went()
        if self.proxy is not None:
            self.proxy.agent_went()
