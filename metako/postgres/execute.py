"""Carry out steps on a server that runs or is to run: start, stop, settings, promote, checkpoint.

Each method does one step and returns when it is done; a failure is an exception with one line of
text. What a step has found out goes into `Facts`, where the next observation picks it up.

Invariants: `standby.signal` is on disk and fsynced before every start and right after a promotion;
the settings file is durable before PostgreSQL is told of it; what settings are in force is said by
a fresh backend only.

Does not decide anything: see `metako.postgres.plan`.
"""

from __future__ import annotations

import contextlib
import os
import signal

import trio

from metako.model.errors import MetakoError
from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import parse_lsn
from metako.postgres import sql
from metako.postgres.children import sender_processes
from metako.postgres.drain import wait_short_transactions
from metako.postgres.facts import Facts
from metako.postgres.files import ServerFiles
from metako.postgres.history import may_have_gone_over, missing_histories
from metako.postgres.install import Installation
from metako.postgres.position import WalReader
from metako.postgres.process import Guard, GuardRefusedError, ServerNotGoneError
from metako.postgres.sessions import Sessions
from metako.postgres.settings import ServerSettings, render, render_ident
from metako.postgres.steps import ServerConfig

RELOAD_TIMEOUT_S = 5.0
POLL_S = 0.004
STOP_FAST_TIMEOUT_S = 60.0
STOP_SENDERS_AFTER_S = 0.5
"""Standbys in order confirm a shutdown checkpoint within milliseconds; the others are paused."""
QUIT_GRACE_S = 1.0
ARMED_WITHIN_S = 0.5
"""The guard and this are asked for at the same time; a failed step would pause."""
PROMOTE_TIMEOUT_S = 30.0
PROMOTE_POLL_S = 0.001
CLIENTS_END_TIMEOUT_S = 1.0
CHECKPOINT_TIMEOUT_S = 600.0
CHECKPOINT_SPARED_BYTES = 4 << 20
"""Of WAL since the last one began. A page that is changed for the first time since then is in the
WAL as a whole, so about as much is left to write; a checkpoint takes longer than that."""

_PROMOTED = """
select case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_insert_lsn()) end
"""
_SINCE_CHECKPOINT = """
select pg_wal_lsn_diff(e.lsn, c.redo_lsn)::int8, e.lsn::text
from pg_control_checkpoint() c, pg_current_wal_insert_lsn() e(lsn)
"""
_END_CLIENTS = """
select count(pg_terminate_backend(pid)),
       exists (select from pg_stat_get_activity(null) where backend_type = 'walreceiver')
from pg_stat_get_activity(null)
where backend_type = 'client backend' and pid <> pg_backend_pid()
  and not (usesysid = (select oid from pg_roles where rolname = current_user)
           and application_name = 'metako agent')
"""


class StepError(MetakoError):
    """The step did not succeed; it may have been done in part and can be tried again."""


