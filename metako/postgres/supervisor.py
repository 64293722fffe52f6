"""The supervisor: asks the planner for the next step, carries it out, looks, and asks again.

Input: targets, of which the latest wins; events of the guard. Output: a bounded channel of whole
observations (one that was not read is replaced by the next) and of step results.

One step at a time. While a step that may be abandoned runs, the server is still looked at, and
when the newest plan is no longer this step it is cancelled. A failed step is tried again after a
pause that doubles; a new target ends the pause. If the supervisor itself is cancelled, PostgreSQL
is left as it is: whoever wants it stopped sets `Stopped` first and waits for it to be observed.

Does not know why a target is wanted, nor anything of other nodes but their names.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

import trio

from metako.model.errors import DataDirectoryError, MetakoError
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
from metako.ports import PostgresReport
from metako.postgres import sql, steps
from metako.postgres.background import Background
from metako.postgres.detach import Detacher
from metako.postgres.doing import StepDoer
from metako.postgres.execute import Executor
from metako.postgres.facts import Facts
from metako.postgres.files import ServerFiles
from metako.postgres.install import Installation
from metako.postgres.observe import Observer
from metako.postgres.osuser import OsUser
from metako.postgres.plan import LocalState, is_pointless, plan
from metako.postgres.position import WalReader
from metako.postgres.process import Fenced, Guard, server_processes
from metako.postgres.proven import needs_no_look
from metako.postgres.rebuild import Rebuilder
from metako.postgres.settings import ServerSettings, render
from metako.postgres.syncnames import application_name, names_of

POLL_STEADY_S = 0.5
POLL_CHANGING_S = 0.025
CHANGING_FOR_S = 5.0
"""How long after an event, a step or a new target the server is looked at often."""
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
STARTS_HOPELESS = 5
REPORTS_MAX = 64
LOOK_BEFORE_STOP_S = 0.3  # a server that is to be stopped may be so because it does not answer
STEP_TIMEOUT_S = 25 * 3600.0
"""Beyond every deadline that the steps have themselves."""
LAST_LOG_CHARS = 300


class PostgresSupervisor:
    """Drives one server; see the module's docstring. Implements `metako.ports.PostgresPort`."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        installation: Installation,
        user: OsUser,
        guard: Guard,
        poll_interval_s: float = POLL_STEADY_S,
    ) -> None:
        self._settings = settings
        self._installation = installation
        self._guard = guard
        self._poll_interval_s = poll_interval_s
        self._facts = Facts()
        self._files = ServerFiles(settings, user)
        self._reader = WalReader(installation, user, self._files)
        self._observer = Observer(
            settings=settings,
            files=self._files,
            guard=guard,
            reader=self._reader,
            facts=self._facts,
        )
        self._executor = Executor(
            settings=settings,
            files=self._files,
            installation=installation,
            guard=guard,
            reader=self._reader,
            facts=self._facts,
        )
        self._rebuilder = Rebuilder(
            settings=settings,
            files=self._files,
            installation=installation,
            user=user,
            reader=self._reader,
            facts=self._facts,
            executor=self._executor,
        )
        detacher = Detacher(
            executor=self._executor, guard=guard, reader=self._reader, facts=self._facts
        )
        self._doer = StepDoer(self._executor, detacher, self._rebuilder, self._facts)
        self._background = Background(
            executor=self._executor, files=self._files, facts=self._facts, report=self._tell
        )
        self._members: tuple[NodeId, ...] | None = None
        self._target: PostgresTarget = Untouched()
        self._target_is_new = False  # nobody has looked or acted since it was set
        self._observed = PostgresObserved()
        self._seen_at = -math.inf  # when that was looked at or proven, if no step was begun since
        self._has_proven = False  # the step that was done last, and nobody has planned since
        self._looking: trio.CancelScope | None = None  # None while nobody looks
        self._wake = trio.Event()
        self._changing_until = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._results: deque[PostgresReport] = deque(maxlen=REPORTS_MAX)
        self._unsent: PostgresObserved | None = None
        self._something_to_send = trio.Event()
        self._send, self._receive = trio.open_memory_channel[PostgresReport](0)

    # ---------------------------------------------------------------- what the runtime calls

    @property
    def observations(self) -> trio.MemoryReceiveChannel[PostgresReport]:
        return self._receive

    @property
    def observed(self) -> PostgresObserved:
        """The newest observation."""
        return self._observed

    @property
    def log_path(self) -> str:
        """Where PostgreSQL's own log goes."""
        return str(self._files.log)

    def set_target(self, target: PostgresTarget) -> None:
        """Replace the target; takes effect at once, also on a running step."""
        if target != self._target:
            self._target, self._target_is_new = target, True
            self._failures, self._retry_at = 0, 0.0
            self.poke()
            self._limit_look()

    def set_members(self, nodes: Iterable[NodeId]) -> None:
        """Name the nodes with data: whose standbys are reported, and who has a slot here."""
        members = tuple(nodes)
        if members != self._members:  # told with every durable record
            self._members = members
            names = names_of(self._settings.secret, members)
            self._facts.members = dict(names)
            own = application_name(self._settings.secret, self._settings.node)
            self._background.want_slots(name for name in names if name != own)

    def set_settings(self, settings: ServerSettings) -> None:
        """Replace the node's own configuration. Paths, port and secret must be the same.

        What needs a restart of PostgreSQL takes effect at its next start.
        """
        fixed = ("node", "data_dir", "state_dir", "socket_dir", "port", "secret", "superuser")
        assert all(getattr(settings, f) == getattr(self._settings, f) for f in fixed), fixed
        self._settings = self._executor.settings = self._rebuilder.settings = settings
        self.poke()

    def poke(self) -> None:
        """Observe now, and often for a while."""
        with contextlib.suppress(RuntimeError):  # before trio runs there is no clock
            self._changing_until = trio.current_time() + CHANGING_FOR_S
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the server until cancelled; PostgreSQL is then left as it is.

        `task_status` is started after the first observation.

        Raises:
            DataDirectoryError: the data directory is not ours to touch. Nothing was changed.
        """
        await trio.to_thread.run_sync(self._check_data_directory)
        async with sql.open_sql_loop(), trio.open_nursery() as nursery:
            try:
                await self._look()
                task_status.started()
                nursery.start_soon(self._hear_guard)
                nursery.start_soon(self._report)
                nursery.start_soon(self._background.run)
                await self._drive()
            finally:
                self._observer.close()
                self._executor.sessions.close()

    def _check_data_directory(self) -> None:
        self._files.finish_interrupted_swap()
        self._files.check(self._installation.version_num // 10000)
        pids = server_processes(self._files.data)
        if pids and self._guard.status.gone:
            raise DataDirectoryError(
                f"a PostgreSQL that metako did not start (pid {pids[0]}) uses "
                f"{self._files.data}: stop it first"
            )
        self._files.prepare()

    # ---------------------------------------------------------------- the loop

    def _plan(self) -> steps.Step | None:
        return plan(self._observed, self._target, self._local())

    def _local(self) -> LocalState:
        facts = self._facts
        stale = False
        if facts.written is not None and self._observed.process is ProcessState.RUNNING:
            digest = render(self._settings, facts.written, facts.floors or ()).digest
            stale = digest != facts.written_digest or not facts.verified
        return LocalState(
            upstream=facts.written.upstream if facts.written is not None else None,
            wal_lost=facts.wal_lost,
            start_hopeless=facts.failed_starts >= STARTS_HOPELESS,
            settings_stale=stale,
        )

    async def _drive(self) -> None:
        while True:
            step = self._step_at_once()
            if step is None:
                await self._look()
                step = self._plan()
            pause = self._retry_at - trio.current_time()
            if step is not None and pause <= 0:
                self._target_is_new = False  # also one that was set while we looked
                await self._carry_out(step)
            else:
                interval = self._interval()
                await self._sleep(interval if step is None else min(pause, interval))

    def _step_at_once(self) -> steps.Step | None:
        """Return what a new target, or what a step has just proven, asks for; None: look first."""
        due = self._target_is_new or self._has_proven
        self._target_is_new = self._has_proven = False
        if not due or self._observed.process is not ProcessState.RUNNING:
            return None
        step = self._plan()
        age_s = trio.current_time() - self._seen_at
        return step if needs_no_look(step, self._observed, age_s) else None

    def _interval(self) -> float:
        if trio.current_time() < self._changing_until:
            return POLL_CHANGING_S
        return self._poll_interval_s

    async def _sleep(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._wake.wait()
        self._wake = trio.Event()

    async def _look(self) -> None:
        """Look; if that takes long and the server is to be stopped, note that it says nothing."""
        before = self._observed
        target = self._target
        try:
            with trio.CancelScope() as self._looking:
                self._limit_look()
                observed = await self._observer.observe()
            if self._looking.cancelled_caught:
                self._observed = self._unsent = replace(before, silent=True)
                self._something_to_send.set()
                return
        finally:
            self._looking = None
        self._observed = replace(observed, under=target)
        self._seen_at, self._has_proven = trio.current_time(), False
        if self._observed.process is not before.process:
            self._changing_until = trio.current_time() + CHANGING_FOR_S
        self._note_failed_start(before)
        streams = self._observed.receiver is ReceiverState.STREAMING
        self._background.observed(
            self._observed, streams=streams and isinstance(self._target, Following)
        )
        self._unsent = self._observed
        self._something_to_send.set()

    def _limit_look(self) -> None:
        """Do not let a look hold up the stop of a server that runs; all else needs a picture."""
        runs = self._observed.process is ProcessState.RUNNING
        if self._looking is not None and runs and isinstance(self._target, Stopped):
            until = trio.current_time() + LOOK_BEFORE_STOP_S
            self._looking.deadline = min(self._looking.deadline, until)

    def _note_failed_start(self, before: PostgresObserved) -> None:
        """Report a server that ended before it ever answered, and pause before the next try."""
        ended = (
            before.process is ProcessState.STARTING
            and self._observed.process in (ProcessState.STOPPED, ProcessState.DYING)
            and self._facts.failed_starts
            and not self._facts.stop_asked
        )
        if ended:
            log = self._files.log_since(self._facts.log_offset)
            told = [line for line in log.splitlines() if "FATAL" in line or "PANIC" in line]
            text = " ".join((told or ["PostgreSQL ended while it was starting"])[-1].split())
            self._failed("Start", 0, text[:LAST_LOG_CHARS])

    def _failed(self, name: str, duration_ms: int, error: str) -> None:
        pause = min(BACKOFF_FIRST_S * 2**self._failures, BACKOFF_MAX_S)
        self._failures = min(self._failures + 1, 16)
        self._retry_at = trio.current_time() + pause
        self._tell(steps.StepFailed(name, duration_ms, error))

    def _tell(self, result: steps.StepFailed | steps.StepFinished) -> None:
        self._results.append(result)
        self._something_to_send.set()

    async def _carry_out(self, step: steps.Step) -> None:
        name = steps.step_name(step)
        begun = trio.current_time()
        self.poke()
        self._wake, self._seen_at = trio.Event(), -math.inf
        error, cancelled = "", False
        try:
            with trio.fail_after(STEP_TIMEOUT_S):
                if name in steps.CANCELLABLE:
                    cancelled = await self._watched(step)
                else:
                    await self._doer.do(step)
        except (MetakoError, sql.SqlError, OSError, trio.TooSlowError) as failure:
            error = " ".join(str(failure).split()) or type(failure).__name__
        duration_ms = round((trio.current_time() - begun) * 1000)
        self.poke()
        if error:
            self._failed(name, duration_ms, error)
        elif not cancelled:
            if name != "Start":  # whether a start succeeded is seen later
                self._failures, self._retry_at = 0, 0.0
            self._tell(steps.StepFinished(name, duration_ms))
            # What it was done for waits for no look: a new primary serves that much sooner.
            if (amended := await self._observer.amended(self._observed)) != self._observed:
                self._observed = self._unsent = amended
                self._seen_at, self._has_proven = trio.current_time(), True
                self._something_to_send.set()

    async def _watched(self, step: steps.Step) -> bool:
        """Carry out a step that is abandoned when it is no longer the plan; True if it was."""
        outcome: list[Exception] = []
        done = False
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                nonlocal done
                try:
                    await self._doer.do(step)
                    done = True
                except (MetakoError, sql.SqlError, OSError) as failure:
                    outcome.append(failure)
                nursery.cancel_scope.cancel()

            nursery.start_soon(work)
            while True:
                await self._sleep(self._interval())
                await self._look()
                if is_pointless(step, self._observed, self._target, self._local()):
                    nursery.cancel_scope.cancel()
        if outcome:
            raise outcome[0]
        return not done

    # ---------------------------------------------------------------- beside the loop

    async def _hear_guard(self) -> None:
        async for event in self._guard.events():
            if isinstance(event, Fenced):
                why = f"term {event.term}: {event.reason}"
                self._results.append(steps.StepFailed("Fence", 0, why))
            self.poke()

    async def _report(self) -> None:
        """Hand out reports; a reader that is slow gets the newest observation only."""
        while True:
            await self._something_to_send.wait()
            self._something_to_send = trio.Event()
            while self._results:
                await self._send.send(self._results.popleft())
            if self._unsent is not None:
                newest, self._unsent = self._unsent, None
                await self._send.send(newest)
