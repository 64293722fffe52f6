"""Plain values become a `Scenario`, or a list of everything that is wrong with them.

In: nested mappings and lists, as YAML or JSON has them. Out: the scenario, and problems. Invariant:
a scenario that is returned without a problem can be played. Reads no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from metako.config.node_config import TimingConfig
from metako.config.problems import Problem
from metako.config.profiles import TIMING_MS, check_timing
from metako.election.settings import ElectionSettings
from metako.model.document import Durability, PairMode
from metako.model.ids import NodeId
from sim.faults import KINDS, Argument, Family, Range, Type
from sim.heap import NS_PER_MS, NS_PER_S
from sim.marks import MARKS
from sim.scenario.composites import COMPOSITES
from sim.scenario.fields import Reader, unknown
from sim.scenario.model import (
    CLIENTS_MAX,
    DURATION_MAX_NS,
    LEVELS,
    MAJORITY,
    NODES_MAX,
    Cluster,
    Conditions,
    Core,
    Expectation,
    Failover,
    Liveness,
    Operation,
    Regression,
    Scenario,
    Workload,
    timing_profile,
)
from sim.scenario.steps import Known, read_timeline
from sim.scenario.templates import TEMPLATES

NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
NODE_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")
TIERS = ("core", "program", "real")
SEED_MAX = 2**63
RATE_MAX = 1000.0


def parse_scenario(values: object) -> tuple[Scenario, list[Problem]]:
    """Return what the values say, as far as they can be understood, and what is wrong."""
    problems: list[Problem] = []
    top = Reader(values, (), problems)
    name = top.text("name", None)
    if name and not NAME.fullmatch(name):
        top.problem("name", f"{name!r} is no name", "use small letters, digits and '-'")
    cluster = _cluster(top.section("cluster"))
    workload = _workload(top.section("workload"), cluster)
    known = Known(cluster.names, cluster.witnesses, workload.names, {})
    scenario = Scenario(
        name=name,
        summary=top.text("summary", None),
        cluster=cluster,
        workload=workload,
        random=_conditions(top.section("random")),
        timeline=read_timeline(top, known),
        liveness=_liveness(top.section("liveness")),
        duration_ns=top.duration("duration", 60 * NS_PER_S, high=DURATION_MAX_NS),
        expect=_expectation(top.section("expect")),
        tier=top.names("tier", TIERS, "tier") or ("core",),
        known_good_seeds=_seeds(top),
        regressions=_regressions(top),
    )
    top.done()
    return scenario, problems


# ------------------------------------------------------------ cluster


def _cluster(reader: Reader) -> Cluster:
    names = _node_names(reader)
    witnesses = _witnesses(reader, names)
    spares = _spares(reader, names)
    data = [name for name in names if name not in witnesses and name not in spares]
    if not data:
        what = "a witness or a spare" if spares else "a witness"
        reader.problem("witnesses", f"every node is {what}: none holds data")
    acks = reader.whole("acks", 1, low=1, high=NODES_MAX)
    if len(data) > 1 and acks > len(data) - 1:
        message = f"{acks} acks need {acks + 1} nodes that hold data, and there are {len(data)}"
        reader.problem("acks", message, "lower it, or add nodes")
        acks = 1
    durability = reader.choice("durability", list(Durability), Durability.QUORUM)
    timing = reader.choice("timing", list(TIMING_MS), "default")
    election = _election(reader, timing)
    learners = reader.names("learners", names, "node")
    if {names[0], *witnesses} & set(learners):
        reader.problem("learners", "the first node and witnesses have a vote")
    if set(spares) & set(learners):
        reader.problem("learners", "a spare is no member yet")
    pair = reader.choice("pair_mode", [*PairMode, MAJORITY], PairMode.MANUAL)
    wait_ns = reader.duration("takeover_wait", 0, low=0)
    never_lead = reader.names("never_lead", names, "node")
    if {names[0], *witnesses} & set(never_lead):
        reader.problem("never_lead", "the first node has to lead at first, and witnesses never do")
    reader.done()
    return Cluster(
        names,
        witnesses,
        acks,
        Durability(durability),
        timing,
        election,
        tuple(map(NodeId, learners)),
        spares,
        None if pair == MAJORITY else PairMode(pair),
        wait_ns // NS_PER_MS,
        tuple(map(NodeId, never_lead)),
    )


def _node_names(reader: Reader) -> tuple[NodeId, ...]:
    raw = reader.raw("nodes")
    if raw is None:
        return Cluster().names
    if isinstance(raw, int) and not isinstance(raw, bool):
        if 1 <= raw <= NODES_MAX:
            return tuple(NodeId(f"n{number}") for number in range(1, raw + 1))
        reader.problem("nodes", f"{raw} is not between 1 and {NODES_MAX}")
        return Cluster().names
    if not isinstance(raw, list | tuple) or not raw:
        reader.problem("nodes", "is neither a number nor a list of names", "write it like 3")
        return Cluster().names
    names = [name for name in raw if isinstance(name, str) and NODE_NAME.fullmatch(name)]
    for name in raw:
        if name not in names:
            reader.problem("nodes", f"{name!r} is no name of a node", "write it like n1")
    if len(set(names)) != len(names):
        reader.problem("nodes", "a name is there twice")
    if len(names) > NODES_MAX:
        reader.problem("nodes", f"{len(names)} nodes are more than {NODES_MAX}")
    clash = [name for name in names if re.fullmatch(r"[cd][0-9]+", name)]
    if clash:
        reader.problem("nodes", f"{clash[0]} is the name of a client", "call it otherwise")
    return tuple(NodeId(name) for name in dict.fromkeys(names)) or Cluster().names


def _witnesses(reader: Reader, names: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
    raw = reader.raw("witnesses")
    if isinstance(raw, int) and not isinstance(raw, bool):
        if 0 <= raw < len(names):
            return names[len(names) - raw :]
        reader.problem("witnesses", f"{raw} of {len(names)} nodes cannot be witnesses")
        return ()
    chosen = reader.names("witnesses", names, "node")
    return tuple(name for name in names if name in chosen)


def _spares(reader: Reader, names: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
    chosen = reader.names("spares", names, "node")
    if names[0] in chosen:
        reader.problem("spares", "the first node makes the cluster")
    return tuple(name for name in names[1:] if name in chosen)


def _election(reader: Reader, timing: str) -> ElectionSettings:
    """Return the profile's timing with the changes of the key `election`."""
    values_ms = dict(TIMING_MS[timing])
    section = reader.section("election")
    for key in section.given:
        if key not in values_ms:
            section.problem(key, *unknown("setting", key, values_ms))
            continue
        default = values_ms[key] * NS_PER_MS
        values_ms[key] = section.duration(key, default, low=0) // NS_PER_MS
    broken = check_timing(TimingConfig(profile=timing, **_with_unit(values_ms)))
    for problem in broken:
        section.problem(str(problem.path[-1]), problem.message)
    return timing_profile(timing) if broken else ElectionSettings(**_with_unit(values_ms))


