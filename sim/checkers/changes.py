"""Changes of who is a member, version by version: ordered, one vote at a time, each on firm ground.

In: the versions of the document as they come into being, orders as they are given, heartbeats and
their answers. A version is judged against the one that it was made from, when its leader has made
it durable and before anybody else can see it. What "caught up", "renewed" and "cannot be done
without" mean is the truth about servers, hosts and messages, not what the leader made of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from metako.election.heirs import LAG_MAX_BYTES
from metako.model.document import ClusterDocument, Phase
from metako.model.durable import HardState
from metako.model.events import Event, EventName
from metako.model.ids import NodeId, RecordId, Term
from metako.model.orders import Order, OrderKind
from metako.wire.messages import Heartbeat, HeartbeatAck, Outbound
from sim.heap import NS_PER_S
from sim.network import Fate
from sim.postgres.receiver import ReceiverPhase
from sim.standing import agree, decides, is_member, record_named
from sim.versions import Versions
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.processes import Processes
    from sim.world import World

ROUNDS_MAX = 64
"""Of a leader's heartbeats the newest; answers to older ones renew nothing."""
PICTURE_NS = 5 * NS_PER_S
"""A leader's picture of a standby may be so old."""
DEAD_NS = 30 * NS_PER_S
"""A node whose agent has been gone for so long is held dead by everybody."""


