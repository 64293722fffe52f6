"""The facts that membership reports, as sentences with fields. Pure functions, no decisions."""

from __future__ import annotations

from metako.membership.roster import Entry
from metako.model.events import Event, EventName, Severity, event
from metako.model.ids import NodeId
from metako.wire.messages import MemberUpdate


def joined(entry: Entry) -> Event:
    return event(
        EventName.MEMBER_JOINED,
        f"{entry.node} joined",
        node=entry.node,
        boot_epoch=entry.boot_epoch,
        incarnation=entry.incarnation,
        address=str(entry.address),
    )


def alive(entry: Entry) -> Event:
    return event(
        EventName.MEMBER_ALIVE,
        f"{entry.node} is alive again",
        node=entry.node,
        boot_epoch=entry.boot_epoch,
        incarnation=entry.incarnation,
    )


def suspect(entry: Entry, accuser: NodeId, wait_ms: int) -> Event:
    return event(
        EventName.MEMBER_SUSPECT,
        f"{entry.node} does not answer {accuser}",
        severity=Severity.WARNING,
        node=entry.node,
        boot_epoch=entry.boot_epoch,
        incarnation=entry.incarnation,
        accuser=accuser,
        wait_ms=wait_ms,
    )


def dead(entry: Entry, confirmations: int, silent_ms: int | None) -> Event:
    """Report a death; `silent_ms` is None if this node never heard the member itself."""
    return event(
        EventName.MEMBER_DEAD,
        f"{entry.node} is dead: it did not refute in time",
        severity=Severity.ERROR,
        node=entry.node,
        boot_epoch=entry.boot_epoch,
        incarnation=entry.incarnation,
        confirmations=confirmations,
        silent_ms=silent_ms,
    )


def left(entry: Entry) -> Event:
    return event(
        EventName.MEMBER_LEFT,
        f"{entry.node} left",
        node=entry.node,
        boot_epoch=entry.boot_epoch,
    )


def conflict(entry: Entry, update: MemberUpdate) -> Event:
    other = update.address or entry.address
    return event(
        EventName.MEMBER_CONFLICT,
        f"two processes use the name {entry.node}: rename one, or stop it",
        severity=Severity.ERROR,
        node=entry.node,
        boot_epoch=entry.boot_epoch,
        address=str(entry.address),
        other_boot_epoch=update.boot_epoch,
        other_address=str(other),
    )
