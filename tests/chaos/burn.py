"""Every core is kept busy, for minutes, and nobody may be deposed.

In: how long, and how many busy processes for each core. Out: the checker's verdict, whether the
primary stayed, and how late heartbeats became: how little was left of the primary's lease, and of
the holds of those that wait for its end. A hold is renewed by each heartbeat that arrives, so what
is missing from it is the time since the newest one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from chaos.history import HISTORY_FILE, AgentLog, Phase, read_history
from chaos.matrix.look import Gap, Look, run_of
from chaos.matrix.play import begun
from chaos.rig import Rig, RigOptions
from chaos.session import Session
from chaos.verdict import Verdict
from metako.demo.view import NodeView, active_primary
from sim.faults.fault import FOR
from sim.heap import NS_PER_S
from sim.scenario import Scenario, load_scenario

SCENARIO = "cores-saturated"
PRIMARY_LIMIT_S = 30.0
LOOK_S = 0.1
TELL_EVERY_S = 30.0
ELECTIONS = (
    *("hold_expired", "pre_vote_started", "candidacy_started", "election_won", "promoted"),
    *("lease_lost", "lease_released", "stepped_down", "fenced"),
)
"""Events that a failover is made of; any of them is one too many."""
SUSPICIONS = ("member_suspect", "member_dead")
"""Events that gossip may tell of a busy machine, and that must lead to none of the others."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """How little was left of what heartbeats renew, at the worst, in milliseconds."""

    hold_ms: int  # what a heartbeat renews a hold to
    lease_left_ms: int  # of the primary
    hold_left_ms: Mapping[str, int]  # of each other node
    views: int  # answers that were looked at

    @property
    def heartbeat_ms(self) -> int:
        """Return the longest time since a node had heard from the primary."""
        return self.hold_ms - min(self.hold_left_ms.values(), default=self.hold_ms)


@dataclass(frozen=True, slots=True)
class BurnOutcome:
    """What came of it."""

    verdict: Verdict
    before: NodeView
    after: NodeView | None
    burnt_s: float
    processes: int  # that kept the cores busy
    lateness: Lateness
    gap: Gap  # without an acknowledged write
    events: Mapping[str, int]  # elections and suspicions, by name, while the cores were busy

    @property
    def stayed(self) -> bool:
        """Return whether the primary is the same, in the same term and on the same timeline."""
        before, after = self.before, self.after
        return after is not None and (after.node, after.term, after.timeline) == (
            *(before.node, before.term),
            before.timeline,
        )

    @property
    def ok(self) -> bool:
        return self.verdict.ok and self.stayed and not any(e in self.events for e in ELECTIONS)

    def as_json(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "stayed": self.stayed,
            "burnt_s": round(self.burnt_s, 1),
            "processes": self.processes,
            "primary_before": self.before.node,
            "primary_after": self.after.node if self.after is not None else None,
            "hold_ms": self.lateness.hold_ms,
            "lease_left_ms": self.lateness.lease_left_ms,
            "hold_left_ms": dict(self.lateness.hold_left_ms),
            "heartbeat_ms": self.lateness.heartbeat_ms,
            "views": self.lateness.views,
            "outage_ms": round(self.gap.seconds * 1000),
            "blocked_ms": round(self.gap.total_s * 1000),
            "events": dict(self.events),
            "verdict": self.verdict.as_json(),
        }

    def lines(self) -> list[str]:
        late = self.lateness
        holds = ", ".join(f"{name} {ms} ms" for name, ms in sorted(late.hold_left_ms.items()))
        events = ", ".join(f"{count} {name}" for name, count in sorted(self.events.items()))
        return [
            *self.verdict.lines(),
            "",
            f"{self.processes} busy processes for {self.burnt_s:.0f} s",
            f"primary {self.before.node}: {'stayed' if self.stayed else 'DID NOT STAY'}",
            f"longest time since a heartbeat: {late.heartbeat_ms} ms, of a hold of {late.hold_ms}",
            f"least that was left: lease of the primary {late.lease_left_ms} ms; holds: {holds}",
            f"longest time without an acknowledged write: {self.gap.seconds * 1000:.0f} ms",
            f"elections and suspicions: {events or 'none'}",
        ]


class Burn:
    """See the module's docstring."""

    def __init__(
        self,
        options: RigOptions,
        directory: Path,
        *,
        minutes: float,
        per_core: int,
        say: Callable[[str], None],
    ) -> None:
        self.outcome: BurnOutcome | None = None
        self.stopped_by = 0
        self._options = options
        self._session = Session(options, directory, say)
        self._directory = directory
        self._scenario = _scenario(minutes, per_core)
        self._say = say
        self._before: NodeView | None = None
        self._after: NodeView | None = None
        self._gap = Gap(0.0, 0.0, 0.0)
        self._processes = 0
        self._lease_left_ms = options.cluster.election.hold_ms
        self._hold_left_ms: dict[str, int] = {}
        self._views = 0

    async def main(self) -> None:
        """Burn to the end, or until a signal comes."""
        verdict = await self._session.run(self._play)
        self.stopped_by = self._session.stopped_by
        if self._before is None:
            return
        burnt_s, events = _while_busy(self._directory)
        self.outcome = BurnOutcome(
            verdict,
            self._before,
            self._after,
            burnt_s,
            self._processes,
            Lateness(
                self._options.cluster.election.hold_ms,
                self._lease_left_ms,
                self._hold_left_ms,
                self._views,
            ),
            self._gap,
            events,
        )

    async def _play(self, rig: Rig) -> None:
        look = Look(run_of(rig.directory), rig.clients.parts)
        self._before = await rig.cluster.wait_primary(timeout_s=PRIMARY_LIMIT_S)
        await begun(rig, look)
        begin_s = rig.recorder.now_s()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, rig)
                await rig.play(self._scenario, self._options.seed)
                nursery.cancel_scope.cancel()
        finally:
            look.read()
            self._gap = look.gap(begin_s, rig.recorder.now_s())
        self._after = active_primary(await rig.cluster.views())

    async def _watch(self, rig: Rig) -> None:
        """Note how little is left of lease and holds, while the cores are busy."""
        tell_s, seen = rig.recorder.now_s() + TELL_EVERY_S, dict.fromkeys(rig.nodes, 0.0)
        while True:
            await trio.sleep(LOOK_S)
            if rig.starving.pids:
                self._processes = len(rig.starving.pids)
                for node in rig.nodes:
                    if node.view is not None and node.view[0] != seen[node]:
                        seen[node] = node.view[0]
                        self._note(node.view[1])
            if rig.recorder.now_s() >= tell_s:
                tell_s += TELL_EVERY_S
                holds = min(self._hold_left_ms.values(), default=0)
                self._say(
                    f"        {rig.recorder.now_s():.0f} s: {len(rig.starving.pids)} busy,"
                    f" least left of the lease {self._lease_left_ms} ms, of a hold {holds} ms"
                )

    def _note(self, view: NodeView) -> None:
        self._views += 1
        if view.role == "leader":
            self._lease_left_ms = min(self._lease_left_ms, view.lease_ms)
        else:
            left_ms = min(view.hold_ms, self._hold_left_ms.get(view.node, view.hold_ms))
            self._hold_left_ms[view.node] = left_ms


def _scenario(minutes: float, per_core: int) -> Scenario:
    """Return the library's scenario, for so long and with so many processes."""
    found = load_scenario(SCENARIO)
    (step,) = found.timeline
    lasts_ns = round(minutes * 60 * NS_PER_S)
    args = dict(step.args) | {FOR: lasts_ns, "per_core": per_core}
    step = replace(step, args=tuple(sorted(args.items())))
    return replace(found, timeline=(step,), duration_ns=found.duration_ns + lasts_ns)


def _while_busy(directory: Path) -> tuple[float, dict[str, int]]:
    """Return how long the cores were busy, and the elections and suspicions meanwhile."""
    history = read_history(directory / HISTORY_FILE)
    times = {phase.name: phase.t for phase in history.of(Phase)}
    begin, end = times.get("faults", 0.0), times.get("peace", 0.0)
    told = Counter(
        log.name
        for log in history.of(AgentLog)
        if begin <= log.t <= end and log.name in (*ELECTIONS, *SUSPICIONS)
    )
    return end - begin, dict(told)
