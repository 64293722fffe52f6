"""The smallest untruths about members that the checks have to notice; see `sim_forgeries`.

In each cluster `a` is the primary of term 1, `d` and `e` are strangers. Versions of the document
are told to the watchers as if their leader had made them durable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim_forgeries import FORGERIES, A, B, C, breaks, hard_of, persist, tell

from metako.model.document import ClusterDocument, DocumentRef, MemberRecord, SyncSet
from metako.model.durable import HardState
from metako.model.events import EventName, event
from metako.model.ids import NodeId, RecordId, Term
from metako.model.orders import Order, OrderAnswer, OrderKind
from metako.wire.messages import DocumentAck, HeartbeatAck, Message
from sim.checkers.changes import DEAD_NS
from sim.heap import NS_PER_S
from sim.settled import Stage, document, settled
from sim.versions import Versions

__all__ = ["FORGERIES"]

D, E = NodeId("d"), NodeId("e")


def orders(world: Stage, kind: OrderKind, *targets: NodeId) -> None:
    """Let an operator have ordered something, as far as the watchers know."""
    for target in targets:
        order = Order(f"{kind} {target}", kind, target, 0)
        world.watch.ordered(world.nodes[A], order)
        world.watch.answered(world.nodes[A], [OrderAnswer(order.order_id, False, "a test")])


def after(base: ClusterDocument, **changes: object) -> ClusterDocument:
    return replace(base, version=base.version + 1, **changes)  # type: ignore[arg-type]


def holding(world: Stage, node: NodeId, made: ClusterDocument) -> HardState:
    return hard_of(world, node).with_document(made)


def by_record(world: Stage, base: ClusterDocument, *nodes: NodeId) -> tuple[MemberRecord, ...]:
    """Return the records with those that the nodes really have."""
    since = DocumentRef(base.term, base.version + 1)
    made = tuple(MemberRecord(node, hard_of(world, node).record_id, since) for node in nodes)
    return (*base.records, *made)


def without(base: ClusterDocument, *nodes: NodeId) -> ClusterDocument:
    """Return the next version, in which nodes are members no more."""
    return after(
        base,
        voters=tuple(n for n in base.voters if n not in nodes),
        records=tuple(r for r in base.records if r.node not in nodes),
    )


@breaks("by_minority")
def nobody_has_voted_for_the_winner() -> None:
    world = settled()
    world.watch.happened(world.nodes[A], [event(EventName.ELECTION_WON, "won", term=Term(9))])


@breaks("by_minority")
def nobody_else_has_a_version_that_is_committed() -> None:
    world = settled()
    made = after(document(world))
    persist(world, holding(world, A, made))
    committed = event(EventName.DOCUMENT_COMMITTED, "committed", document=str(made.ref))
    world.watch.happened(world.nodes[A], [committed])


@breaks("by_minority")
def a_vote_was_given_by_another_record() -> None:
    world = settled()
    for node in (A, B):
        persist(world, replace(hard_of(world, node), term=Term(9), voted_for=A))
    records = tuple(
        r._replace(record_id=RecordId("made anew")) if r.node == B else r
        for r in document(world).records
    )
    world.nodes[A].hard = holding(world, A, after(document(world), records=records))
    world.watch.happened(world.nodes[A], [event(EventName.ELECTION_WON, "won", term=Term(9))])


@breaks("voters_step")
def two_votes_change_at_once() -> None:
    world = settled()
    orders(world, OrderKind.ADD_MEMBER, B, C)
    persist(world, holding(world, A, after(document(world), voters=(A,), learners=(B, C))))


@breaks("voters_step")
def a_vote_changes_on_top_of_what_nobody_else_has() -> None:
    world = settled()
    orders(world, OrderKind.ADD_MEMBER, C)
    made = after(document(world))
    persist(world, holding(world, A, made))
    persist(world, holding(world, A, after(made, voters=(A, B), learners=(C,))))


@breaks("voters_step")
def a_vote_changes_before_the_voters_have_renewed_the_lease() -> None:
    world = settled()
    orders(world, OrderKind.ADD_MEMBER, B, C)
    made = after(document(world), voters=(A, B), learners=(C,))
    persist(world, holding(world, A, made))
    persist(world, holding(world, B, made))
    committed = event(EventName.DOCUMENT_COMMITTED, "committed", document=str(made.ref))
    world.heap.run_until(world.heap.now_ns + 1)
    world.watch.happened(world.nodes[A], [committed])
    persist(world, holding(world, A, after(made, voters=(A,), learners=(B, C))))


@breaks("unordered_change")
def a_vote_is_taken_that_nobody_spoke_of() -> None:
    world = settled()
    persist(world, holding(world, A, after(document(world), voters=(A, B), learners=(C,))))


@breaks("unordered_change")
def the_next_term_forgets_who_is_leaving() -> None:
    world = settled()
    orders(world, OrderKind.REMOVE_MEMBER, C)
    made = after(document(world), leaving=(C,))
    persist(world, holding(world, A, made))
    world.nodes[A].hard = holding(world, A, made)
    persist(world, holding(world, A, after(replace(made, term=Term(2)), leaving=())))


@breaks("unordered_change")
def a_record_is_exchanged_that_nobody_spoke_of() -> None:
    world = settled()
    orders(world, OrderKind.REMOVE_MEMBER, C)
    records = (*document(world).records[:2], MemberRecord(C, RecordId("made anew")))
    persist(world, holding(world, A, after(document(world), records=records)))


@breaks("vote_given_early")
def a_node_without_data_gets_a_vote() -> None:
    world = settled("abcd", spares="d")
    orders(world, OrderKind.ADD_MEMBER, D)
    base = document(world)
    made = after(base, learners=(D,), joining=(D,), records=by_record(world, base, D))
    for node in (A, B):
        persist(world, holding(world, node, made))
    persist(
        world, holding(world, A, after(made, voters=(*base.voters, D), learners=(), joining=()))
    )


@breaks("vote_needed")
def only_the_dead_keep_their_votes() -> None:
    world = settled()
    world.nodes[B].kill_host()
    world.run(DEAD_NS / NS_PER_S + 1)
    orders(world, OrderKind.REMOVE_MEMBER, C)
    made = replace(without(document(world), C), sync=SyncSet())
    persist(world, holding(world, A, made))


@breaks("vote_of_stranger")
def one_that_was_removed_answers_its_leader() -> None:
    answers(lambda made: HeartbeatAck(Term(1), 1, 1, made.ref))


@breaks("vote_of_stranger")
def one_that_was_removed_has_the_document() -> None:
    answers(lambda made: DocumentAck(Term(1), made.ref))


def answers(message: Callable[[ClusterDocument], Message]) -> None:
    """Let `b` say something although by its newest document it is no member."""
    world = settled()
    made = without(document(world), B)
    world.nodes[B].hard = holding(world, B, made)
    tell(world, B, message(made))


@breaks("removed_serves")
def a_server_runs_on_where_it_was_removed() -> None:
    world = settled()
    world.nodes[B].hard = holding(world, B, without(document(world), B))
    world.run(6)


@breaks("member_stuck")
def nothing_comes_of_an_order_that_was_accepted() -> None:
    world = settled()
    order = Order("one", OrderKind.REMOVE_MEMBER, C, 0)
    world.watch.ordered(world.nodes[A], order)
    world.watch.answered(world.nodes[A], [OrderAnswer("one", True, "it is being removed")])
    world.write_everywhere(17, per_second=2)


@breaks("lease_of_former_voters")
def two_of_the_new_voters_hold_for_nobody() -> None:
    world = settled("abcde", spares="de")
    base = document(world)
    made = after(base, voters=(A, D, E), learners=(B, C), records=by_record(world, base, D, E))
    world.checker(Versions).persisted(world.nodes[A], hard_of(world, A), holding(world, A, made))
    world.run(1)


@breaks("stale_listing")
def one_is_listed_that_is_no_member() -> None:
    world = settled()
    orders(world, OrderKind.REMOVE_MEMBER, C)
    persist(world, holding(world, A, without(document(world), C)))


@breaks("slot_kept")
def a_primary_keeps_wal_for_one_that_is_gone() -> None:
    world = settled()
    world.nodes[C].kill_host()
    world.write_everywhere(10, per_second=2)  # it is out of the sync set by then
    world.nodes[A].hard = holding(world, A, without(document(world), C))
    world.write_everywhere(20, per_second=2)