def _with_unit(values_ms: Mapping[str, int]) -> dict[str, int]:
    return {f"{key}_ms": value for key, value in values_ms.items()}


# ------------------------------------------------------------ workload


def _workload(reader: Reader, cluster: Cluster) -> Workload:
    default = Workload()
    clients = reader.whole("clients", default.clients, low=0, high=CLIENTS_MAX)
    rate = reader.argument(
        "rate", Argument("rate", Type.FACTOR, "", default.rate, low=0.01, high=RATE_MAX)
    )
    mix = reader.weights("mix", list(Operation), "operation")
    levels = reader.weights("levels", LEVELS, "synchronous_commit")
    homes = reader.names("homes", cluster.names, "node")
    direct = reader.names("direct", cluster.data_nodes, "node that holds data")
    reader.done()
    return Workload(
        clients=clients,
        rate=float(rate) if isinstance(rate, int | float) else default.rate,
        mix=tuple((Operation(word), weight) for word, weight in mix.items()) or default.mix,
        levels=tuple(levels.items()) or default.levels,
        homes=tuple(NodeId(name) for name in homes),
        direct=tuple(NodeId(name) for name in direct),
    )


# ------------------------------------------------------------ conditions, liveness, expectations


def _conditions(reader: Reader) -> Conditions:
    words = [*Family, *KINDS, *COMPOSITES, *(t.name for t in TEMPLATES if ":" in t.name)]
    default = Conditions()
    raw = reader.raw("faults")
    if raw == "all":
        faults: tuple[str, ...] = tuple(str(family) for family in Family)
    elif raw == "none":
        faults = ()
    else:
        faults = reader.names("faults", words, "family or kind of fault") or default.faults
    drift = reader.argument(
        "drift", Argument("drift", Type.RATE, "", 0, low=0, high=CONDITION_DRIFT_PPM_MAX)
    )
    if isinstance(drift, Range):
        reader.problem("drift", "is a range", "write the largest deviation; it is drawn from ± it")
    conditions = Conditions(
        faults=faults,
        without=reader.names("without", words, "family or kind of fault"),
        drift_ppm=drift if isinstance(drift, int) else 0,
        loss=_range(reader, "loss"),
        duplicate=_range(reader, "duplicate"),
        reorder=_range(reader, "reorder"),
        corrupt=_range(reader, "corrupt"),
        delay=_range(reader, "delay", Type.DURATION) if reader.has("delay") else None,
    )
    reader.done()
    return conditions


