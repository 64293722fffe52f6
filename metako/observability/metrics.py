"""Counters and gauges of a node, in the text form that Prometheus reads.

Input: events, a status, and samples that other parts offer. Output: the page of `/metrics`.
Written by hand rather than with prometheus_client: the page is a few counters and gauges, read by
one task, and the library brings a process-wide registry with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metako.model.events import Event, EventName, Severity
from metako.model.member import MemberState, ServerRole
from metako.model.status import NodeStatus
from metako.model.watchdog import WatchdogState

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value. Samples of the same name share `help` and `kind`."""

    name: str  # ends in a unit, or in _total for a counter
    value: float
    help: str
    kind: str = "gauge"  # gauge | counter
    labels: tuple[tuple[str, str], ...] = ()


class EventCounter:
    """Counts events by name, and remembers the latest duration that each one told."""

    def __init__(self) -> None:
        self._counts: dict[EventName, int] = dict.fromkeys(EventName, 0)
        self._by_severity: dict[Severity, int] = dict.fromkeys(Severity, 0)
        self._durations_ms: dict[tuple[EventName, str], float] = {}

    def count(self, event: Event) -> None:
        """Take note of one event; its numeric fields that end in `_ms` are durations."""
        self._counts[event.name] += 1
        self._by_severity[event.severity] += 1
        for name, value in event.fields:
            if name.endswith("_ms") and isinstance(value, int | float):
                # Bounded: both halves of the key come from the code, not from the network.
                self._durations_ms[event.name, name] = float(value)

    def total(self, name: EventName) -> int:
        return self._counts[name]

    def duration_ms(self, name: EventName, field: str = "duration_ms") -> float | None:
        """Return the latest duration of an event; None before the first."""
        return self._durations_ms.get((name, field))

    def samples(self) -> list[Sample]:
        """Return the counters as samples; events that never happened count 0."""
        result = [
            Sample("metako_events_total", n, "Events by name.", "counter", (("event", name.value),))
            for name, n in self._counts.items()
        ]
        result += [
            Sample(
                "metako_events_by_severity_total",
                n,
                "Events by severity.",
                "counter",
                (("severity", severity.value),),
            )
            for severity, n in self._by_severity.items()
        ]
        result += [
            Sample(
                "metako_event_duration_seconds",
                value_ms / 1000,
                "Latest duration that an event told.",
                labels=(("event", event.value), ("duration", name.removesuffix("_ms"))),
            )
            for (event, name), value_ms in self._durations_ms.items()
        ]
        return result


def status_samples(status: NodeStatus) -> list[Sample]:
    """Return what a status says in numbers."""
    document = status.document
    samples = [
        Sample("metako_term", status.term, "Highest election term this node takes part in."),
        Sample("metako_promised_term", status.promised_term, "Term below which nothing counts."),
        Sample("metako_primary", status.primary == status.node, "1 on the primary's node."),
        Sample("metako_has_primary", status.primary is not None, "1 while a primary is known."),
        Sample("metako_blocked", bool(status.blocked), "1 while writes cannot go on."),
        Sample(
            "metako_lease_remaining_seconds",
            status.lease_remaining_ms / 1000,
            "Rest of this node's own lease.",
        ),
        Sample("metako_wal_position_bytes", status.postgres.lsn, "Newest WAL on this node."),
        Sample("metako_timeline", status.postgres.timeline, "Timeline of this node's server."),
        Sample("metako_boot_epoch", status.boot_epoch, "Starts of this node's agent."),
    ]
    watchdog = status.postgres.watchdog
    if watchdog.state is not WatchdogState.OFF:
        armed, failed = (watchdog.state is s for s in (WatchdogState.ARMED, WatchdogState.FAILED))
        samples += [
            Sample("metako_watchdog_armed", armed, "1 while the watchdog guards a lease."),
            Sample("metako_watchdog_failed", failed, "1 while it cannot be armed."),
        ]
    if document is not None:
        samples += [
            Sample("metako_document_version", document.version, "Version within the term."),
            Sample("metako_sync_standbys", len(document.sync.members), "Listed standbys, |S|."),
            Sample("metako_sync_acks", document.sync.k, "Acknowledgements a commit waits for, k."),
            Sample("metako_voters", len(document.voters), "Nodes with a vote."),
            Sample("metako_learners", len(document.learners), "Members without a vote."),
            Sample("metako_witnesses", len(document.witnesses), "Members that hold no data."),
            Sample(
                "metako_members_joining",
                len(document.joining),
                "Learners that get a vote once they have caught up.",
            ),
            Sample(
                "metako_members_leaving",
                len(document.leaving),
                "Members that leave once no commit waits for them.",
            ),
            Sample("metako_paused", document.paused, "1 while nobody may take over."),
            Sample(
                "metako_switchover_scheduled_seconds",
                document.scheduled.at_ms / 1000 if document.scheduled else 0,
                "Unix time of the scheduled switchover, 0 if there is none.",
            ),
            Sample("metako_restarts_left", len(document.restarts), "Servers to be restarted."),
        ]
        if document.decider is not None:
            help_ = "1 while this node can lead without the other one."
            samples.append(Sample("metako_pair_decider", status.can_lead_alone, help_))
    for member in status.members:
        labels = (("member", str(member.node)),)
        alive = member.state is MemberState.ALIVE
        samples.append(
            Sample("metako_member_alive", alive, "1 for members held alive.", labels=labels)
        )
        if member.meta is not None and member.meta.role is ServerRole.STANDBY:
            lag_s = math.nan if member.meta.lag_ms < 0 else member.meta.lag_ms / 1000
            samples.append(
                Sample("metako_replay_lag_seconds", lag_s, "Replay lag by gossip.", labels=labels)
            )
    return samples


def render_metrics(
    *,
    node: str,
    version: str,
    events: EventCounter | None = None,
    status: NodeStatus | None = None,
    more: Iterable[Sample] = (),
) -> str:
    """Return the whole page; every sample carries the label `node`."""
    samples = [
        Sample("metako_info", 1, "Version of the agent.", labels=(("version", version),)),
        *(events.samples() if events is not None else ()),
        *(status_samples(status) if status is not None else ()),
        *more,
    ]
    families: dict[str, list[Sample]] = {}
    for sample in samples:
        assert _NAME.fullmatch(sample.name), sample.name
        families.setdefault(sample.name, []).append(sample)
    lines = []
    for name, family in families.items():
        lines.append(f"# HELP {name} {_escaped(family[0].help)}")
        lines.append(f"# TYPE {name} {family[0].kind}")
        for sample in family:
            labels = {"node": node, **dict(sample.labels)}
            lines.append(f"{name}{{{_labels(labels)}}} {_number(sample.value)}")
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    quoted = ((name, _escaped(value).replace('"', '\\"')) for name, value in labels.items())
    return ",".join(f'{name}="{value}"' for name, value in quoted)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
