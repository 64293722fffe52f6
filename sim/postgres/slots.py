"""Physical replication slots: what a server remembers of how far somebody has read its WAL.

In: creation and removal, START_REPLICATION, replies of standbys, checkpoints. Out: from where on
WAL has to stay, and how each slot is doing. A slot keeps WAL from its `restart_lsn` on, also WAL
that nobody will ever ask for, until `max_slot_wal_keep_size` lets the slot down.

A slot is a file beside the WAL. It is durable once created, but its restart_lsn is written by
checkpoints only: a crash sets it back to the last one, and so does a clean shutdown, whose
checkpoint is written before the standbys confirm it. That keeps too much WAL, never too little.
Neither pg_basebackup nor pg_rewind copies slots, and pg_rewind removes those of its target.

PostgreSQL 15 does not refuse a lost slot: only the WAL is gone, and whoever can do without it may
go on using the slot, which is a good one again with the first reply. PostgreSQL 18 does refuse it.

Source: PostgreSQL 15 and 18, slot.c, slotfuncs.c, walsender.c, xlog.c.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING

from metako.model.lsn import Lsn
from sim.postgres.wal import RECORD_BYTES, count_until, last_checkpoint

if TYPE_CHECKING:
    from sim.postgres.data import Data
    from sim.postgres.sender import Sender
    from sim.postgres.state import ServerState

REFUSES_LOST = 18
"""The version from which on a lost slot cannot be used again."""
SLOTS_MAX = 64
"""`max_replication_slots`, as metako sets it."""


class WalStatus(enum.StrEnum):
    """`pg_replication_slots.wal_status`."""

    RESERVED = "reserved"
    EXTENDED = "extended"  # kept beyond max_wal_size
    UNRESERVED = "unreserved"  # the next checkpoint may take it
    LOST = "lost"


class Slot:
    """One physical slot."""

    __slots__ = ("invalidated_lsn", "name", "restart_lsn", "saved_lsn", "sender")

    def __init__(self, name: str, restart_lsn: Lsn) -> None:
        self.name = name
        self.restart_lsn = restart_lsn  # WAL from here on stays; 0: nothing is reserved
        self.saved_lsn = restart_lsn  # what is on disk of it
        self.invalidated_lsn = Lsn(0)  # restart_lsn when WAL was removed in spite of it; 0: never
        self.sender: Sender | None = None  # the process that uses it

    def invalidate(self) -> None:
        """Let the slot down; that is on disk at once."""
        self.invalidated_lsn = self.restart_lsn
        self.restart_lsn = self.saved_lsn = Lsn(0)


Slots = dict[str, Slot]


def save(slots: Slots) -> int:
    """Write every slot to disk, as a checkpoint does first.

    Return the oldest restart_lsn, 0 without one: what the disk says is needed. A standby that
    confirms more meanwhile frees nothing, because a crash would forget it.
    """
    for slot in slots.values():
        slot.saved_lsn = slot.restart_lsn
    return oldest(slots.values())


def forget_unsaved(slots: Slots) -> None:
    """The processes have ended: what only their memory knew is gone."""
    for slot in slots.values():
        slot.restart_lsn, slot.sender = slot.saved_lsn, None


def oldest(slots: Iterable[Slot]) -> int:
    """Return the oldest restart_lsn, 0 if nothing is reserved."""
    return min([slot.restart_lsn for slot in slots if slot.restart_lsn], default=0)


def acquired(slots: Slots, name: str, version: int) -> tuple[Slot | None, str]:
    """Return the slot that START_REPLICATION names, or why it cannot be had; "" names none.

    Args:
        slots: of the server.
        name: of the one that is asked for.
        version: major version of the server.
    """
    if not name:
        return None, ""
    slot = slots.get(name)
    if slot is None:
        return None, f'replication slot "{name}" does not exist'
    if slot.sender is not None:
        return None, f'replication slot "{name}" is active'
    if version >= REFUSES_LOST and slot.invalidated_lsn:
        return None, f'can no longer access replication slot "{name}"'
    return slot, ""


def restart_of(data: Data) -> Lsn:
    """Return where the last restartpoint of a standby begins, from which a new slot keeps WAL.

    Its control data say how far it had replayed then; the checkpoint's record is at or before that.
    """
    wal = data.wal
    return max(data.wal_begin, last_checkpoint(wal, count_until(wal, data.control.redo_lsn)))


def kept_from(server: ServerState, begin: Lsn, end: Lsn, least: int) -> Lsn:
    """Return from where on a checkpoint has to keep WAL, having let down slots that ask for more.

    Args:
        server: whose slots and settings they are.
        begin: what everything else needs.
        end: of WAL when the checkpoint was complete.
        least: what slots needed when the checkpoint began; 0: nothing.
    """
    data = server.data
    assert data is not None
    kept = _with_slots(server, begin, end, least)
    found = [slot for slot in data.slots.values() if 0 < slot.restart_lsn < kept]
    if found:
        for slot in found:
            if slot.sender is not None:
                slot.sender.terminate()
            slot.invalidate()
            server.note("slot_invalidated", slot.name)
        kept = _with_slots(server, begin, end, oldest(data.slots.values()))
    if kept < begin > data.wal_begin:
        server.note("slot_kept_wal", f"{(begin - max(kept, data.wal_begin)) // RECORD_BYTES}")
    return kept


def _with_slots(server: ServerState, begin: Lsn, end: Lsn, least: int) -> Lsn:
    """Return what is left of `begin` if slots need WAL from `least` on."""
    grain, most = server.wal_grain, server.slot_keep
    if not 0 < least < end:
        return begin
    first, current = least // grain, end // grain
    if most is not None and current - first > most:
        first = current - most
    return min(begin, Lsn(first * grain))


def wal_status(server: ServerState, slot: Slot) -> WalStatus | None:
    """Return what pg_replication_slots says of a slot; None where it says nothing."""
    data = server.data
    assert data is not None
    if not slot.restart_lsn:
        return WalStatus.LOST if slot.invalidated_lsn else None
    grain = server.wal_grain
    end = data.lsn_at(data.written)
    # By size, a checkpoint would keep this much now; what recovery needs is not looked at.
    by_size = Lsn(max(0, end // grain - server.wal_keep * RECORD_BYTES // grain) * grain)
    promised = _with_slots(server, by_size, end, oldest(data.slots.values()))
    first = slot.restart_lsn // grain
    if first >= promised // grain:
        usual = end // grain - server.wal_size_max // grain - 1
        return WalStatus.RESERVED if first >= usual else WalStatus.EXTENDED
    if first >= data.wal_begin // grain or slot.sender is not None:
        return WalStatus.UNRESERVED
    return WalStatus.LOST
