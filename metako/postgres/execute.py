"""Carry out steps on a server that runs or is to run: start, stop, settings, detach, promote.

Each method does one step and returns when it is done; a failure is an exception with one line of
text. What a step has found out goes into `Facts`, where the next observation picks it up.

Invariants: `standby.signal` is on disk and fsynced before every start and right after a promotion;
the settings file is durable before PostgreSQL is told of it; a position is recorded only between
two proofs that no WAL receiver exists.

Does not decide anything: see `metako.postgres.plan`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from metako.model.errors import MetakoError
from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import parse_lsn
from metako.postgres import sql
from metako.postgres.facts import Facts
from metako.postgres.files import ServerFiles
from metako.postgres.history import may_have_gone_over, missing_histories
from metako.postgres.install import Installation
from metako.postgres.observe import (
    UNDECIDED_FOR_S,
    Receivers,
    receiver_processes,
    sender_processes,
)
from metako.postgres.position import WalReader
from metako.postgres.process import Guard, GuardRefusedError, ServerNotGoneError
from metako.postgres.settings import ServerSettings, render, render_ident
from metako.postgres.steps import ServerConfig

RELOAD_TIMEOUT_S = 5.0
POLL_S = 0.004
RECEIVER_TERM_AFTER_S = 0.1
RECEIVER_GIVE_UP_S = 1.0
STOP_FAST_TIMEOUT_S = 60.0
STOP_SENDERS_AFTER_S = 0.5
"""Standbys in order confirm a shutdown checkpoint within milliseconds; the others are paused."""
QUIT_GRACE_S = 1.0
PROMOTE_TIMEOUT_S = 30.0
PROMOTE_POLL_S = 0.001
CLIENTS_END_TIMEOUT_S = 1.0

_RECEIVERS = "select pid from pg_stat_activity where backend_type = 'walreceiver'"
_PLACE = """
select current_setting('metako.settings', true), pg_is_in_recovery(),
       coalesce(pg_last_wal_replay_lsn(), '0/0')::text, c.redo_lsn::text, c.timeline_id,
       pg_size_bytes(current_setting('wal_segment_size'))  -- pg_settings takes milliseconds
