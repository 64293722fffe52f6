"""Faults: the registry, values and their JSON form, what each kind does and what undoes it."""

from __future__ import annotations

import json

import pytest
from sim_fakes import FakeWorld, Told

from metako.model.ids import NodeId
from sim.faults import KINDS, Fault, FaultError, Injector, checked, kind_of, nodes_named, text_of
from sim.faults.arguments import Argument, ArgumentError, Range, Type, duration_ns, show_duration
from sim.heap import NS_PER_MS, NS_PER_S
from sim.links import Traffic

S = NS_PER_S
SAMPLES = {
    Type.NODE: "n2",
    Type.NODES: ("n2",),
    Type.GROUPS: (("n1",), ("n2", "n3")),
    Type.PLACE: "n2",
    Type.PLACES: ("n2",),
    Type.DURATION: 100 * NS_PER_MS,
    Type.SHARE: 0.5,
    Type.RATE: 500,
    Type.FACTOR: 4,
    Type.SECONDS: -3 * S,
    Type.COUNT: 2,
    Type.FLAG: True,
}


def sample(name: str, at_ns: int = 0, **args: object) -> Fault:
    """Return a fault of that kind with its required arguments, and `args`."""
    given = {a.name: SAMPLES[a.type] for a in KINDS[name].arguments if a.required}
    if name == "link":
        given["loss"] = 0.5
    if name in ("cut", "clog"):
        given["from"] = ("n1",)
    if name == "majority_ring":
        given["node"] = ("n1", "n2", "n3")
    return Fault.make(at_ns, name, {**given, **args})


def injected(*faults: Fault, world: FakeWorld | None = None) -> tuple[FakeWorld, Injector, Told]:
    world, told = world or FakeWorld(), Told()
    injector = Injector(world, told)
    for fault in faults:
        injector.apply(fault)
    return world, injector, told


# ---------------------------------------------------------------- values


def test_arguments_are_in_one_order_whatever_order_they_were_given_in() -> None:
    one = Fault.make(5, "isolate", {"node": ("n1",), "direction": "in"})
    other = Fault.make(5, "isolate", {"direction": "in", "node": ("n1",)})
    assert one == other
    assert hash(one) == hash(other)
    assert json.dumps(one.to_json()) == json.dumps(other.to_json())


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_survives_the_way_through_json(name: str) -> None:
    fault = kind_of(sample(name)).complete(sample(name, 7 * S))
    again = checked(json.loads(json.dumps(fault.to_json())))
    assert again == fault


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "a fault is a mapping"),
        ({"at_ns": -1, "do": "heal"}, "at_ns is not"),
        ({"at_ns": True, "do": "heal"}, "at_ns is not"),
        ({"at_ns": 1, "do": 3}, "do is not"),
        ({"at_ns": 1, "do": "heal", "args": []}, "args is not"),
        ({"at_ns": 1, "do": "heal", "when": 3}, "unknown key 'when'"),
        ({"at_ns": 1, "do": "heel"}, "did you mean 'heal'"),
        ({"at_ns": 1, "do": "kill"}, "node is missing"),
        ({"at_ns": 1, "do": "kill", "args": {"nod": ["n1"]}}, "did you mean 'node'"),
        ({"at_ns": 1, "do": "kill", "args": {"node": "n1"}}, "is no nodes"),
        ({"at_ns": 1, "do": "kill", "args": {"node": {"a": 1}}}, "type dict"),
        ({"at_ns": 1, "do": "kill", "args": {"node": [[[[["n1"]]]]]}}, "nested"),
        ({"at_ns": 1, "do": "hang", "args": {"node": ["n1"], "for": "5s"}}, "no duration"),
        ({"at_ns": 1, "do": "hang", "args": {"node": ["n1"], "for": 0}}, "less than"),
        ({"at_ns": 1, "do": "kill", "args": {"node": ["n1"], "what": "cat"}}, "no choice"),
        ({"at_ns": 1, "do": "kill", "args": {"node": ["n1"], "what": "guard", "for": 9}}, "'for'"),
        ({"at_ns": 1, "do": "link", "args": {"loss": 1.5}}, "more than 100%"),
        ({"at_ns": 1, "do": "link", "args": {}}, "says nothing"),
    ],
)
def test_data_that_is_no_fault_is_refused_with_a_reason(data: object, message: str) -> None:
    with pytest.raises(FaultError, match=message):
        checked(data)


