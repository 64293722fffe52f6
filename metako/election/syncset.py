"""Changing the sync set: which single change comes next, and in which order it is made.

The elector's side is the document (S_d, k_d), PostgreSQL's side is its setting (S_p, k_p). At every
instant one contains the other and |S_d ∪ S_p ∪ {P}| ≤ (R_d − 1) + k_p + 1, so that a data quorum of
the document always meets the servers that a commit waited for:

    what changes           first                    then
    add standbys           document                 PostgreSQL
    remove a standby       PostgreSQL, barrier      document
    raise k                PostgreSQL, barrier      document
    from empty             PostgreSQL, barrier      document
    lower k, to empty      document                 PostgreSQL

One change at a time; remove-and-lower-k is two changes. Any number of standbys are added by one
change, because R_d grows with S_d: a large cluster would otherwise begin with a document for each
of its members, which every one of them has to make durable. Source: DESIGN §4.5; the same order as
Patroni's `quorum.py`, with the barrier that a reload needs.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from metako.model.document import Durability, SyncMember, SyncSet


class Order(enum.StrEnum):
    """Which side changes first."""

    DOCUMENT_FIRST = "document_first"
    POSTGRES_FIRST = "postgres_first"


@dataclass(frozen=True, slots=True)
class SyncChange:
    """One change of the sync set: who is added, or who leaves, or another k."""

    new: SyncSet
    order: Order
    why: str


def next_change(
    current: SyncSet,
    wanted: Collection[SyncMember],
    *,
    streaming: Collection[SyncMember],
    k: int,
    durability: Durability,
) -> SyncChange | None:
    """Return the next single change towards `wanted`, or None if there is nothing to do.

    Args:
        current: the committed sync set of the document.
        wanted: standbys that should be listed: those that stream, and those that are awaited.
        streaming: those of `wanted` that stream. k is raised only to as many of them as are
            listed: from then on commits wait for k, and one that is awaited may never come.
        k: acknowledgements wanted, lowered to what `wanted` can give except in `strict`.
        durability: `async` empties the set; `strict` never lowers k and never goes to empty.
    """
    target = set() if durability is Durability.ASYNC else set(wanted)
    present = set(current.members)
    k_target = min(k, len(target))
    if durability is Durability.STRICT and present and len(target) < current.k:
        # Commits wait for a listed standby to come back: that is what strict means.
        return None
    if not present:
        return _from_empty(target)
    if not target:
        return SyncChange(SyncSet(), Order.DOCUMENT_FIRST, "no standby is left")
    # A node that comes with other data is added once its old entry has left.
    fresh = sorted(m for m in target - present if m.node not in current.nodes())
    if fresh:
        members = (*current.members, *fresh)
        return SyncChange(
            SyncSet(tuple(sorted(members)), current.k),
            Order.DOCUMENT_FIRST,
            f"add {', '.join(member.node for member in fresh)}",
        )
    if k_target < current.k:
        # Before anybody is removed: the barrier of a removal waits for k of those that stay, and
        # with more lost than one it would wait for the dead.
        return _lower(current)
    surplus = present - target
    if surplus and durability is Durability.STRICT and len(present) <= current.k:
        # Nothing may leave before another has come. PostgreSQL counts the replaced by its name.
        return None
    if surplus:
        # For the same reason those are removed last whose server streams, with other data.
        replaced = {m.node for m in target}
        return _remove(current, min(surplus, key=lambda m: (m.node in replaced, m)))
    if current.k < min(k_target, len(present & set(streaming))):
        new = SyncSet(current.members, current.k + 1)
        return SyncChange(new, Order.POSTGRES_FIRST, f"raise k to {current.k + 1}")
    return None


def _from_empty(target: set[SyncMember]) -> SyncChange | None:
    if not target:
        return None
    first = min(target)
    return SyncChange(SyncSet((first,), 1), Order.POSTGRES_FIRST, f"first standby {first.node}")


def _remove(current: SyncSet, member: SyncMember) -> SyncChange:
    rest = tuple(m for m in current.members if m != member)
    if not rest:
        return SyncChange(SyncSet(), Order.DOCUMENT_FIRST, f"{member.node} was the last")
    if current.k > len(rest):
        return _lower(current)
    return SyncChange(SyncSet(rest, current.k), Order.POSTGRES_FIRST, f"remove {member.node}")


def _lower(current: SyncSet) -> SyncChange:
    new = SyncSet(current.members, current.k - 1)
    return SyncChange(new, Order.DOCUMENT_FIRST, f"lower k to {current.k - 1}")
