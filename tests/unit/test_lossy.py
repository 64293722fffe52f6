"""Elections that may lose commits: with `async`, and by an operator's order; and nobody else's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers_kit import listen
from resuming_kit import DOCUMENT, END, HARD, A, B, C, core_of, detached_standby

from metako.election.lossy import excused
from metako.election.quorum import Promise, Verdict
from metako.model.document import Durability, SyncSet
from metako.model.events import EventName
from metako.model.ids import Address, DataId, NodeId, TimelineId
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberMeta, MemberState
from metako.model.orders import Order, OrderAnswer, OrderKind
from metako.model.postgres import ProcessState
from sim.checkers.durability import Durable
from sim.settled import (
    Stage,
    document,
    happened,
    primary,
    settled,
    status,
    until,
    wait_primary,
    writes,
)

KEPT = {node: Promise(node, True, DataId(node), None, False, 100, TimelineId(2)) for node in (A, C)}
LIMIT = 1 << 16
LOSSY = EventName.COMMITS_MAY_BE_LOST


def fail_over(world: Stage, node: NodeId) -> None:
    assert world.nodes[node].order(Order("", OrderKind.FAILOVER))


def of_async() -> Stage:
    world = Stage("abc", durability=Durability.ASYNC)
    wait_primary(world)
    world.run(2)
    world.write_everywhere(0.3)
    return world


def alone() -> Stage:
    """A primary whose one standby is away, and acknowledges commits by itself; then it is lost."""
    world = settled("abw", witnesses="w")
    assert primary(world) == A
    world.nodes[B].kill_host()
    until(world, lambda: document(world).sync == SyncSet(), limit_s=10)
    world.write_everywhere(0.5)
    world.nodes[A].kill_host()
    world.nodes[B].start()
    world.run(6)
    assert world.primary() is None
    return world


def test_async_goes_on_with_who_is_hardly_behind() -> None:
    world = of_async()
    world.nodes[A].kill_host()
    assert wait_primary(world, 10, other_than=A) in (B, C)
    assert happened(world, LOSSY) == [primary(world)]
    world.write_everywhere(0.3)
    world.nodes[A].start()
    until(world, lambda: world.nodes[A].server.in_recovery is True, limit_s=20)


@pytest.mark.parametrize(
    ("heard", "excuses"),
    [(END, True), (END + LIMIT, True), (END + LIMIT + 1, False), (END - 5, True), (0, False)],
)
def test_async_waits_for_the_primary_where_too_much_would_be_lost(
    heard: int, excuses: bool
) -> None:
    """A primary that was not heard of since this agent began may have come any way."""
    document = replace(DOCUMENT, primary=B, durability=Durability.ASYNC)
    core = core_of(replace(HARD, document=document))
    core.cluster = replace(core.cluster, max_lag_bytes=LIMIT)
    core.observed = detached_standby()
    meta = MemberMeta(lsn=Lsn(heard), timeline=TimelineId(2))
    core.members = {B: Member(B, 1, 1, MemberState.DEAD, Address("b", 1), meta)}
    judged = Verdict(control=True, data=False, better=None, missing="data: the promise of b")
    assert excused(core, document, judged, KEPT, forced=False).won is excuses
    quorum = replace(document, durability=Durability.QUORUM)
    assert not excused(core, quorum, judged, KEPT, forced=False).won
    assert excused(core, quorum, judged, KEPT, forced=True).won
    without_votes = replace(judged, control=False, missing="votes: 1 of 2; data: …")
    assert not excused(core, document, without_votes, KEPT, forced=True).won
    one = {A: KEPT[A], C: replace(KEPT[C], detached=False)}
    assert not excused(core, quorum, judged, one, forced=True).won
    core.observed = replace(core.observed, position=None)
    assert not excused(core, quorum, judged, KEPT, forced=True).won


def test_without_the_order_nobody_leads_who_may_lack_commits() -> None:
    world = alone()
    world.run(20)
    assert world.primary() is None
    assert happened(world, LOSSY) == []


def test_an_order_makes_a_node_lead_and_says_what_it_may_cost() -> None:
    world = alone()
    answers = listen(world)
    fail_over(world, B)
    until(world, lambda: world.primary() == B, limit_s=5)
    assert answers[-1].accepted
    assert happened(world, LOSSY) == [B]
    assert world.checker(Durable).forfeited > 0
    assert document(world).timelines[-1].reason == "failover by order"
    until(world, lambda: writes(world), limit_s=10)
    # The old primary comes back, is rewound and follows.
    world.nodes[A].start()
    until(world, lambda: A in document(world).sync.nodes(), limit_s=30)
    assert world.primary() == B


@pytest.mark.parametrize("who", [A, B])
def test_while_somebody_leads_it_is_refused(who: NodeId) -> None:
    world = settled()
    answers = listen(world)
    fail_over(world, who)
    world.run(0.5)
    assert not answers[-1].accepted
    assert ("leads already" if who == A else "use `metako switchover`") in answers[-1].reason
    assert primary(world) == A
    assert document(world).term == 1


def test_it_takes_votes_like_any_other_election() -> None:
    world = alone()
    world.nodes[NodeId("w")].kill_host()
    fail_over(world, B)
    world.run(30)
    assert world.primary() is None
    world.nodes[NodeId("w")].start()
    world.run(20)
    assert world.primary() is None  # the order has lapsed


def test_one_with_more_wal_that_could_lead_is_named() -> None:
    world = settled("abcw", witnesses="w")
    world.nodes[C].kill_host()
    until(world, lambda: C not in document(world).sync.nodes(), limit_s=10)
    world.write_everywhere(0.5)
    world.nodes[B].kill_host()
    until(world, lambda: document(world).sync == SyncSet(), limit_s=10)
    world.write_everywhere(0.3)
    world.nodes[A].kill_host()
    for name in (B, C):
        world.nodes[name].start()
    world.run(6)
    assert world.primary() is None
    fail_over(world, C)
    world.run(5)
    assert world.primary() is None
    fail_over(world, B)
    until(world, lambda: world.primary() == B, limit_s=6)


def last_of(names: str, **options: str) -> Stage:
    """A cluster of which one node is left, and that one was a synchronous standby."""
    world = settled(names, **options)
    assert primary(world) == A
    for name in world.names:
        if name != B:
            world.nodes[name].kill_host()
    world.run(20)
    assert world.primary() is None
    return world


def fail_over_without(world: Stage, node: NodeId, *lost: NodeId) -> OrderAnswer:
    answers = listen(world)
    agent = world.nodes[node].agent
    assert agent is not None
    order = Order(f"without-{len(lost)}", OrderKind.FAILOVER, lost=lost)
    world.watch.ordered(world.nodes[node], order)
    agent.give(order)
    world.run(0.2)
    return answers[-1]


def test_a_lost_majority_is_done_without_on_an_operators_word() -> None:
    world = last_of("abc")
    fail_over(world, B)
    world.run(25)
    assert world.primary() is None
    assert fail_over_without(world, B, A, C).accepted
    until(world, lambda: world.primary() == B, limit_s=5)
    alone = document(world)
    assert (alone.voters, alone.sync, alone.primary) == ((B,), SyncSet(), B)
    assert alone.timelines[-1].reason == "failover by order, without a, c"
    until(world, lambda: writes(world), limit_s=5)
    # Who comes back is no member, does not vote, and its server stays stopped.
    world.nodes[C].start()
    world.run(10)
    assert status(world, C).blocked.startswith("this node is no member")
    assert world.nodes[C].server.process is ProcessState.STOPPED
    assert world.primary() == B


def test_only_as_many_are_done_without_as_were_named() -> None:
    world = last_of("abcde")
    assert fail_over_without(world, B, A, C).accepted  # one of three is no majority
    world.run(25)
    assert world.primary() is None
    assert fail_over_without(world, B, A, C, NodeId("d"), NodeId("e")).accepted
    until(world, lambda: world.primary() == B, limit_s=5)


@pytest.mark.parametrize(
    ("lost", "why"), [("x", "no member"), ("b", "this very node"), ("w", "is alive")]
)
def test_who_is_not_lost_is_not_done_without(lost: str, why: str) -> None:
    world = alone()
    answer = fail_over_without(world, B, NodeId(lost))
    assert not answer.accepted
    assert why in answer.reason
