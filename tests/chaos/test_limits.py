"""What real hosts cannot do is told by name; everything else has an effect here."""

import pytest
import yaml

from chaos import limits
from sim.faults import KINDS
from sim.scenario import Cluster, library_names, load_scenario
from sim.scenario.templates import TEMPLATES


@pytest.fixture
def scenario(tmp_path):
    def make(timeline, **cluster):
        values = {"name": "mine", "summary": "A test.", "cluster": cluster, "timeline": timeline}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_scenario(str(path))

    return make


def test_every_reason_is_about_a_kind_that_exists():
    assert set(limits.REASONS) <= set(KINDS)


def test_a_fault_that_real_hosts_can_do_has_no_reason(scenario):
    assert limits.reasons(scenario([{"at": "5s", "do": "kill", "node": "$primary"}])) == []


@pytest.mark.parametrize("do", sorted(limits.REASONS))
def test_no_random_fault_is_of_a_kind_that_is_left_out(do):
    allowed = {t.name for t in TEMPLATES} - set(limits.impossible_templates())
    assert not [t.name for t in TEMPLATES if t.name in allowed and t.do == do]


def test_clocks_jump_only_where_the_library_for_it_is_installed(scenario, monkeypatch):
    steps = [{"at": "5s", "do": "clock_jump", "node": "$primary", "by": "1s"}]
    assert limits.reasons(scenario(steps)) == []
    monkeypatch.setattr(limits, "library", lambda: None)
    assert limits.reasons(scenario(steps)) == ["clock_jump: libfaketime is not installed"]
    assert "clock_jump" in limits.impossible_templates()


def test_a_step_that_waits_for_what_no_log_tells_is_left_out(scenario):
    step = {"at": "$event(rewind_used)+1s", "do": "kill", "node": "$primary"}
    assert limits.reasons(scenario([step])) == [
        "waits for rewind_used, which no log of a node tells"
    ]


def test_a_composite_is_left_out_with_what_it_is_made_of(scenario, monkeypatch):
    monkeypatch.setattr(limits, "REASONS", {"stop": "no reason"})
    steps = [{"at": "5s", "do": "rolling", "node": "$all"}]
    assert limits.reasons(scenario(steps)) == ["rolling: no reason"]


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        ({"nodes": 5}, "is for 5 nodes: n1, n2, n3, n4, n5"),
        ({"learners": ["n3"]}, "is for the learners n3"),
        ({"witnesses": ["n3"]}, "is for the witnesses n3"),
        ({"never_lead": ["n3"]}, "is for the nodes of priority 0 n3"),
        ({"acks": 2}, "is for 2 acknowledgements"),
        ({"timing": "fast"}, "is for timing fast"),
        ({"election": {"hold": "3s"}}, "changes single settings of the timing"),
        ({"durability": "strict"}, "is for durability strict"),
    ],
)
def test_a_scenario_for_another_cluster_says_which_one(scenario, cluster, why):
    found = limits.cluster_reasons(scenario([], **cluster), Cluster())
    assert len(found) == 1
    assert found[0].startswith(why)


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        ({"pair_mode": "takeover"}, ["is for pair_mode takeover"]),
        ({"takeover_wait": "2s"}, ["is for pair_mode manual"]),
        ({}, []),
    ],
)
def test_a_pair_with_another_rule_is_another_cluster(scenario, cluster, why):
    pair = scenario([], nodes=2).cluster
    assert limits.cluster_reasons(scenario([], nodes=2, **cluster), pair) == why
    # Where a majority decides, no rule is in force, whatever a file says.
    assert limits.cluster_reasons(scenario([], **cluster), Cluster()) == []


def test_a_pair_without_a_rule_is_the_simulators_alone(scenario):
    words = ["no configuration asks for a pair without a rule"]
    assert limits.reasons(scenario([], nodes=2, pair_mode="majority")) == words
    assert limits.reasons(scenario([], nodes=3, pair_mode="majority")) == []


def test_scenarios_for_real_hosts_can_be_played_on_them():
    real = [load_scenario(name) for name in library_names()]
    real = [each for each in real if "real" in each.tier]
    assert len(real) >= 10
    assert {each.name: limits.reasons(each) for each in real} == {each.name: [] for each in real}
