"""Members: who is none says nothing that counts and serves nobody, and orders are carried out.

In: messages as they leave, elections, servers ten times a second, orders and their answers. Who is
a member is asked of documents, and whose record it is of the disks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from metako.model.document import ClusterDocument, Durability
from metako.model.events import Event, EventName
from metako.model.ids import NodeId, Term
from metako.model.orders import Order, OrderAnswer, OrderKind
from metako.model.postgres import ProcessState
from metako.wire.messages import DocumentAck, HeartbeatAck, Outbound, VoteReply
from sim.heap import NS_PER_S
from sim.monitor import Monitor, clocks_off
from sim.network import Fate
from sim.standing import counts, is_member, record_named
from sim.versions import Versions
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.processes import Processes
    from sim.world import World

REMOVED_NS = 5 * NS_PER_S
"""A node that knows that it is no member has stopped its server by then."""
CARRIED_OUT_NS = 15 * NS_PER_S
"""From an order that was accepted until it is so, while everything that it needs is well."""
ABOUT_MEMBERS = (OrderKind.ADD_MEMBER, OrderKind.REMOVE_MEMBER)


@dataclass(slots=True)
class _Due:
    """An order that was accepted, until it is so."""

    order: Order
    term: Term
    well_since_ns: int | None = None  # since when everything that it needs is well


class Members(Watcher):
    """See the module's docstring. The versions have to be told of everything before this is."""

    name = "members"
    sent_kinds: ClassVar[frozenset[type] | None] = frozenset({HeartbeatAck, DocumentAck, VoteReply})

    def __init__(self, world: World, monitor: Monitor, versions: Versions) -> None:
        self._world = world
        self._monitor = monitor
        self._versions = versions
        self._running: dict[NodeId, int] = {}  # a removed node's server, since when
        self._given: dict[str, Order] = {}
        self._due: dict[NodeId, _Due] = {}  # the newest accepted order about a node

    # ------------------------------------------------------------ what is said

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        message, hard = outbound.message, node.hard
        assert isinstance(message, HeartbeatAck | DocumentAck | VoteReply)
        if isinstance(message, VoteReply) and not message.granted:
            return
        if hard is None:
            return  # `not_durable` says so
        if isinstance(message, VoteReply):
            self._versions.voted(hard.record_id, message.term, outbound.to)
        # What it knew when it said so may be older than what is durable by now, or newer than the
        # offer that it answers.
        known = [hard.document, self._versions.known.get(message.document_ref)]
        documents = [document for document in known if document is not None]
        if documents:
            fine = any(record_named(d, node.name) == hard.record_id for d in documents)
        else:
            fine = node.name in self._world.members
        if not fine:
            what = "votes" if isinstance(message, VoteReply) else "answers a leader"
            raise ViolationError(
                "vote_of_stranger",
                f"{node.name} {what}, and is no member by the record that it has",
                (node.name, outbound.to),
            )

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            if event.name is EventName.ELECTION_WON:
                term = dict(event.fields)["term"]
                assert isinstance(term, int)
                self._elected(node, Term(term))

    def _elected(self, node: Processes, term: Term) -> None:
        document = node.hard.document if node.hard is not None else None
        if document is not None and not self._versions.was_elected(node.name, term, document):
            raise ViolationError(
                "by_minority",
                f"{node.name} won the election of term {term}, and most of "
                f"{', '.join(document.voters)} have not voted for it by the records that count",
                (node.name,),
            )

    # ------------------------------------------------------------ who was removed

    def sampled(self, nodes: Sequence[SimNode]) -> None:
        now, before, self._running = self._world.heap.now_ns, self._running, {}
        for node in nodes:
            if not self._should_be_stopped(node):
                continue
            since = self._running[node.name] = before.get(node.name, now)
            if now - since > REMOVED_NS:
                raise ViolationError(
                    "removed_serves",
                    f"{node.name} knows that it is no member, and its server has been running for "
                    f"{REMOVED_NS / NS_PER_S:g} s since then",
                    (node.name,),
                )
        if self._due:
            self._look_at_orders()

    def _should_be_stopped(self, node: SimNode) -> bool:
        """Return whether the server runs of one that knows better, and could do so."""
        hard, server = node.hard, node.server
        if node.witness or hard is None or hard.document is None:
            return False
        if is_member(hard.document, node.name) or server.process is ProcessState.STOPPED:
            return False
        helpless = server.ill or server.hung or server.frozen
        return not helpless and self._monitor.agent_ok(node.name, 0)

    # ------------------------------------------------------------ orders that were accepted

    def ordered(self, node: Processes, order: Order) -> None:
        if order.kind in ABOUT_MEMBERS:
            self._given[order.order_id] = order

    def answered(self, node: Processes, answers: Sequence[OrderAnswer]) -> None:
        for answer in answers:
            order = self._given.pop(answer.order_id, None)
            document = self._world.document()
            if order is None or order.target is None or document is None or not answer.accepted:
                continue
            self._due[order.target] = _Due(order, document.term)

    def _look_at_orders(self) -> None:
        document, now = self._world.document(), self._world.heap.now_ns
        if document is None:
            return
        for name, due in tuple(self._due.items()):
            if self._is_over(document, name, due):
                del self._due[name]
            elif not self._all_well(document, name):
                due.well_since_ns = None
            elif due.well_since_ns is None:
                due.well_since_ns = now
            elif now - due.well_since_ns > CARRIED_OUT_NS:
                wanted = due.order.kind.replace("-", " ")
                raise ViolationError(
                    "member_stuck",
                    f"{wanted} {name} was accepted, and is not carried out after "
                    f"{CARRIED_OUT_NS / NS_PER_S:g} s in which all that it needs was well",
                    (document.primary, name),
                )

    def _is_over(self, document: ClusterDocument, name: NodeId, due: _Due) -> bool:
        """Return whether an order is carried out, or nothing will come of it any more."""
        if name == document.primary:
            return True  # it took over meanwhile, and stays
        if due.order.kind is OrderKind.REMOVE_MEMBER:
            done, begun = not is_member(document, name), name in document.leaving
        elif due.order.voter:
            done, begun = name in document.voters, name in document.joining
        else:
            done = begun = name in document.learners and name not in document.joining
        node = self._world.nodes[name]
        if due.order.kind is OrderKind.ADD_MEMBER:
            done = done and counts(node, document)
        if done:
            return True
        if document.term == due.term:
            return False
        # What was never on a majority may be lost with its leader; what was goes on.
        due.term = document.term
        return not begun

    def _all_well(self, document: ClusterDocument, name: NodeId) -> bool:
        world, monitor = self._world, self._monitor
        primary, node = world.primary(), world.nodes[name]
        strict = document.durability is Durability.STRICT
        if primary is None or primary != document.primary or clocks_off(world):
            return False
        if strict and len(document.sync.members) <= document.sync.k:
            return False
        if node.server.ill or node.server.hung or node.server.frozen or _is_foreign(document, node):
            return False
        if is_member(document, name) and not counts(node, document):
            return False  # its record was lost once more
        return all(
            monitor.agent_ok(other, 0)
            and monitor.way_ok(primary, other, 0)
            and (other == name or world.nodes[other].witness or monitor.server_ok(other, 0))
            for other in {*document.members(), name}
        )


def _is_foreign(document: ClusterDocument, node: SimNode) -> bool:
    data = node.server.data
    return data is not None and data.system_id != document.system_id
