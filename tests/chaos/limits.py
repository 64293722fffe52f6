"""What a real host cannot do, by name, with the reason: such a scenario is skipped, and says so.

In: kinds of faults with their arguments, as a scenario writes them. Out: a reason, or None.
"""

from __future__ import annotations

from collections.abc import Mapping

from chaos.wallclock import library
from metako.model.events import EventName
from sim.faults.arguments import Open
from sim.marks import BY_EVENT
from sim.scenario import Cluster, Scenario
from sim.scenario.composites import COMPOSITES, PICK
from sim.scenario.model import MAJORITY
from sim.scenario.templates import TEMPLATES

REASONS: Mapping[str, str] = {
    "clock_rate": "the rate of a machine's clocks cannot be changed",
    "suspend": "a namespace cannot be suspended",
    "wake": "a namespace cannot be suspended",
    "disk_error": "no file system here fails on demand",
    "disk_slow": "no file system here is slow on demand",
    "lying_fsync": "no file system here loses what was synced",
    "torn_write": "no file system here tears a write",
    "wal_disk_small": "positions on a real server are not counted in records",
    "hang": "no signal lets a server accept connections and not answer",
    "promote_hang": "no signal lets a promotion hang",
    "promote_slow": "no signal slows a promotion down",
    "slow_postgres": "no signal slows a server down",
    "slow_reload": "no signal delays a reload",
    "start_fails": "no signal lets PostgreSQL fail to start",
    "rot_record": "not played on real servers yet",
    "restore_old_record": "not played on real servers yet",
    "restore_lost_record": "not played on real servers yet",
    "recovery_fails": "PostgreSQL's own recovery does not fail on demand",
    "create_slot": "not played on real servers yet",
    "remove_wal": "not played on real servers yet",
    "take_backup": "not played on real servers yet",
    "restore_backup": "not played on real servers yet",
    "foreign_data": "not played on real servers yet",
    "repair": "what it repairs is not played on real servers",
    "cancel_waiting": "the clients of the rig cancel nothing",
    "client_storm": "the clients of the rig keep their rate",
    "reconnect": "the clients of the rig keep their connections",
}
"""Kinds of faults that are left out."""

_TOLD = frozenset(map(str, EventName)) | frozenset(BY_EVENT.values())
"""Events that the logs of real nodes tell, by the names that scenarios use."""

_PARTS = {"swizzle": "clog", "rolling": "stop", "power_loss": "kill", "flap": "cut"}


NEVER = "nodes of priority 0"


def why_not(do: str, args: Mapping[str, Open]) -> str | None:
    """Return why a step cannot be played on real hosts; None if it can."""
    if do == PICK:
        return None
    kind = _PARTS[do] if do in COMPOSITES else do
    if kind in REASONS:
        return f"{do}: {REASONS[kind]}"
    if kind == "clock_jump" and library() is None:
        return f"{do}: libfaketime is not installed"
    return None


def cluster_reasons(scenario: Scenario, cluster: Cluster) -> list[str]:
    """Return why a scenario cannot be played on this cluster; by itself it gets its own."""
    wanted = scenario.cluster
    found: list[str] = []
    if wanted.names != cluster.names:
        found.append(f"is for {len(wanted.names)} nodes: {', '.join(wanted.names)}")
    for kind, what in (("witnesses", "witnesses"), ("learners", "learners"), ("never_lead", NEVER)):
        if getattr(wanted, kind) != getattr(cluster, kind):
            found.append(f"is for the {what} {', '.join(getattr(wanted, kind)) or 'none'}")
    if wanted.acks != cluster.acks:
        found.append(f"is for {wanted.acks} acknowledgements")
    if wanted.durability is not cluster.durability:
        found.append(f"is for durability {wanted.durability}")
    if wanted.is_pair and (wanted.pair_mode, wanted.takeover_wait_ms) != (
        cluster.pair_mode,
        cluster.takeover_wait_ms,
    ):
        found.append(f"is for pair_mode {wanted.pair_mode or MAJORITY}")
    if wanted.timing != cluster.timing:
        found.append(f"is for timing {wanted.timing}")
    elif wanted.election != cluster.election:
        found.append("changes single settings of the timing")
    return found


def reasons(scenario: Scenario) -> list[str]:
    """Return everything of a scenario that real hosts cannot do, each thing once."""
    found = [why_not(step.do, dict(step.args)) for step in scenario.timeline]
    if scenario.cluster.is_pair and scenario.cluster.pair_mode is None:
        found.append("no configuration asks for a pair without a rule")
    for step in scenario.timeline:
        if step.when.event and step.when.event not in _TOLD:
            found.append(f"waits for {step.when.event}, which no log of a node tells")
    return list(dict.fromkeys(reason for reason in found if reason is not None))


def impossible_templates() -> tuple[str, ...]:
    """Return the templates of random faults that real hosts cannot do."""
    return tuple(t.name for t in TEMPLATES if why_not(t.do, t.args) is not None)
