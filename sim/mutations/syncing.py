"""Bugs in changing the sync set (§4.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from metako.election import syncchange, syncset
from metako.election.syncchange import SyncSetKeeper
from metako.election.syncset import Order, SyncChange, next_change
from metako.model.document import SyncSet
from metako.model.postgres import sync_setting
from sim.mutations.base import Mutation, Patch


def _changed(patch: Patch, change: Callable[[SyncChange, SyncSet], SyncChange]) -> None:
    """Have every change of the sync set pass through `change`."""

    def wrong(current: SyncSet, *args: Any, **options: Any) -> SyncChange | None:
        found = next_change(current, *args, **options)
        return None if found is None else change(found, current)

    patch.set(syncchange, "next_change", wrong)


def _order_reversed(patch: Patch) -> None:
    def reverse(change: SyncChange, _: SyncSet) -> SyncChange:
        first = change.order is Order.DOCUMENT_FIRST
        return replace(change, order=Order.POSTGRES_FIRST if first else Order.DOCUMENT_FIRST)

    _changed(patch, reverse)


def _removed_in_document_first(patch: Patch) -> None:
    def wrong(change: SyncChange, current: SyncSet) -> SyncChange:
        smaller = len(change.new.members) < len(current.members)
        return replace(change, order=Order.DOCUMENT_FIRST) if smaller else change

    _changed(patch, wrong)


def _added_in_postgres_first(patch: Patch) -> None:
    def wrong(change: SyncChange, current: SyncSet) -> SyncChange:
        larger = len(change.new.members) > len(current.members)
        return replace(change, order=Order.POSTGRES_FIRST) if larger else change

    _changed(patch, wrong)


def _k_raised_in_document_first(patch: Patch) -> None:
    def wrong(change: SyncChange, current: SyncSet) -> SyncChange:
        return replace(change, order=Order.DOCUMENT_FIRST) if change.new.k > current.k else change

    _changed(patch, wrong)


def _k_lowered_in_postgres_first(patch: Patch) -> None:
    def wrong(change: SyncChange, current: SyncSet) -> SyncChange:
        lower = 0 < change.new.k < current.k or (not change.new.members and bool(current.members))
        return replace(change, order=Order.POSTGRES_FIRST) if lower else change

    _changed(patch, wrong)


def _from_empty_without_barrier(patch: Patch) -> None:
    def wrong(change: SyncChange, current: SyncSet) -> SyncChange:
        return change if current.members else replace(change, order=Order.DOCUMENT_FIRST)

    _changed(patch, wrong)


def _remove_and_lower_at_once(patch: Patch) -> None:
    """Make one change of the two that a lost standby needs when k = |S|."""
    honest = syncset._lower

    def both(current: SyncSet) -> SyncChange:
        change = honest(current)
        rest = current.members[: max(1, len(current.members) - 1)]
        k = min(change.new.k, len(rest))
        return replace(change, new=SyncSet(rest, k), order=Order.POSTGRES_FIRST)

    patch.set(syncset, "_lower", both)


def _barrier_skipped(patch: Patch) -> None:
    """Go on as soon as a fresh backend shows the setting; nobody has to have flushed anything."""
    honest = SyncSetKeeper._finish

    def hasty(self: SyncSetKeeper, now: Any, document: Any) -> SyncSet | None:
        change = self._change
        assert change is not None
        if self._core.observed.sync_applied == sync_setting(change.new):
            return change.new
        return honest(self, now, document)

    patch.set(SyncSetKeeper, "_finish", hasty)


SYNCING = (
    Mutation("sync_order_reversed", "§4.5", "document and PostgreSQL change in the wrong order",
             _order_reversed),
    Mutation("removed_in_document_first", "§4.5", "a standby leaves the document before PostgreSQL",
             _removed_in_document_first, measured=True),
    Mutation("added_in_postgres_first", "§4.5", "a standby counts for commits before the document "
             "lists it", _added_in_postgres_first),
    Mutation("k_raised_in_document_first", "§4.5", "the document relies on more acknowledgements "
             "than commits wait for", _k_raised_in_document_first),
    Mutation("k_lowered_in_postgres_first", "§4.5", "commits wait for fewer before the document "
             "says so", _k_lowered_in_postgres_first),
    Mutation("from_empty_without_barrier", "§4.5", "the first standby is relied upon before it has "
             "everything", _from_empty_without_barrier),
    Mutation("remove_and_lower_at_once", "§4.5", "removing a standby and lowering k are one change",
             _remove_and_lower_at_once, measured=True),
    Mutation("barrier_skipped", "§4.5", "a change counts as soon as the setting shows",
             _barrier_skipped, measured=True),
)  # fmt: skip
