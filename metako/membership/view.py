"""This node's view of the cluster, and how rumours, silence and words change it.

In: updates, proofs of life, failed probes, the clock. Out: a changed roster, rumours to pass on,
events, and wishes (whom to tell, probe or ask for a roster) for `Membership` to turn into messages.

Invariants: this node is never suspect or dead in its own view; an incarnation never falls within
a life; a suspicion runs exactly for the entries in state suspect; every change that others do not
know is a rumour.

Deliberately unaware of messages, sequences and schedules.

*A word heard directly from a member is proof of life.* It comes sealed by the member itself, so no
rumour weighs more. It does not end a suspicion, since the others need the refutation anyway and
views would flap in the meantime, but the wait counts from that word on, and the suspect is told.
"""

from __future__ import annotations

import random
from collections import deque
from typing import assert_never

from metako.membership import report
from metako.membership.awareness import Awareness
from metako.membership.config import MembershipConfig
from metako.membership.counters import MembershipCounters
from metako.membership.dissemination import Rumours, retransmit_limit
from metako.membership.identity import Conflicts, Identity
from metako.membership.precedence import Verdict, judge
from metako.membership.roster import Entry, Roster
from metako.membership.suspicion import Suspicion, window_for
from metako.model.events import Event
from metako.model.ids import NodeId
from metako.model.instant import NS_PER_MS, seconds
from metako.model.member import MemberMeta, MemberState, only_measures_differ
from metako.wire.messages import MemberUpdate

INCARNATION_MAX = 1 << 62
"""Rumours beyond this are malformed: nobody counts so far, and refuting one must stay possible."""

CONFIRMERS = 4
"""How many members, on average, give a second opinion on each suspicion they hear of."""

WISHES_MAX = 64
"""Members to tell or to ask at one time; whoever finds no room is met by the schedules."""


