"""Selectors, timelines that become concrete faults, replays, and random faults."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from sim_fakes import FakeWorld

from metako.model.ids import NodeId
from sim.faults import Fault, Injector
from sim.heap import NS_PER_S
from sim.scenario import (
    SELECTORS,
    Plan,
    RandomFaults,
    Replay,
    Scenario,
    load_scenario,
    read_scenario,
)
from sim.scenario.model import Conditions
from sim.scenario.plan import resolve_arguments
from sim.scenario.selectors import Choice
from sim.scenario.templates import TEMPLATES

S = NS_PER_S
CALM = load_scenario("calm")


def timeline(*steps: str, more: str = "") -> Scenario:
    lines = "".join(f"  - {step}\n" for step in steps)
    return read_scenario(f"name: x\nsummary: A test.\n{more}timeline:\n{lines}", "x.yaml")


# ---------------------------------------------------------------- selectors


def choice(world: FakeWorld, **options: object) -> Choice:
    return Choice(world, random.Random("seed"), **options)


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_is_documented_and_finds_somebody(name: str) -> None:
    world = FakeWorld(5, witnesses=("w1", "w2"), spares=("s1",))
    found = choice(world, event_node=NodeId("n3")).resolve(name)
    assert found
    assert SELECTORS[name].doc
    there = {*world.names, *(client.name for client in world.clients)}
    assert set(found) <= there


def test_selectors_about_the_primary() -> None:
    world = FakeWorld(5)
    pick = choice(world, first_primary=NodeId("n4"), promoted=NodeId("n5"))
    assert pick.resolve("$primary") == ("n1",)
    assert pick.resolve("$leader") == ("n1",)
    assert pick.resolve("$first_primary") == ("n4",)
    assert pick.resolve("$new_primary") == ("n5",)
    assert pick.resolve("$standbys") == ("n2", "n3", "n4", "n5")
    assert pick.resolve("$sync_standbys") == ("n2", "n3")
    assert choice(world).resolve("$async_standby")[0] in ("n4", "n5")
    world.now_primary = None
    assert choice(world).resolve("$primary") == ("n1",)  # the document's


def test_selectors_of_sides_are_as_large_as_they_say() -> None:
    world = FakeWorld(5)
    minority = choice(world).resolve("$minority")
    assert len(minority) == 2
    assert "n1" not in minority
    mine = choice(world).resolve("$primary_minority")
    assert len(mine) == 2
    assert "n1" in mine
    majority = choice(world).resolve("$majority")
    assert len(majority) == 3
    assert "n1" in majority
    assert len(choice(FakeWorld(4)).resolve("$primary_half")) == 2


def test_step_does_not_choose_a_node_twice() -> None:
    for seed in range(20):
        pick = Choice(FakeWorld(5), random.Random(seed))
        chosen = [pick.resolve("$standby")[0] for _ in range(4)]
        assert sorted(chosen) == ["n2", "n3", "n4", "n5"]


def test_rest_is_whoever_is_left_wherever_it_stands() -> None:
    for groups in ("[[$rest], [$primary, n2]]", "[[$primary, n2], [$rest]]"):
        (step,) = timeline(f"{{at: 1s, do: partition, groups: {groups}}}").timeline
        args = resolve_arguments(step, choice(FakeWorld(5)))
        assert args is not None
        assert sorted(args["groups"]) == [("n1", "n2"), ("n3", "n4", "n5")]


def test_selector_that_stands_for_nobody_leaves_the_step_out() -> None:
    (step,) = timeline("{at: 1s, do: hang, node: $async_standby}").timeline
    assert resolve_arguments(step, choice(FakeWorld(3))) is None
    (step,) = timeline("{at: 1s, do: partition, groups: [[$all], [$rest]]}").timeline
    assert resolve_arguments(step, choice(FakeWorld(3))) is None


# ---------------------------------------------------------------- timelines


def played(
    scenario: Scenario,
    *,
    seed: int = 1,
    seconds: int = 60,
    marks: Mapping[int, tuple[str, str]] = MappingProxyType({}),
) -> list[Fault]:
    """Return the faults that a scenario comes to, with marks reached at those seconds."""
    world = FakeWorld(len(scenario.cluster.names))
    injector, plan = Injector(world), Plan(scenario, seed)
    plan.begin(injector)
    for at_s, (name, node) in marks.items():
        world.heap.at(at_s * S, plan.on_mark, name, node)
    world.heap.run_until(seconds * S)
    return injector.applied


def test_expansion_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    scenario = timeline(
        "{at: 1s..9s, do: isolate, node: $random, for: 1s..9s}",
        "{at: +1s..9s, do: swizzle, node: $all}",
        "{at: +1s..9s, do: kill, node: $standby}",
    )
    assert played(scenario, seed=3) == played(scenario, seed=3)
    assert played(scenario, seed=3) != played(scenario, seed=4)


def test_faults_are_concrete() -> None:
    (fault,) = played(timeline("{at: 2s, do: isolate, node: $primary, for: 1s..2s}"))
    assert fault.at_ns == 2 * S
    assert fault.get("node") == ("n1",)
    assert fault.get("direction") == "both"
    assert fault.for_ns is not None
    assert S <= fault.for_ns <= 2 * S


def test_change_of_one_step_changes_nothing_of_the_others() -> None:
    second = "{at: 9s, do: isolate, node: $random, for: 1s..9s}"
    one = played(timeline("{at: 1s, do: hang, node: $random}", second))
    other = played(timeline("{at: 1s..3s, do: kill, node: [$random, $random]}", second))
    assert one[1] == other[1]


def test_times_are_counted_from_the_step_before() -> None:
    faults = played(
        timeline(
            "{at: 2s, do: hang, node: n1, for: 5s}",
            "{at: +1s, do: hang, node: n2, for: 5s}",
            "{at: ended+1s, do: hang, node: n3}",
        )
    )
    assert [fault.at_ns // S for fault in faults] == [2, 3, 9]


def test_event_counts_only_after_the_step_before_was_applied() -> None:
    scenario = timeline(
        "{at: 5s, do: hang, node: n1, for: 1s}",
        "{at: '$event(promoted)+2s', do: kill, node: $node}",
    )
    marks = {3: ("promoted", "n1"), 8: ("promoted", "n2"), 9: ("promoted", "n3")}
    faults = played(scenario, marks=marks)
    assert [(fault.at_ns // S, fault.get("node")) for fault in faults[1:]] == [(10, ("n2",))]


def test_nth_event_can_be_waited_for() -> None:
    scenario = timeline("{at: '$event(promoted, 2)', do: kill, node: $node}")
    marks = {3: ("promoted", "n1"), 8: ("promoted", "n2")}
    (fault,) = played(scenario, marks=marks)
    assert fault.get("node") == ("n2",)
    assert fault.at_ns == 8 * S + 1  # after what happened, also in a replay


def test_step_whose_event_does_not_come_is_left_out_and_the_next_one_follows() -> None:
    faults = played(
        timeline(
            "{at: '$event(promoted)', do: kill, node: n1, within: 10s}",
            "{at: +1s, do: hang, node: n2}",
        )
    )
    assert [(fault.do, fault.at_ns // S) for fault in faults] == [("hang", 11)]


def test_repeated_step_chooses_anew_each_time() -> None:
    faults = played(
        timeline(
            "{at: 1s, do: isolate, node: $random, for: 500ms, repeat: {times: 12, every: 1s}}",
            "{at: +1s, do: heal}",
        )
    )
    assert [fault.at_ns // S for fault in faults] == list(range(1, 14))
    assert len({fault.get("node") for fault in faults[:12]}) > 1


def test_chosen_node_is_known_by_its_name_in_later_steps() -> None:
    faults = played(
        timeline(
            "{at: 1s, do: pick, node: $random, as: victim}",
            "{at: +1s, do: isolate, node: $victim, for: 1s, repeat: {times: 5, every: 2s}}",
            "{at: 20s, do: kill, node: $victim}",
        )
    )
    assert len({fault.get("node") for fault in faults}) == 1
    assert faults[-1].do == "kill"


def test_nothing_begins_after_the_end() -> None:
    scenario = timeline("{at: 1s, do: hang, node: n1}", "{at: 5s, do: hang, node: n2}")
    world = FakeWorld()
    injector, plan = Injector(world), Plan(scenario, 1)
    plan.begin(injector)
    world.heap.run_until(2 * S)
    plan.end()
    world.heap.run_until(9 * S)
    assert len(injector.applied) == 1


def test_composites_end_what_they_begin() -> None:
    for step in (
        "{at: 1s, do: swizzle, node: $all}",
        "{at: 1s, do: flap, node: n1}",
        "{at: 1s, do: rolling, node: $all, how: host}",
        "{at: 1s, do: power_loss, node: $all}",
    ):
        scenario = timeline(step, more="cluster: {nodes: 5}\n")
        world = FakeWorld(5)
        injector, plan = Injector(world), Plan(scenario, 1)
        plan.begin(injector)
        world.heap.run_until(100 * S)
        assert injector.applied
        assert not injector.active
        assert world.cut() == set()


def test_conditions_of_the_network_hold_from_the_beginning_and_outlive_a_heal() -> None:
    scenario = timeline("{at: 1s, do: heal}", more="random: {loss: 5%, delay: 3ms..9ms}\n")
    world = FakeWorld()
    injector, plan = Injector(world), Plan(scenario, 1)
    plan.begin(injector)
    world.heap.run_until(2 * S)
    properties = world.network.link("n1", "n2").properties
    assert (properties.loss, properties.delay_ms) == (0.05, (3, 9))
    assert injector.applied[0].at_ns == 0


def test_replay_applies_the_same_faults_at_the_same_times() -> None:
    scenario = timeline(
        "{at: 1s..2s, do: isolate, node: $random, for: 1s..2s}",
        "{at: '$event(promoted)+0ms', do: kill, node: $node, for: 1s}",
        more="random: {loss: 1%..5%}\n",
    )
    faults = played(scenario, marks={9: ("promoted", "n2")})
    assert len(faults) == 3
    world = FakeWorld()
    injector = Injector(world)
    Replay(faults).begin(injector)
    world.heap.run_until(60 * S)
    assert injector.applied == faults


# ---------------------------------------------------------------- random faults


def randomly(
    seed: int, conditions: Conditions | None = None, off: tuple[str, ...] = ()
) -> list[Fault]:
    scenario = CALM if conditions is None else replace(CALM, random=conditions)
    world = FakeWorld(5)
    injector, script = Injector(world), RandomFaults(scenario, seed, off)
    script.begin(injector)
    for at_s in range(6, 100, 5):
        world.heap.at(at_s * S, script.on_mark, "promoted", "n2")
        world.heap.at(at_s * S, script.on_event, "candidacy_started", "n3")
    world.heap.run_until(120 * S)
    script.end()
    count = len(injector.applied)
    world.heap.run_until(300 * S)
    assert len(injector.applied) == count
    return injector.applied


def test_random_faults_are_fixed_by_their_seed() -> None:
    assert randomly(1) == randomly(1)
    assert randomly(1) != randomly(2)


def test_each_seed_turns_about_half_of_the_templates_off() -> None:
    scripts = [RandomFaults(CALM, seed) for seed in range(30)]
    assert {len(script.templates) for script in scripts} == {len(TEMPLATES) // 2}
    used = {template.name for script in scripts for template in script.templates}
    assert used == {template.name for template in TEMPLATES}


def test_every_template_comes_to_a_concrete_fault() -> None:
    for template in TEMPLATES:
        conditions = Conditions(faults=(template.name,))
        assert randomly(1, conditions), template.name


def test_random_faults_keep_to_what_is_allowed() -> None:
    without = ("kill:host", "power_loss", "rolling")
    conditions = Conditions(faults=("process", "isolate"), without=without)
    for seed in range(5):
        for fault in randomly(seed, conditions, off=("slow_agent",)):
            assert fault.do in ("isolate", "kill", "pause", "stop")
            assert fault.get("what") != "host" or fault.do == "pause"


def test_nothing_is_allowed_nothing_happens() -> None:
    assert randomly(1, Conditions(faults=())) == []
