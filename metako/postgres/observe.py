"""Looking at the local server: processes, files and SQL, put together as one `PostgresObserved`.

Input: the guard's status, the data directory, one persistent connection, and what the steps have
found out (`Facts`). Output: a whole picture, never a part of one. The persistent connection is used
for nothing but looking; what has to be seen by a *fresh* backend is verified by the steps.

Invariant: a position is reported only while no process runs, or while a standby without upstream
has no WAL receiver. A receiver that is seen makes the position be forgotten.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import trio

from metako.model.ids import DataId, NodeId, TimelineId
from metako.model.lsn import Lsn, parse_lsn
from metako.model.postgres import (
    DataState,
    PostgresObserved,
    ProcessState,
    ReceiverState,
    StandbySeen,
    SyncSetting,
)
from metako.postgres import sql
from metako.postgres.children import receiver_processes
from metako.postgres.facts import Facts
from metako.postgres.files import DiskView, ServerFiles
from metako.postgres.history import own_chain
from metako.postgres.position import PositionError, WalReader
from metako.postgres.process import Guard, server_processes
from metako.postgres.proven import proven
from metako.postgres.settings import ServerSettings, config_of
from metako.postgres.tools import ToolTimeoutError

DISK_TIMEOUT_S = 2.0
REFUSED_PAUSE_S = 0.1
LOG_TAIL_BYTES = 65536
_WAL_REMOVED = "has already been removed"

_LOOK = """
select r.rec,
       case when r.rec then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            else pg_current_wal_insert_lsn() end::text,
       case when r.rec then pg_last_wal_replay_lsn()
            else pg_current_wal_insert_lsn() end::text,
       case when not r.rec then 0
            when pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() then 0
            else coalesce((extract(epoch from clock_timestamp()
                           - pg_last_xact_replay_timestamp()) * 1000)::bigint, -1) end,
       case when not r.rec then pg_walfile_name(pg_current_wal_insert_lsn()) end,
       (select count(*) from pg_stat_activity where backend_type = 'walreceiver'),
       (select status from pg_stat_wal_receiver),
       coalesce((select received_tli from pg_stat_wal_receiver where status = 'streaming'), 0),
       (select greatest(timeline_id, prev_timeline_id) from pg_control_checkpoint()),
       (select coalesce(min_recovery_end_timeline, 0) from pg_control_recovery()),
       current_setting('server_version_num')::int
from (select pg_is_in_recovery() as rec offset 0) r
"""

_STANDBYS = """
select application_name, state = 'streaming', coalesce(flush_lsn, '0/0')::text,
       coalesce(replay_lsn, '0/0')::text, sync_state in ('quorum', 'sync'),
       coalesce(flush_lsn < pg_current_wal_flush_lsn(), true), pid
