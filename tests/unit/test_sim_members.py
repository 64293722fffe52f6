"""Spares, orders about members, and who counts when a core is chosen and has to become whole."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from sim_fakes import FakeWorld

from metako.model.events import EventName
from metako.model.ids import NodeId, RecordId
from metako.model.orders import OrderKind
from metako.model.postgres import ProcessState
from sim.core import choose_core, qualifies
from sim.faults import Fault, Injector
from sim.play import play
from sim.scenario import (
    RandomMembers,
    Scenario,
    ScenarioError,
    load_run,
    read_scenario,
    save_run,
)
from sim.scenario.model import Conditions
from sim.settled import Stage, document, happened, others, outage, primary, settled, until
from sim.standing import counts, has_majority

A, B, C, D = map(NodeId, "abcd")
S = 1_000_000_000
CALM = read_scenario("name: calm\nsummary: Nothing happens.\n", "calm.yaml")


def scenario(text: str) -> Scenario:
    return read_scenario(f"name: x\nsummary: A test.\n{text}", "x.yaml")


def give(world: Stage, do: str, member: NodeId, *, learner: bool = False) -> None:
    """Give an order to the primary, as a scenario does."""
    args: dict[str, bool | str] = {"node": primary(world), "member": member}
    if learner:
        args["learner"] = True
    assert Injector(world).apply(Fault.make(world.heap.now_ns, do, args)) is not None


def is_voter(world: Stage, node: NodeId) -> bool:
    return node in document(world).voters


def lose_record(world: Stage, node: NodeId) -> None:
    """Let an agent come back without its record, while its server runs on."""
    assert world.nodes[node].kill_agent()
    assert world.nodes[node].lose_record()
    assert world.nodes[node].start()


# ------------------------------------------------------------------- spares


def test_a_spare_runs_with_everybody_as_peer_and_is_no_member() -> None:
    world = settled("abcd", spares="d")
    assert (world.members, world.voters) == ((A, B, C), (A, B, C))
    assert document(world).members() == (A, B, C)
    until(world, lambda: bool(happened(world, EventName.NOT_A_MEMBER, D)), limit_s=5)
    engine = world.nodes[A].engine
    assert engine is not None
    assert D in [member.node for member in engine.members()]
    assert world.nodes[D].server.process is ProcessState.STOPPED


def test_a_spare_that_is_added_is_cloned_and_votes() -> None:
    world = settled("abcd", spares="d")
    world.run(1)
    give(world, "add_member", D)
    until(world, lambda: is_voter(world, D), limit_s=10)
    assert world.nodes[D].server.data is not None
    world.write_everywhere(1)
    world.nodes[primary(world)].kill_host()
    assert outage(world, other_than=A) < 6


def test_spares_are_read_and_written() -> None:
    read = scenario("cluster: {nodes: [n1, n2, n3, w], witnesses: [w], spares: [w, n3]}").cluster
    assert read.spares == ("n3", "w")
    assert read.witnesses == ("w",)
    text = "cluster: {nodes: 4, spares: [n4]}\nexpect: {always: [vote_given]}"
    again = load_run(save_run(play(scenario(text), 1), scenario(text))).scenario
    assert again == scenario(text)


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        ("nodes: 3, spares: [n1]", "the first node makes the cluster"),
        ("nodes: 3, spares: [n4]", "unknown node 'n4'"),
        ("nodes: 3, spares: [n3], learners: [n3]", "a spare is no member yet"),
        ("nodes: 3, spares: [n3], acks: 2", "2 acks need 3 nodes"),
        ("nodes: [n1, w], witnesses: [n1], spares: [w]", "a witness or a spare"),
    ],
)
def test_spares_that_make_no_sense_are_told(cluster: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        scenario(f"cluster: {{{cluster}}}")


def test_a_mark_that_every_run_has_to_reach_is_asked_for() -> None:
    violation = play(scenario("duration: 10s\nexpect: {always: [vote_given]}"), 1).violation
    assert violation is not None
    assert violation.check == "expected"
    assert "vote_given" in violation.text


# ------------------------------------------------------------------- orders


def test_an_order_to_add_invites_and_says_whether_there_is_to_be_a_vote() -> None:
    world = FakeWorld(3)
    injector = Injector(world)
    injector.apply(Fault.make(1, "add_member", {"node": "n1", "member": "n2", "learner": True}))
    injector.apply(Fault.make(2, "remove_member", {"node": "n1", "member": "n3"}))
    kinds = [
        f"n1 order {OrderKind.ADD_MEMBER} n2 learner",
        f"n1 order {OrderKind.REMOVE_MEMBER} n3",
    ]
    assert world.log == kinds
    assert [world.nodes[NodeId(n)].invited for n in ("n1", "n2", "n3")] == [False, True, False]


def test_an_order_that_no_agent_takes_invites_nobody() -> None:
    world = FakeWorld(3)
    world.nodes[NodeId("n1")].refuses.add("order")
    fault = Fault.make(1, "add_member", {"node": "n1", "member": "n2"})
    assert Injector(world).apply(fault) is None
    assert not world.nodes[NodeId("n2")].invited


# ------------------------------------------------------------------- whose record


def test_who_lost_its_record_counts_once_an_operator_has_it_taken_in() -> None:
    world = settled()
    node = world.nodes[B]
    assert counts(node, document(world))
    lose_record(world, B)
    until(world, lambda: B not in document(world).sync.nodes(), limit_s=5)
    assert node.forgetful
    assert not counts(node, document(world))
    assert has_majority(world, document(world), (A, C))
    assert not has_majority(world, document(world), (A, B))
    give(world, "add_member", B)
    until(world, lambda: is_voter(world, B) and not node.forgetful, limit_s=10)
    assert counts(node, document(world))
    assert node.hard is not None
    assert node.hard.record_id == "b.2"


def test_a_record_that_was_lost_and_is_back_counts_by_no_order() -> None:
    world = settled()
    node = world.nodes[B]
    assert not node.restore_lost_record()
    lose_record(world, B)
    until(world, lambda: B not in document(world).sync.nodes(), limit_s=5)
    give(world, "add_member", B)
    until(world, lambda: is_voter(world, B), limit_s=10)
    assert node.kill_agent()
    assert node.restore_lost_record()
    node.start()
    world.run(3)
    assert node.hard is not None
    assert node.hard.record_id == "b.1"
    node.invited = True
    assert node.forgetful
    assert not counts(node, document(world))


def test_another_record_or_none_counts_for_nobody() -> None:
    world = settled()
    found = document(world)
    records = tuple(r._replace(record_id=RecordId("made anew")) for r in found.records)
    assert not counts(world.nodes[B], replace(found, records=records))
    assert not counts(world.nodes[B], replace(found, voters=(A, C)))


# ------------------------------------------------------------------- cores


def test_a_core_is_chosen_among_the_voters_that_there_are_now() -> None:
    world = settled("abcde", spares="de")
    assert all(set(choose_core(world, random.Random(n))) <= {A, B, C} for n in range(10))
    for node in (D, NodeId("e")):
        give(world, "add_member", node)
        until(world, lambda node=node: is_voter(world, node), limit_s=10)  # type: ignore[misc]
    until(world, lambda: len(document(world).sync.nodes()) == 4, limit_s=10)
    assert {len(choose_core(world, random.Random(n))) for n in range(10)} == {3}


def test_one_without_its_record_is_in_no_core() -> None:
    world = settled()
    lose_record(world, B)
    until(world, lambda: B not in document(world).sync.nodes(), limit_s=5)
    assert choose_core(world, random.Random(1)) == (A, C)
    assert not qualifies(world, (A, B))
    assert not qualifies(world, (B, C))


def test_learners_alone_are_no_core() -> None:
    world = settled("abcd")
    give(world, "add_member", D, learner=True)
    until(world, lambda: not is_voter(world, D), limit_s=5)
    assert qualifies(world, (A, B))
    assert not qualifies(world, (A, D))


def test_the_server_of_a_removed_node_is_stopped_and_nobodys_replica() -> None:
    world = settled("abcd")
    give(world, "remove_member", D)
    until(world, lambda: D not in document(world).members(), limit_s=5)
    until(world, lambda: world.nodes[D].server.process is ProcessState.STOPPED, limit_s=5)
    world.run(2)
    for name in others(world, D):
        proxy = world.nodes[name].proxy
        assert proxy is not None
        assert D not in proxy.replicas()


# ------------------------------------------------------------------- random orders


def randomly(seed: int, nodes: int = 5, **conditions: tuple[str, ...]) -> list[Fault]:
    world = FakeWorld(nodes, spares=("s1",))
    script = RandomMembers(replace(CALM, random=replace(Conditions(), **conditions)), seed)
    injector = Injector(world)
    script.begin(injector)
    world.heap.run_until(120 * S)
    script.end()
    world.heap.run_until(200 * S)
    return injector.applied


def test_random_orders_are_fixed_by_their_seed_and_only_some_seeds_have_any() -> None:
    runs = [randomly(seed) for seed in range(30)]
    assert runs == [randomly(seed) for seed in range(30)]
    assert 5 < sum(bool(run) for run in runs) < 25
    assert {fault.do for run in runs for fault in run} == {"add_member", "remove_member"}


def test_random_orders_leave_three_voters_and_the_primary() -> None:
    """The document of the fake never changes: of three voters nobody may ever go."""
    for seed in range(30):
        assert all(fault.get("member") != "n1" for fault in randomly(seed))
        for fault in randomly(seed, nodes=3):
            assert (fault.do, fault.get("member")) == ("add_member", "s1")


@pytest.mark.parametrize(
    ("conditions", "kinds"),
    [
        ({"faults": ("network",)}, set()),
        ({"without": ("operator",)}, set()),
        ({"without": ("remove_member",)}, {"add_member"}),
        ({"faults": ("remove_member",)}, {"remove_member"}),
    ],
)
def test_random_orders_keep_to_what_is_allowed(
    conditions: dict[str, tuple[str, ...]], kinds: set[str]
) -> None:
    assert {fault.do for seed in range(20) for fault in randomly(seed, **conditions)} == kinds
