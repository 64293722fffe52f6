"""Slots, segments and the removal of WAL on the simulator's model, and what is seen of slots."""

from __future__ import annotations

from collections.abc import Collection

from differential import vocabulary as do
from differential.vocabulary import SlotView
from metako.model.lsn import Lsn
from sim.postgres.server import SimServer
from sim.postgres.slots import Slot, wal_status
from sim.postgres.wal import RECORD_BYTES, SEGMENT_BYTES, Record, RecordKind, segment_of

KEEP_RECORDS = 200 * SEGMENT_BYTES // RECORD_BYTES
"""`wal_keep_size` of the real servers, in segments, as records of the model."""


def set_up(server: SimServer) -> None:
    """Let WAL be removed in whole segments, and only when a command says so."""
    server.wal_grain = SEGMENT_BYTES
    server.wal_size_max = 1024 * SEGMENT_BYTES
    lift_limit(server)


def lift_limit(server: SimServer) -> None:
    server.slot_keep, server.wal_removed, server.wal_keep = None, False, KEEP_RECORDS


def remove_wal(server: SimServer) -> None:
    """Remove all that the server itself and its slots do not need."""
    kept, server.wal_keep = server.wal_keep, 0
    server.remove_wal()
    server.wal_keep = kept


def switch_segment(server: SimServer) -> None:
    """Let a primary go on in another segment, so that standbys may be that far beyond a fork."""
    data, primary = server.data, server.primary
    assert data is not None
    assert primary is not None
    end = Lsn(segment_of(data.end) + SEGMENT_BYTES)
    data.wal.append(Record(end, data.tli, data.branch, RecordKind.MESSAGE))
    data.append(RecordKind.MESSAGE)  # nor is it at the very begin of the next one
    primary.flush()


def change_slots(server: SimServer, command: do.Command) -> str:
    """Carry out a command about slots; return its outcome."""
    data = server.data
    assert data is not None
    match command:
        case do.CreateSlot(name=name, reserve=reserve):
            return "ok" if server.create_slot(name, reserve=reserve) else "refused 42710"
        case do.DropSlot(name=name):
            exists = name in data.slots
            if server.drop_slot(name):
                return "ok"
            return "refused 55006" if exists else "refused 42704"
        case do.UseSlot(name=name):
            server.primary_slot = name
            server.reload()
        case do.LimitSlots(segments=segments):
            server.slot_keep, server.wal_removed, server.wal_keep = segments, True, 0
        case _:
            raise AssertionError(command)
    return "ok"


def slots_of(
    server: SimServer, first_segment: int, frozen: Collection[str]
) -> tuple[SlotView, ...]:
    """Return what pg_replication_slots says."""
    assert server.data is not None
    slots = server.data.slots.values()
    return tuple(sorted(_slot(server, slot, first_segment, frozen) for slot in slots))


def _slot(server: SimServer, slot: Slot, first_segment: int, frozen: Collection[str]) -> SlotView:
    data, sender = server.data, slot.sender
    assert data is not None
    active = sender is not None and sender.limit is None
    where = f"segment {slot.restart_lsn // SEGMENT_BYTES - first_segment}"
    if not slot.restart_lsn:
        where = "null"
    elif sender is not None and active and sender.node not in frozen:
        where = "end" if slot.restart_lsn == data.lsn_at(data.flushed) else where
    status = wal_status(server, slot)
    return (slot.name, active, where, "null" if status is None else str(status))
