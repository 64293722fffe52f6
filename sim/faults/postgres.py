"""Faults of PostgreSQL: it hangs, lags, fails at a step, or is slow at it.

Switches of the simulated server, read at the moment of use. A number of failures (`times`) counts
down by itself; everything else stays until it is undone.
"""

from __future__ import annotations

from sim.faults.arguments import Argument, Type
from sim.faults.fault import Fault, Value
from sim.faults.kind import (
    NODES,
    SLOTS_KEEP,
    Effect,
    Family,
    FaultKind,
    Skipped,
    Undo,
    nodes_of,
    number,
    whole,
)
from sim.faults.site import Site
from sim.faults.switches import Counted, Switches
from sim.heap import NS_PER_MS

TIMES_MAX = 1000
STRANGER = "stranger"
"""The slot of somebody who does not come back: one a server, as the first one keeps all WAL."""


def _nothing(_site: Site, _fault: Fault) -> Undo | Skipped | None:
    """A cure does all it has to do by ending other faults."""
    return None


def _remove_wal(site: Site, fault: Fault) -> Undo | Skipped | None:
    servers = [site.node(name).server for name in nodes_of(fault)]
    if fault.get("slots_keep") is not None:
        for server in servers:
            server.slot_keep = whole(fault, "slots_keep")
    done = [server.remove_wal() for server in servers]
    return None if any(done) else Skipped("there is no older WAL")


def _create_slot(site: Site, fault: Fault) -> Undo | Skipped | None:
    servers = [site.node(name).server for name in nodes_of(fault)]
    created = [server for server in servers if server.create_slot(STRANGER)]
    if not created:
        return Skipped("no server runs there, or it has such a slot already")

    def drop() -> None:
        for server in created:
            server.drop_slot(STRANGER)

    return drop


def _times(fault: Fault) -> int:
    return whole(fault, "times")


def _kind(name: str, doc: str, effect: Effect, *arguments: Argument) -> FaultKind:
    return FaultKind(name, Family.POSTGRES, doc, (NODES, *arguments), effect, lasting=True)


def _failures(doc: str, default: Value = 1) -> Argument:
    return Argument("times", Type.COUNT, doc, default=default, low=1, high=TIMES_MAX)


_LASTING: tuple[FaultKind, ...] = (
    _kind(
        "hang",
        "Let PostgreSQL accept connections and never answer.",
        Switches(("server", "hung", True)),
    ),
    _kind(
        "stall_standby",
        "Let a standby stay connected and receive nothing.",
        Switches(("server", "receive_stalled", True)),
    ),
    _kind(
        "pause_replay",
        "Let a standby go on receiving and acknowledging, and replay nothing.",
        Switches(("server", "replay_paused", True)),
    ),
    _kind(
        "promote_hang",
        "Let a promotion never end.",
        Switches(("server", "promote_hangs", True)),
    ),
    _kind(
        "promote_slow",
        "Let a promotion take longer.",
        Counted("server", "promote_extra_ms", lambda fault: whole(fault, "extra") // NS_PER_MS),
        Argument("extra", Type.DURATION, "added to it", required=True, low=1),
    ),
    _kind(
        "slow_postgres",
        "Let start, stop, promotion, rewind and clone take so many times as long.",
        Counted("server", "slow", lambda fault: number(fault, "factor")),
        Argument("factor", Type.FACTOR, "times as long", default=5, low=1, high=1000),
    ),
    _kind(
        "slow_reload",
        "Let the process that carries settings into shared memory react so much later.",
        Counted("server", "checkpointer_stall_ms", lambda fault: whole(fault, "delay") / NS_PER_MS),
        Argument("delay", Type.DURATION, "from a reload to its effect", required=True, low=1),
    ),
    _kind(
        "rewind_fails",
        "Let the next rewinds fail, and leave the data directory unusable.",
        Counted("server", "rewind_failures", _times),
        _failures("how many"),
    ),
    _kind(
        "recovery_fails",
        "Let crash recovery in single-user mode fail, which comes before a rewind.",
        Counted("server", "recovery_failures", _times),
        _failures("how many"),
    ),
    _kind(
        "clone_breaks",
        "Let the next clones be interrupted.",
        Counted("server", "clone_failures", _times),
        _failures("how many"),
    ),
    _kind(
        "start_fails",
        "Let the next starts of PostgreSQL fail.",
        Counted("server", "start_failures", _times),
        _failures("how many"),
    ),
    _kind(
        "create_slot",
        "Create a replication slot that nobody reads, so that no WAL is removed from now on.",
        _create_slot,
    ),
)

KINDS: tuple[FaultKind, ...] = (
    *_LASTING,
    FaultKind(
        "unhang",
        Family.POSTGRES,
        "Let a PostgreSQL that hangs answer again.",
        (NODES,),
        _nothing,
        cures=("hang",),
    ),
    FaultKind(
        "remove_wal",
        Family.POSTGRES,
        "Remove the WAL that neither the server nor a slot needs: who is further behind is cloned.",
        (NODES, SLOTS_KEEP),
        _remove_wal,
    ),
    FaultKind(
        "repair",
        Family.POSTGRES,
        "End every fault of disk, clock rate, starvation and PostgreSQL on a node.",
        (NODES,),
        _nothing,
        cures=(
            *(kind.name for kind in _LASTING),
            *("disk_full", "disk_error", "wal_disk_full", "wal_disk_small", "disk_slow"),
            "lying_fsync",
            *("clock_rate", "slow_agent", "burn"),
        ),
    ),
)
