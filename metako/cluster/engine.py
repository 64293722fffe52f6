"""All decisions of one node in one pure place: `step(now, input) -> Ready`.

Composes membership (advisory) and election (binding), and derives what gossip tells, what the
proxy may do and what is shown. It has no clock, socket, disk, task, random source or logger: time
and randomness are passed in, and everything that it wants done is in `Ready`. The only way back in
is an input.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from metako.cluster.history import Chronicle
from metako.cluster.narrate import server_events
from metako.cluster.projection import project, same_standing
from metako.cluster.ready import Input, ProxyLoad, Ready, StopRequested, Tick
from metako.cluster.routing import Router, current_primary
from metako.election.election import Election
from metako.election.explain import blocked, committed, primary_silent_ms, waiting
from metako.election.lease import Hold
from metako.election.output import ElectionOutput, Role
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.election.spare import take_repeated, take_spare
from metako.election.wants import GuardDeadline
from metako.membership import Membership, MembershipOutput
from metako.membership.config import MembershipConfig
from metako.model.document import ClusterDocument
from metako.model.durable import HardState
from metako.model.events import Event, EventName, event
from metako.model.ids import Address, NodeId, RecordId
from metako.model.instant import NS_PER_S, Instant
from metako.model.member import Member, MemberMeta, only_measures_differ
from metako.model.orders import Order
from metako.model.postgres import PostgresObserved, PostgresTarget, only_moved
from metako.model.routing import RoutingTable
from metako.model.status import NodeStatus
from metako.wire.messages import (
    GOSSIP_KINDS,
    AgreementMessage,
    Heartbeat,
    HeartbeatAck,
    Outbound,
    Received,
)

NOTHING = Ready()
META_INTERVAL_NS = NS_PER_S
"""Positions are gossiped at most this often; everything else at once."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything that an engine is built from, besides its durable record."""

    election: ElectionSettings
    cluster: ClusterSettings
    membership: MembershipConfig
    address: Address  # of our gossip, as the others reach it
    peers: tuple[tuple[NodeId, Address], ...]
    meta: MemberMeta  # what never changes while the node runs


class _Heard(enum.Enum):
    """What a message was to agreement."""

    NOTHING = enum.auto()
    SPARE = enum.auto()  # an answer that is one too many, or too few
    HOLD = enum.auto()  # a hold for longer, and nothing else
    NEWS = enum.auto()