class Changes(Watcher):
    """See the module's docstring. The versions have to be told of everything before this is."""

    name = "changes"
    sent_kinds: ClassVar[frozenset[type] | None] = frozenset({Heartbeat, HeartbeatAck})

    def __init__(self, world: World, versions: Versions) -> None:
        self._world = world
        self._versions = versions
        self._judged: set[tuple[Term, int]] = set()
        self._ordered: dict[OrderKind, set[NodeId]] = {}
        self._given_up: set[NodeId] = set()  # whom an operator has called off for good
        self._caught_up: dict[NodeId, int] = {}  # when a server without a vote last had nearly all
        self._gone: dict[NodeId, int] = {}  # since when a node has no agent
        # Of each leader: its newest rounds, and when they were sent.
        self._rounds: dict[tuple[NodeId, Term], deque[tuple[int, int]]] = {}
        # When the newest round was sent that a record has answered.
        self._answered: dict[tuple[NodeId, Term], dict[RecordId, int]] = {}
        # When the voters of a leader's term last became others: it was committed by them then.
        self._others_since: dict[tuple[NodeId, Term], int] = {}
        self._made_in: dict[tuple[Term, int], int] = {}  # by which boot of its leader

    # ------------------------------------------------------------ what is known

    def ordered(self, node: Processes, order: Order) -> None:
        self._given_up.update(order.lost)
        if order.target is not None:
            self._ordered.setdefault(order.kind, set()).add(order.target)

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        message, now = outbound.message, self._world.heap.now_ns
        if isinstance(message, Heartbeat):
            rounds = self._rounds.setdefault((node.name, message.term), deque(maxlen=ROUNDS_MAX))
            if not rounds or rounds[-1][0] != message.round:
                rounds.append((message.round, now))
        elif isinstance(message, HeartbeatAck) and node.hard is not None:
            leader = outbound.to, message.term
            sent_ns = dict(self._rounds.get(leader, ())).get(message.round)
            if sent_ns is not None:
                answered = self._answered.setdefault(leader, {})
                known = answered.get(node.hard.record_id, sent_ns)
                answered[node.hard.record_id] = max(known, sent_ns)

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        now = self._world.heap.now_ns
        gone = [node.name for node in nodes if not node.agent_up]
        self._gone = {name: self._gone.get(name, now) for name in gone}
        document = self._world.document()
        if document is not None:
            # Also of those who are no members: one that was removed a moment ago and is taken in
            # again still streams in the leader's picture, which is that of a moment ago.
            for name in self._world.nodes.keys() - set(document.voters):
                if self._has_nearly_all(document, name):
                    self._caught_up[name] = now

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            if event.name is EventName.DOCUMENT_COMMITTED:
                document = self._versions.named(str(dict(event.fields)["document"]))
                if document is not None:
                    self._committed(node, document)

    def _committed(self, node: Processes, document: ClusterDocument) -> None:
        base = self._versions.base.get(document.ref)
        if base is not None and self._done_without(base, document):
            base = None
        if base is not None and decides(base) is not None and base.term != document.term:
            base = None  # all of a pair, or an operator in its place, have elected the new leader
        made_now = self._made_in.get(document.ref) == node.boots
        if base is not None and not made_now and set(base.voters) != set(document.voters):
            base = None  # which its next agent does not know any more, and need not (Lemma 0)
        for voters in (document, base or document):
            if not self._versions.is_on_majority(document, voters):
                raise ViolationError(
                    "by_minority",
                    f"{node.name} committed document {document.ref}, which most of "
                    f"{', '.join(voters.voters)} do not have by the records that count",
                    (node.name,),
                )
        changed = base is not None and set(base.voters) != set(document.voters)
        if changed and made_now:
            self._others_since[node.name, document.term] = self._world.heap.now_ns

    # ------------------------------------------------------------ a version comes into being

    def booted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        # One that was durable at the end of the agent before was made some time ago.
        self._judge(node, hard, fresh=False)

    def persisted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        self._judge(node, hard, fresh=True)

    def _judge(self, node: Processes, hard: HardState, *, fresh: bool) -> None:
        document = hard.document
        if document is None or document.ref in self._judged:
            return
        self._judged.add(document.ref)
        self._made_in[document.ref] = node.boots
        base = self._versions.base.get(document.ref)
        if base is None or base.phase is Phase.INITIALIZING:
            return
        if self._done_without(base, document):
            return
        changed = [n for n in self._world.names if _place(document, n) != _place(base, n)]
        if not changed:
            return
        for name in changed:
            if base.term != document.term or not self._was_ordered(base, document, name):
                self._fail(
                    "unordered_change",
                    document,
                    base,
                    f"makes {name} {_words(document, name)}, and nobody has ordered that",
                )
        for name in changed:
            exchanged = record_named(base, name) not in ("", record_named(document, name))
            if exchanged and name in document.sync.nodes():
                self._fail(
                    "stale_listing",
                    document,
                    base,
                    f"exchanges the record of {name}, for which commits wait",
                )
        votes = sorted(set(base.voters) ^ set(document.voters))
        if votes:
            self._judge_votes(base, document, votes)
            if fresh:
                self._judge_grounds(base, document, votes[0])

    def _done_without(self, base: ClusterDocument, document: ClusterDocument) -> bool:
        """Return whether a version is the first without those that an operator has given up."""
        left = {n for n in self._world.names if is_member(base, n) and not is_member(document, n)}
        return bool(left) and left <= self._given_up and base.term != document.term

    def _was_ordered(self, base: ClusterDocument, document: ClusterDocument, name: NodeId) -> bool:
        """Return whether an order can have led to what a version makes of a node."""
        added = name in self._ordered.get(OrderKind.ADD_MEMBER, ())
        removed = name in self._ordered.get(OrderKind.REMOVE_MEMBER, ())
        if not is_member(document, name):
            return removed
        if not is_member(base, name):
            return added
        if record_named(base, name) != record_named(document, name):
            first = not record_named(base, name) and name in self._world.config.learners
            return added or first
        if (name in base.leaving) != (name in document.leaving):
            return removed
        return added or removed

    def _judge_votes(
        self, base: ClusterDocument, document: ClusterDocument, votes: Sequence[NodeId]
    ) -> None:
        if decides(base) is not None and set(votes) & set(document.voters):
            self._fail(
                "voters_step",
                document,
                base,
                f"lets {', '.join(document.voters)} elect, while {decides(base)} decides alone",
            )
        if len(votes) > 1:
            self._fail("voters_step", document, base, f"changes the votes of {', '.join(votes)}")
        grounds = [base, self._versions.base.get(base.ref) or base]
        if not all(self._versions.is_on_majority(base, voters) for voters in grounds):
            self._fail(
                "voters_step",
                document,
                base,
                f"changes the vote of {votes[0]}, and the version before is on no majority",
            )

    def _judge_grounds(
        self, base: ClusterDocument, document: ClusterDocument, name: NodeId
    ) -> None:
        """Judge a change of a vote by what is true at the time."""
        without = self._not_renewed(base, document)
        if without:
            self._fail(
                "voters_step",
                document,
                base,
                f"changes the vote of {name}, and {', '.join(without)} have answered no heartbeat "
                "since they are the voters",
            )
        if name in document.voters:
            self._judge_given(base, document, name)
        else:
            self._judge_taken(base, document, name)

    def _not_renewed(self, base: ClusterDocument, document: ClusterDocument) -> list[NodeId]:
        """Return the voters without whose answers a lease is none of theirs; none if it is."""
        leader = document.primary, document.term
        since = self._others_since.get(leader, 0)
        answered = self._answered.get(leader, {})
        missing = [
            name
            for name in base.voters
            if name != document.primary and answered.get(record_named(base, name), -1) < since
        ]
        return [] if agree(base, [n for n in base.voters if n not in missing]) else missing

    def _judge_given(self, base: ClusterDocument, document: ClusterDocument, name: NodeId) -> None:
        if name in document.witnesses or self._has_nearly_all(base, name):
            return
        if self._world.heap.now_ns - self._caught_up.get(name, -PICTURE_NS) > PICTURE_NS:
            self._fail(
                "vote_given_early",
                document,
                base,
                f"gives {name} a vote, which has not caught up with the primary",
            )

    def _judge_taken(self, base: ClusterDocument, document: ClusterDocument, name: NodeId) -> None:
        now = self._world.heap.now_ns
        dead = [n for n in document.voters if now - self._gone.get(n, now) > DEAD_NS]
        if 2 * len(dead) >= len(document.voters):
            self._fail(
                "vote_needed",
                document,
                base,
                f"takes the vote of {name}, and {', '.join(dead)} have long been dead",
            )

    def _has_nearly_all(self, document: ClusterDocument, name: NodeId) -> bool:
        """Return whether a standby streams, and has what a standby may take over with."""
        primary = self._world.nodes[document.primary].server.data
        server = self._world.nodes[name].server
        receiver, data = server.receiver, server.data
        if primary is None or data is None or receiver is None:
            return False
        streams = receiver.phase is ReceiverPhase.STREAMING
        return streams and primary.end - data.end <= 2 * LAG_MAX_BYTES

    def _fail(
        self, check: str, document: ClusterDocument, base: ClusterDocument, what: str
    ) -> None:
        raise ViolationError(
            check,
            f"document {document.ref}, made from {base.ref}, {what}",
            (document.primary,),
        )


def _place(document: ClusterDocument, name: NodeId) -> tuple[object, ...]:
    """Return everything that a document says of a node as a member."""
    lists: Iterable[tuple[NodeId, ...]] = (
        document.voters,
        document.learners,
        document.witnesses,
        document.joining,
        document.leaving,
    )
    return (record_named(document, name), *(name in nodes for nodes in lists))


def _words(document: ClusterDocument, name: NodeId) -> str:
    if name in document.voters:
        return "a voter" if name not in document.leaving else "a voter that leaves"
    if name not in document.learners:
        return "no member"
    return "a learner that is to vote" if name in document.joining else "a learner"