class View:
    """Roster, suspicions and rumours of one node."""

    def __init__(
        self,
        *,
        config: MembershipConfig,
        roster: Roster,
        own: Entry,
        awareness: Awareness,
        counters: MembershipCounters,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._node = own.node
        self._roster = roster
        self._counters = counters
        self._rng = rng
        self._events: list[Event] = []
        self._conflicts = Conflicts(
            interval_ns=seconds(config.conflict_interval_s), counters=counters
        )
        self.identity = Identity(
            own=own, conflicts=self._conflicts, awareness=awareness, counters=counters
        )
        self.rumours = Rumours(limit=config.max_rumours)
        self.suspicions: dict[NodeId, Suspicion] = {}
        self.to_tell: dict[NodeId, None] = {}  # accused, to be told at the next gossip
        self.news = 0  # this node's incarnation when it last changed in more than measures
        self.to_correct: dict[NodeId, None] = {}  # accusers of this node, to be told at once
        self.to_ask: dict[NodeId, None] = {}  # alive without details: ask for the roster
        self.to_verify: deque[NodeId] = deque()  # suspects to be probed early

    # ------------------------------------------------------------ what comes in

    def apply(
        self, now_ns: int, update: MemberUpdate, *, sender: NodeId, whole: bool = False
    ) -> None:
        """Take a rumour in.

        Args:
            now_ns: monotonic clock.
            update: the rumour.
            sender: who told it; the accuser, if the rumour names none.
            whole: it is part of a whole roster. That repeats what its sender heard from others,
                so it may begin a suspicion but neither confirms nor condemns.
        """
        if not _is_sound(update):
            self._counters.malformed += 1
            return
        if update.node == self._node:
            self._hear_about_self(now_ns, update, sender)
            return
        entry = self._roster.get(update.node) or self._admit(update)
        if entry is None:
            return
        accuser = update.accuser or sender
        verdict = judge(entry, update)
        match verdict:
            case Verdict.STALE:
                pass
            case Verdict.FILL:
                self._fill(entry, update)
            case Verdict.RENEW | Verdict.REFRESH:
                self._revive(now_ns, entry, update, renewed=verdict is Verdict.RENEW, source=sender)
            case Verdict.SUSPECT:
                self._suspect(now_ns, entry, update, accuser)
            case Verdict.CONFIRM | Verdict.CONDEMN:
                if not whole:
                    self._confirm(entry, accuser, condemned=verdict is Verdict.CONDEMN)
            case Verdict.RAISE:
                entry.incarnation = update.incarnation
                self._roster.touch(entry)
            case Verdict.LEAVE:
                self._leave(now_ns, entry, update)
            case Verdict.CONFLICT:
                self._events += self._conflicts.note(now_ns, entry, update)
            case _:
                assert_never(verdict)

    def hear(self, now_ns: int, sender: NodeId, boot_epoch: int) -> bool:
        """Note a word directly from a member; return False if it must be dropped.

        A word from a life that we did not know makes its sender alive at once; what it says about
        itself comes with its own rumour, or is asked for.
        """
        if sender == self._node:
            # We never write to ourselves: somebody else uses our name and our key.
            namesake = MemberUpdate(sender, boot_epoch, 0, MemberState.ALIVE)
            self._events += self.identity.note_foreign(now_ns, namesake)
            return False
        entry = self._roster.get(sender)
        if entry is None:
            self._counters.unknown_sender += 1
            return False
        if boot_epoch < entry.boot_epoch:
            self._counters.former_life += 1
            return False
        if boot_epoch > entry.boot_epoch:
            first_word = MemberUpdate(sender, boot_epoch, 0, MemberState.ALIVE)
            self._revive(now_ns, entry, first_word, renewed=True, source=None)
            _wish(self.to_ask, sender)
        if entry.state is MemberState.LEFT:
            return False
        entry.heard_ns = now_ns
        suspicion = self.suspicions.get(sender)
        if suspicion is not None:
            suspicion.heard(now_ns)
        if entry.state is not MemberState.ALIVE:
            _wish(self.to_tell, sender)
        return True

    def is_current(self, sender: NodeId, boot_epoch: int) -> bool:
        """Return whether a message of that life may be listened to at all."""
        entry = self._roster.get(sender)
        return sender != self._node and (entry is None or boot_epoch >= entry.boot_epoch)

    def accuse(self, now_ns: int, node: NodeId) -> None:
        """Our own probe of an active member failed."""
        entry = self._roster.get(node)
        if entry is None:
            return
        match entry.state:
            case MemberState.ALIVE:
                rumour = entry.rumour(MemberState.SUSPECT, self._node)
                self._suspect(now_ns, entry, rumour, self._node)
            case MemberState.SUSPECT:
                self._confirm(entry, self._node, condemned=False)
            case MemberState.EXPECTED | MemberState.DEAD | MemberState.LEFT:
                pass  # it changed while the probe ran
            case _:
                assert_never(entry.state)

    def expire(self, now_ns: int) -> None:
        """Declare dead whoever did not refute in time."""
        for node in [n for n, s in self.suspicions.items() if s.deadline_ns <= now_ns]:
            suspicion = self.suspicions.pop(node)
            entry = self._roster.get(node)
            assert entry is not None
            self._roster.set_state(entry, MemberState.DEAD, now_ns)
            self._spread(entry.rumour(MemberState.DEAD, self._node))
            self._counters.deaths += 1
            heard = entry.heard_ns
            silent_ms = None if heard is None else (now_ns - heard) // NS_PER_MS
            self._events.append(report.dead(entry, suspicion.confirmations, silent_ms))

    def reclaim(self, now_ns: int) -> None:
        """Forget members that are dead or left for longer than the configured time."""
        limit_ns = seconds(self._config.dead_reclaim_s)
        gone = (MemberState.DEAD, MemberState.LEFT)
        for entry in list(self._roster):
            if (
                entry is self.identity.own
                or entry.configured is not None
                or entry.state not in gone
            ):
                continue
            if now_ns - entry.changed_ns >= limit_ns:
                self.rumours.discard(entry.node)
                self.to_tell.pop(entry.node, None)
                self.to_correct.pop(entry.node, None)
                self._conflicts.forget(entry.node)
                self._roster.remove(entry.node)

    def postpone(self, delta_ns: int) -> None:
        """Give every suspect the time back in which this node was paused."""
        for suspicion in self.suspicions.values():
            suspicion.postpone(delta_ns)

    # ------------------------------------------------------------ this node

    def set_meta(self, meta: MemberMeta) -> bool:
        """Publish new metadata; return False if nothing changed."""
        before = self.identity.own.meta
        changed = self.identity.set_meta(meta)
        if changed:
            self.announce(casual=before is not None and only_measures_differ(before, meta))
        return changed

    def announce(self, *, casual: bool = False) -> None:
        """Spread this node's own entry, which has changed; `casual` if only in measures."""
        self.news = self.news if casual else self.identity.own.incarnation
        self._roster.touch(self.identity.own)
        self._spread(self.identity.own.update(), casual=casual)

    def say_goodbye(self, now_ns: int) -> MemberUpdate:
        """Leave for good in this life; return the rumour to send."""
        own = self.identity.own
        self._roster.set_state(own, MemberState.LEFT, now_ns)
        return own.rumour(MemberState.LEFT)

    # ------------------------------------------------------------ what goes out

    def take_events(self) -> tuple[Event, ...]:
        if not self._events:
            return ()
        events = tuple(self._events)
        self._events.clear()
        return events

    def takes_part(self) -> bool:
        """Return whether this node is one of the few that act on a suspicion at once.

        In a small cluster everybody is. In a large one a suspect that is merely slow would be
        buried under the attention of a thousand members.
        """
        others = len(self._roster.active)
        return others <= CONFIRMERS or self._rng.random() < CONFIRMERS / others

    # ------------------------------------------------------------ rules

    def _admit(self, update: MemberUpdate) -> Entry | None:
        """Make an entry for a new name; None if the rumour gives no reason to.

        A death or departure of somebody that we never knew is nothing to us. Taking it in would
        let forgotten names wander through the cluster for ever.
        """
        known_states = (MemberState.ALIVE, MemberState.SUSPECT)
        if update.state not in known_states or update.address is None:
            return None
        if self._roster.full:
            self._counters.roster_full += 1
            return None
        entry = Entry(update.node, 0, 0, MemberState.EXPECTED, update.address)
        self._roster.add(entry)
        return entry

    def _begin_life(self, entry: Entry, boot_epoch: int) -> None:
        """Drop all that was known of an older life but the address, which is our best guess."""
        self._roster.touch(entry)
        entry.boot_epoch = boot_epoch
        entry.incarnation = 0
        entry.address_learned = False
        entry.meta = None
        entry.heard_ns = None
        self.rumours.discard(entry.node)
        self.suspicions.pop(entry.node, None)

    def _fill(self, entry: Entry, update: MemberUpdate) -> None:
        """Take over what we lack; most of what is told is known already, and is no change."""
        if update.address is not None and not entry.address_learned:
            entry.address = update.address
            entry.address_learned = True
            self._roster.touch(entry)
        meta = update.meta
        if meta is not None and meta is not entry.meta and meta != entry.meta:
            entry.meta = meta
            self._roster.touch(entry)

    def _revive(
        self,
        now_ns: int,
        entry: Entry,
        update: MemberUpdate,
        *,
        renewed: bool,
        source: NodeId | None,
    ) -> None:
        was = entry.state
        casual = was is MemberState.ALIVE and not renewed and _only_measures(entry, update)
        if renewed:
            self._begin_life(entry, update.boot_epoch)
        entry.incarnation = update.incarnation
        self._roster.touch(entry)
        self._fill(entry, update)
        self.suspicions.pop(entry.node, None)
        self.to_tell.pop(entry.node, None)
        self._roster.set_state(entry, MemberState.ALIVE, now_ns)
        if source is not None:  # else it is no rumour of somebody else
            self._spread(update, casual=casual, source=source)
        if renewed:
            self._events.append(report.joined(entry))
        elif was is not MemberState.ALIVE:
            self._events.append(report.alive(entry))

    def _suspect(self, now_ns: int, entry: Entry, update: MemberUpdate, accuser: NodeId) -> None:
        if update.boot_epoch > entry.boot_epoch:
            self._begin_life(entry, update.boot_epoch)
            self._fill(entry, update)
        entry.incarnation = update.incarnation
        self._roster.touch(entry)
        self._roster.set_state(entry, MemberState.SUSPECT, now_ns)
        window = window_for(self._config, self._roster.size)
        suspicion = Suspicion(now_ns=now_ns, window=window, accuser=accuser)
        self.suspicions[entry.node] = suspicion
        self._counters.suspicions += 1
        # A dead member that we took for alive is passed on as a suspect: we vouch for no more.
        self._spread(entry.rumour(MemberState.SUSPECT, accuser))
        wait_ms = (suspicion.deadline_ns - now_ns) // NS_PER_MS
        self._events.append(report.suspect(entry, accuser, wait_ms))
        if accuser == self._node:
            _wish(self.to_tell, entry.node)
        elif self.takes_part():
            _wish(self.to_tell, entry.node)
            if len(self.to_verify) < WISHES_MAX:
                self.to_verify.append(entry.node)

    def _confirm(self, entry: Entry, accuser: NodeId, *, condemned: bool) -> None:
        suspicion = self.suspicions[entry.node]
        if suspicion.confirm(accuser):
            self._spread(entry.rumour(MemberState.SUSPECT, accuser))
        if condemned:
            suspicion.condemn()

    def _leave(self, now_ns: int, entry: Entry, update: MemberUpdate) -> None:
        if update.boot_epoch > entry.boot_epoch:
            self._begin_life(entry, update.boot_epoch)
        entry.incarnation = max(entry.incarnation, update.incarnation)
        self._roster.touch(entry)
        self.suspicions.pop(entry.node, None)
        self.to_tell.pop(entry.node, None)
        self._roster.set_state(entry, MemberState.LEFT, now_ns)
        self._spread(entry.rumour(MemberState.LEFT))
        self._events.append(report.left(entry))

    def _hear_about_self(self, now_ns: int, update: MemberUpdate, sender: NodeId) -> None:
        own = self.identity.own
        if own.state is MemberState.LEFT or update.boot_epoch < own.boot_epoch:
            return
        if self.identity.is_foreign(update):
            self._events += self.identity.note_foreign(now_ns, update)
            return
        if self.identity.contradict(update):
            self.announce()
        if update.state is not MemberState.ALIVE and self._roster.get(sender) is not None:
            # Whoever told us still believes it, and need not be among the few that gossip picks.
            _wish(self.to_correct, sender)

    def _spread(
        self, update: MemberUpdate, *, casual: bool = False, source: NodeId | None = None
    ) -> None:
        sends = retransmit_limit(self._config.retransmit_mult, self._roster.size, casual=casual)
        self.rumours.put(update, sends=sends, casual=casual, source=source)


def _is_sound(update: MemberUpdate) -> bool:
    return (
        update.boot_epoch > 0
        and 0 <= update.incarnation <= INCARNATION_MAX
        and update.state is not MemberState.EXPECTED
    )


def _wish(wishes: dict[NodeId, None], node: NodeId) -> None:
    if len(wishes) < WISHES_MAX:
        wishes[node] = None


def _only_measures(entry: Entry, update: MemberUpdate) -> bool:
    """Return whether an update tells nothing new of a living member but its measures."""
    known, told = entry.meta, update.meta
    return known is not None and told is not None and only_measures_differ(known, told)