def test_text_is_short_and_leaves_defaults_out() -> None:
    fault = Fault.make(0, "partition", {"groups": (("n1",), ("n2", "n3")), "for": 5 * S})
    assert text_of(kind_of(fault).complete(fault)) == "partition n1 | n2 n3 for 5s"
    assert nodes_named(fault) == ("n1", "n2", "n3")
    cut = Fault.make(0, "cut", {"from": ("n1",), "to": "*", "traffic": "gossip"})
    assert text_of(cut) == "cut from n1 to * traffic gossip"
    assert nodes_named(cut) == ("n1",)


def test_changed_replaces_and_removes_arguments() -> None:
    fault = Fault.make(0, "hang", {"node": ("n1",), "for": S})
    assert fault.changed(**{"for": None}).for_ns is None
    assert fault.changed(**{"for": 2 * S}).for_ns == 2 * S
    assert fault.for_ns == S


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (Type.DURATION, "250ms", 250 * NS_PER_MS),
        (Type.DURATION, "1s..2s", Range(S, 2 * S)),
        (Type.SHARE, "30%", 0.3),
        (Type.SHARE, 0.3, 0.3),
        (Type.SHARE, "10%..20%", Range(0.1, 0.2)),
        (Type.RATE, "0.5%", 5000),
        (Type.RATE, "-200ppm", -200),
        (Type.FACTOR, "10x", 10),
        (Type.SECONDS, "-30s", -30 * S),
        (Type.COUNT, 3, 3),
        (Type.COUNT, "2..4", Range(2, 4)),
        (Type.NODES, "n1", ("n1",)),
        (Type.PLACES, "*", "*"),
        (Type.GROUPS, [["n1"], "n2"], (("n1",), ("n2",))),
        (Type.FLAG, True, True),
    ],
)
def test_arguments_are_read_as_people_write_them(kind: Type, raw: object, value: object) -> None:
    assert Argument("x", kind, "").read(raw) == value


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (Type.DURATION, 5),
        (Type.DURATION, "5"),
        (Type.DURATION, "-5s"),
        (Type.DURATION, "1us"),
        (Type.DURATION, "2s..1s"),
        (Type.SHARE, "30ms"),
        (Type.RATE, "5s"),
        (Type.FACTOR, None),
        (Type.COUNT, 2.5),
        (Type.COUNT, True),
        (Type.NODE, ["n1"]),
        (Type.NODES, []),
        (Type.NODES, [1]),
        (Type.GROUPS, "n1"),
        (Type.FLAG, "yes"),
        (Type.CHOICE, "x"),
    ],
)
def test_values_of_another_type_are_refused(kind: Type, raw: object) -> None:
    with pytest.raises(ArgumentError):
        Argument("x", kind, "", choices=("a", "b")).read(raw)


@pytest.mark.parametrize("text", ["1ms", "250ms", "1.5s", "10s", "12345ms", "3600s"])
def test_durations_are_shown_so_that_they_can_be_read_back(text: str) -> None:
    assert duration_ns(show_duration(duration_ns(text))) == duration_ns(text)


# ---------------------------------------------------------------- the registry


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_documented_and_can_be_applied(name: str) -> None:
    kind = KINDS[name]
    assert kind.doc.endswith(".")
    assert all(argument.doc for argument in kind.arguments)
    world, injector, _ = injected(sample(name))
    assert len(injector.applied) == (0 if name == "start" else 1)  # every node runs
    injector.end_all()
    assert not injector.active
    assert world.cut() == set()


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k.lasting])
def test_what_lasts_ends_by_itself_after_its_time(name: str) -> None:
    world, injector, told = injected(sample(name, **{"for": 5 * S}))
    assert len(injector.active) == 1
    assert told.lines[0].endswith("for 5s")
    world.heap.run_until(5 * S - 1)
    assert len(injector.active) == 1
    world.heap.run_until(5 * S)
    assert not injector.active
    assert told.lines[1:] == ["0 ended"]


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if not k.lasting])
def test_what_does_not_last_takes_no_duration(name: str) -> None:
    with pytest.raises(FaultError, match="no argument 'for'"):
        injected(sample(name, **{"for": 5 * S}))


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k.cures])
def test_cures_name_kinds_that_exist_and_last(name: str) -> None:
    assert all(KINDS[cured].lasting for cured in KINDS[name].cures)