CONDITION_DRIFT_PPM_MAX = 10_000
"""ρ: a world whose clocks are further off is no world that the design is for."""


def _range(reader: Reader, key: str, kind: Type = Type.SHARE) -> Range:
    high = 1 if kind is Type.SHARE else None
    value = reader.argument(key, Argument(key, kind, "", 0, low=0, high=high))
    if isinstance(value, Range):
        return value
    return Range(value, value) if isinstance(value, int | float) else Range(0, 0)


def _liveness(reader: Reader) -> Liveness:
    default = Liveness()
    core = reader.choice("heal_core", list(Core), default.heal_core)
    within = reader.duration("converge_within", default.converge_within_ns)
    reader.done()
    return Liveness(Core(core), within)


def _expectation(reader: Reader) -> Expectation:
    lost = reader.whole("lost_acked", 0, low=0, high=SEED_MAX)
    if lost != 0:
        reader.problem("lost_acked", "is always 0: no acknowledged commit may be lost")
    elections = _elections(reader)
    failover = Failover(reader.choice("failover", list(Failover), Failover.ALLOWED))
    stays = reader.flag("primary_stays")
    if failover is Failover.REQUIRED and stays:
        reader.problem("primary_stays", "contradicts 'failover: required'", "remove one of them")
    expectation = Expectation(
        failover=failover,
        elections=elections,
        rto_max_ns=reader.duration_or_none("rto_max"),
        writes_blocked_max_ns=reader.duration_or_none("writes_blocked_max"),
        primary_stays=stays,
        sometimes=reader.names("sometimes", list(MARKS), "mark"),
        always=reader.names("always", list(MARKS), "mark"),
        never=reader.names("never", list(MARKS), "mark"),
    )
    reader.done()
    return expectation


def _elections(reader: Reader) -> tuple[int, int] | None:
    value = reader.argument("elections", Argument("elections", Type.COUNT, "", low=0))
    if isinstance(value, Range):
        return int(value.low), int(value.high)
    return (value, value) if isinstance(value, int) else None


# ------------------------------------------------------------ seeds


def _seeds(top: Reader) -> tuple[int, ...]:
    seeds = []
    for path, item in top.items("known_good_seeds"):
        if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < SEED_MAX:
            seeds.append(item)
        else:
            top.problems.append(Problem(path, f"{item!r} is no seed", "write a whole number"))
    return tuple(seeds)


def _regressions(top: Reader) -> tuple[Regression, ...]:
    found = []
    for path, item in top.items("regressions"):
        reader = Reader(item, path, top.problems)
        if not isinstance(item, Mapping):
            continue
        if not reader.has("seed"):
            reader.problem("seed", "is missing")
        seed = reader.whole("seed", 0, low=0, high=SEED_MAX)
        raw = reader.raw("commit")
        found.append(Regression(seed, str(raw or ""), reader.text("note")))
        reader.done()
    return tuple(found)