class Engine:
    """One node's decisions. `step` is the only thing that changes it."""

    def __init__(
        self,
        *,
        settings: NodeSettings,
        hard: HardState,
        rng: random.Random,
        now: Instant,
        armed: GuardDeadline | None = None,
    ) -> None:
        """Make the engine of one start of the agent.

        Args:
            settings: of the node.
            hard: its durable record, with this start's boot epoch.
            rng: spreads candidacies and probes.
            now: the time of the start.
            armed: the deadline of a guard that an earlier agent left behind; None if there is none.
        """
        self.node = hard.node_id
        self._meta_base = self._meta = replace(settings.meta, record_id=hard.record_id)
        self._meta_at_ns = 0
        self._sessions = 0
        self._election = Election(
            settings=settings.election,
            cluster=settings.cluster,
            hard=hard,
            rng=rng,
            now=now,
            armed=armed,
        )
        self._membership = Membership(
            config=settings.membership,
            node=hard.node_id,
            boot_epoch=hard.boot_epoch,
            address=settings.address,
            meta=self._meta,
            peers=_peers(settings, hard),
            rng=rng,
        )
        self._roster: tuple[Member, ...] = ()  # gossip's newest; the same object while unchanged
        self._standing: tuple[Member, ...] = ()  # the same, but for positions that may be older
        # What the metadata were last made from, and whether they wait for their interval.
        self._shown: tuple[PostgresObserved | None, ClusterDocument | None, int] = (None, None, 0)
        self._withheld = False
        self._router = Router(hard.node_id)
        self._chronicle = Chronicle(hard.document)
        self._target: PostgresTarget | None = None
        self._routing: RoutingTable | None = None
        self._election_due_ns = 0  # CLOCK_MONOTONIC; agreement's own deadline as of its last step
        self._started = False
        self._left = False

    # ------------------------------------------------------------ inputs

    def step(self, now: Instant, event: Input) -> Ready:
        """Take one input and return everything that is to be done because of it."""
        messages: list[Outbound] = []
        events: list[Event] = []
        if not self._started:
            self._started = True
            self._collect(self._membership.start(now), messages, events)
        roster, standing = self._roster, self._standing
        # Gossip, time and WAL that grows concern agreement only when a member has changed in more
        # than positions, or when its own deadline has come, and most steps are neither.
        quiet = moved = late = False
        heard = _Heard.NOTHING
        match event:
            case Received():
                heard = self._receive(now, event, messages, events)
                quiet = late = heard is not _Heard.NEWS
            case Tick():
                quiet = late = True
            case PostgresObserved():
                before = self._election.core.observed
                quiet = moved = late = self._election.leader is None and only_moved(before, event)
                if moved:
                    self._election.moved(event)
                else:
                    events.extend(server_events(before, event, self._target))
                    self._refresh_roster()
                    self._election.observe(now, event)
            case StopRequested():
                self._election.stop(now)
            case Order():
                self._election.order(now, event)
            case ProxyLoad(sessions):
                self._sessions = sessions
                late = True
            case _:
                assert_never(event)
        wakeup = self._membership.wakeup()
        if wakeup is not None and now.mono_ns >= wakeup:
            self._collect(self._membership.tick(now), messages, events)
            self._refresh_roster()
            late = True
        if quiet and standing is self._standing and now.mono_ns < self._election_due_ns:
            if moved or roster is not self._roster or heard is not _Heard.NOTHING:
                self._tell(now, moved=moved)
            if heard is _Heard.HOLD:
                return self._hold_on(now, messages, events)
            if not messages and not events:
                return NOTHING
            return Ready(messages=tuple(messages), events=tuple(events))
        if late:
            self._election.tick(now)  # after its own inputs it has just done what is due
        output = self._election.output(now)
        self._tell(now)
        ready = self._ready(now, output, messages, events)
        self._election_due_ns = self._election.wakeup()
        return ready

    def wakeup(self) -> int:
        """Return the CLOCK_MONOTONIC time of the next deadline, in nanoseconds."""
        membership = self._membership.wakeup()
        election = self._election_due_ns
        return election if membership is None or membership > election else membership

    # ------------------------------------------------------------ views

    def status(self, now: Instant) -> NodeStatus:
        """Return the picture that this node can show. Changes nothing."""
        election = self._election
        primary, _ = current_primary(election, now)
        leader = election.leader
        hard = election.core.hard
        return NodeStatus(
            node=self.node,
            cluster_name=election.core.cluster.name,
            boot_epoch=hard.boot_epoch,
            election_role=str(election.role),
            term=leader.term if leader else max(hard.term, hard.promised_term),
            promised_term=hard.promised_term,
            leader=self.node if leader else election.voter.held_leader(now),
            primary=primary,
            hold_remaining_ms=election.voter.hold.remaining_ms(now),
            lease_remaining_ms=leader.lease.remaining_ms(now) if leader else 0,
            blocked=blocked(election, now),
            waiting=waiting(election),
            can_lead_alone=election.core.sole.held(hard.document),
            primary_silent_ms=primary_silent_ms(election, now),
            committed=committed(election),
            document=hard.document,
            members=self._membership.members(),
            postgres=election.core.observed,
        )

    @property
    def role(self) -> Role:
        return self._election.role

    def members(self) -> tuple[Member, ...]:
        """Return gossip's view of the members."""
        return self._membership.members()

    @property
    def hold(self) -> Hold:
        """Return for whom this node votes, and nobody else, until when. Read only."""
        return self._election.voter.hold

    # ------------------------------------------------------------ parts

    def _receive(
        self, now: Instant, received: Received, messages: list[Outbound], events: list[Event]
    ) -> _Heard:
        message = received.message
        # Any message is proof of its sender's life, also one that is not gossip.
        self._collect(self._membership.receive(now, received), messages, events)
        self._refresh_roster()
        if type(message) in GOSSIP_KINDS:
            return _Heard.NOTHING
        sender, election = received.sender, self._election
        if isinstance(message, Heartbeat):
            if take_repeated(election, now, sender, message):
                return _Heard.HOLD
        elif isinstance(message, HeartbeatAck):
            if take_spare(election.leader, election.core.hard, now, sender, message):
                return _Heard.SPARE
        elif not isinstance(message, AgreementMessage):
            return _Heard.NOTHING  # a Hello, which the transport has answered before it gets here
        election.receive(now, sender, message)
        return _Heard.NEWS

    def _collect(
        self, output: MembershipOutput, messages: list[Outbound], events: list[Event]
    ) -> None:
        if output.outbound:
            messages.extend(output.outbound)
        if output.events:
            events.extend(output.events)

    def _refresh_roster(self) -> None:
        members = self._membership.members()
        if members is not self._roster:
            if not same_standing(self._roster, members):
                self._standing = members
            self._roster = members
            self._election.roster(self._membership.by_name(), self._standing)

    def _tell(self, now: Instant, *, moved: bool = False) -> None:
        """Gossip what changed about us: positions now and then, everything else at once.

        Args:
            now: the time of this step.
            moved: the server has only got more WAL, and nothing else has happened.
        """
        core = self._election.core
        observed, document, sessions = self._shown
        due = now.mono_ns - self._meta_at_ns >= META_INTERVAL_NS
        same = core.observed is observed and core.document is document
        if same and self._sessions == sessions and not (self._withheld and due):
            return
        self._shown = (core.observed, core.document, self._sessions)
        if moved and not due:
            self._withheld = True  # whatever it is, it has to wait
            return
        meta = project(
            core.observed,
            self._meta_base,
            core.document,
            self._sessions,
            unwatched=bool(core.unwatched),
        )
        self._withheld = meta != self._meta
        if self._withheld and (due or not only_measures_differ(self._meta, meta)):
            self._meta, self._meta_at_ns, self._withheld = meta, now.mono_ns, False
            self._membership.set_meta(now, meta)
            self._refresh_roster()

    def _hold_on(self, now: Instant, messages: list[Outbound], events: list[Event]) -> Ready:
        """Return what a repeated heartbeat is followed by: an answer, and routes for longer."""
        persist, outbound, news = self._election.core.take()
        assert persist is None
        assert not news
        self._address(outbound, messages)
        routing = self._route(now, events)
        self._election_due_ns = self._election.wakeup()
        return Ready(messages=tuple(messages), routing=routing, events=tuple(events))

    def _address(
        self, outbound: Sequence[tuple[NodeId, AgreementMessage]], messages: list[Outbound]
    ) -> None:
        for to, message in outbound:
            address = self._membership.address_of(to)
            if address is not None:
                messages.append(Outbound(to, address, message))

    def _ready(
        self,
        now: Instant,
        output: ElectionOutput,
        messages: list[Outbound],
        events: list[Event],
    ) -> Ready:
        self._address(output.outbound, messages)
        events.extend(output.events)
        events.extend(self._chronicle.news(self._election, now))
        wanted = output.target
        target = wanted if wanted is not self._target and wanted != self._target else None
        self._target = output.target
        routing = self._route(now, events)
        stopped = self._election.stopped
        if stopped and not self._left:
            self._left = True
            self._collect(self._membership.leave(now), messages, events)
        return Ready(
            persist=output.persist,
            messages=tuple(messages),
            target=target,
            routing=routing,
            guard=output.guard,
            events=tuple(events),
            answers=output.answers,
            stopped=stopped,
        )

    def _route(self, now: Instant, events: list[Event]) -> RoutingTable | None:
        primary, until = current_primary(self._election, now)
        table = self._router.table(self._election, self._standing, primary, until)
        old = self._routing
        if table is old:
            return None
        self._routing = table
        before = old.primary.node if old and old.primary else None
        after = table.primary.node if table.primary else None
        if before != after or (old is not None and old.primary and old.term != table.term):
            events.append(
                event(
                    EventName.ROUTE_CHANGED,
                    f"the primary is {after}" if after else "there is no primary",
                    primary=after,
                    term=table.term,
                )
            )
        return table


def _peers(settings: NodeSettings, hard: HardState) -> tuple[tuple[NodeId, Address], ...]:
    """Return the configured peers, and members that were added since, where they were then."""
    known = {settings.address, *(address for _, address in settings.peers)}
    names = {hard.node_id, *(node for node, _ in settings.peers)}
    records = hard.document.records if hard.document is not None else ()
    added = [
        (record.node, record.address)
        for record in records
        if record.address is not None and record.node not in names and record.address not in known
    ]
    return (*settings.peers, *added)


def blank_hard_state(
    node: NodeId, boot_epoch: int = 1, record_id: RecordId = RecordId("")
) -> HardState:
    """Return the record of a node that has never voted, promised or seen a document."""
    return HardState(node_id=node, boot_epoch=boot_epoch, record_id=record_id)


def next_boot(hard: HardState) -> HardState:
    """Return the record as the next start of the agent begins with it; it must be persisted."""
    return replace(hard, boot_epoch=hard.boot_epoch + 1)