def test_a_stranger_s_slot_is_dropped_at_the_end_of_its_fault() -> None:
    world, _, _ = injected(sample("create_slot", node=("n1",), **{"for": 2 * S}))
    world.heap.run_until(2 * S)
    assert world.log == ["n1 create_slot stranger", "n1 drop_slot stranger"]


def test_a_second_slot_of_a_stranger_makes_no_sense() -> None:
    world = FakeWorld()
    world.nodes["n1"].refuses.add("create_slot")
    _, injector, _ = injected(sample("create_slot", node=("n1",)), world=world)
    assert injector.skipped == 1
    assert not world.log


def test_a_small_disk_is_large_again_at_the_end() -> None:
    world, injector, _ = injected(sample("wal_disk_small", node=("n1",), room=150, slots_keep=0))
    server = world.nodes["n1"].server
    assert (server.wal_room, server.slot_keep) == (150, 0)
    injector.end_all()
    assert (server.wal_room, server.slot_keep) == (0, None)
    injector.apply(sample("wal_disk_small", node=("n1",)))
    assert (server.wal_room, server.slot_keep) == (200, None)


def test_a_disk_that_no_checkpoint_could_keep_from_filling_is_refused() -> None:
    with pytest.raises(FaultError, match="room"):
        injected(sample("wal_disk_small", room=10))


def test_fault_that_is_cut_short_is_kept_as_one_that_lasted_so_long() -> None:
    world, injector, _ = injected(sample("hang", at_ns=0))
    world.heap.run_until(3 * S)
    injector.cut_short(0)
    assert not injector.active
    assert injector.applied[0].for_ns == 3 * S


# ---------------------------------------------------------------- network


def test_partition_cuts_between_groups_and_nowhere_else() -> None:
    world, injector, _ = injected(
        Fault.make(0, "partition", {"groups": (("n1", "c1"), ("n2",))}),
    )
    assert world.cut() == {"n1>n2", "n2>n1", "c1>n2", "n2>c1"}
    injector.end(0)
    assert world.cut() == set()


def test_isolate_has_directions_and_leaves_clients_alone() -> None:
    args = {"node": ("n1",), "direction": "in"}
    world, _, _ = injected(Fault.make(0, "isolate", args))
    assert world.cut() == {"n2>n1", "n3>n1"}
    world, _, _ = injected(Fault.make(0, "isolate", {**args, "direction": "out"}))
    assert world.cut() == {"n1>n2", "n1>n3"}
    world, _, _ = injected(Fault.make(0, "isolate", {"node": ("n1",), "clients": True}))
    assert world.cut() >= {"c1>n1", "n1>c2"}


def test_isolating_two_nodes_separates_them_from_each_other_too() -> None:
    world, _, _ = injected(Fault.make(0, "isolate", {"node": ("n1", "n2")}))
    assert {"n1>n2", "n2>n1", "n1>n3", "n3>n2"} <= world.cut()


def test_cut_of_one_kind_of_traffic_leaves_the_others() -> None:
    world, _, _ = injected(Fault.make(0, "cut", {"from": ("n1",), "to": "*", "traffic": "agents"}))
    network = world.network
    assert not network.is_open("n1", "n2", Traffic.GOSSIP)
    assert not network.is_open("n1", "n2", Traffic.STREAM)
    assert network.is_open("n1", "n2", Traffic.REPLICATION)
    assert network.is_open("n2", "n1", Traffic.GOSSIP)


def test_path_that_two_faults_have_cut_is_whole_only_after_both() -> None:
    cut = Fault.make(0, "cut", {"from": ("n1",), "to": ("n2",)})
    world, injector, _ = injected(cut, Fault.make(0, "isolate", {"node": ("n1",)}))
    injector.end(0)
    assert "n1>n2" in world.cut()
    injector.end(1)
    assert world.cut() == set()


