"""The roster: one entry per known name, and which of them take part.

In: changes decided elsewhere. Out: entries, the sorted list of active members, snapshots.
Invariant: `active` holds exactly the names in state alive or suspect, without this node, in
order; order makes every random choice repeatable. Deliberately unaware of the rules by which
rumours override each other (`precedence`) and of time.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from metako.model.ids import Address, NodeId
from metako.model.member import Member, MemberMeta, MemberState
from metako.wire.messages import MemberUpdate

ACTIVE_STATES = frozenset({MemberState.ALIVE, MemberState.SUSPECT})


@dataclass(slots=True)
class Entry:
    """What is known of one name. Written by `View` only."""

    node: NodeId
    boot_epoch: int  # 0: never heard of
    incarnation: int  # 0: heard from it, but not yet about it
    state: MemberState
    address: Address  # its own word once `address_learned`, the configured one before
    configured: Address | None = None  # None: not in our configuration
    address_learned: bool = False
    meta: MemberMeta | None = None  # None until its own Alive was seen
    changed_ns: int = 0  # when `state` last changed
    heard_ns: int | None = None  # last authenticated message from it; None: none in this life
    roster_sent_ns: int | None = None  # last roster that it got as a reply; None: none

    def update(self) -> MemberUpdate:
        """Return all that is known as a rumour.

        An address that is only our configuration is left out: told to others it would pass for
        the member's own word, and its own word later for a conflict.
        """
        return MemberUpdate(
            self.node,
            self.boot_epoch,
            self.incarnation,
            self.state,
            address=self.address if self.address_learned else None,
            meta=self.meta,
        )

    def rumour(self, state: MemberState, accuser: NodeId | None = None) -> MemberUpdate:
        """Return a short rumour: whoever hears it knows the address and the metadata."""
        return MemberUpdate(self.node, self.boot_epoch, self.incarnation, state, accuser=accuser)


class Roster:
    """Entries by name."""

    def __init__(self, *, node: NodeId, limit: int) -> None:
        self._node = node
        self._limit = limit  # entries
        self._entries: dict[NodeId, Entry] = {}
        self.get = self._entries.get  # by name: None if it is unknown
        self._active: list[NodeId] = []
        self.dead: set[NodeId] = set()  # names in that state. Read only
        self._version = 0
        self._snapshot: tuple[Member, ...] = ()  # the newest one
        self._shown: dict[NodeId, Member] = {}  # its members, in order
        self._touched: set[NodeId] = set()  # names whose entries may have changed since

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    @property
    def active(self) -> list[NodeId]:
        """Names that are probed and gossiped to, sorted. Read only."""
        return self._active

    @property
    def size(self) -> int:
        """Return n: members alive or suspect, this node included."""
        return len(self._active) + 1

    @property
    def version(self) -> int:
        """Grows whenever `active` changes."""
        return self._version

    @property
    def full(self) -> bool:
        return len(self._entries) >= self._limit

    @property
    def by_name(self) -> Mapping[NodeId, Member]:
        """Members of the newest snapshot by their names. Read only."""
        return self._shown

    def add(self, entry: Entry) -> None:
        assert entry.node not in self._entries, entry
        assert not self.full
        self._entries[entry.node] = entry
        self._touched.add(entry.node)
        self._sort_in(entry)

    def remove(self, node: NodeId) -> None:
        entry = self._entries.pop(node)
        self.dead.discard(node)
        self._touched.add(node)
        assert entry.state not in ACTIVE_STATES, entry

    def set_state(self, entry: Entry, state: MemberState, now_ns: int) -> None:
        """Change the state; the time is recorded only when it differs."""
        if entry.state is not state:
            if state is MemberState.DEAD:
                self.dead.add(entry.node)
            else:
                self.dead.discard(entry.node)
            entry.state = state
            entry.changed_ns = now_ns
            self._touched.add(entry.node)
            self._sort_in(entry)

    def snapshot(self) -> tuple[Member, ...]:
        """Return all entries as values, sorted by name; the same tuple while nothing changes.

        It is asked for at every message, which in a large cluster tells of a few members among
        many: only those are looked at, and a member that has not changed stays the same object.
        """
        if self._touched:
            for node in self._touched:
                self._show(node)
            self._touched.clear()
            self._snapshot = tuple(self._shown.values())
        return self._snapshot

    def touch(self, entry: Entry) -> None:
        """Take note that an entry has changed: whoever changes one says so."""
        self._touched.add(entry.node)

    def is_current(self) -> bool:
        """Return whether the snapshot shows every entry as it is now; for tests."""
        self.snapshot()
        entries = self._entries
        if len(self._snapshot) != len(entries):
            return False
        return all(
            member.node in entries and _shown(entries[member.node], member) is member
            for member in self._snapshot
        )

    def _show(self, node: NodeId) -> None:
        """Bring what is shown of a name up to date."""
        entry = self._entries.get(node)
        if entry is None:
            self._shown.pop(node, None)
            return
        known = self._shown.get(node)
        self._shown[node] = _shown(entry, known)
        if known is None:
            self._shown = dict(sorted(self._shown.items()))

    def _sort_in(self, entry: Entry) -> None:
        if entry.node == self._node:
            return
        index = bisect.bisect_left(self._active, entry.node)
        present = index < len(self._active) and self._active[index] == entry.node
        wanted = entry.state in ACTIVE_STATES
        if wanted and not present:
            self._active.insert(index, entry.node)
            self._version += 1
        elif present and not wanted:
            del self._active[index]
            self._version += 1


def _shown(entry: Entry, known: Member | None) -> Member:
    """Return an entry as a value: the one that is known if it shows the entry as it is."""
    if (
        known is not None
        and entry.meta is known.meta
        and entry.state is known.state
        and entry.incarnation == known.incarnation
        and entry.boot_epoch == known.boot_epoch
        and (entry.address is known.address or entry.address == known.address)
    ):
        return known
    return Member(
        entry.node, entry.boot_epoch, entry.incarnation, entry.state, entry.address, entry.meta
    )
