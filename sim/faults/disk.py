"""Faults of disks, and of what lies on them: the durable record and the data directory.

Switches are read by the disk at the moment of use, so that turning one on hits the next write.
What takes a file away works on a node that is down only: a running process has it open.
"""

from __future__ import annotations

from sim.faults.arguments import Argument, Type
from sim.faults.fault import Fault
from sim.faults.kind import (
    NODES,
    RECORDS_MAX,
    SLOTS_KEEP,
    Effect,
    Family,
    FaultKind,
    Skipped,
    Undo,
    choice,
    text,
    whole,
)
from sim.faults.process import Verb, each
from sim.faults.site import Site
from sim.faults.switches import Setting, Switches, switch
from sim.heap import NS_PER_MS

ROOM_MIN = 100
"""Less would fill up before a checkpoint has made room, without anything being wrong."""


def _slow(site: Site, fault: Fault) -> Undo | Skipped | None:
    delay_ms = whole(fault, "delay") // NS_PER_MS
    return switch(site, fault, (("disk", "slow_ms", delay_ms), ("server", "fsync_ms", delay_ms)))


def _small(site: Site, fault: Fault) -> Undo | Skipped | None:
    settings: list[Setting] = [("server", "wal_room", whole(fault, "room"))]
    if fault.get("slots_keep") is not None:
        settings.append(("server", "slot_keep", whole(fault, "slots_keep")))
    return switch(site, fault, settings)


def _lying(site: Site, fault: Fault) -> Undo | Skipped | None:
    record: Setting = ("disk", "lying", True)
    wal: Setting = ("server", "fsync_lies", True)
    files = {"both": (record, wal), "record": (record,), "wal": (wal,)}
    return switch(site, fault, files[text(fault, "what")])


def _tear(site: Site, fault: Fault) -> Undo | Skipped | None:
    return switch(site, fault, (("disk", "tear_next", True),), undone=False)


def _back_up(site: Site, fault: Fault) -> Undo | Skipped | None:
    return each(site, fault, lambda node: node.take_backup(), None, "no server runs there")


class Taken:
    """An effect on the files of a node that is down."""

    def __init__(self, verb: Verb) -> None:
        self._verb = verb

    def __call__(self, site: Site, fault: Fault) -> Undo | Skipped | None:
        return each(site, fault, self._verb, None, "the node runs, or there is nothing to take")


def _kind(name: str, doc: str, effect: Effect, *arguments: Argument) -> FaultKind:
    return FaultKind(name, Family.DISK, doc, (NODES, *arguments), effect, lasting=True)


def _loss(name: str, doc: str, verb: Verb) -> FaultKind:
    return FaultKind(name, Family.DISK, doc, (NODES,), Taken(verb))


KINDS: tuple[FaultKind, ...] = (
    _kind(
        "disk_full",
        "Let the disk of the durable record have no space left.",
        Switches(("disk", "full", True)),
    ),
    _kind(
        "disk_error",
        "Let every write of the durable record fail with an I/O error.",
        Switches(("disk", "failing", True)),
    ),
    _kind(
        "wal_disk_full",
        "Let the disk of pg_wal have no space left: PostgreSQL ends with a PANIC.",
        Switches(("server", "wal_disk_full", True)),
    ),
    _kind(
        "wal_disk_small",
        "Let pg_wal grow by so many records only; each checkpoint then removes what nothing needs.",
        _small,
        Argument(
            *("room", Type.COUNT, "records more than there are"),
            default=200,
            low=ROOM_MIN,
            high=RECORDS_MAX,
        ),
        SLOTS_KEEP,
    ),
    _kind(
        "disk_slow",
        "Let each fsync of record and WAL take longer.",
        _slow,
        Argument("delay", Type.DURATION, "added to each fsync", required=True, low=1),
    ),
    _kind(
        "lying_fsync",
        "Let fsync return before anything is durable: a power cut then loses it.",
        _lying,
        choice("what", "which files it is about", "both", "record", "wal"),
    ),
    FaultKind(
        "torn_write",
        Family.DISK,
        "Let the next write of the durable record end half-way, with the host.",
        (NODES,),
        _tear,
    ),
    _loss(
        "lose_record",
        "Lose the durable record (votes, promises, document); the data stays.",
        lambda node: node.lose_record(),
    ),
    _loss(
        "rot_record",
        "Let every copy in the durable record rot: it is there and cannot be read.",
        lambda node: node.rot_record(),
    ),
    _loss(
        "restore_old_record",
        "Put an old copy of the durable record back, as a careless restore does.",
        lambda node: node.restore_old_record(),
    ),
    _loss(
        "restore_lost_record",
        "Put the record that was lost last back, as a disk does that comes back from repair.",
        lambda node: node.restore_lost_record(),
    ),
    _loss(
        "lose_data",
        "Lose the data directory; the record stays.",
        lambda node: node.lose_data(),
    ),
    _loss(
        "foreign_data",
        "Put the data directory of another system in place.",
        lambda node: node.foreign_data(),
    ),
    FaultKind(
        "take_backup",
        Family.DISK,
        "Take a base backup of a server that runs, and keep it aside.",
        (NODES,),
        _back_up,
    ),
    _loss(
        "restore_backup",
        "Put the newest base backup, if it is of another node, in the place of the data directory.",
        lambda node: node.restore_backup(),
    ),
)