def test_bridge_sees_both_halves() -> None:
    world, _, _ = injected(Fault.make(0, "bridge", {"node": "n3"}), world=FakeWorld(5))
    cut = world.cut()
    assert not any("n3" in path for path in cut)
    assert {"n1>n4", "n5>n2"} <= cut
    assert "n1>n2" not in cut


def test_ring_lets_every_node_hear_another_majority() -> None:
    world, _, _ = injected(
        Fault.make(0, "majority_ring", {"node": tuple(f"n{i}" for i in range(1, 6))}),
        world=FakeWorld(5),
    )
    cut = world.cut()
    heard = {a: frozenset(b for b in world.names if f"{b}>{a}" not in cut) for a in world.names}
    assert {len(nodes) for nodes in heard.values()} == {3}
    assert len(set(heard.values())) == 5


def test_link_has_the_newest_of_overlapping_properties() -> None:
    first = Fault.make(0, "link", {"from": ("n1",), "to": ("n2",), "loss": 0.3})
    second = Fault.make(
        0, "link", {"from": ("n1",), "to": "*", "loss": 0.6, "delay": 50 * NS_PER_MS}
    )
    world, injector, _ = injected(first, second)
    assert world.network.link("n1", "n2").properties.loss == 0.6
    assert world.network.link("n1", "n2").properties.delay_ms == (50, 50)
    injector.end(1)
    assert world.network.link("n1", "n2").properties.loss == 0.3
    injector.end(0)
    assert world.network.link("n1", "n2").properties.loss == 0


def test_heal_ends_faults_of_the_network_but_not_what_it_is_like() -> None:
    base = Fault.make(0, "link", {"loss": 0.1, "base": True})
    cut = Fault.make(0, "isolate", {"node": ("n1",)})
    world, injector, told = injected(base, cut, sample("hang"), Fault.make(0, "heal"))
    assert world.cut() == set()
    assert world.network.link("n1", "n2").properties.loss == 0.1
    assert [active.fault.do for active in injector.active] == ["link", "hang"]
    assert "1 ended" in told.lines


def test_heal_of_one_node_leaves_faults_of_others() -> None:
    world, _, _ = injected(
        Fault.make(0, "cut", {"from": ("n1",), "to": ("n2",)}),
        Fault.make(0, "cut", {"from": ("n2",), "to": ("n3",)}),
        Fault.make(0, "heal", {"node": ("n1",)}),
    )
    assert world.cut() == {"n2>n3"}


# ---------------------------------------------------------------- processes, clocks


def test_what_is_killed_twice_is_left_out_the_second_time() -> None:
    world = FakeWorld()
    kill = Fault.make(0, "kill", {"node": ("n1",), "what": "agent"})
    _, injector, _ = injected(kill, world=world)
    world.nodes[NodeId("n1")].refuses.add("kill_agent")
    assert injector.apply(kill) is None
    assert len(injector.applied) == 1
    assert injector.skipped == 1


def test_killed_agent_does_not_return_on_a_host_that_is_off() -> None:
    world, _, _ = injected(
        Fault.make(0, "kill", {"node": ("n1",), "what": "agent", "for": S}),
        Fault.make(0, "kill", {"node": ("n1",), "what": "host", "for": 2 * S}),
    )
    world.heap.run_until(S)
    assert "n1 start" not in world.log
    world.heap.run_until(2 * S)
    assert world.log[-1] == "n1 start"


def test_start_ends_the_kill_that_it_cures() -> None:
    kill = Fault.make(0, "kill", {"node": ("n1",), "for": 9 * S})
    world, injector, told = injected(kill, Fault.make(0, "start", {"node": ("n1",)}))
    assert not injector.active
    assert world.log == ["n1 kill_host", "n1 start"]
    assert told.lines == ["0 kill n1 for 9s", "0 ended", "1 start n1", "1 ended"]
    world.heap.run_until(20 * S)
    assert world.log == ["n1 kill_host", "n1 start"]


def test_start_of_what_runs_is_left_out() -> None:
    _, injector, _ = injected(Fault.make(0, "start", {"node": ("n1",)}))
    assert not injector.applied