from pg_control_checkpoint() c
"""
_END_CLIENTS = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
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
        self.checkpoint_wanted = trio.Event()  # set by a promotion; replaced by its reader

    @asynccontextmanager
    async def session(self, timeout_s: float = sql.CONNECT_TIMEOUT_S) -> AsyncIterator[sql.Session]:
        """Open a connection to a fresh backend, for the length of the context."""
        async with sql.session(
            socket_dir=self._files.socket_dir,
            port=self.settings.port,
            user=self.settings.superuser,
            database="postgres",
            timeout_s=timeout_s,
        ) as opened:
            yield opened

    # ---------------------------------------------------------------- settings

    async def _write(self, config: ServerConfig) -> str:
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
        digest = await self._write(config)
        await self._guard.signal(signal.SIGHUP)
        if not self._facts.was_up:
            return  # it takes no connections yet; the first one will verify
        await self._verify(digest)

    async def _verify(self, digest: str) -> None:
        shown: object = None
        with trio.move_on_after(RELOAD_TIMEOUT_S):
            while True:
                async with self.session() as fresh:
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
        control = facts.control or await self._reader.control()
        keep = max(control.checkpoint_tli, control.min_recovery_tli)
        if facts.position is not None:
            keep = max(keep, facts.position.timeline)
            await trio.to_thread.run_sync(self._files.set_histories_aside, TimelineId(keep))
        facts.timeline = TimelineId(keep)
        facts.floors = control.floors
        await self._write(config)
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
            successor: whose confirmation alone is waited for after a moment; None for everybody's.
            restart: the order for a restart that is done by it.
        """
        # First of all: no look is to take what follows for a crash. What ended by itself stays one.
        self._facts.stop_asked |= self._guard.status.postmaster_pid is not None
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

    # ---------------------------------------------------------------- promise

    async def measure(self, promise: Term) -> None:
        """Find the position of a server of which nothing runs."""
        if not self._guard.status.gone:
            raise StepError("the server is not gone")
        self._facts.forget_position()
        position = await self._reader.measure_stopped()
        if not self._guard.status.gone:
            raise StepError("the server was started meanwhile")
        self._facts.position, self._facts.detached_for = position, promise
        self._facts.timeline = TimelineId(max(self._facts.timeline, position.timeline))

    async def detach(self, promise: Term) -> None:
        """Stop the WAL receiver, verify that it is gone, find the position, verify again.

        A server that does not let go within about a second is stopped; the position is then found
        from its disk by the next step.
        """
        facts = self._facts
        written = facts.written
        closed = written is not None and written.upstream is None
        facts.forget_position()
        if not closed or not facts.verified:
            await self._write(ServerConfig(None, admit=written.admit if written else True))
            await self._guard.signal(signal.SIGHUP)
        gone = False
        with trio.move_on_after(RECEIVER_GIVE_UP_S):
            gone = await self._wait_receiver_gone()
        if not gone or not facts.was_up:
            await self.stop(fast=False)
            return
        try:
            async with self.session() as fresh:
                await self._find_position(fresh, promise)
        except sql.SqlError:
            await self.stop(fast=False)

    async def _find_position(self, fresh: sql.Session, promise: Term) -> None:
        shown, recovering, replayed, redo, tli, segment_size = await fresh.row(_PLACE)
        if shown != self._facts.written_digest or not recovering:
            raise sql.SqlError("the server has not loaded the empty primary_conninfo")
        self._facts.verified = True
        position = await self._reader.measure_running(
            parse_lsn(str(replayed)),
            redo=parse_lsn(str(redo)),
            tli=TimelineId(int(str(tli))),
            segment_size=int(str(segment_size)),
        )
        if await fresh.rows(_RECEIVERS) or not await self._no_receiver():
            raise sql.SqlError("the WAL receiver came back")
        self._facts.position, self._facts.detached_for = position, promise
        self._facts.timeline = TimelineId(max(self._facts.timeline, position.timeline))

    def _receivers(self) -> Receivers:
        postmaster = self._guard.status.postmaster_pid
        return receiver_processes(postmaster) if postmaster is not None else Receivers((), ())

    async def _no_receiver(self) -> bool:
        """Return whether there is none, once every new child has shown what it is."""
        with trio.move_on_after(2 * UNDECIDED_FOR_S):
            while True:
                found = self._receivers()
                if found.certain:
                    return False
                if not found.undecided:
                    return True
                await trio.sleep(POLL_S)
        return False

    async def _wait_receiver_gone(self) -> bool:
        """Wait until no receiver exists, ending it if it stays; False if the server is lost."""
        begun = trio.current_time()
        try:
            async with self.session(RECEIVER_GIVE_UP_S) as session:
                while True:
                    listed = [int(str(row[0])) for row in await session.rows(_RECEIVERS)]
                    found = self._receivers()
                    loaded = await session.row("select current_setting('metako.settings', true)")
                    if (
                        not (listed or found.certain or found.undecided)
                        and loaded[0] == self._facts.written_digest
                    ):
                        return True
                    if trio.current_time() - begun > RECEIVER_TERM_AFTER_S:
                        # The startup process may be paused or in a conflict and not react.
                        for pid in set(listed) & set(found.certain):
                            with contextlib.suppress(ProcessLookupError):
                                os.kill(pid, signal.SIGTERM)
                    await trio.sleep(POLL_S)
        except sql.SqlError:
            return False

    # ---------------------------------------------------------------- promotion

    async def promote(self, term: Term, tli: TimelineId) -> None:
        """Make the standby the primary on exactly `tli`.

        Raises:
            StepError: refused, or the server took another timeline; it is then no standby any
                more and the planner stops it.
        """
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
        async with self.session() as session:
            await self._end_clients(session)
            self._check_armed(term)
            facts.forget_position()
            facts.barrier, facts.marker_term = None, Term(0)
            await session.rows("select pg_promote(wait => false)")
            with trio.move_on_after(PROMOTE_TIMEOUT_S) as deadline:
                while True:
                    row = await session.row("select pg_is_in_recovery()")
                    if not row[0]:
                        break
                    await trio.sleep(PROMOTE_POLL_S)
            if deadline.cancelled_caught:
                raise StepError(f"PostgreSQL is still in recovery after {PROMOTE_TIMEOUT_S:g} s")
            await trio.to_thread.run_sync(self._files.ensure_standby_signal)
            row = await session.row("select pg_walfile_name(pg_current_wal_insert_lsn())")
        taken = TimelineId(int(str(row[0])[:8], 16))
        facts.timeline = taken
        if taken != tli:
            raise StepError(f"PostgreSQL took timeline {taken} instead of the reserved {tli}")
        self.checkpoint_wanted.set()

    def _check_armed(self, term: Term) -> None:
        if self._guard.lost or self._guard.status.armed_term != term:
            raise StepError(f"the guard is not armed for term {term}: not promoting")

    async def _end_clients(self, session: sql.Session) -> None:
        """End the sessions that were let in to read; they would be able to write."""
        with trio.move_on_after(CLIENTS_END_TIMEOUT_S):
            while True:
                if not (await session.row(_END_CLIENTS))[0]:
                    return
                await trio.sleep(POLL_S)
        raise StepError("sessions of applications do not end")

    async def checkpoint(self, handover: str = "") -> None:
        """Write a checkpoint: for a handover, or so that pg_rewind elsewhere sees the timeline."""
        async with self.session() as session:
            await session.run("checkpoint", timeout_s=600.0)
        self._facts.checkpointed = handover or self._facts.checkpointed
