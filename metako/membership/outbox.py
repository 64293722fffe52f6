"""What goes out: messages with the rumours that ride on them.

In: names and messages. Out: `Outbound` values, in the order of sending.
Invariants: an address comes from the roster, never from a message; a member that we hold suspect
or dead hears so before anything else, whatever the message is (Lifeguard's buddy system), because
only it can refute. Deliberately unaware of why something is sent.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from metako.membership.config import MembershipConfig
from metako.membership.dissemination import update_bytes
from metako.membership.roster import Roster
from metako.membership.view import View
from metako.model.events import Event
from metako.model.ids import Address, NodeId
from metako.model.instant import milliseconds
from metako.model.member import Member, MemberState
from metako.wire.messages import MemberUpdate, Message, Outbound, Ping, PushPull


class MembershipOutput(NamedTuple):
    """What a call wants done. Messages are best effort; losing any of them is normal."""

    outbound: tuple[Outbound, ...] = ()
    events: tuple[Event, ...] = ()


NOTHING = MembershipOutput()
SMALL_MAX = 16
"""Members up to which our word rides on every datagram until it is confirmed: some 300 bytes."""


class Outbox:
    """Messages of one call."""

    def __init__(
        self,
        *,
        config: MembershipConfig,
        roster: Roster,
        view: View,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._roster = roster
        self._view = view
        self._own = view.identity.own
        self._rng = rng
        self._messages: list[Outbound] = []
        self._confirmed: dict[NodeId, int] = {}  # our incarnation that a member has acknowledged
        self._asked = (0, view.identity.own.node, 0)  # newest such ping: sequence, target, ours
        # Of each member the newest whole rumour, its size in bytes, and what they were made from:
        # rosters are exchanged all the time, and few members change in between.
        self._whole: dict[NodeId, tuple[Member, bool, MemberUpdate, int]] = {}

    def take(self) -> tuple[Outbound, ...]:
        """Return what was sent since the last call."""
        if not self._messages:
            return ()
        messages = tuple(self._messages)
        self._messages.clear()
        return messages

    def send(self, node: NodeId, message: Message, *, stream: bool = False) -> None:
        entry = self._roster.get(node)
        assert entry is not None, node
        self._messages.append(Outbound(node, entry.address, message, stream))

    def send_roster(self, node: NodeId, address: Address, *, reply: bool) -> None:
        """Send everything that is known; with `reply` the receiver sends its own back."""
        message = PushPull(reply, self.whole_roster())
        self._messages.append(Outbound(node, address, message, stream=True))

    def send_roster_back(self, now_ns: int, node: NodeId) -> bool:
        """Answer with everything that is known; False if it was sent there only just now."""
        entry = self._roster.get(node)
        assert entry is not None
        pause_ns = milliseconds(self._config.push_pull_reply_min_ms)
        if entry.roster_sent_ns is not None and now_ns - entry.roster_sent_ns < pause_ns:
            return False
        entry.roster_sent_ns = now_ns
        self.send_roster(node, entry.address, reply=False)
        return True

    def ping(self, to: NodeId, sequence: int) -> None:
        """Probe a member; with our own word first, until it has acknowledged one with the newest.

        A rumour is told a few times and then left to the others. All of those times may have been
        spent on members that a cut had just made unreachable; who can be reached must not have to
        wait for the next exchange of rosters.
        """
        own = self._own.incarnation
        if self._is_unconfirmed(to):
            self._view.to_correct[to] = None
            self._asked = (sequence, to, own)
        self.send(to, Ping(sequence, self.piggyback(to)))

    def acked(self, sender: NodeId, sequence: int) -> None:
        """Take note of an ack: the ping that it answers has arrived, with all that it said."""
        if self._asked[:2] == (sequence, sender):
            self._confirmed[sender] = self._asked[2]

    def piggyback(self, to: NodeId) -> tuple[MemberUpdate, ...]:
        """Return the rumours for one datagram to `to`, and count them as told."""
        first = self.accusation(to)
        wanted = to in self._view.to_correct
        if wanted:
            del self._view.to_correct[to]
        if wanted or self._owes_word(to):
            first += (self._own.update(),)
        return self._view.rumours.take(
            to, bytes_max=self._config.datagram_updates_bytes, first=first
        )

    def _owes_word(self, to: NodeId) -> bool:
        """Return whether a member of a small cluster may not know our newest word yet.

        A node whose probes fail probes seldom. While it is half cut off, whoever it still reaches
        would hear of it by its next probe only, or by the next exchange of rosters.
        """
        return len(self._roster) <= SMALL_MAX and self._is_unconfirmed(to)

    def _is_unconfirmed(self, to: NodeId) -> bool:
        """Return whether a member has yet to acknowledge a ping with our newest news."""
        return self._confirmed.get(to, 0) < self._view.news

    def accusation(self, node: NodeId) -> tuple[MemberUpdate, ...]:
        """Return what a suspect or dead member must hear first."""
        entry = self._roster.get(node)
        if entry is None or entry.state is MemberState.ALIVE:
            return ()
        if entry.state not in (MemberState.SUSPECT, MemberState.DEAD):
            return ()
        return (entry.rumour(entry.state, self._own.node),)

    def whole_roster(self) -> tuple[MemberUpdate, ...]:
        """Return all that was ever heard of, this node first; a random part if it is too much."""
        if len(self._whole) > len(self._roster):
            self._whole.clear()  # some names are forgotten
        own = self._own.update()
        room = self._config.stream_updates_bytes - update_bytes(own)
        updates: list[MemberUpdate] = []
        size = 0
        for member in self._roster.snapshot():
            if member.node != own.node and member.boot_epoch > 0:
                update, more = self._whole_update(member)
                updates.append(update)
                size += more
        if size > room:
            self._rng.shuffle(updates)
            updates = _fitting(updates, room)
        return (own, *updates)

    def _whole_update(self, member: Member) -> tuple[MemberUpdate, int]:
        """Return all that is known of a member as a rumour, and its size in bytes."""
        entry = self._roster.get(member.node)
        assert entry is not None
        known = self._whole.get(member.node)
        if known is None or known[0] is not member or known[1] is not entry.address_learned:
            update = entry.update()
            known = (member, entry.address_learned, update, update_bytes(update))
            self._whole[member.node] = known
        return known[2], known[3]


def _fitting(updates: list[MemberUpdate], room: int) -> list[MemberUpdate]:
    """Return the first of the updates, as many as fit."""
    kept: list[MemberUpdate] = []
    for update in updates:
        room -= update_bytes(update)
        if room < 0:
            break
        kept.append(update)
    return kept