from pg_stat_replication order by backend_start desc limit 1000
"""


class Observer:
    """Makes observations. Not for use by two tasks at a time."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        files: ServerFiles,
        guard: Guard,
        reader: WalReader,
        facts: Facts,
    ) -> None:
        self._settings = settings
        self._files = files
        self._guard = guard
        self._reader = reader
        self._facts = facts
        self._session: sql.Session | None = None
        self._session_postmaster: int | None = None
        self._refused_until = -math.inf  # by trio's clock
        self._lock = trio.Lock()
        self._disk = DiskView(DataState.UNKNOWN, DataId(""), {}, TimelineId(0))
        self._disk_is_stale = True  # `_disk` is older than this observation
        self._viewing = False  # a thread is at it; a stalled disk may hold it for minutes

    def close(self) -> None:
        """Close the connection. The server is not touched."""
        if self._session is not None:
            self._session.terminate()
        self._session = None

    async def observe(self) -> PostgresObserved:
        """Look at everything once. Takes at most the deadlines of two statements.

        If cancelled, nothing was changed but the connection, which may be closed.
        """
        async with self._lock:
            return await self._observe()

    async def _observe(self) -> PostgresObserved:
        await self._view_disk()
        facts, status = self._facts, self._guard.status
        if facts.written is None and (found := config_of(self._files.read_conf())) is not None:
            facts.written, facts.written_digest = found
        if status.postmaster_pid is not None and not self._guard.lost:
            return await self._observe_running(status.postmaster_pid)
        self.close()
        if facts.was_up or facts.last_in_recovery is not None:
            facts.server_stopped()
        # The guard's word where there is one; /proc where it was killed with the server.
        gone = not server_processes(self._files.data) if self._guard.lost else status.gone
        if not gone:
            return self._common(ProcessState.DYING)
        if facts.control is None and self._disk.state is DataState.PRESENT:
            with contextlib.suppress(PositionError, ToolTimeoutError):
                facts.read_control(await self._reader.control())
        return self._common(ProcessState.STOPPED, with_position=True)

    async def _view_disk(self) -> None:
        """Look at the disk, but do not wait long for it: the last view then stands, as stale."""
        self._disk_is_stale = True
        if self._viewing:
            return

        def view() -> None:
            # Set here and not before: a call that is cancelled may never reach the thread.
            self._viewing = True
            try:
                self._disk = self._files.view()
            finally:
                self._viewing = False

        with trio.move_on_after(DISK_TIMEOUT_S):
            await trio.to_thread.run_sync(view, abandon_on_cancel=True)
            self._disk_is_stale = False

    def _common(self, process: ProcessState, *, with_position: bool = False) -> PostgresObserved:
        """Return what is known without SQL."""
        facts, control, disk = self._facts, self._facts.control, self._disk
        timeline: int = facts.timeline
        if control is not None:
            timeline = max(timeline, control.checkpoint_tli, control.min_recovery_tli)
        runs = process in (ProcessState.RUNNING, ProcessState.STARTING)
        written = facts.written if runs else None
        upstream = written.upstream if written is not None else None
        position = facts.position if with_position else None
        # What is done to a stopped server depends on what its directory holds *now*: an old view
        # would have a directory that was just cloned cloned again.
        unknown = self._disk_is_stale and process is ProcessState.STOPPED
        return PostgresObserved(
            data=DataState.UNKNOWN if unknown else disk.state,
            process=process,
            system_id=control.system_id if control is not None else 0,
            data_id=disk.data_id,
            timeline=TimelineId(timeline),
            history=own_chain(TimelineId(timeline), disk.histories),
            max_tli=disk.max_tli,
            lsn=position.lsn if position is not None else Lsn(0),
            replay_lsn=position.lsn if position is not None else Lsn(0),
            receiver=ReceiverState.UNKNOWN if runs else ReceiverState.GONE,
            upstream=upstream.node if upstream is not None else None,
            position=position,
            detached_for=facts.detached_for,
            whole=facts.whole,
            admitting=written.admit if written is not None else False,
            marker_term=facts.marker_term,
            rewind_failed=facts.rewind_failed,
            commit_blocked=facts.commit_blocked,
            checkpointed=facts.checkpointed,
            restarted=facts.restarted,
            stop_asked=facts.stop_asked,
            watchdog=self._guard.watchdog,
        )

    async def _connect(self, postmaster: int) -> sql.Session:
        """Open a connection, but not again at once to a server that was up and has refused one.

        Each makes the server start a process, and one that shuts down has to end it as well.
        """
        pause = trio.current_time() < self._refused_until and self._facts.was_up
        if pause and self._session_postmaster == postmaster:
            raise sql.SqlError("connect: refused a moment ago", answered=True)
        try:
            return await sql.connect(
                socket_dir=self._files.socket_dir,
                port=self._settings.port,
                user=self._settings.superuser,
                database="postgres",
            )
        except sql.SqlError as error:
            if error.answered:
                self._refused_until = trio.current_time() + REFUSED_PAUSE_S
            raise

    async def _connected(self, postmaster: int) -> sql.Session:
        stale = self._session_postmaster != postmaster
        if self._session is None or self._session.closed or stale:
            self.close()
            self._session = await self._connect(postmaster)
            self._session_postmaster = postmaster
            if not self._facts.verified:
                # This is a fresh backend: it shows what the postmaster has loaded.
                shown = await self._session.row("select current_setting('metako.settings', true)")
                self._facts.verified = shown[0] == self._facts.written_digest != ""
        return self._session

    async def _observe_running(self, postmaster: int) -> PostgresObserved:
        facts = self._facts
        if facts.control is None:
            with contextlib.suppress(PositionError, ToolTimeoutError):
                facts.read_control(await self._reader.control())
        if facts.floors is None and facts.control is not None:
            facts.floors = facts.control.floors
        if not facts.was_up and not self._files.takes_connections():
            return self._unanswered()
        try:
            session = await self._connected(postmaster)
            row = await session.row(_LOOK)
            standbys = () if row[0] else await self._standbys(session)
        except sql.SqlError as error:
            self.close()
            return self._unanswered(silent=not error.answered)
        return self._answered(postmaster, row, standbys)

    def _unanswered(self, *, silent: bool = False) -> PostgresObserved:
        """Return the picture of a server that starts up, or that has stopped answering.

        Args:
            silent: it said nothing at all, as opposed to "too many clients".
        """
        facts = self._facts
        if not facts.was_up:
            self._notice_lost_wal()
            return self._common(ProcessState.STARTING)
        base = self._common(ProcessState.RUNNING)
        blocked = facts.last_in_recovery is False
        applied = facts.written.sync if facts.written is not None and facts.verified else None
        # What was verified stays true of a server that hangs: nobody else writes its settings.
        return replace(
            base,
            in_recovery=facts.last_in_recovery,
            sync_applied=applied,
            sync_barrier=facts.barrier if facts.barrier == applied else None,
            # Nor is a server that hangs proof that its standbys are gone: they would be taken out
            # of the sync set, and nobody could take over any more.
            standbys=facts.standbys,
            commit_blocked=blocked,
            silent=silent,
        )

    def _answered(
        self, postmaster: int, row: sql.Row, standbys: tuple[StandbySeen, ...]
    ) -> PostgresObserved:
        facts = self._facts
        in_recovery = bool(row[0])
        facts.was_up, facts.last_in_recovery, facts.failed_starts = True, in_recovery, 0
        facts.standbys = standbys
        receiver = self._receiver(postmaster, row) if in_recovery else ReceiverState.GONE
        detached = facts.written is not None and facts.written.upstream is None and facts.verified
        if not in_recovery or receiver is not ReceiverState.GONE or not detached:
            facts.forget_position()
        if in_recovery:
            seen = [facts.timeline, _int(row[7]), _int(row[8]), _int(row[9])]
            if facts.position is not None:
                seen.append(facts.position.timeline)
            facts.timeline = TimelineId(max(seen))
            if receiver is not ReceiverState.STREAMING:
                self._notice_lost_wal()
        elif row[4]:
            facts.timeline = TimelineId(int(str(row[4])[:8], 16))
        applied = facts.written.sync if facts.written is not None and facts.verified else None
        if applied is not None and applied.k == 0 and not in_recovery:
            facts.barrier = SyncSetting()  # nothing is promised, so there is nothing to wait for
        base = self._common(ProcessState.RUNNING, with_position=True)
        return replace(
            base,
            server_version=_int(row[10]),
            in_recovery=in_recovery,
            lsn=parse_lsn(str(row[1] or "0/0")),
            replay_lsn=parse_lsn(str(row[2] or "0/0")),
            lag_ms=_int(row[3]),
            receiver=receiver,
            sync_applied=applied,
            sync_barrier=facts.barrier if facts.barrier == applied else None,
            # Unverified settings may not be loaded: applications are then not known to be out.
            admitting=base.admitting or not facts.verified,
            standbys=standbys,
        )

    async def amended(self, observed: PostgresObserved) -> PostgresObserved:
        """Return a picture of a server that runs with what a step has proven since.

        No look is needed for that: that a standby has let go of its upstream and where its WAL
        ends, that it was promoted, that the marker of a primary was acknowledged, and that a fresh
        backend has shown settings. All else stays as it was seen.
        """
        facts = self._facts
        running = observed.process is ProcessState.RUNNING and facts.was_up
        if not running or observed.silent or observed.in_recovery is None:
            return observed
        if facts.last_in_recovery is observed.in_recovery:
            return proven(observed, facts)
        if facts.last_in_recovery is not False:
            return observed
        await self._view_disk()  # the history of the timeline that it was promoted to
        if self._disk_is_stale:
            return observed
        promoted = self._common(ProcessState.RUNNING)
        return replace(
            promoted,
            server_version=observed.server_version,
            in_recovery=False,
            lsn=observed.lsn,
            replay_lsn=observed.replay_lsn,
            lag_ms=0,
            receiver=ReceiverState.GONE,
            sync_applied=observed.sync_applied,
            admitting=promoted.admitting or not facts.verified,
            under=observed.under,
        )

    def _receiver(self, postmaster: int, row: sql.Row) -> ReceiverState:
        # Undecided ones are not counted here, else every new session would look like a receiver
        # for a moment; whoever promises that there is none (`Detach`) does count them.
        if _int(row[5]) or receiver_processes(postmaster).certain:
            return ReceiverState.STREAMING if row[6] == "streaming" else ReceiverState.PRESENT
        return ReceiverState.GONE

    def _notice_lost_wal(self) -> None:
        """Find out from the log that the upstream has removed WAL that this standby needs."""
        facts = self._facts
        if facts.written is not None and facts.written.upstream is not None and not facts.wal_lost:
            log = self._files.log_since(facts.log_offset, LOG_TAIL_BYTES)
            facts.wal_lost = any(
                "requested WAL segment" in line and _WAL_REMOVED in line
                for line in log.splitlines()
            )

    async def _standbys(self, session: sql.Session) -> tuple[StandbySeen, ...]:
        seen: dict[NodeId, StandbySeen] = {}
        senders: dict[NodeId, int] = {}
        for name, streaming, flush, replay, counted, behind, pid in await session.rows(_STANDBYS):
            node = self._facts.members.get(str(name))
            if node is None:
                continue
            entry = StandbySeen(
                node,
                bool(streaming),
                parse_lsn(str(flush)),
                parse_lsn(str(replay)),
                bool(counted),
                bool(behind),
            )
            # A sender whose standby vanished lingers; it speaks for data that may be gone.
            seen.setdefault(node, entry)
            senders.setdefault(node, _int(pid))
        # Only now: a server that is being stopped ends this session instead of answering.
        self._facts.senders = senders
        return tuple(seen[node] for node in sorted(seen))


def _int(value: object) -> int:
    return int(str(value)) if value is not None else 0