def test_resume_cures_only_a_pause_of_the_same_part() -> None:
    pauses = [Fault.make(0, "pause", {"node": ("n1",), "what": w}) for w in ("agent", "guard")]
    world, injector, _ = injected(
        *pauses, Fault.make(0, "resume", {"node": ("n1",), "what": "agent"})
    )
    assert [active.fault.get("what") for active in injector.active] == ["guard"]
    assert "n1 resume_agent" in world.log
    assert "n1 resume_guard" not in world.log


def test_part_of_the_nodes_is_enough_for_a_fault() -> None:
    world = FakeWorld()
    world.nodes[NodeId("n1")].refuses.add("kill_host")
    _, injector, _ = injected(Fault.make(0, "kill", {"node": ("n1", "n2")}), world=world)
    injector.end_all()
    assert world.log == ["n2 kill_host", "n2 start"]


def test_rate_of_a_clock_goes_back_to_what_it_was() -> None:
    world = FakeWorld()
    clock = world.nodes[NodeId("n2")].clock
    clock.rate_ppm = 40
    _, injector, _ = injected(
        Fault.make(0, "clock_rate", {"node": ("n2",), "rate": 9000}), world=world
    )
    assert clock.rate_ppm == 9000
    injector.end_all()
    assert clock.rate_ppm == 40


def test_wall_clock_jumps_in_seconds() -> None:
    world, injector, _ = injected(Fault.make(0, "clock_jump", {"node": ("n2",), "by": -30 * S}))
    assert world.nodes[NodeId("n2")].clock.jumped_s == [-30]
    assert not injector.active


# ---------------------------------------------------------------- switches


def test_switch_is_held_by_one_fault_at_a_time() -> None:
    slow = Fault.make(0, "disk_slow", {"node": ("n1",), "delay": 20 * NS_PER_MS})
    world, injector, _ = injected(slow, slow.changed(delay=90 * NS_PER_MS))
    node = world.nodes[NodeId("n1")]
    assert (node.disk.slow_ms, node.server.fsync_ms) == (20, 20)
    assert len(injector.applied) == 1
    injector.end_all()
    assert (node.disk.slow_ms, node.server.fsync_ms) == (0, 1.0)
    assert injector.apply(slow.changed(delay=90 * NS_PER_MS)) is not None


def test_lying_fsync_can_be_about_the_record_only() -> None:
    world, _, _ = injected(Fault.make(0, "lying_fsync", {"node": ("n1",), "what": "record"}))
    node = world.nodes[NodeId("n1")]
    assert (node.disk.lying, node.server.fsync_lies) == (True, False)


def test_repair_ends_what_ails_disk_and_server_of_a_node() -> None:
    world, injector, _ = injected(
        sample("hang"),
        sample("disk_full"),
        sample("rewind_fails", times=3),
        sample("isolate"),
        sample("stall_standby", node=("n1",)),
        Fault.make(0, "repair", {"node": ("n2",)}),
    )
    node = world.nodes[NodeId("n2")]
    assert (node.server.hung, node.disk.full, node.server.rewind_failures) == (False, False, 0)
    assert [active.fault.do for active in injector.active] == ["isolate", "stall_standby"]


def test_torn_write_stays_armed_when_other_faults_end() -> None:
    world, injector, _ = injected(sample("torn_write"))
    injector.end_all()
    assert world.nodes[NodeId("n2")].disk.tear_next


# ---------------------------------------------------------------- clients


def test_storm_is_over_when_it_ends() -> None:
    world, injector, _ = injected(Fault.make(0, "client_storm", {"factor": 20}))
    injector.end_all()
    assert world.log == ["c1 load 20", "c2 load 20", "c2 load 1", "c1 load 1"]


def test_cancelling_is_left_out_when_no_commit_waits() -> None:
    world = FakeWorld()
    for client in world.clients:
        client.waits = False
    _, injector, _ = injected(Fault.make(0, "cancel_waiting"), world=world)
    assert not injector.applied


def test_what_is_kept_never_ends() -> None:
    world, injector, told = injected(sample("disk_full", **{"for": S}))
    injector.keep_all()
    world.heap.run_until(5 * S)
    assert injector.active == ()
    assert len(told.lines) == 1
