"""Planned changes of the primary in whole clusters, and the faults on their way.

`a` is the primary to begin with. An order is given to the agent of some node, as an operator does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from metako.cluster.engine import NodeSettings
from metako.cluster.ready import Tick
from metako.model.document import Durability, SyncSet
from metako.model.events import EventName
from metako.model.ids import NodeId
from metako.model.orders import Order, OrderAnswer, OrderKind
from metako.postgres.steps import ApplySettings, Detach, Start, Stop
from metako.wire.messages import OrderReply, PreVoteRequest, Release
from sim.heap import NS_PER_S
from sim.network import Traffic
from sim.processes import Processes
from sim.settled import (
    Stage,
    document,
    finish,
    follows,
    happened,
    others,
    outage,
    primary,
    settled,
    stall,
    unstall,
    until,
    wait_primary,
    writes,
)
from sim.watch import Watcher

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
COMPLETED, FAILED = EventName.SWITCHOVER_COMPLETED, EventName.SWITCHOVER_FAILED
BEGUN, ACCEPTED = EventName.SWITCHOVER_BEGUN, EventName.SWITCHOVER_ACCEPTED


class Notes(Watcher):
    """Writes down what orders were answered, and what was done to servers."""

    name = "notes"

    def __init__(self, world: Stage) -> None:
        self._world = world
        self.answers: list[tuple[NodeId, OrderAnswer]] = []
        self.steps: list[tuple[int, NodeId, object]] = []  # with the time at which one began
        self.rebuilt: list[NodeId] = []

    def answered(self, node: Processes, answers: Sequence[OrderAnswer]) -> None:
        self.answers.extend((node.name, answer) for answer in answers)

    def step_ended(
        self, node: Processes, step: object, begin_ns: int, ok: bool, error: str
    ) -> None:
        self.steps.append((begin_ns, node.name, step))

    def noted(self, node: NodeId, mark: str, text: str) -> None:
        if mark in ("rewind_used", "clone_used"):
            self.rebuilt.append(node)

    def of(self, node: NodeId, kind: type, since_ns: int = 0) -> list[int]:
        """Return when steps of a kind began at a node."""
        return [
            at
            for at, name, step in self.steps
            if name == node and type(step) is kind and at >= since_ns
        ]


def watched(world: Stage) -> Notes:
    notes = Notes(world)
    world.watch.add(notes)
    return notes


def order(world: Stage, at: NodeId, to: NodeId | None = None, timeout_ms: int = 3000) -> None:
    assert world.nodes[at].order(Order("", OrderKind.SWITCHOVER, to, timeout_ms))


def cancel(world: Stage, at: NodeId) -> None:
    assert world.nodes[at].order(Order("", OrderKind.CANCEL_SWITCHOVER))


def switch(world: Stage, at: NodeId, to: NodeId | None = None) -> float:
    """Have the primary changed; return for how many seconds nobody took writes."""
    order(world, at, to)
    until(world, lambda: bool(happened(world, BEGUN)), limit_s=2)
    return outage(world, other_than=primary(world) if world.primary() else A)


def reason(world: Stage) -> str:
    """Return why the last switchover failed."""
    failed = [event for _, _, event in world.story.events if event.name is FAILED]
    return str(dict(failed[-1].fields)["reason"])


def begins(world: Stage) -> None:
    """Run until the old primary is being stopped."""
    until(world, lambda: bool(happened(world, BEGUN)), limit_s=3)


def when(world: Stage, name: EventName) -> int:
    """Return the virtual time of the last event of that name."""
    return [at for at, _, event in world.story.events if event.name is name][-1]


# ---------------------------------------------------------------- it works


@pytest.mark.parametrize("asked", "abc")
def test_any_node_is_told_and_the_target_takes_over(asked: str) -> None:
    world = settled()
    notes = watched(world)
    assert primary(world) == A
    assert switch(world, NodeId(asked), C) < 0.5
    assert primary(world) == C
    assert happened(world, COMPLETED) == [C]
    assert happened(world, FAILED) == []
    assert [(node, answer.accepted, answer.target) for node, answer in notes.answers] == [
        (asked, True, C)
    ]
    until(world, lambda: follows(world, A, C) and follows(world, B, C), limit_s=2)
    assert notes.rebuilt == []
    assert document(world).switchover is None
    assert document(world).timelines[-1].reason == "switchover"
    assert finish(world) == C


def test_the_leader_chooses_where_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    world = settled()
    notes = watched(world)
    switch(world, A)
    assert primary(world) in (B, C)
    assert [answer.target for _, answer in notes.answers] == [primary(world)]
    assert happened(world, COMPLETED) == [primary(world)]
    finish(world)


def test_it_chooses_by_priority() -> None:
    world = Prioritized("abc")
    wait_primary(world)
    until(world, lambda: len(document(world).sync.members) == 2, limit_s=5)
    world.write_everywhere(0.3)
    assert primary(world) == A
    switch(world, B)
    assert primary(world) == C
    finish(world)


class Prioritized(Stage):
    """A cluster in which `c` is preferred."""

    def settings_of(self, name: NodeId) -> NodeSettings:
        settings = super().settings_of(name)
        if name != C:
            return settings
        cluster = replace(settings.cluster, priority=200)
        return replace(settings, cluster=cluster, meta=replace(settings.meta, priority=200))


def test_who_is_asked_stands_without_a_pre_vote() -> None:
    world = settled()
    asked_ns = world.heap.now_ns
    switch(world, A, C)
    sent = [m.message for at, _, m in world.story.messages if at >= asked_ns]
    assert not any(isinstance(message, PreVoteRequest) for message in sent)
    assert {m.successor for m in sent if isinstance(m, Release)} == {C}


@pytest.mark.parametrize("asked", ["a", "b", "w"])
def test_two_nodes_and_a_witness(asked: str) -> None:
    world = settled("abw", witnesses="w")
    notes = watched(world)
    assert switch(world, NodeId(asked)) < 0.7
    assert primary(world) == B
    assert [answer.accepted for _, answer in notes.answers] == [True]
    until(world, lambda: follows(world, A, B), limit_s=2)
    assert notes.rebuilt == []
    assert switch_back(world) == A
    finish(world)


def switch_back(world: Stage) -> NodeId:
    order(world, B, A)
    until(world, lambda: world.primary() == A, limit_s=3)
    return primary(world)


def test_two_nodes() -> None:
    world = settled("ab")
    notes = watched(world)
    assert switch(world, A, B) < 0.7
    assert primary(world) == B
    until(world, lambda: follows(world, A, B), limit_s=2)
    assert notes.rebuilt == []
    assert switch_back(world) == A
    finish(world)


def test_strict_durability() -> None:
    world = settled(durability=Durability.STRICT)
    notes = watched(world)
    assert switch(world, B, C) < 0.5
    assert document(world).sync.k == 1
    assert notes.rebuilt == []
    assert finish(world) == C


def test_async_durability() -> None:
    """Nobody is listed, so the promise of the old primary is what counts."""
    world = Stage("abc", durability=Durability.ASYNC)
    wait_primary(world)
    world.run(1)
    world.write_everywhere(0.3)
    notes = watched(world)
    assert switch(world, B, C) < 0.5
    assert document(world).sync == SyncSet()
    assert happened(world, COMPLETED) == [C]
    until(world, lambda: follows(world, A, C), limit_s=2)
    assert notes.rebuilt == []
    assert finish(world) == C


def test_a_single_node_refuses() -> None:
    world = Stage("a")
    wait_primary(world)
    world.run(1)
    notes = watched(world)
    order(world, A)
    world.run(0.1)
    ((_, answer),) = notes.answers
    assert not answer.accepted
    assert answer.reason == "nobody can take over: there is no other node with data"
    assert writes(world)


def test_nothing_that_was_acknowledged_while_it_went_on_is_lost() -> None:
    world = settled()
    order(world, A, C)
    world.write_everywhere(1.0, per_second=400)
    assert primary(world) == C
    assert {ack.node for ack in world.acked[-50:]} == {C}
    assert finish(world) == C


# ---------------------------------------------------------------- the old primary


def test_its_server_is_started_once_and_only_when_it_can_follow() -> None:
    world = settled()
    notes = watched(world)
    since = world.heap.now_ns
    switch(world, A, C)
    until(world, lambda: follows(world, A, C), limit_s=2)
    world.run(1)
    (started,) = notes.of(A, Start, since)
    assert started >= when(world, EventName.ELECTION_WON)
    assert len(notes.of(A, Stop, since)) == 1


@pytest.mark.parametrize("names", ["abc", "abw"])
def test_it_is_started_and_leads_again_if_the_heir_never_comes(names: str) -> None:
    world = settled(names, witnesses=names.strip("abc"))
    notes = watched(world)
    since = world.heap.now_ns
    order(world, A, B)
    begins(world)
    until(world, lambda: world.nodes[A].server.data.control.clean, limit_s=1)  # type: ignore[union-attr]
    world.nodes[B].kill_host()
    assert outage(world, limit_s=8) < 4
    assert notes.of(A, Start, since)
    assert primary(world) == (C if names == "abc" else A)
    finish(world)


@pytest.mark.parametrize("stop", [False, True])
def test_standbys_are_not_detached_from_a_primary_that_is_being_stopped(stop: bool) -> None:
    """They have yet to get its last WAL. Its heartbeats go on while it shuts down."""
    world = settled()
    notes = watched(world)
    stall(world, C)  # the shutdown waits for it for as long as two heartbeats
    if stop:
        world.nodes[A].stop()
    else:
        order(world, A, B)
    until(world, lambda: happened(world, EventName.LEASE_RELEASED) == [A], limit_s=3)
    released = when(world, EventName.LEASE_RELEASED)
    began = min(notes.of(A, Stop))
    assert released - began > 2 * NS_PER_S // 5
    for node in (B, C):
        assert notes.of(node, Detach) == []
        assert notes.of(node, ApplySettings) == []
    unstall(world)
    outage(world, other_than=A)
    assert min(notes.of(B, Detach) + notes.of(C, Detach)) >= released
    world.nodes[A].start()
    until(world, lambda: follows(world, A, primary(world)), limit_s=5)
    assert notes.rebuilt == []
    finish(world)


def test_a_frozen_standby_does_not_hold_up_the_shutdown() -> None:
    world = settled()
    world.nodes[C].pause_postgres()
    assert switch(world, A, B) < 1.2
    assert world.marks.counts["stop_ended_sender"] == 1
    world.nodes[C].resume_postgres()
    assert finish(world) == B


# ---------------------------------------------------------------- a node that is told to stop


@pytest.mark.parametrize(("names", "limit_s"), [("abc", 0.5), ("abw", 12.0)])
def test_a_node_that_stops_hands_over_and_is_not_rewound(names: str, limit_s: float) -> None:
    world = settled(names, witnesses=names.strip("abc"))
    notes = watched(world)
    world.nodes[A].stop()
    until(world, lambda: world.nodes[A].stopped, limit_s=2)
    released = [m.message for _, _, m in world.story.messages if isinstance(m.message, Release)]
    assert {message.successor for message in released} == {B}
    if names == "abc":
        assert outage(world, other_than=A) < limit_s
    world.nodes[A].start()
    outage(world, other_than=A, limit_s=limit_s)
    until(world, lambda: follows(world, A, primary(world)), limit_s=5)
    assert notes.rebuilt == []
    finish(world)


# ---------------------------------------------------------------- the target is lost


def test_a_target_that_is_lost_before_the_stop_gives_it_up_and_nobody_notices() -> None:
    world = settled()
    world.nodes[C].kill_host()
    order(world, A, C, timeout_ms=2000)
    for _ in range(30):
        world.run(0.1)
        assert writes(world)
    assert happened(world, BEGUN) == []
    assert reason(world) in ("its agent does not answer", "it is not alive")
    assert document(world).switchover is None
    assert primary(world) == A
    world.nodes[C].start()
    finish(world)


@pytest.mark.parametrize("idle", [True, False])
def test_nor_is_a_server_stopped_for_a_target_whose_server_is_frozen(idle: bool) -> None:
    """Its agent answers and its connection stands; what it had on its disk proves nothing."""
    world = settled()
    world.run(0.5)
    world.nodes[C].pause_postgres()
    order(world, A, C, timeout_ms=2000)
    for _ in range(25):
        world.run(0.1)
        assert idle or writes(world)
    assert happened(world, BEGUN) == []
    assert happened(world, FAILED) == [A]
    assert "confirms nothing" in reason(world) or "MiB" in reason(world)
    assert primary(world) == A
    world.nodes[C].resume_postgres()
    finish(world)


@pytest.mark.parametrize("part", ["agent", "server"])
def test_nor_for_one_that_is_lost_while_the_checkpoint_is_written(part: str) -> None:
    world = settled()
    world.nodes[A].server.slow = 20.0
    order(world, A, C, timeout_ms=4000)
    until(world, lambda: document(world).switchover is not None, limit_s=1)
    node = world.nodes[C]
    assert node.pause_agent() if part == "agent" else node.pause_postgres()
    world.run(5)
    assert happened(world, BEGUN) == []
    assert happened(world, FAILED) == [A]
    world.nodes[A].server.slow = 1.0
    node.resume_agent()
    node.resume_postgres()
    finish(world)


def test_a_target_that_is_lost_after_the_stop_makes_it_a_failover() -> None:
    world = settled()
    order(world, A, C)
    begins(world)
    world.nodes[C].kill_host()
    assert outage(world, other_than=A, limit_s=8) < 6
    assert primary(world) == B
    assert happened(world, COMPLETED) == []
    assert happened(world, FAILED) == [B]
    assert reason(world) == "another node was elected"
    assert document(world).switchover is None
    world.nodes[C].start()
    finish(world)


# ---------------------------------------------------------------- the old primary is lost


@pytest.mark.parametrize(("names", "seed"), [("abc", 0), ("abc", 1), ("ab", 0), ("abw", 0)])
def test_an_agent_that_is_killed_with_the_intent_committed_goes_on_with_it(
    names: str, seed: int
) -> None:
    world = settled(names, seed=seed, witnesses=names.strip("abc"))
    heir = C if names == "abc" else B
    world.run(2)
    order(world, B, heir, timeout_ms=5000)
    until(world, lambda: happened(world, EventName.DOCUMENT_COMMITTED, A)[-1:] != [], limit_s=1)
    until(world, lambda: document(world).switchover is not None, limit_s=1)
    world.run(0.005)
    world.nodes[A].kill_agent()
    assert happened(world, BEGUN) == []
    world.run(0.3)
    world.nodes[A].start()
    until(world, lambda: happened(world, COMPLETED) == [heir], limit_s=2)
    assert len(happened(world, ACCEPTED)) == 1
    finish(world)


def test_one_that_is_killed_while_the_server_stops_hands_over_to_the_target_all_the_same() -> None:
    world = settled()
    world.run(2)
    order(world, A, C)
    begins(world)
    until(world, lambda: not world.nodes[A].server.writable, limit_s=1)
    world.nodes[A].kill_agent()
    world.run(0.2)
    world.nodes[A].start()
    until(world, lambda: happened(world, COMPLETED) == [C], limit_s=4)
    finish(world)


def test_whoever_wins_instead_drops_the_intent() -> None:
    world = settled()
    world.run(1)
    world.nodes[C].pause_agent()  # so that it cannot be begun
    order(world, A, C, timeout_ms=60_000)
    until(world, lambda: document(world).switchover is not None, limit_s=1)
    world.run(0.1)
    world.nodes[A].kill_host()
    world.run(0.5)
    world.nodes[C].resume_agent()
    world.network.cut("*", C, Traffic.REPLICATION)
    outage(world, other_than=A, limit_s=8)
    assert document(world).switchover is None
    world.network.heal()
    world.nodes[A].start()
    finish(world)
    world.run(3)
    assert happened(world, BEGUN) == []
    assert len(happened(world, COMPLETED)) + len(happened(world, FAILED)) == 1


# ---------------------------------------------------------------- orders on their way


def test_an_order_whose_answer_is_lost_is_done_once() -> None:
    world = settled()
    notes = watched(world)
    with_deaf_ears(world, C)
    order(world, C)  # to whom the leader chooses: the next leader would choose again
    world.run(6)
    assert len(happened(world, ACCEPTED)) == 1
    assert len(happened(world, COMPLETED)) == 1
    ((_, answer),) = notes.answers
    assert not answer.accepted
    assert "may have been taken" in answer.reason
    finish(world)


def with_deaf_ears(world: Stage, node: NodeId) -> None:
    """Let no answer to an order reach a node."""
    engine = world.nodes[node].engine
    assert engine is not None
    honest = engine.step

    def step(now: object, event: object) -> object:
        lost = isinstance(getattr(event, "message", None), OrderReply)
        return honest(now, Tick() if lost else event)  # type: ignore[arg-type]

    vars(engine)["step"] = step


def test_a_cancelled_switchover_leaves_everything_as_it_was() -> None:
    world = settled()
    notes = watched(world)
    order(world, A, C)
    cancel(world, A)
    world.run(1)
    assert primary(world) == A
    assert writes(world)
    assert [answer.accepted for _, answer in notes.answers] == [True, True]
    assert reason(world) == "it was cancelled"
    assert document(world).switchover is None
    order(world, A, C)
    until(world, lambda: world.primary() == C, limit_s=2)
    finish(world)


def test_without_a_leader_an_order_is_answered_in_the_end() -> None:
    world = settled()
    notes = watched(world)
    world.nodes[A].kill_host()
    world.nodes[B].kill_host()
    order(world, C)
    world.run(5.1)
    ((_, answer),) = notes.answers
    assert not answer.accepted
    world.nodes[A].start()
    world.nodes[B].start()
    finish(world)


def test_repeated_switchovers_go_round_and_round() -> None:
    world = settled()
    notes = watched(world)
    for to in (B, C, A, C):
        order(world, others(world, to)[0], to)
        until(world, lambda to=to: world.primary() == to, limit_s=3)  # type: ignore[misc]
        until(world, lambda: len(document(world).sync.members) == 2, limit_s=3)
        world.write_everywhere(0.2)
        world.run(0.5)
    assert notes.rebuilt == []
    assert happened(world, COMPLETED) == [B, C, A, C]
    finish(world)
