"""This node's own entry: it alone raises its incarnation, and it is never dead to itself.

In: what others say about this node, and its new metadata. Out: rumours that put them right.
Invariant: the state is alive, or left after the goodbye; the incarnation only grows.
Deliberately unaware of who else exists.
"""

from __future__ import annotations

from metako.membership import report
from metako.membership.awareness import Awareness
from metako.membership.counters import MembershipCounters
from metako.membership.roster import Entry
from metako.model.events import Event
from metako.model.ids import NodeId
from metako.model.member import MemberMeta, MemberState
from metako.wire.messages import MemberUpdate


class Conflicts:
    """Signs of two processes with one name: all counted, few reported."""

    def __init__(self, *, interval_ns: int, counters: MembershipCounters) -> None:
        self._interval_ns = interval_ns  # between two reports about one name
        self._counters = counters
        self._reported_ns: dict[NodeId, int] = {}  # by name; only of names in the roster

    def note(self, now_ns: int, entry: Entry, update: MemberUpdate) -> tuple[Event, ...]:
        """Count a sign, and return the report if one is due."""
        self._counters.conflicts += 1
        last = self._reported_ns.get(entry.node)
        if last is not None and now_ns - last < self._interval_ns:
            return ()
        self._reported_ns[entry.node] = now_ns
        return (report.conflict(entry, update),)

    def forget(self, node: NodeId) -> None:
        self._reported_ns.pop(node, None)


class Identity:
    """What this node says of itself. Methods return whether, or what, to spread."""

    def __init__(
        self,
        *,
        own: Entry,
        conflicts: Conflicts,
        awareness: Awareness,
        counters: MembershipCounters,
    ) -> None:
        assert own.state is MemberState.ALIVE
        assert own.address_learned
        self.own = own
        self._conflicts = conflicts
        self._awareness = awareness
        self._counters = counters
        self.superseded_by = 0  # highest boot epoch that somebody uses with our name; 0: none

    def set_meta(self, meta: MemberMeta) -> bool:
        """Take new metadata under a new incarnation; return False if nothing changed."""
        if meta == self.own.meta:
            return False
        self.own.meta = meta
        self.own.incarnation += 1
        return True

    def contradict(self, update: MemberUpdate) -> bool:
        """Override a rumour about this node of this life; return False if it is merely late.

        An accusation of our current incarnation is refuted by a higher one, and speaks against
        our own health: we were not heard. One of an older incarnation is overridden already.
        """
        own = self.own
        accused = update.state is not MemberState.ALIVE
        if update.incarnation < own.incarnation + (0 if accused else 1):
            return False
        own.incarnation = update.incarnation + 1
        if accused:
            self._awareness.refuted()
            self._counters.refutations += 1
        return True

    def is_foreign(self, update: MemberUpdate) -> bool:
        """Return whether a rumour about our name speaks of another process."""
        own = self.own
        if update.boot_epoch > own.boot_epoch or update.state is MemberState.LEFT:
            return True
        moved = update.address is not None and update.address != own.address
        return update.state is MemberState.ALIVE and moved

    def note_foreign(self, now_ns: int, update: MemberUpdate) -> tuple[Event, ...]:
        """Report another process of our name. No incarnation helps, only a higher boot epoch."""
        self.superseded_by = max(self.superseded_by, update.boot_epoch)
        return self._conflicts.note(now_ns, self.own, update)
