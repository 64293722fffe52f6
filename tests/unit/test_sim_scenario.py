"""Scenario files: what is read, what is refused and how, selectors, times, and saved runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metako.model.document import Durability
from sim.faults import KINDS, Fault, Range
from sim.heap import NS_PER_MS, NS_PER_S
from sim.result import Result, Violation
from sim.scenario import (
    SELECTORS,
    Failover,
    Scenario,
    ScenarioError,
    all_scenarios,
    library_names,
    load_run,
    load_scenario,
    read_scenario,
    save_run,
)
from sim.scenario.composites import COMPOSITES
from sim.scenario.data import to_data
from sim.scenario.model import Anchor, Operation, When
from sim.scenario.parse import parse_scenario
from sim.scenario.times import parse_when, show_when

S, MS = NS_PER_S, NS_PER_MS
DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENTATION = "".join(path.read_text("utf-8") for path in sorted(DOCS.glob("simulator*.md")))
CALM = load_scenario("calm")
HEAD = "name: x\nsummary: A test.\n"


def read(text: str) -> Scenario:
    return read_scenario(HEAD + text, "x.yaml")


def timeline(*steps: str, more: str = "") -> Scenario:
    lines = "".join(f"  - {step}\n" for step in steps)
    return read(f"{more}timeline:\n{lines}")


def problems(text: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        read_scenario(text, "x.yaml")
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def problem(text: str) -> str:
    (only,) = problems(HEAD + text)
    return only


# ---------------------------------------------------------------- reading


def test_everything_has_a_default() -> None:
    scenario = read("")
    assert scenario.cluster.names == ("n1", "n2", "n3")
    assert scenario.workload.clients > 0
    assert scenario.expect.failover is Failover.ALLOWED
    assert scenario.duration_ns == 60 * S


def test_cluster_is_read() -> None:
    cluster = read(
        "cluster: {nodes: [a1, a2, b1, w], witnesses: [w], acks: 2, durability: strict,"
        " timing: fast, election: {hold: 1200ms}}"
    ).cluster
    assert cluster.names == ("a1", "a2", "b1", "w")
    assert cluster.witnesses == ("w",)
    assert cluster.data_nodes == ("a1", "a2", "b1")
    assert (cluster.acks, cluster.durability) == (2, Durability.STRICT)
    assert (cluster.election.hold_ms, cluster.election.heartbeat_ms) == (1200, 100)


def test_number_of_witnesses_takes_the_last_nodes() -> None:
    assert read("cluster: {nodes: 5, witnesses: 2}").cluster.witnesses == ("n4", "n5")


def test_workload_is_read() -> None:
    workload = read(
        "workload: {clients: 2, rate: 5, mix: {append: 3, cancel: 1}, levels: {on: 2, local: 1},"
        " homes: [n1], direct: [n2, n3]}"
    ).workload
    assert dict(workload.mix) == {Operation.APPEND: 3, Operation.CANCEL: 1}
    assert dict(workload.levels) == {"on": 2, "local": 1}  # `on` is no truth value here
    assert workload.names == ("c1", "c2", "d1", "d2")


def test_expectations_are_read() -> None:
    expect = read(
        "expect: {failover: required, elections: 1..3, rto_max: 15s, lost_acked: 0,"
        " writes_blocked_max: 500ms, sometimes: [rewind_used], never: [wal_lost]}"
    ).expect
    assert expect.failover is Failover.REQUIRED
    assert expect.elections == (1, 3)
    assert (expect.rto_max_ns, expect.writes_blocked_max_ns) == (15 * S, 500 * MS)
    assert expect.sometimes == ("rewind_used",)
    assert expect.never == ("wal_lost",)


def test_conditions_are_read() -> None:
    conditions = read(
        "random: {faults: [network, kill:agent], without: [flap], drift: 500ppm, loss: 1%..5%,"
        " delay: 5ms..20ms}"
    ).random
    assert conditions.faults == ("network", "kill:agent")
    assert conditions.without == ("flap",)
    assert conditions.drift_ppm == 500
    assert conditions.loss == Range(0.01, 0.05)
    assert conditions.delay == Range(5 * MS, 20 * MS)


def test_steps_are_read_with_defaults() -> None:
    (step,) = timeline(
        "{at: '$event(promoted)+1ms..2ms', do: kill, node: $new_primary, for: 1s..3s,"
        " within: 9s, as: old, repeat: {times: 3, every: 2s}}"
    ).timeline
    assert step.when == When(Anchor.EVENT, MS, 2 * MS, "promoted")
    assert dict(step.args) == {"node": ("$new_primary",), "what": "host", "for": Range(S, 3 * S)}
    assert (step.bind, step.within_ns, step.times, step.every_ns) == ("old", 9 * S, 3, 2 * S)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("10s", When(Anchor.START, 10 * S, 10 * S)),
        ("1s..2s", When(Anchor.START, S, 2 * S)),
        ("+2s", When(Anchor.PREVIOUS, 2 * S, 2 * S)),
        ("previous", When(Anchor.PREVIOUS, 0, 0)),
        ("previous + 1s..2s", When(Anchor.PREVIOUS, S, 2 * S)),
        ("ended+1s", When(Anchor.ENDED, S, S)),
        ("$event(promoted)", When(Anchor.EVENT, 0, 0, "promoted")),
        ("$event(promoted, 3)+0ms..400ms", When(Anchor.EVENT, 0, 400 * MS, "promoted", 3)),
    ],
)
def test_times_are_read_and_shown(text: str, when: When) -> None:
    assert parse_when(text) == when
    assert parse_when(show_when(when)) == when


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("clustr: {}", 3, "clustr: unknown key; did you mean 'cluster'?"),
        ("cluster: 3", 3, "cluster: is not a mapping; indent its keys below it"),
        ("cluster:\n  nodes: 0", 4, "cluster.nodes: 0 is not between 1 and 15"),
        ("cluster: {nodes: [n1, N2]}", 3, "'N2' is no name of a node; write it like n1"),
        ("cluster: {nodes: [n1, n1]}", 3, "cluster.nodes: a name is there twice"),
        ("cluster: {nodes: [c1, n1]}", 3, "c1 is the name of a client"),
        ("cluster: {nodes: 2, witnesses: [n1, n2]}", 3, "every node is a witness"),
        ("cluster: {nodes: 3, witnesses: [n4]}", 3, "unknown node 'n4'; there are n1, n2, n3"),
        ("cluster: {nodes: 3, witnesses: 3}", 3, "3 of 3 nodes cannot be witnesses"),
        ("cluster: {nodes: 3, acks: 3}", 3, "3 acks need 4 nodes that hold data, and there are 3"),
        ("cluster: {durability: quorom}", 3, "did you mean 'quorum'?"),
        ("cluster: {timing: slow}", 3, "'slow' is not one of default, fast, wan"),
        ("cluster: {election: {hold: 900ms}}", 3, "hold: 900ms is less than four heartbeats"),
        ("cluster: {election: {hlod: 5s}}", 3, "unknown setting 'hlod'; did you mean 'hold'?"),
        ("workload: {clients: many}", 3, "workload.clients: 'many' is no count"),
        ("workload: {clients: -1}", 3, "workload.clients: is less than 0"),
        ("workload: {mix: {apend: 1}}", 3, "unknown operation 'apend'; did you mean 'append'?"),
        ("workload: {mix: {append: 0}}", 3, "workload.mix: every weight is 0"),
        ("workload: {levels: [onn]}", 3, "did you mean 'on'?"),
        ("workload: {homes: [n9]}", 3, "unknown node 'n9'"),
        ("random: {faults: [netwrk]}", 3, "did you mean 'network'?"),
        ("random: {drift: 2%}", 3, "random.drift: is more than 10000ppm"),
        ("random: {drift: 1ppm..2ppm}", 3, "random.drift: is a range"),
        ("random: {loss: 50%..10%}", 3, "ends before it begins; write the smaller value first"),
        ("liveness: {heal_core: some}", 3, "'some' is not one of none, quorum, all"),
        ("liveness: {converge_within: 30}", 3, "write it like 250ms, 10s or 1m30s"),
        ("duration: 2h", 3, "duration: is more than 3600s"),
        ("expect: {failover: alwys}", 3, "'alwys' is not one of required, forbidden, allowed"),
        ("expect: {elections: 3..1}", 3, "'3..1' ends before it begins"),
        ("expect: {lost_acked: 1}", 3, "no acknowledged commit may be lost"),
        ("expect: {sometimes: [rewind_usd]}", 3, "unknown mark 'rewind_usd'; did you mean 'rew"),
        ("expect: {never: [wal_lst]}", 3, "unknown mark 'wal_lst'; did you mean 'wal_lost'?"),
        ("expect: {failover: required, primary_stays: true}", 3, "contradicts"),
        ("tier: [moon]", 3, "unknown tier 'moon'; there are core, program, real"),
        ("known_good_seeds: [1, a]", 3, "known_good_seeds[1]: 'a' is no seed"),
        ("regressions: [{note: x}]", 3, "regressions[0].seed: is missing"),
        ("regressions: [{seed: 1, when: x}]", 3, "regressions[0].when: unknown key"),
        ("name: y", 3, "name: the key is already set on line 1"),
        ("timeline: {at: 1s}", 3, "timeline: is not a list; begin each element with '- '"),
    ],
)
def test_bad_input_is_one_problem_with_line_and_hint(text: str, line: int, message: str) -> None:
    told = problem(text)
    assert told.startswith(f"x.yaml:{line}: ")
    assert message in told


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{do: heal}", "timeline[1].at: is missing; write it like 10s"),
        ("{at: soon, do: heal}", "timeline[1].at: 'soon' is not a duration; write it like"),
        ("{at: 5, do: heal}", "timeline[1].at: 5 is no time"),
        ("{at: '$evnt(x)', do: heal}", "timeline[1].at: '$evnt(x)' is no time"),
        ("{at: '$event(promotd)', do: heal}", "unknown event 'promotd'; did you mean 'promoted'?"),
        ("{at: '$event(promoted, 0)', do: heal}", "no event is number 0"),
        ("{at: 1s}", "timeline[1].do: is missing"),
        ("{at: 1s, do: heel}", "unknown kind of fault 'heel'; did you mean 'heal'?"),
        ("{at: 1s, do: kill}", "timeline[1].node: is missing; it is one node"),
        ("{at: 1s, do: kill, node: n9}", "unknown node 'n9'"),
        ("{at: 1s, do: kill, node: 3}", "3 is no list of names; write it like [n1, n2]"),
        ("{at: 1s, do: kill, node: $primry}", "unknown selector '$primry'; did you mean '$prim"),
        ("{at: 1s, do: kill, node: $witness}", "the cluster has no witnesses"),
        ("{at: 1s, do: kill, node: c1}", "c1 is a client, and only nodes can be named here"),
        ("{at: 1s, do: kill, node: n1, what: gard}", "did you mean 'guard'?"),
        ("{at: 1s, do: kill, node: n1, wat: guard}", "wat: unknown key; did you mean 'what'?"),
        ("{at: 1s, do: kill, node: n1, what: guard, for: 2s}", "'for' has no meaning for guard"),
        ("{at: 1s, do: hang, node: n1, for: 5}", "for: 5 is no duration; write it like 250ms"),
        ("{at: 1s, do: hang, node: n1, for: 3s..1s}", "'3s..1s' ends before it begins"),
        ("{at: 1s, do: clock_rate, node: n1, rate: 20%}", "rate: is more than 100000ppm"),
        ("{at: 1s, do: clock_rate, node: n1, rate: 5s}", "'5s' is no rate; write it like 500ppm"),
        ("{at: 1s, do: bridge, node: $standbys}", "$standbys can be many, and only one is wanted"),
        ("{at: 1s, do: partition, groups: [[n1]]}", "needs two groups or more"),
        ("{at: 1s, do: partition, groups: [[n1], [n1]]}", "n1 is in two groups"),
        ("{at: 1s, do: partition, groups: n1}", "is not a list of groups"),
        ("{at: 1s, do: link}", "says nothing about the link; set one of loss"),
        ("{at: 1s, do: link, loss: 140%}", "loss: is more than 100%"),
        ("{at: 1s, do: link, loss: 10%, jitter: 1ms}", "jitter comes on top of delay"),
        ("{at: 1s, do: swizzle, node: $all, evry: 1s}", "evry: unknown key; did you mean 'every'?"),
        ("{at: 1s, do: heal, repeat: {times: 3}}", "repeat.every: is missing"),
        ("{at: 1s, do: heal, within: 3s}", "within: the step waits for no event; remove it"),
        ("{at: 1s, after: previous, do: heal}", "after: unknown key; write 'at: previous'"),
        ("{at: 1s, do: heal, as: x}", "as: the step has no 'node' that could be named"),
        ("{at: 1s, do: pick, node: n1, as: primary}", "$primary has a meaning already"),
        ("{at: 1s, do: pick, node: n1, as: $x}", "'$x' is no name"),
        ("heal", "timeline[1]: is not a mapping"),
        ("", "timeline[1]: is empty; write it like {at: 10s, do: heal}"),
    ],
)
def test_bad_step_is_one_problem_with_line_and_hint(step: str, message: str) -> None:
    told = problem(f"timeline:\n  - {{at: 1s, do: heal}}\n  - {step}\n")
    assert told.startswith("x.yaml:5: ")
    assert message in told


def test_first_step_cannot_follow_another() -> None:
    assert "there is no step before it" in problem("timeline: [{at: +1s, do: heal}]")


def test_witness_has_no_postgresql_to_disturb() -> None:
    text = "cluster: {nodes: 3, witnesses: [n3]}\ntimeline: [{at: 1s, do: hang, node: n3}]"
    assert "n3 is a witness: it has no PostgreSQL" in problem(text)


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    told = problems("name: X!\nclustr: 1\nduration: soon\n")
    assert [line.split(":")[1] for line in told] == ["1", "1", "2", "3"]
    assert "summary: is missing" in told[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml:1: the file is empty"),
        ("- 1\n", "x.yaml:1: the file is not a mapping"),
        ("name: [\n", "x.yaml:2: not valid YAML"),
        ("\tname: x\n", "x.yaml:1: a tab stands where YAML wants spaces"),
        ("name: x\x07\n", "is not allowed in YAML"),
    ],
)
def test_text_that_is_no_mapping_is_refused(text: str, message: str) -> None:
    assert any(message in line for line in problems(text))


def test_missing_scenario_is_told_with_the_nearest_name() -> None:
    with pytest.raises(ScenarioError, match="did you mean 'isolated-primary'"):
        load_scenario("isolated-primry")


def test_missing_file_is_told(tmp_path) -> None:
    with pytest.raises(ScenarioError, match="there is no such file"):
        load_scenario(tmp_path / "x.yaml")
    with pytest.raises(ScenarioError, match="is a directory"):
        load_scenario(f"{tmp_path}/")


def test_file_that_is_no_text_is_told(tmp_path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"name: x\nsummary: \xff\n")
    with pytest.raises(ScenarioError, match=r"x\.yaml:2: is not UTF-8"):
        load_scenario(file)


# ---------------------------------------------------------------- the library, round trips


def test_library_is_large_and_every_file_is_good() -> None:
    assert len(library_names()) >= 30
    assert [s.name for s in all_scenarios()] == list(library_names())
    assert all(s.summary.endswith(".") for s in all_scenarios())


@pytest.mark.parametrize("name", library_names())
def test_scenario_survives_the_way_through_plain_values(name: str) -> None:
    scenario = load_scenario(name)
    data = json.loads(json.dumps(to_data(scenario)))
    again, wrong = parse_scenario(data)
    assert not wrong
    assert again == scenario


def test_saved_run_is_read_back() -> None:
    scenario = load_scenario("isolated-primary")
    faults = (
        Fault.make(S, "hang", {"node": ("n1",), "for": 2 * S}),
        Fault.make(3 * S, "link", {"from": ("n1",), "to": "*", "both_ways": False, "loss": 0.5,
                                   "base": False}),
    )  # fmt: skip
    violation = Violation("one_acknowledger", "two", 5 * S, ("n1", "n2"))
    result = Result(scenario.name, 7, violation, faults=faults)
    text = save_run(result, scenario, mutation="hold ignored", extra_faults=False)
    saved = load_run(text)
    assert (saved.scenario, saved.seed, saved.faults) == (scenario, 7, faults)
    assert (saved.mutation, saved.violation) == ("hold ignored", violation)
    assert not saved.extra_faults
    assert text == save_run(result, scenario, mutation="hold ignored", extra_faults=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9 is unknown"),
        ({"format": None}, "make one with --save"),
        ({"seed": "7"}, "seed: is no whole number"),
        ({"faults": {}}, "faults: is no list"),
        ({"faults": [{"at_ns": 1, "do": "heel"}]}, r"faults\[0\]: unknown kind of fault 'heel'"),
        ({"faults": [{"at_ns": 1, "do": "kill", "args": {"node": ["n9"]}}]}, "no node 'n9'"),
        ({"scenario": {"name": "x"}}, "scenario: summary: is missing"),
        ({"mutation": 3}, "mutation: is no name"),
        ({"extra_faults": 3}, "extra_faults: is not true or false"),
        ({"violation": {"check": 3}}, "violation: is not one of"),
        ({"cause": 3}, "unknown key 'cause'"),
    ],
)
def test_saved_run_that_is_wrong_is_told(change: dict[str, object], message: str) -> None:
    data = json.loads(save_run(Result("calm", 1), CALM))
    with pytest.raises(ScenarioError, match=message):
        load_run(json.dumps({**data, **change}), "run.json")


@pytest.mark.parametrize("text", ["", "[", "[]", "3", "{}"])
def test_text_that_is_no_saved_run_is_told(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"run\.json"):
        load_run(text, "run.json")


@pytest.mark.parametrize("name", [*KINDS, *COMPOSITES, *SELECTORS])
def test_documentation_knows_every_kind_argument_and_selector(name: str) -> None:
    (row,) = [row for row in DOCUMENTATION.splitlines() if row.startswith(f"| `{name}`")]
    kind = KINDS.get(name) or COMPOSITES.get(name)
    for argument in kind.arguments if kind is not None else ():
        assert f"`{argument.name}`" in row
