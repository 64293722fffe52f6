"""Who is probably alive: SWIM with Lifeguard, composed from the parts beside this file.

In: messages whose seal was verified, and the time. Out: messages to send, and events.

    message ──▶ updates ──▶ View (roster, suspicions, rumours) ──▶ events
       │                      ▲        │
       └──▶ proof of life ────┤        └──▶ piggybacked on probes, acks and gossip
                              │
    tick ──▶ Prober ── failed ┘   Relays (probes for others)   Contacts (whole rosters)

Every `tick` does what is due and `wakeup` names the next time; there are no timer objects. A
message from a member counts as an answer to our probe of it, whatever kind it is: agreement
messages may be passed in as well, and with a heartbeat every 250 ms they mostly spare the probes.

Everything here is advisory. It never grants a vote, never shortens a hold, and knows neither
leases nor PostgreSQL; the metadata that it carries is opaque to it.

What protects the healthy from a node that is itself sick, in the order in which it acts:
proof of life; relays; the health score, which slows a sick accuser down; the stall check, which
withdraws the verdicts of a node that was paused; the suspicion, which tells the accused first and
waits longest where nobody agrees; the refutation.

Sources: SWIM (DSN 2002), Lifeguard (arXiv:1707.00788), hashicorp/memberlist.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import assert_never

from metako.membership.awareness import Awareness
from metako.membership.config import MembershipConfig
from metako.membership.contact import LOST_STATES, Contacts
from metako.membership.counters import MembershipCounters
from metako.membership.dissemination import updates_of
from metako.membership.gossip import Gossiper
from metako.membership.outbox import NOTHING, MembershipOutput, Outbox
from metako.membership.pause import PauseDetector
from metako.membership.probe import Probe, Prober, sample
from metako.membership.relay import Relay, Relays
from metako.membership.roster import Entry, Roster
from metako.membership.view import View
from metako.membership.word import shows_only_life
from metako.model.ids import Address, NodeId
from metako.model.instant import Instant, milliseconds, seconds
from metako.model.member import Member, MemberMeta, MemberState
from metako.wire.messages import (
    GOSSIP_KINDS,
    Ack,
    Gossip,
    GossipMessage,
    Nack,
    Ping,
    PingRequest,
    PushPull,
    Received,
)


class Membership:
    """The failure detector and directory of one node.

    Call `start` once, then `receive` for each message and `tick` whenever `wakeup` has come. Calls
    that come late are noticed and taken as a pause of this process. After `leave` everything is
    ignored.
    """

    def __init__(
        self,
        *,
        config: MembershipConfig,
        node: NodeId,
        boot_epoch: int,
        address: Address,
        meta: MemberMeta,
        peers: Sequence[tuple[NodeId, Address]],
        rng: random.Random,
    ) -> None:
        assert boot_epoch > 0
        self._config = config
        self._rng = rng
        self._awareness = Awareness(limit=config.awareness_max)
        self._roster = Roster(node=node, limit=config.max_members)
        own = Entry(node, boot_epoch, 1, MemberState.ALIVE, address, address, True, meta)
        self._roster.add(own)
        self._own = own
        for name, peer_address in peers:
            if name != node:
                entry = Entry(name, 0, 0, MemberState.EXPECTED, peer_address, peer_address)
                self._roster.add(entry)
        self.counters = MembershipCounters()
        self._view = View(
            config=config,
            roster=self._roster,
            own=own,
            awareness=self._awareness,
            counters=self.counters,
            rng=rng,
        )
        self._prober = Prober(roster=self._roster, rng=rng)
        self._gossiper = Gossiper(config=config, roster=self._roster, view=self._view, rng=rng)
        self._relays = Relays(limit=config.max_relays)
        self._contacts = Contacts(config=config, roster=self._roster, rng=rng)
        self._timed = (self._prober, self._relays, self._contacts)
        self._outbox = Outbox(config=config, roster=self._roster, view=self._view, rng=rng)
        self._pause = PauseDetector(threshold_ns=milliseconds(config.stall_ms))
        self._sequence = 0  # of our pings; grows
        self._gossip_ns = 0  # the next gossip may go out
        self._reclaim_ns = 0  # the next look for members to forget
        self._tries: dict[NodeId, int] = {}  # contacts since a lost peer was last heard

    # ------------------------------------------------------------ calls

    def start(self, now: Instant) -> MembershipOutput:
        """Begin: ask the configured peers for their rosters."""
        now_ns = now.mono_ns
        self._notice_pause(now)
        self._own.changed_ns = now_ns
        self._view.announce()
        # The first probe falls anywhere in the interval: a fleet started by one command would
        # otherwise probe in step.
        self._prober.next_ns = now_ns + milliseconds(
            self._rng.uniform(0, self._config.probe_interval_ms)
        )
        self._reclaim_ns = now_ns + seconds(self._config.push_pull_interval_s)
        self._contacts.start(now_ns)
        self._contact(now_ns)
        return self._finish(now_ns)

    def receive(self, now: Instant, received: Received) -> MembershipOutput:
        """Take in one message. What it makes due is done by the next `tick`, but for answers."""
        now_ns = now.mono_ns
        if self._own.state is MemberState.LEFT:
            return NOTHING
        self._notice_pause(now)
        sender, boot_epoch, message = received
        gossips = type(message) in GOSSIP_KINDS
        if not gossips and now_ns < (self._pause.due_ns or 0) and self._contacts.joined:
            entry = self._roster.get(sender)
            if shows_only_life(entry, boot_epoch, own=self._own, probe=self._prober.current):
                entry.heard_ns = now_ns
                self._tries.pop(sender, None)
                return NOTHING
        if gossips and self._view.is_current(sender, boot_epoch):
            whole = isinstance(message, PushPull)
            for update in updates_of(message):
                self._view.apply(now_ns, update, sender=sender, whole=whole)
        if self._view.hear(now_ns, sender, boot_epoch):
            self._contacts.heard(now_ns)
            self._tries.pop(sender, None)
            if self._prober.heard(sender):
                self._awareness.probe_succeeded()
            if gossips and isinstance(message, GossipMessage):
                self._answer(now_ns, sender, message)
        return self._finish(now_ns)

    def tick(self, now: Instant) -> MembershipOutput:
        """Do everything that is due."""
        now_ns = now.mono_ns
        if self.has_left:
            return NOTHING
        self._notice_pause(now)
        if now_ns >= self._reclaim_ns:
            self._reclaim_ns = now_ns + seconds(self._config.push_pull_interval_s)
            self._view.reclaim(now_ns)
        for relay in self._relays.take_due(now_ns):
            self._outbox.send(relay.origin, Nack(relay.origin_sequence))
        self._tick_probe(now_ns)
        self._view.expire(now_ns)
        self._tick_gossip(now_ns)
        self._contact(now_ns)
        return self._finish(now_ns)

    def wakeup(self) -> int | None:
        """Return when `tick` is due next, on the monotonic clock; None after `leave`."""
        return self._pause.due_ns

    def set_meta(self, now: Instant, meta: MemberMeta) -> None:
        """Publish this node's metadata; nothing happens if it is unchanged."""
        if not self.has_left and self._view.set_meta(meta):
            self._finish_due(now.mono_ns)

    def leave(self, now: Instant) -> MembershipOutput:
        """Say goodbye to several members. Final for this boot epoch; everything stops."""
        if self.has_left:
            return NOTHING
        goodbye = Gossip((self._view.say_goodbye(now.mono_ns),))
        for node in sample(self._rng, self._roster.active, self._config.leave_fanout):
            self._outbox.send(node, goodbye)
        output = self._finish(now.mono_ns)
        self._pause.due_ns = None
        return output

    # ------------------------------------------------------------ questions

    @property
    def node(self) -> NodeId:
        return self._own.node

    @property
    def has_left(self) -> bool:
        return self._own.state is MemberState.LEFT

    @property
    def health_score(self) -> int:
        """Return 0 for a healthy node, up to awareness_max - 1 for one that cannot trust itself."""
        return self._awareness.score

    @property
    def superseded_by(self) -> int | None:
        """Return the boot epoch that somebody else has used with our name; None if there is none.

        Nobody listens to this process any more. It helps to stop the other one, or, if that is our
        own past whose record was lost, to start again under a higher boot epoch.
        """
        return self._view.identity.superseded_by or None

    def members(self) -> tuple[Member, ...]:
        """Return everybody known, this node included, sorted by name."""
        return self._roster.snapshot()

    def by_name(self) -> Mapping[NodeId, Member]:
        """Return the members of the newest `members()` by their names. Read only."""
        return self._roster.by_name

    def address_of(self, node: NodeId) -> Address | None:
        entry = self._roster.get(node)
        return None if entry is None else entry.address

    def last_heard(self, node: NodeId) -> int | None:
        """Return when a member's own last message came, on the monotonic clock.

        None: never in its present life; it is unknown, or this node.
        """
        entry = self._roster.get(node)
        return None if entry is None else entry.heard_ns

    # ------------------------------------------------------------ answers

    def _answer(self, now_ns: int, sender: NodeId, message: GossipMessage) -> None:
        match message:
            case Ping():
                # The receiver of a ping cannot see how it came, so the ack is always a datagram.
                self._outbox.send(sender, Ack(message.sequence, self._outbox.piggyback(sender)))
            case PingRequest():
                self._relay(now_ns, sender, message)
            case Ack():
                self._outbox.acked(sender, message.sequence)
                relay = self._relays.acked(sender, message.sequence)
                if relay is not None:
                    updates = self._outbox.piggyback(relay.origin)
                    self._outbox.send(relay.origin, Ack(relay.origin_sequence, updates))
                elif self._prober.acked(sender, message.sequence):
                    self._awareness.probe_succeeded()
            case Nack():
                self._prober.nacked(sender, message.sequence)
            case Gossip():
                pass
            case PushPull():
                if message.reply and not self._outbox.send_roster_back(now_ns, sender):
                    self.counters.rosters_withheld += 1
            case _:
                assert_never(message)

    def _relay(self, now_ns: int, origin: NodeId, request: PingRequest) -> None:
        if request.target == self.node:
            self._outbox.send(origin, Ack(request.sequence, self._outbox.piggyback(origin)))
            return
        if self._roster.get(request.target) is None:
            self._outbox.send(origin, Nack(request.sequence))
            return
        relay = Relay(
            origin,
            request.sequence,
            request.target,
            nack_ns=now_ns + milliseconds(self._config.nack_timeout_ms),
            deadline_ns=now_ns + milliseconds(self._config.probe_interval_ms),
        )
        sequence = self._next_sequence()
        if not self._relays.accept(sequence, relay):
            self.counters.relays_full += 1
            return
        self._outbox.send(request.target, Ping(sequence, self._outbox.piggyback(request.target)))

    # ------------------------------------------------------------ what is due

    def _tick_probe(self, now_ns: int) -> None:
        while self._view.to_verify:
            self._prober.hurry(self._view.to_verify.popleft())
        probe = self._prober.current
        if probe is not None and now_ns >= probe.deadline_ns:
            self._fail_probe(now_ns, probe)
        elif probe is not None and not probe.asked and now_ns >= probe.timeout_ns:
            self._probe_indirectly(probe)
        if self._prober.current is None and now_ns >= self._prober.next_ns:
            self._begin_probe(now_ns)

    def _begin_probe(self, now_ns: int) -> None:
        target = self._prober.choose()
        if target is None:
            return
        interval_ns = self._awareness.scale(milliseconds(self._config.probe_interval_ms))
        probe = Probe(
            target,
            self._next_sequence(),
            timeout_ns=now_ns + milliseconds(self._config.probe_timeout_ms),
            deadline_ns=now_ns + interval_ns,
        )
        self._prober.begin(probe)
        self.counters.probes += 1
        self._outbox.ping(target, probe.sequence)

    def _probe_indirectly(self, probe: Probe) -> None:
        """Probe through others, and once more ourselves over TCP.

        The ack to the TCP ping comes back as a datagram. It shows that the target runs and that
        TCP to it works, so a firewall or an MTU that swallows our UDP accuses nobody; it does not
        show that UDP from here to there works, nor anything about TCP from there to here.
        """
        probe.asked = True
        self.counters.probes_indirect += 1
        relays = self._prober.choose_relays(self._config.indirect_checks)
        probe.relays = frozenset(relays)
        for relay in relays:
            news = self._outbox.piggyback(relay)
            self._outbox.send(relay, PingRequest(probe.sequence, probe.target, news))
        accusation = self._outbox.accusation(probe.target)
        self._outbox.send(probe.target, Ping(probe.sequence, accusation), stream=True)

    def _fail_probe(self, now_ns: int, probe: Probe) -> None:
        self._prober.abandon()
        self.counters.probes_failed += 1
        self._awareness.probe_failed(
            nacks_expected=len(probe.relays), nacks_received=len(probe.nacks)
        )
        self._view.accuse(now_ns, probe.target)

    def _tick_gossip(self, now_ns: int) -> None:
        if now_ns < self._gossip_ns or not self._gossiper.has_news():
            return
        self._gossip_ns = now_ns + milliseconds(self._config.gossip_interval_ms)
        for node in self._gossiper.take_targets(now_ns):
            updates = self._outbox.piggyback(node)
            if updates:
                self._outbox.send(node, Gossip(updates))

    def _contact(self, now_ns: int) -> None:
        chosen = dict.fromkeys((*self._view.to_ask, *self._contacts.due(now_ns)))
        self._view.to_ask.clear()
        for node in chosen:
            entry = self._roster.get(node)
            if entry is None or entry.state is MemberState.LEFT:
                continue
            address, tries = entry.address, self._tries.get(node, 0)
            if entry.configured is not None and entry.state in LOST_STATES:
                # It may have moved, or moved back: the configuration is worth every other try.
                self._tries[node] = tries + 1
                address = entry.configured if tries % 2 else entry.address
            self._outbox.send_roster(node, address, reply=True)

    # ------------------------------------------------------------ relays

    def _notice_pause(self, now: Instant) -> None:
        """Withdraw what rests on silence during a time in which we could not listen.

        A paused process wakes to expired deadlines, while the acks and refutations that it missed
        still wait in its inbox. It was not the others that were silent.
        """
        late_ns = self._pause.notice(now)
        if late_ns is not None:
            self.counters.stalls += 1
            self._awareness.stalled()
            self._prober.abandon()
            # A little more than was lost, or a wait that was just over would end before the inbox
            # is read.
            margin_ns = milliseconds(self._config.probe_timeout_ms)
            self._view.postpone(late_ns + margin_ns)

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _finish(self, now_ns: int) -> MembershipOutput:
        messages, events = self._outbox.take(), self._view.take_events()
        self._finish_due(now_ns)
        return MembershipOutput(messages, events) if messages or events else NOTHING

    def _finish_due(self, now_ns: int) -> None:
        view = self._view
        due = now_ns if view.to_ask else self._reclaim_ns
        for part in self._timed:
            at = part.wakeup()
            if at is not None and at < due:
                due = at
        if view.suspicions:
            due = min(due, *[suspicion.deadline_ns for suspicion in view.suspicions.values()])
        if self._gossip_ns < due and self._gossiper.has_news():
            due = self._gossip_ns
        self._pause.due_ns = due if due > now_ns else now_ns
