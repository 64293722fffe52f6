"""What operators order for upkeep: a pause and its end, restarts, switchovers by the clock."""

from __future__ import annotations

import pytest
from answers_kit import listen
from handover_kit import Office, cancel, member, switchover
from resuming_kit import A, B, C

from metako.election.schedule import LATE_MS
from metako.model.document import Scheduled
from metako.model.events import EventName
from metako.model.ids import NodeId
from metako.model.member import MemberState
from metako.model.orders import Order, OrderAnswer, OrderKind
from sim.settled import (
    Stage,
    document,
    finish,
    happened,
    keep_down,
    let_up,
    outage,
    primary,
    settle,
    settled,
    until,
    wait_primary,
    writes,
)


def order(world: Stage, node: NodeId, kind: OrderKind, *nodes: NodeId, s: int = 10) -> OrderAnswer:
    """Give an order to an agent; return the answer."""
    answers = listen(world)
    assert world.nodes[node].order(Order("", kind, timeout_ms=s * 1000, nodes=nodes))
    until(world, lambda: bool(answers), limit_s=7)
    return answers[0]


def blocked(world: Stage, node: NodeId) -> str:
    """Return why nobody leads, as a node shows it."""
    engine = world.nodes[node].engine
    assert engine is not None
    return engine.status(world.nodes[node].clock.instant(world.heap.now_ns)).blocked


def paused(names: str = "abc", **options: str) -> Stage:
    world = settled(names, **options)  # type: ignore[arg-type]
    assert order(world, B, OrderKind.PAUSE).accepted
    until(world, lambda: document(world).paused, limit_s=2)
    world.run(0.5)
    return world


# ---------------------------------------------------------------- pause


def test_in_a_pause_nobody_takes_over_and_the_same_primary_leads_again() -> None:
    world = paused()
    world.nodes[A].kill_host()
    world.run(20)
    assert world.primary() is None
    assert not happened(world, EventName.CANDIDACY_STARTED, B, C)
    assert "paused, and nobody takes over from a but by `metako resume`" in blocked(world, B)
    world.nodes[A].start()
    assert wait_primary(world, 10) == A
    assert document(world).paused
    assert finish(world) == A


def test_a_crash_in_a_pause_is_followed_by_a_restart_on_the_same_node() -> None:
    world = paused()
    world.nodes[A].kill_postgres()
    assert outage(world) < 8
    assert primary(world) == A


def test_a_stop_in_a_pause_hands_over_to_nobody() -> None:
    world = paused()
    world.nodes[A].stop()
    world.run(8)
    assert world.primary() is None
    world.nodes[A].start()
    assert wait_primary(world, 10) == A


def test_a_switchover_works_in_a_pause_and_leaves_it() -> None:
    world = paused()
    assert order(world, C, OrderKind.SWITCHOVER).accepted
    assert wait_primary(world, 10, other_than=A) in (B, C)
    assert document(world).paused
    world.nodes[primary(world)].kill_host()
    world.run(15)
    assert world.primary() is None


def test_an_ordered_failover_works_in_a_pause_and_leaves_it() -> None:
    world = paused()
    world.nodes[A].kill_host()
    world.run(4)
    assert order(world, B, OrderKind.FAILOVER).accepted
    assert wait_primary(world, 10) == B
    assert document(world).paused


def test_a_pause_is_ended_by_the_leader() -> None:
    world = paused()
    assert order(world, B, OrderKind.PAUSE).reason == "the cluster is paused already"
    assert order(world, C, OrderKind.RESUME).accepted
    until(world, lambda: not document(world).paused, limit_s=2)
    assert order(world, C, OrderKind.RESUME).reason == "the cluster is not paused"
    world.nodes[A].kill_host()
    assert outage(world, other_than=A) < 4


def test_a_pause_in_which_nobody_leads_is_ended_by_an_election() -> None:
    world = paused()
    world.nodes[A].kill_host()
    world.run(8)
    answer = order(world, C, OrderKind.RESUME)
    assert answer.accepted
    assert answer.reason == "nobody leads: stands for election, and resumes by it"
    assert wait_primary(world, 10) == C
    assert not document(world).paused
    assert happened(world, EventName.RESUMED, C)
    assert not happened(world, EventName.RESUMED, A, B)
    assert not happened(world, EventName.COMMITS_MAY_BE_LOST)
    assert finish(world) == C


def test_an_order_to_end_a_pause_lapses_where_there_is_no_majority() -> None:
    world = paused()
    for node in (A, B):
        world.nodes[node].kill_host()
    world.run(4)
    assert order(world, C, OrderKind.RESUME).accepted
    world.run(25)
    world.nodes[B].start()
    world.run(10)
    assert world.primary() is None
    assert document(world).paused


