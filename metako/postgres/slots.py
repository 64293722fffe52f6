"""Replication slots: one a member on every server, under the member's application name.

A slot serves one WAL sender at a time. That is what makes k acknowledgements come from k standbys:
PostgreSQL counts senders, and the sender of a connection that broke lingers until its time-out,
beside that of the new connection. Without slots both would count, for one and the same standby.

A slot also keeps the WAL that its standby has yet to get. On a primary that is wanted, within
bounds; on a standby, which nobody streams from, it would only fill the disk.

The policy is pure; `keep_slots` applies it to a server. Source: DESIGN §5.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from metako.postgres import sql
from metako.postgres.syncnames import PREFIX

RETAIN_FOR_S = 1800.0
"""How long a slot keeps WAL for a standby that is away. It may still clone afterwards."""

_OURS = re.compile(re.escape(PREFIX) + r"[0-9a-f]+")
_LOOK = """
select slot_name::text, active, restart_lsn is not null, coalesce(wal_status = 'lost', false),
       pg_is_in_recovery()
from pg_replication_slots where slot_type = 'physical' and not temporary limit 1000
"""
_DROP = """
select count(pg_drop_replication_slot(slot_name)) from pg_replication_slots
where slot_name = any($1::text[]) and not active
"""
_CREATE = "select count(pg_create_physical_replication_slot(name)) from unnest($1::text[]) name"


@dataclass(frozen=True, slots=True)
class SlotSeen:
    """A physical replication slot of a server."""

    name: str
    active: bool  # a WAL sender uses it
    reserved: bool  # it keeps WAL
    lost: bool = False  # it kept too much: what its standby needs is gone


@dataclass(frozen=True, slots=True)
class SlotChanges:
    """Slots to drop, then slots to create; one that is to be emptied is in both."""

    drop: tuple[str, ...] = ()
    create: tuple[str, ...] = ()


class SlotPolicy:
    """Says what to change about the slots of one server; remembers since when which are idle."""

    def __init__(self) -> None:
        self._idle_since: dict[str, float] = {}

    def changes(
        self, seen: Sequence[SlotSeen], wanted: Collection[str], *, in_recovery: bool, now_s: float
    ) -> SlotChanges:
        """Return what to drop and create.

        Args:
            seen: every physical slot of the server.
            wanted: names of the members that may stream from it now or one day.
            in_recovery: whether it is a standby, from which nobody streams.
            now_s: monotonic, in seconds.
        """
        ours = [slot for slot in seen if _OURS.fullmatch(slot.name)]
        idle = {slot.name for slot in ours if not slot.active and slot.reserved}
        self._idle_since = {name: self._idle_since.get(name, now_s) for name in sorted(idle)}

        def is_spent(slot: SlotSeen) -> bool:
            if slot.active:
                return False
            if slot.name not in wanted or slot.lost:
                return True
            since = self._idle_since.get(slot.name, now_s)
            return slot.reserved and (in_recovery or now_s - since >= RETAIN_FOR_S)

        drop = sorted(slot.name for slot in ours if is_spent(slot))
        kept = {slot.name for slot in ours} - set(drop)
        return SlotChanges(tuple(drop), tuple(sorted(set(wanted) - kept)))


async def keep_slots(
    open_session: Callable[[], AbstractAsyncContextManager[sql.Session]],
    policy: SlotPolicy,
    wanted: Collection[str],
    now_s: float,
) -> None:
    """Make the slots of the server what the policy says.

    Raises:
        SqlError: the server did not answer or refused; a part may be done.
    """
    async with open_session() as session:
        rows = await session.rows(_LOOK)
        recovering = bool(rows[0][4]) if rows else True  # without slots there is nothing to drop
        seen = [SlotSeen(str(r[0]), bool(r[1]), bool(r[2]), bool(r[3])) for r in rows]
        changes = policy.changes(seen, wanted, in_recovery=recovering, now_s=now_s)
        if changes.drop:
            await session.rows(_DROP, list(changes.drop))
        if changes.create:
            await session.rows(_CREATE, list(changes.create))
