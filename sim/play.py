"""Playing one run: a scenario and a seed become a world, faults, peace, and a verdict.

In: a scenario, a seed, and whether faults are its own, those plus random ones, or a list that was
saved. Out: a `Result`, and the trace if somebody wants it. Two phases: *faults*, at whose beginning
a new cluster forms; *liveness*, in which a core is healed, the faults outside it stay for good, and
the cluster must become whole. Whatever a checker raises ends the run.
"""

from __future__ import annotations

import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from metako.model.events import Event
from metako.model.ids import NodeId
from sim.checkers import all_checkers
from sim.checkers.agreement import Agreement
from sim.checkers.availability import Availability
from sim.checkers.durability import Durable
from sim.client import ClientConfig
from sim.faults import Fault, Injector
from sim.heap import NS_PER_MS, NS_PER_S
from sim.marks import MARKS, Marks
from sim.mutations import planted
from sim.peace import make_peace
from sim.postgres.commits import SyncLevel
from sim.processes import Processes
from sim.result import Result, Violation
from sim.scenario import (
    Failover,
    Plan,
    RandomFaults,
    RandomMembers,
    RandomUpkeep,
    Replay,
    Scenario,
    Script,
)
from sim.scenario.model import Operation
from sim.streams import stream
from sim.trace import Trace
from sim.watch import ViolationError, Watch, Watcher
from sim.world import World, WorldConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What one run is put together from."""

    world: World
    injector: Injector
    marks: Marks
    durable: Durable
    agreement: Agreement
    availability: Availability
    trace: Trace | None


def play(
    scenario: Scenario,
    seed: int,
    *,
    trace: Callable[[str], None] | None = None,
    faults: Sequence[Fault] | None = None,
    mutation: str | None = None,
    extra_faults: bool = False,
    engine: str = "",
    command: str = "",
) -> Result:
    """Play a run to its end and return what it came to.

    Args:
        scenario: what is played.
        seed: of every random stream.
        trace: takes the lines of the trace; None for none, which is faster.
        faults: replay exactly these instead of the scenario's own and any random ones.
        mutation: name of a bug to plant; it is taken out again before this returns.
        extra_faults: random faults are added to the scenario's own (or were, to those of
            `faults`): what the scenario expects of its own faults is then not asked for.
        engine: version of the engine, for the trace.
        command: what reproduces the run, for the trace.
    """
    parts = _parts(scenario, seed, trace)
    if parts.trace is not None:
        parts.trace.begin(scenario.name, seed, engine, command)
    violation: Violation | None = None
    try:
        with planted(mutation):
            _play(scenario, seed, parts, faults, extra_faults=extra_faults)
    except ViolationError as error:
        violation = _violated(parts, error)
    except Exception as error:  # noqa: BLE001 - a bug of the simulator is a finding like another
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = (
            f"{type(error).__name__}: {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"
        )
        violation = _violated(parts, ViolationError("exception", text))
    if parts.trace is not None:
        verdict = "ok" if violation is None else "violation"
        parts.trace.end(verdict, "" if violation is None else violation.text)
    return _result(scenario, seed, parts, violation)


def _violated(parts: Parts, error: ViolationError) -> Violation:
    if parts.trace is not None:
        parts.trace.violated(error)
    return Violation(error.check, error.text, parts.world.heap.now_ns, error.nodes)


def _parts(scenario: Scenario, seed: int, trace: Callable[[str], None] | None) -> Parts:
    watch = Watch()
    world = World(world_config(scenario, seed), seed, watch)
    tracer = Trace(world, trace) if trace is not None else None
    if tracer is not None:
        watch.add(tracer)
    marks = Marks(world)
    watch.add(marks)
    checkers = all_checkers(world)
    watch.add(*checkers)
    injector = Injector(world, watch)

    def find(kind: type[T]) -> T:
        return next(c for c in checkers if isinstance(c, kind))

    return Parts(
        world,
        injector,
        marks,
        find(Durable),
        find(Agreement),
        find(Availability),
        tracer,
    )


# ---------------------------------------------------------------- the world of a scenario


def world_config(scenario: Scenario, seed: int) -> WorldConfig:
    """Return what the world of a scenario is made of."""
    cluster = scenario.cluster
    return WorldConfig(
        names=cluster.names,
        witnesses=cluster.witnesses,
        learners=cluster.learners,
        spares=cluster.spares,
        never_lead=cluster.never_lead,
        acks=cluster.acks,
        durability=cluster.durability,
        pair_mode=cluster.pair_mode,
        takeover_wait_ms=cluster.takeover_wait_ms,
        election=cluster.election,
        clients=_clients(scenario, seed),
        drift_ppm=scenario.random.drift_ppm,
    )


def _clients(scenario: Scenario, seed: int) -> tuple[ClientConfig, ...]:
    workload = scenario.workload
    rng = stream(seed, "workload")
    mix = dict(workload.mix)
    total = sum(mix.values()) or 1.0
    share = {op: mix.get(op, 0.0) / total for op in Operation}
    levels, weights = zip(*workload.levels, strict=True)
    clients = []
    for number in range(workload.clients):
        home = workload.homes[number % len(workload.homes)] if workload.homes else None
        level = rng.choices(levels, weights)[0]
        clients.append(
            ClientConfig(
                name=f"c{number + 1}",
                home=home,
                rate=workload.rate,
                read=share[Operation.READ],
                txn=share[Operation.TXN],
                reconnect=share[Operation.RECONNECT],
                cancel=share[Operation.CANCEL],
                level=SyncLevel[level.upper()],
            )
        )
    for number, server in enumerate(workload.direct):
        # Half of those who bypass the proxy live on the server's own host: no partition
        # separates them from it.
        clients.append(
            ClientConfig(
                name=f"d{number + 1}",
                home=server if number % 2 == 0 else None,
                direct=server,
                rate=workload.rate,
            )
        )
    return tuple(clients)


# ---------------------------------------------------------------- the phases


def _play(
    scenario: Scenario,
    seed: int,
    parts: Parts,
    faults: Sequence[Fault] | None,
    *,
    extra_faults: bool,
) -> None:
    world = parts.world
    scripts: list[Script] = []
    if faults is not None:
        scripts.append(Replay(faults))
    else:
        scripts.append(Plan(scenario, seed))
        if extra_faults:
            scripts.append(RandomFaults(scenario, seed))
            scripts.append(RandomMembers(scenario, seed))
            scripts.append(RandomUpkeep(scenario, seed))
    world.watch.add(Prompter(scripts))
    world.watch.phase("faults")
    for script in scripts:
        script.begin(parts.injector)
    world.heap.run_until(scenario.duration_ns)
    for script in scripts:
        script.end()
    world.watch.phase("liveness")
    make_peace(scenario, seed, world, parts.injector, parts.durable, extra_faults=extra_faults)
    _expect(scenario, parts, alone=not extra_faults)
    world.watch.phase("end")


class Prompter(Watcher):
    """Tells the scripts of faults what happens, so that they can wait for it."""

    name = "prompter"

    def __init__(self, scripts: Sequence[Script]) -> None:
        self._scripts = scripts

    def marked(self, node: NodeId, mark: str) -> None:
        for script in self._scripts:
            script.on_mark(mark, node)

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            for script in self._scripts:
                script.on_event(event.name, node.name)


def _expect(scenario: Scenario, parts: Parts, *, alone: bool) -> None:
    """Check what the scenario expects of its own faults; with random ones added it cannot."""
    if not alone:
        return
    expect, world = scenario.expect, parts.world
    failovers = parts.availability.failovers
    if expect.failover is Failover.REQUIRED and not failovers:
        raise ViolationError("expected", "no failover happened, and the scenario requires one")
    if expect.failover is Failover.FORBIDDEN and failovers:
        raise ViolationError("expected", f"{failovers} failovers, and the scenario forbids them")
    if expect.elections is not None:
        low, high = expect.elections
        won = parts.agreement.elections - 1
        if not low <= won <= high:
            raise ViolationError("expected", f"{won} elections, expected {low} to {high}")
    first = parts.availability.first
    if expect.primary_stays and world.primary() != first:
        raise ViolationError("expected", f"{world.primary()} is the primary instead of {first}")
    for mark in expect.always:
        if not parts.marks.counts[mark]:
            raise ViolationError("expected", f"{mark}: {MARKS[mark]}, and it was never reached")
    for mark in expect.never:
        if parts.marks.counts[mark]:
            raise ViolationError("expected", f"{mark}: {MARKS[mark]}, and it never should")
    longest = max(parts.durable.gaps_ns, default=0)
    for limit in (expect.rto_max_ns, expect.writes_blocked_max_ns):
        if limit is not None and longest > limit:
            raise ViolationError(
                "expected",
                f"writes were away for {longest / NS_PER_S:.2f} s, at most "
                f"{limit / NS_PER_S:g} s are expected",
            )


# ---------------------------------------------------------------- the result


def _result(scenario: Scenario, seed: int, parts: Parts, violation: Violation | None) -> Result:
    world = parts.world
    facts = (
        world.heap.executed,
        world.heap.now_ns,
        world.messages,
        tuple((c.record.end, c.record.branch, c.values) for c in parts.durable.commits),
        tuple(sorted(parts.marks.counts.items())),
        tuple(str(n.hard) for n in world.nodes.values()),
        violation,
    )
    return Result(
        scenario=scenario.name,
        seed=seed,
        violation=violation,
        virtual_ns=world.heap.now_ns,
        elections=parts.agreement.elections,
        failovers=parts.availability.failovers,
        acknowledged=len(parts.durable.commits),
        unknown=sum(c.counts["unknown"] for c in world.clients),
        messages=world.messages,
        events=world.heap.executed,
        marks=dict(sorted(parts.marks.counts.items())),
        faults=tuple(parts.injector.applied),
        digest=f"{zlib.crc32(repr(facts).encode()):08x}",
        outages_ms=tuple(round(gap / NS_PER_MS) for gap in parts.durable.gaps_ns),
    )