def test_a_witness_is_not_the_one_to_end_a_pause_in_which_nobody_leads() -> None:
    world = paused("abw", witnesses="w")
    world.nodes[A].kill_host()
    world.run(4)
    answer = order(world, NodeId("w"), OrderKind.RESUME)
    assert not answer.accepted
    assert answer.reason.endswith("ask another one")


# ---------------------------------------------------------------- restarts


def test_servers_are_restarted_one_by_one_and_the_primary_last() -> None:
    world = settled("abcw", witnesses="w")
    before = {name: world.nodes[name].server.epoch for name in world.names}
    answer = order(world, C, OrderKind.RESTART)
    assert answer.reason == "restarts b, then c, then a"
    until(world, lambda: not document(world).restarts and primary_is(world), limit_s=20)
    assert [e.fields[0] for e in told(world, EventName.RESTARTED)] == [
        ("node", "b"),
        ("node", "c"),
    ]
    assert primary(world) != A
    assert all(world.nodes[n].server.epoch > before[n] for n in (A, B, C))
    assert not happened(world, EventName.POSTGRES_CRASHED)
    finish(world)


def primary_is(world: Stage) -> bool:
    return world.primary() is not None


def told(world: Stage, name: EventName) -> list[object]:
    return [event for _, _, event in world.story.events if event.name is name]  # type: ignore[misc]


def test_a_named_standby_alone_is_restarted() -> None:
    world = settled()
    before = {name: world.nodes[name].server.epoch for name in world.names}
    assert order(world, A, OrderKind.RESTART, C).reason == "restarts c"
    until(world, lambda: not document(world).restarts, limit_s=10)
    after = {name: world.nodes[name].server.epoch for name in world.names}
    assert [name for name in world.names if after[name] != before[name]] == [C]
    assert primary(world) == A
    assert writes(world)


def test_the_only_server_is_restarted_in_place() -> None:
    world = settled("a")
    before = document(world).term
    assert order(world, A, OrderKind.RESTART).accepted
    until(world, lambda: document(world).term > before and primary_is(world), limit_s=15)
    assert document(world).restarts == ()
    assert not happened(world, EventName.POSTGRES_CRASHED)
    finish(world)


def test_a_server_that_does_not_come_back_ends_the_restart() -> None:
    world = settled()
    keep_down(world, B)
    world.run(0.2)
    assert order(world, A, OrderKind.RESTART, s=2).accepted
    until(world, lambda: not document(world).restarts, limit_s=8)
    (failed,) = told(world, EventName.RESTART_FAILED)
    assert dict(failed.fields)["reason"] == "b was not back within 2 s"  # type: ignore[attr-defined]
    assert not happened(world, EventName.RESTARTED)
    let_up(world, B)
    assert primary(world) == A


def test_another_primary_goes_on_with_the_restarts() -> None:
    world = settled("abcd")
    assert order(world, A, OrderKind.RESTART, s=30).accepted
    until(world, lambda: bool(happened(world, EventName.RESTARTED)), limit_s=10)
    world.nodes[A].kill_host()
    wait_primary(world, 10, other_than=A)
    assert A not in [restart.node for restart in document(world).restarts]
    until(world, lambda: not document(world).restarts and primary_is(world), limit_s=30)
    restarted = {dict(e.fields)["node"] for e in told(world, EventName.RESTARTED)}  # type: ignore[attr-defined]
    assert restarted == {"b", "c", "d"}


def test_restarts_that_have_not_begun_can_be_cancelled() -> None:
    world = settled("abcd")
    assert not order(world, A, OrderKind.CANCEL_RESTART).accepted
    assert order(world, A, OrderKind.RESTART).accepted
    again = order(world, B, OrderKind.RESTART)
    assert not again.accepted
    assert "is under way" in again.reason
    assert order(world, B, OrderKind.CANCEL_RESTART).accepted
    until(world, lambda: not document(world).restarts, limit_s=3)
    world.run(5)
    assert primary(world) == A
    assert "d" not in {dict(e.fields)["node"] for e in told(world, EventName.RESTARTED)}  # type: ignore[attr-defined]
    settle(world)


def test_a_restart_that_cannot_be_is_refused() -> None:
    world = settled("abcw", witnesses="w")
    for node, why in ((NodeId("x"), "no member"), (NodeId("w"), "a witness")):
        assert why in order(world, A, OrderKind.RESTART, node).reason
    world.nodes[C].kill_host()
    until(world, lambda: bool(happened(world, EventName.MEMBER_DEAD, A)), limit_s=10)
    refused = order(world, A, OrderKind.RESTART)
    assert not refused.accepted
    assert refused.reason == (
        "c cannot be restarted: it is not alive; name the others to leave it out"
    )
    assert order(world, A, OrderKind.RESTART, B).accepted