class Executor:
    """See the module's docstring. Not for use by two tasks at a time."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        files: ServerFiles,
        installation: Installation,
        guard: Guard,
        reader: WalReader,
        facts: Facts,
    ) -> None:
        self.settings = settings
        self._files = files
        self._installation = installation
        self._guard = guard
        self._reader = reader
        self._facts = facts
        self.sessions = Sessions(settings=lambda: self.settings, files=files, guard=guard)
        self.checkpoint_wanted = trio.Event()  # set by a promotion; replaced by its reader

    # ---------------------------------------------------------------- settings

    async def write_settings(self, config: ServerConfig) -> str:
        """Make the settings of a role durable, to be loaded; return their digest."""
        facts = self._facts
        rendered = render(self.settings, config, facts.floors or ())
        if config.upstream is not None:
            facts.forget_position()
        if facts.written is None or facts.written.upstream != config.upstream:
            facts.wal_lost = False
            facts.log_offset = self._files.log_size()
        facts.verified = False
        facts.written, facts.written_digest = config, rendered.digest
        if facts.barrier != config.sync:
            facts.barrier = None
        await trio.to_thread.run_sync(self._files.write_settings, rendered)
        return rendered.digest

    async def apply_settings(self, config: ServerConfig) -> None:
        """Write, reload, verify in a fresh backend.

        Raises:
            StepError: the server did not load the files in time, or refuses a line of them.
        """
        digest = await self.write_settings(config)
        await self._guard.signal(signal.SIGHUP)
        if not self._facts.was_up:
            return  # it takes no connections yet; the first one will verify
        await self._verify(digest)

    async def _verify(self, digest: str) -> None:
        shown: object = None
        with trio.move_on_after(RELOAD_TIMEOUT_S):
            while True:
                async with self.sessions.fresh() as fresh:
                    row = await fresh.row(
                        "select current_setting('metako.settings', true), (select string_agg("
                        "line_number || ': ' || error, '; ') from pg_hba_file_rules "
                        "where error is not null)"
                    )
                shown, wrong = row
                if wrong is not None:
                    raise StepError(f"pg_hba.conf is not accepted by PostgreSQL: {wrong}")
                if shown == digest:
                    self._facts.verified = True
                    return
                await trio.sleep(POLL_S)
        raise StepError(f"PostgreSQL has not loaded {self._files.conf} (it shows {shown})")

    def unprotected(self, config: ServerConfig) -> ServerConfig | None:
        """Return the settings of a primary whose commits begin to wait only with `config`."""
        facts = self._facts
        written = facts.written
        if written is None or facts.last_in_recovery is not False:
            return None
        return written if written.sync.k == 0 and config.sync.k > 0 else None

    # ---------------------------------------------------------------- start and stop

    def server_options(self) -> list[str]:
        """Return the options of `postgres` that name its files."""
        files = self._files
        named = {
            "data_directory": files.data,
            "config_file": files.conf,
            "hba_file": files.hba,
            "ident_file": files.ident,
        }
        options = ["-D", str(files.data)]
        for name, path in named.items():
            options += ["-c", f"{name}={path}"]
        return options

    async def start(self, config: ServerConfig) -> None:
        """Start the postmaster as a standby; return as soon as it runs, not when it answers."""
        facts = self._facts
        ident = render_ident(self.settings)
        if not self._guard.status.gone:
            raise StepError("processes of the server that ran before are left")
        control = facts.control_of_now or await self._reader.control()
        facts.read_control(control)
        keep = max(control.checkpoint_tli, control.min_recovery_tli)
        if facts.position is not None:
            keep = max(keep, facts.position.timeline)
            await trio.to_thread.run_sync(self._files.set_histories_aside, TimelineId(keep))
        facts.timeline = TimelineId(keep)
        facts.floors = control.floors
        await self.write_settings(config)
        await trio.to_thread.run_sync(self._files.write, self._files.ident, ident)
        await trio.to_thread.run_sync(self._files.ensure_data_id)
        await trio.to_thread.run_sync(self._files.ensure_standby_signal)
        facts.server_stopped()
        facts.stop_asked = False
        facts.rewind_failed = False
        facts.failed_starts += 1  # until it has answered
        facts.log_offset = self._files.log_size()
        path = os.environ.get("PATH", "/usr/bin:/bin")
        await self._guard.start(
            [str(self._installation.program("postgres")), *self.server_options()],
            {"PATH": path, "LC_ALL": "C", "PGSYSCONFDIR": "/nonexistent"},
            self._files.log,
        )

    async def stop(self, *, fast: bool, successor: NodeId | None = None, restart: str = "") -> None:
        """Stop the server; when this returns, every one of its processes is gone.

        If cancelled, it goes on stopping by itself.

        Args:
            fast: with a shutdown checkpoint, which every connected standby has to confirm.
            successor: whose confirmation alone is waited for after a moment, and for whose sake
                short transactions may end before; None for everybody's confirmation.
            restart: the order for a restart that is done by it.
        """
        # First of all: no look is to take what follows for a crash. What ended by itself stays one.
        if self._guard.status.postmaster_pid is not None:
            self._facts.stopping()
        if fast and successor is not None and self._facts.was_up:
            await wait_short_transactions(self.sessions.any)
        if fast and not self._guard.status.gone:
            with contextlib.suppress(GuardRefusedError, ServerNotGoneError):
                await self._guard.signal(signal.SIGINT)
                if successor is not None:
                    await self._end_senders_later(successor)
                await self._guard.wait_gone(STOP_FAST_TIMEOUT_S)
        if not self._guard.status.gone:
            with contextlib.suppress(GuardRefusedError, ServerNotGoneError):
                await self._guard.signal(signal.SIGQUIT)
                await self._guard.wait_gone(QUIT_GRACE_S)
        if not self._guard.status.gone:
            await self._guard.kill_all()  # a stopped (SIGSTOP) server reacts to nothing less
        self.sessions.close()
        self._facts.server_stopped()
        self._facts.restarted = restart or self._facts.restarted

    async def _end_senders_later(self, successor: NodeId) -> None:
        """Let a shutdown go on without standbys that confirm nothing."""
        with contextlib.suppress(ServerNotGoneError):
            await self._guard.wait_gone(STOP_SENDERS_AFTER_S)
            return
        postmaster = self._guard.status.postmaster_pid
        senders = sender_processes(postmaster) if postmaster is not None else ()
        for pid in self._facts.senders_of_others(senders, successor):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    # ---------------------------------------------------------------- promotion

    async def promote(self, term: Term, tli: TimelineId) -> None:
        """Make the standby the primary on exactly `tli`.

        Raises:
            StepError: refused, or the server took another timeline; it is then no standby any
                more and the planner stops it.
        """
        with trio.move_on_after(ARMED_WITHIN_S):
            while not self._is_armed(term):  # noqa: ASYNC110 - the guard is asked for it just now
                await trio.sleep(POLL_S)
        self._check_armed(term)
        facts = self._facts
        histories = await trio.to_thread.run_sync(self._files.histories)
        current = facts.timeline
        if tli in histories or tli <= current:
            raise StepError(f"timeline {tli} was used before: this server is on {current}")
        if (ahead := may_have_gone_over(current, histories)) is not None:
            # A start sets such files aside; nothing else makes PostgreSQL forget them.
            await self.stop(fast=True)
            raise StepError(
                f"restarts without the history of timeline {ahead}, of which it has no WAL"
            )
        for number, text in missing_histories(current, tli, histories).items():
            await trio.to_thread.run_sync(self._files.write_history, number, text)
        async with self.sessions.any() as session:
            await self._end_clients(session)
            self._check_armed(term)
            facts.promoting()
            await session.rows("select pg_promote(wait => false)")
            with trio.move_on_after(PROMOTE_TIMEOUT_S) as deadline:
                while True:
                    segment = (await session.row(_PROMOTED))[0]
                    if segment is not None:
                        break
                    await trio.sleep(PROMOTE_POLL_S)
            if deadline.cancelled_caught:
                raise StepError(f"PostgreSQL is still in recovery after {PROMOTE_TIMEOUT_S:g} s")
            await trio.to_thread.run_sync(self._files.ensure_standby_signal)
        facts.last_in_recovery = False
        facts.timeline = taken = TimelineId(int(str(segment)[:8], 16))
        if taken != tli:
            raise StepError(f"PostgreSQL took timeline {taken} instead of the reserved {tli}")
        self.checkpoint_wanted.set()

    def _is_armed(self, term: Term) -> bool:
        return not self._guard.lost and self._guard.status.armed_term == term

    def _check_armed(self, term: Term) -> None:
        if not self._is_armed(term):
            raise StepError(f"the guard is not armed for term {term}: not promoting")

    async def _end_clients(self, session: sql.Session) -> None:
        """End the sessions that were let in to read; they would be able to write."""
        with trio.move_on_after(CLIENTS_END_TIMEOUT_S):
            while True:
                left, receives = await session.row(_END_CLIENTS)
                if receives:
                    raise StepError("a WAL receiver exists: not promoting")
                if not left:
                    return
                await trio.sleep(POLL_S)
        raise StepError("sessions of applications do not end")

    async def checkpoint_promoted(self) -> None:
        """Have pg_control name the new timeline, which pg_rewind on other nodes reads."""
        async with self.sessions.fresh() as session:  # the kept one is for who is waited for
            await session.run("checkpoint", timeout_s=CHECKPOINT_TIMEOUT_S)

    async def checkpoint(self, handover: str) -> None:
        """Leave little to be written by the shutdown of a handover.

        Where there is little already, nothing is done but that the end of the WAL is noted.
        """
        async with self.sessions.any() as session:
            written, _ = await session.row(_SINCE_CHECKPOINT)
            if int(str(written)) > CHECKPOINT_SPARED_BYTES:
                await session.run("checkpoint", timeout_s=CHECKPOINT_TIMEOUT_S)
            _, end = await session.row(_SINCE_CHECKPOINT)
            self._facts.checkpointed, self._facts.wal_end = handover, parse_lsn(str(end))
