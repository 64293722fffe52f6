"""Work beside the steps that no target asks for and nothing waits for.

On every server: the members' replication slots. On a primary: a commit once a second, whose failure
to return (or the marker's, which is the first commit) is the only proof that commits are blocked,
the checkpoint after a promotion, which makes pg_control name the new timeline for pg_rewind on
other nodes, and the function that says what roles may log in with. On a standby: deleting the
directory that a clone has replaced, once the clone streams. A failure of any of these is seen in an
observation or tried again; none is an error.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable

import trio

from metako.model.errors import MetakoError
from metako.model.postgres import PostgresObserved, ProcessState
from metako.postgres import commit, sql
from metako.postgres.execute import Executor
from metako.postgres.facts import Facts
from metako.postgres.files import ServerFiles
from metako.postgres.rolelogin import ensure_function
from metako.postgres.slots import SlotPolicy, keep_slots
from metako.postgres.steps import StepFailed

PROBE_INTERVAL_S = 1.0
PROBE_TIMEOUT_S = 2.0
CHECKPOINT_TRIES_MAX = 5
CHECKPOINT_PAUSE_S = 1.0
FUNCTION_AFTER_S = 3.0
"""From the first sight of a primary: by then clients are served, and nothing is held up."""
FUNCTION_INTERVAL_S = 60.0
SLOTS_INTERVAL_S = 5.0
SLOTS_PAUSE_S = 0.2
SLOTS_TRIES_TOLD = 5
"""A failure is reported after so many in a row; without its slot a standby cannot attach."""


class Background:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        executor: Executor,
        files: ServerFiles,
        facts: Facts,
        report: Callable[[StepFailed], None],
    ) -> None:
        self._executor = executor
        # Each time a new backend: a server that takes no connections any more is noticed by that.
        self._open = executor.sessions.fresh
        self._report = report
        self._files = files
        self._facts = facts
        self._primary = False
        self._streams = trio.Event()
        self._answers: bool | None = None  # as a standby or not; None: it takes no SQL
        self._slots_due = trio.Event()
        self._slots_wanted: frozenset[str] | None = None  # names; None: the members are not known

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe_commits)
            nursery.start_soon(self._checkpoint_promoted)
            nursery.start_soon(self._delete_superseded)
            nursery.start_soon(self._keep_slots)
            nursery.start_soon(self._keep_function)

    def observed(self, observed: PostgresObserved, *, streams: bool) -> None:
        """Take note of what the server is; `streams`: as the standby it is meant to be."""
        running = observed.process is ProcessState.RUNNING
        # Before its marker a primary is not probed: the marker itself is the first commit.
        self._primary = running and observed.in_recovery is False and observed.marker_term > 0
        if streams and self._facts.delete_superseded:
            self._streams.set()
        answers = observed.in_recovery if running else None
        if answers is not None and answers != self._answers:
            self._slots_due.set()
        self._answers = answers

    def want_slots(self, names: Iterable[str]) -> None:
        """Replace the names of the members that may stream from this server, now or one day."""
        self._slots_wanted = frozenset(names)
        self._slots_due.set()

    async def _probe_commits(self) -> None:
        while True:
            await trio.sleep(PROBE_INTERVAL_S)
            if not self._primary:
                since = self._facts.marker_since
                overdue = since is not None and trio.current_time() - since >= PROBE_TIMEOUT_S
                self._facts.commit_blocked = overdue
                continue
            try:
                await commit.commit_message(self._open, "probe", PROBE_TIMEOUT_S)
                self._facts.commit_blocked = False
            except (MetakoError, sql.SqlError):
                self._facts.commit_blocked = self._primary

    async def _checkpoint_promoted(self) -> None:
        while True:
            await self._executor.checkpoint_wanted.wait()
            self._executor.checkpoint_wanted = trio.Event()
            for _ in range(CHECKPOINT_TRIES_MAX):
                try:
                    await self._executor.checkpoint_promoted()
                    break
                except sql.SqlError:
                    await trio.sleep(CHECKPOINT_PAUSE_S)

    async def _delete_superseded(self) -> None:
        while True:
            await self._streams.wait()
            self._streams = trio.Event()
            if self._facts.delete_superseded:
                self._facts.delete_superseded = False
                with contextlib.suppress(OSError, shutil.Error):
                    await trio.to_thread.run_sync(self._files.delete_superseded)

    async def _keep_slots(self) -> None:
        policy = SlotPolicy()
        failures = 0
        while True:
            with trio.move_on_after(SLOTS_INTERVAL_S):
                await self._slots_due.wait()
            self._slots_due = trio.Event()
            wanted = self._slots_wanted
            if self._answers is None or wanted is None:
                failures = 0
                continue
            begun = trio.current_time()
            try:
                await keep_slots(self._open, policy, wanted, begun)
                failures = 0
            except (MetakoError, sql.SqlError) as error:
                failures += 1
                if failures % SLOTS_TRIES_TOLD == 0:  # not each time that the server is busy
                    lasted_ms = round((trio.current_time() - begun) * 1000)
                    self._report(StepFailed("KeepSlots", lasted_ms, " ".join(str(error).split())))
                await trio.sleep(SLOTS_PAUSE_S * min(failures, SLOTS_TRIES_TOLD))
                self._slots_due.set()

    async def _keep_function(self) -> None:
        due_at: float | None = None  # None: no primary
        told = ""
        while True:
            await trio.sleep(FUNCTION_AFTER_S)
            now = trio.current_time()
            if not self._primary:
                due_at = None
                continue
            if due_at is None:
                due_at = now + FUNCTION_AFTER_S
            if now < due_at:
                continue
            due_at = now + FUNCTION_INTERVAL_S
            try:
                superuser = self._executor.settings.superuser
                await ensure_function(self._executor.sessions.any, superuser)
                told = ""
            except (MetakoError, sql.SqlError) as error:
                text = " ".join(str(error).split())
                if text != told and self._primary:
                    lasted_ms = round((trio.current_time() - now) * 1000)
                    self._report(StepFailed("MakeRoleLogin", lasted_ms, text))
                told = text
