"""Looking at the simulated server as `metako.postgres.observe` looks at the real one.

In: server, disk, guard, and what the steps have found out (production's own `Facts`). Out: a whole
`PostgresObserved`. It reports what production could know and nothing of the truth beside it: a
hung server is as it was last seen, unverified settings are not reported, a dying one is not gone.
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import Any

from metako.model.ids import DataId, NodeId, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import (
    DataState,
    PostgresObserved,
    PostgresTarget,
    ProcessState,
    ReceiverState,
    StandbySeen,
    SyncSetting,
)
from metako.postgres.facts import Facts
from metako.postgres.wal import ControlData
from sim.heap import NS_PER_MS
from sim.postgres.data import Data
from sim.postgres.receiver import ReceiverPhase
from sim.postgres.server import SimServer
from sim.postgres.wal import SEGMENT_BYTES, chain_of

NO_DATA = DataId("")


# What moves are three fields in a row: how far, how far replayed, and how late.
_NAMES = [f.name for f in fields(PostgresObserved)]
_MOVES = _NAMES.index("lsn")
assert _NAMES[_MOVES : _MOVES + 3] == ["lsn", "replay_lsn", "lag_ms"]
_before_moves = attrgetter(*_NAMES[:_MOVES])
_after_moves = attrgetter(*_NAMES[_MOVES + 3 :])


def control_of(data: Data) -> ControlData:
    """Return what pg_controldata prints."""
    control = data.control
    return ControlData(
        system_id=data.system_id,
        state="shut down" if control.clean else "in production",
        checkpoint_tli=control.checkpoint_tli,
        redo_lsn=control.redo_lsn,
        min_recovery_lsn=control.min_recovery_lsn,
        min_recovery_tli=control.min_recovery_tli,
        segment_size=SEGMENT_BYTES,
        checksums=True,
        wal_log_hints=True,
        floors=(),
    )


class Observer:
    """Makes observations for one agent."""

    def __init__(self, server: SimServer, facts: Facts) -> None:
        self._server = server
        self._facts = facts
        self._session_epoch = -1  # of the server that the open connection leads to; -1: none
        self._postmaster = False  # the guard's last word on whether there is a postmaster
        self._gone = True  # the guard's last word on whether everything is gone
        self._under: PostgresTarget | None = None  # what was wanted at this look

    def hear_guard(self) -> None:
        """Take the guard's word; the last one stands while it is frozen.

        Where it is gone, production looks at /proc.
        """
        server = self._server
        if server.guard.answers or server.guard.lost:
            self._postmaster = server.process in POSTMASTER
            self._gone = server.process is ProcessState.STOPPED

    @property
    def gone(self) -> bool:
        """Return whether every process of the server is known to be gone."""
        self.hear_guard()
        return self._gone

    def would_wait(self) -> bool:
        """Return whether a look now would wait for a statement that is not answered."""
        self.hear_guard()
        server = self._server
        up = server.process is ProcessState.RUNNING
        return self._postmaster and up and server.silent

    def look(
        self, under: PostgresTarget | None = None, *, timed_out: bool = False
    ) -> PostgresObserved:
        """Return what is seen now.

        Args:
            under: what is wanted of the server now.
            timed_out: the server did not answer.
        """
        self._under = under
        server, facts = self._server, self._facts
        self.hear_guard()
        if facts.written is None and server.conf is not None:
            facts.written = server.conf
        if self._postmaster:
            return self._running(timed_out)
        self._session_epoch = -1
        if facts.was_up or facts.last_in_recovery is not None:
            facts.server_stopped()
        if not self._gone:
            return self._picture(ProcessState.DYING)
        if facts.control is None and server.data_state is DataState.PRESENT:
            assert server.data is not None
            facts.read_control(control_of(server.data))
        return self._picture(ProcessState.STOPPED, with_position=True)

    def look_again(self, before: PostgresObserved) -> PostgresObserved | None:
        """Return what is seen of a standby that has only got WAL since it was seen as `before`.

        None if it cannot be told from that: then the whole of it has to be looked at.
        """
        data = self._server.data
        if before.receiver is not ReceiverState.STREAMING or data is None or not before.lsn:
            return None
        progress = self._progress(data)
        if progress == (before.lsn, before.replay_lsn, before.lag_ms):
            return before
        values: tuple[Any, ...] = (*_before_moves(before), *progress, *_after_moves(before))
        return PostgresObserved(*values)

    def _picture(
        self,
        process: ProcessState,
        *,
        with_position: bool = False,
        server_version: int = 0,
        in_recovery: bool | None = None,
        progress: tuple[Lsn, Lsn, int] | None = None,
        receiver: ReceiverState | None = None,
        sync_applied: SyncSetting | None = None,
        unverified: bool = False,
        standbys: tuple[StandbySeen, ...] = (),
        blocked: bool | None = None,
        silent: bool = False,
    ) -> PostgresObserved:
        """Return what is known without SQL, and what a running server has answered.

        Made at once and not by `replace`: while a cluster changes, every server is looked at forty
        times a second.
        """
        facts, control, data = self._facts, self._facts.control, self._server.data
        timeline: int = facts.timeline
        if control is not None:
            timeline = max(timeline, control.checkpoint_tli, control.min_recovery_tli)
        runs = process in (ProcessState.RUNNING, ProcessState.STARTING)
        written = facts.written if runs else None
        upstream = written.upstream if written is not None else None
        position = facts.position if with_position else None
        known = TimelineId(timeline)
        if progress is None:
            lsn = position.lsn if position is not None else Lsn(0)
            progress = (lsn, lsn, -1)
        if receiver is None:
            receiver = ReceiverState.UNKNOWN if runs else ReceiverState.GONE
        return PostgresObserved(
            data=self._server.data_state,
            process=process,
            system_id=control.system_id if control is not None else 0,
            data_id=data.data_id if data is not None else NO_DATA,
            timeline=known,
            history=chain_of(known, data.history_files if data is not None else {}),
            max_tli=data.max_tli if data is not None else TimelineId(0),
            server_version=server_version,
            in_recovery=in_recovery,
            lsn=progress[0],
            replay_lsn=progress[1],
            lag_ms=progress[2],
            receiver=receiver,
            upstream=upstream.node if upstream is not None else None,
            position=position,
            detached_for=facts.detached_for,
            whole=facts.whole,
            sync_applied=sync_applied,
            sync_barrier=facts.barrier if facts.barrier == sync_applied else None,
            # Unverified settings may not be loaded: applications are then not known to be out.
            admitting=unverified or (written is not None and written.admit),
            standbys=standbys,
            marker_term=facts.marker_term,
            checkpointed=facts.checkpointed,
            restarted=facts.restarted,
            stop_asked=facts.stop_asked,
            rewind_failed=facts.rewind_failed,
            commit_blocked=facts.commit_blocked if blocked is None else blocked,
            silent=silent,
            under=self._under,
        )

    # ------------------------------------------------------------ a server that runs

    def _running(self, timed_out: bool) -> PostgresObserved:
        server, facts = self._server, self._facts
        if facts.control is None and server.data is not None:
            facts.read_control(control_of(server.data))
        answers = server.process is ProcessState.RUNNING and not timed_out and not server.silent
        if not answers:
            self._session_epoch = -1
            return self._unanswered(silent=timed_out or server.silent)
        if self._session_epoch != server.epoch:
            self._session_epoch = server.epoch
            if not facts.verified:
                # A fresh backend: it shows what the postmaster has loaded.
                facts.verified = server.config == facts.written
        return self._answered()

    def _unanswered(self, *, silent: bool) -> PostgresObserved:
        """Return the picture of a server that says nothing, or refuses because it shuts down."""
        facts = self._facts
        if not facts.was_up:
            self._notice_lost_wal()
            return self._picture(ProcessState.STARTING)
        applied = facts.written.sync if facts.written is not None and facts.verified else None
        return self._picture(
            ProcessState.RUNNING,
            in_recovery=facts.last_in_recovery,
            sync_applied=applied,
            standbys=facts.standbys,
            blocked=facts.last_in_recovery is False,
            silent=silent,
        )

    def _answered(self) -> PostgresObserved:
        server, facts, data = self._server, self._facts, self._server.data
        assert data is not None
        written, primary = facts.written, server.primary
        in_recovery = primary is None
        facts.was_up, facts.last_in_recovery, facts.failed_starts = True, in_recovery, 0
        facts.standbys = self._standbys() if primary is not None else ()
        receiver = self._receiver()
        detached = written is not None and written.upstream is None and facts.verified
        if not in_recovery or receiver is not ReceiverState.GONE or not detached:
            facts.forget_position()
        if in_recovery:
            self._learn_timeline(data)
            if receiver is not ReceiverState.STREAMING:
                self._notice_lost_wal()
        else:
            facts.timeline = data.tli
        applied = written.sync if written is not None and facts.verified else None
        if applied is not None and applied.k == 0 and not in_recovery:
            facts.barrier = NO_SYNC  # nothing is promised, so there is nothing to wait for
        return self._picture(
            ProcessState.RUNNING,
            with_position=True,
            server_version=server.env.postgres_version * 10_000,
            in_recovery=in_recovery,
            progress=self._progress(data),
            receiver=receiver,
            sync_applied=applied,
            unverified=not facts.verified,
            standbys=facts.standbys,
        )

    def _learn_timeline(self, data: Data) -> None:
        facts, receiver = self._facts, self._server.receiver
        seen = [facts.timeline, data.control.checkpoint_tli, data.control.min_recovery_tli]
        if receiver is not None and receiver.phase is ReceiverPhase.STREAMING:
            seen.append(receiver.tli)
        if facts.position is not None:
            seen.append(facts.position.timeline)
        facts.timeline = max(seen)

    def _receiver(self) -> ReceiverState:
        receiver = self._server.receiver
        if receiver is None:
            return ReceiverState.GONE
        streaming = receiver.phase is ReceiverPhase.STREAMING
        return ReceiverState.STREAMING if streaming else ReceiverState.PRESENT

    def _progress(self, data: Data) -> tuple[Lsn, Lsn, int]:
        startup = self._server.startup
        if startup is None:
            return data.end, data.end, 0
        replayed = data.lsn_at(startup.replayed)
        if not startup.received:
            return replayed, replayed, -1
        if replayed >= startup.received:
            return replayed, replayed, 0
        lag_ns = self._server.heap.now_ns - startup.replayed_ns
        return startup.received, replayed, lag_ns // NS_PER_MS

    def _standbys(self) -> tuple[StandbySeen, ...]:
        server, members = self._server, self._facts.members
        config = server.config
        quorum = config is not None and config.sync.k > 0
        return tuple(
            StandbySeen(
                node,
                sender.streaming,
                sender.flush_lsn,
                sender.apply_lsn,
                bool(quorum and sender.listed and sender.streaming and sender.flush_lsn),
                server.data is not None
                and sender.flush_lsn < server.data.lsn_at(server.data.flushed),
            )
            for node, sender in sorted(server.senders.items())
            if node in members
        )

    def _notice_lost_wal(self) -> None:
        facts = self._facts
        following = facts.written is not None and facts.written.upstream is not None
        if following and self._server.removed_seen > facts.log_offset:
            facts.wal_lost = True


POSTMASTER = (ProcessState.STARTING, ProcessState.RUNNING, ProcessState.STOPPING)
NO_SYNC = SyncSetting()


def member_map(nodes: list[NodeId]) -> dict[str, NodeId]:
    """Return the nodes whose standbys are reported, in the form of production's facts."""
    return {str(node): node for node in nodes}