@pytest.mark.parametrize("answering", [(), (B, C)])
def test_a_turn_that_is_over_does_not_wake_the_agent_again_and_again(
    answering: tuple[NodeId, ...],
) -> None:
    """What ends it may not be on a majority for a while, nor the switchover of the primary's turn.

    Every step of the kit finds the next deadline ahead, or fails.
    """
    for node in (B, A):
        office = Office()
        given = Order("r1", OrderKind.RESTART, timeout_ms=1000, nodes=(node,))
        answer = office.give(given)
        assert answer is not None
        assert answer.accepted
        office.run(990)
        office.answering = set(answering)
        office.run(400)


# ---------------------------------------------------------------- switchovers by the clock


def later(office: Office, ms: int, to: NodeId | None = B, order_id: str = "o1") -> Order:
    return Order(order_id, OrderKind.SWITCHOVER, to, 10_000, at_ms=office.now.wall_ms + ms)


def test_a_switchover_by_the_clock_begins_at_its_time() -> None:
    office = Office()
    wish = later(office, 3000)
    answer = office.give(wish)
    assert answer is not None
    assert answer.accepted
    assert answer.reason == "switching over to b in 3 s"
    assert office.document.scheduled == Scheduled("o1", B, 10_000, wish.at_ms)
    office.run(2990)
    assert office.wish is None
    office.run(300)
    assert office.wish is not None
    assert office.wish.target == B
    assert office.document.scheduled is None
    assert office.told(EventName.SWITCHOVER_ACCEPTED) == [{"target": "b", "order": "o1", "term": 4}]


def test_it_is_cancelled_before_its_time() -> None:
    office = Office()
    office.give(later(office, 3000))
    answer = office.give(cancel())
    assert answer == OrderAnswer("c1", True, "cancelled, it had not begun")
    office.run(4000)
    assert office.wish is None
    assert office.document.scheduled is None


def test_its_target_is_chosen_when_it_begins() -> None:
    office = Office()
    office.give(later(office, 1000, to=None))
    office.know(member(C, priority=200))
    office.run(1300)
    assert office.wish is not None
    assert office.wish.target == C


def test_it_is_given_up_where_its_target_cannot_take_over_then() -> None:
    office = Office()
    office.give(later(office, 1000))
    office.know(member(B, MemberState.DEAD))
    office.run(1300)
    assert office.wish is None
    assert office.document.scheduled is None
    (failed,) = office.told(EventName.SWITCHOVER_FAILED)
    assert failed["reason"] == "b cannot take over: it is not alive"


def test_it_is_given_up_when_it_is_found_long_overdue() -> None:
    office = Office()
    office.give(later(office, 1000))
    office.wall_ahead_ms = 1000 + LATE_MS + 1
    office.run(300)
    assert office.wish is None
    assert office.document.scheduled is None
    (failed,) = office.told(EventName.SWITCHOVER_FAILED)
    assert failed["reason"] == "it could not begin in time: it is 60 s late"


@pytest.mark.parametrize(
    ("to", "ms", "why"),
    [
        (B, -1, "its time has passed on a"),
        (A, 1000, "a cannot take over: it is the primary already"),
        (NodeId("x"), 1000, "x cannot take over: it is no member of the cluster"),
    ],
)
def test_one_that_could_never_be_is_refused(to: NodeId, ms: int, why: str) -> None:
    office = Office()
    answer = office.give(later(office, ms, to))
    assert answer is not None
    assert not answer.accepted
    assert answer.reason == why


def test_one_alone_is_kept_and_the_same_order_is_taken_once() -> None:
    office = Office()
    first = office.give(later(office, 3000))
    assert office.give(later(office, 3000)) == first
    second = office.give(later(office, 5000, order_id="o2"))
    assert second is not None
    assert second.reason == "one is scheduled already; cancel it first"


def test_another_may_be_ordered_at_once_meanwhile() -> None:
    office = Office()
    office.give(later(office, 3000, to=C))
    answer = office.give(switchover(order_id="o2"))
    assert answer is not None
    assert answer.accepted
    assert office.wish is not None
    assert office.wish.target == B


def test_it_is_dropped_when_another_node_leads() -> None:
    world = settled()
    answers = listen(world)
    world.nodes[B].order(Order("", OrderKind.SWITCHOVER, B, 10_000, at_ms=9_000))
    until(world, lambda: bool(answers), limit_s=3)
    assert answers[0].accepted
    world.nodes[A].kill_host()
    new = wait_primary(world, 10, other_than=A)
    assert document(world).scheduled is None
    (failed,) = told(world, EventName.SWITCHOVER_FAILED)
    assert dict(failed.fields)["reason"] == f"a led when it was asked for, and {new} leads now"  # type: ignore[attr-defined]
    world.run(10)
    assert primary(world) == new
