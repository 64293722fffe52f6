"""What a real server says of itself, asked in one query so that it belongs to one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOOK = """
select r, replay, received, inserted, flushed, pause, control, pid, received_tli, status,
  waits, tli, senders, sync, slots
from (select pg_is_in_recovery() as r) s,
lateral (select case when r then pg_last_wal_replay_lsn() - '0/0' end as replay,
  case when r then pg_last_wal_receive_lsn() - '0/0' end as received,
  case when not r then pg_current_wal_insert_lsn() - '0/0' end as inserted,
  case when not r then pg_current_wal_flush_lsn() - '0/0' end as flushed,
  case when r then pg_get_wal_replay_pause_state() end as pause,
  case when not r then ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int
    end as tli) l,
lateral (select timeline_id as control from pg_control_checkpoint()) c
left join lateral (select pid, received_tli, status from pg_stat_wal_receiver) receiver on true,
lateral (select string_agg(wait_event, ' ') as waits from pg_stat_activity
  where backend_type = 'startup') w,
lateral (select string_agg(concat_ws(',', application_name, pid, state, sent_lsn - '0/0',
  flush_lsn - '0/0', replay_lsn - '0/0', sync_state, extract(epoch from reply_time),
  extract(epoch from backend_start)), ' '
  order by application_name, pid) as senders from pg_stat_replication) p,
lateral (select string_agg(pid::text, ' ') as sync from pg_stat_activity
  where wait_event = 'SyncRep') q,
lateral (select string_agg(concat_ws(',', slot_name, coalesce(active_pid, 0),
  coalesce(restart_lsn - '0/0', 0), coalesce(wal_status, 'null')), ' ' order by slot_name) as slots
  from pg_replication_slots where not temporary) z
"""


@dataclass(frozen=True, slots=True)
class SenderRow:
    """One row of pg_stat_replication."""

    upstream: str  # whose row it is
    name: str
    pid: int
    state: str
    sent: int
    flush: int
    replay: int
    sync_state: str
    replied_at: float  # wall clock of the standby's last reply, which is this machine's
    began_at: float  # when it connected


@dataclass(frozen=True, slots=True)
class SlotRow:
    """One row of pg_replication_slots."""

    name: str
    active_pid: int  # 0: nobody uses it
    restart: int  # 0: null
    status: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a server says of itself at one moment."""

    in_recovery: bool
    replay: int
    received: int | None
    inserted: int
    flushed: int
    paused: str
    control_tli: int
    receiver_pid: int | None
    received_tli: int
    receiver_status: str
    startup_waits: str
    tli: int  # of a primary
    senders: tuple[SenderRow, ...]
    sync_waiters: frozenset[int]  # backends in a synchronous wait
    slots: tuple[SlotRow, ...]

    @property
    def end(self) -> int:
        """Where the WAL ends that this server sends."""
        return self.flushed if not self.in_recovery else max(self.received or 0, self.replay)

    def served(self) -> tuple[SenderRow, ...]:
        """Return the standbys that stream and were sent everything.

        One that stands beyond the place where this server's timeline forked is sent the WAL before
        the fork again and again: it is streaming for moments, and never has all.
        """
        return tuple(r for r in self.senders if r.state == "streaming" and r.sent >= self.end)


def _senders(upstream: str, text: str | None) -> tuple[SenderRow, ...]:
    found = []
    for row in (text or "").split():
        words = row.split(",")
        if len(words) == 9:  # one that has not begun to send has nulls
            name, pid, state, sent, flush, replay, sync, at, began = words
            numbers, times = (int(sent), int(flush), int(replay)), (float(at), float(began))
            found.append(SenderRow(upstream, name, int(pid), state, *numbers, sync, *times))
    return tuple(found)


def _slots(text: str | None) -> tuple[SlotRow, ...]:
    rows = (row.split(",") for row in (text or "").split())
    return tuple(SlotRow(name, int(pid), int(at), status) for name, pid, at, status in rows)


def look_of(name: str, row: Sequence[str | None]) -> Look:
    """Return the look that the server `name` answered with."""
    return Look(
        in_recovery=row[0] == "t",
        replay=int(row[1] or 0),
        received=int(row[2]) if row[2] is not None else None,
        inserted=int(row[3] or 0),
        flushed=int(row[4] or 0),
        paused=row[5] or "",
        control_tli=int(row[6] or 0),
        receiver_pid=int(row[7]) if row[7] is not None else None,
        received_tli=int(row[8] or 0),
        receiver_status=row[9] or "",
        startup_waits=row[10] or "",
        tli=int(row[11] or 0),
        senders=_senders(name, row[12]),
        sync_waiters=frozenset(int(pid) for pid in (row[13] or "").split()),
        slots=_slots(row[14]),
    )
