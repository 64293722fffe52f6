"""A `Scenario` as plain values, in the form of the files; `parse_scenario` reads it back.

In: a scenario. Out: mappings, lists, texts and numbers. Invariant: what is read back is equal.
"""

from __future__ import annotations

from sim.faults import Range, Type, Value
from sim.faults.arguments import NAMES, Open, show, show_duration
from sim.heap import NS_PER_MS
from sim.scenario.model import (
    MAJORITY,
    Cluster,
    Conditions,
    Expectation,
    Regression,
    Scenario,
    Step,
    Workload,
)
from sim.scenario.plan import arguments_of
from sim.scenario.times import show_when

Data = dict[str, object]


def to_data(scenario: Scenario) -> Data:
    """Return a scenario as plain values."""
    return {
        "name": scenario.name,
        "summary": scenario.summary,
        "tier": list(scenario.tier),
        "cluster": _cluster(scenario.cluster),
        "workload": _workload(scenario.workload),
        "random": _conditions(scenario.random),
        "timeline": [_step(step) for step in scenario.timeline],
        "duration": show_duration(scenario.duration_ns),
        "liveness": {
            "heal_core": str(scenario.liveness.heal_core),
            "converge_within": show_duration(scenario.liveness.converge_within_ns),
        },
        "expect": _expectation(scenario.expect),
        "known_good_seeds": list(scenario.known_good_seeds),
        "regressions": [_regression(each) for each in scenario.regressions],
    }


def _cluster(cluster: Cluster) -> Data:
    changed = cluster.timing_changes_ms
    return {
        "nodes": list(cluster.names),
        "witnesses": list(cluster.witnesses),
        "learners": list(cluster.learners),
        "spares": list(cluster.spares),
        "never_lead": list(cluster.never_lead),
        "acks": cluster.acks,
        "durability": str(cluster.durability),
        "pair_mode": str(cluster.pair_mode or MAJORITY),
        "takeover_wait": show_duration(cluster.takeover_wait_ms * NS_PER_MS),
        "timing": cluster.timing,
        "election": {key: show_duration(ms * NS_PER_MS) for key, ms in changed.items()},
    }


def _workload(workload: Workload) -> Data:
    data: Data = {
        "clients": workload.clients,
        "rate": workload.rate,
        "mix": {str(word): weight for word, weight in workload.mix},
        "levels": dict(workload.levels),
    }
    if workload.homes:
        data["homes"] = list(workload.homes)
    if workload.direct:
        data["direct"] = list(workload.direct)
    return data


def _conditions(conditions: Conditions) -> Data:
    data: Data = {
        "faults": list(conditions.faults) or "none",
        "without": list(conditions.without),
        "drift": f"{conditions.drift_ppm}ppm",
    }
    for name in ("loss", "duplicate", "reorder", "corrupt"):
        data[name] = _range(Type.SHARE, getattr(conditions, name))
    if conditions.delay is not None:
        data["delay"] = _range(Type.DURATION, conditions.delay)
    return data


def _range(kind: Type, wanted: Range) -> str:
    low = show(kind, wanted.low)
    return low if wanted.low == wanted.high else f"{low}..{show(kind, wanted.high)}"


def _step(step: Step) -> Data:
    data: Data = {"at": show_when(step.when), "do": step.do}
    types = {argument.name: argument.type for argument in arguments_of(step.do)}
    for name, value in step.args:
        data[name] = _open(types[name], value)
    if step.bind:
        data["as"] = step.bind
    if step.when.event:
        data["within"] = show_duration(step.within_ns)
    if step.times > 1:
        data["repeat"] = {"times": step.times, "every": show_duration(step.every_ns)}
    return data


def _open(kind: Type, value: Open) -> object:
    if isinstance(value, Range):
        return f"{show(kind, value.low)}..{show(kind, value.high)}"
    if kind in NAMES or isinstance(value, bool | str) or value is None:
        return _lists(value)
    return value if kind is Type.COUNT else show(kind, value)


def _lists(value: Value) -> object:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _expectation(expect: Expectation) -> Data:
    data: Data = {
        "failover": str(expect.failover),
        "lost_acked": 0,
        "primary_stays": expect.primary_stays,
        "sometimes": list(expect.sometimes),
        "always": list(expect.always),
        "never": list(expect.never),
    }
    if expect.elections is not None:
        data["elections"] = f"{expect.elections[0]}..{expect.elections[1]}"
    if expect.rto_max_ns is not None:
        data["rto_max"] = show_duration(expect.rto_max_ns)
    if expect.writes_blocked_max_ns is not None:
        data["writes_blocked_max"] = show_duration(expect.writes_blocked_max_ns)
    return data


def _regression(regression: Regression) -> Data:
    data: Data = {"seed": regression.seed}
    if regression.commit:
        data["commit"] = regression.commit
    if regression.note:
        data["note"] = regression.note
    return data
