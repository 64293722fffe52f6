"""The numbers that metako's proxy is to reach, and whether it does. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.proxy.results import METAKO, Figures, Idle, Place, of_direct, of_pgbouncer

CPU_OF_PGBOUNCER_MAX = 1.25
CPU_WORKLOADS = ("simple", "prepared")
CPU_CLIENTS = (8, 32)
LARGE_OF_DIRECT_MIN = 0.9
LARGE_WORKLOADS = ("rows", "huge")
TAIL_MAX = 3.0  # p99 / p50
TAIL_CLIENTS = 200
CONNECT_OF_DIRECT_MIN = 8.0
CONNECT_WORKLOADS = ("connect", "connect-trust")
IDLE_CLIENTS = 5000
IDLE_BYTES_MAX = 250_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure against its limit."""

    what: str
    where: str
    contestant: str
    measured: str  # "" if it could not be
    limit: str
    met: bool | None  # None: not measured

    @property
    def word(self) -> str:
        return "not measured" if self.met is None else "met" if self.met else "MISSED"


def judge(figures: Mapping[Place, Figures], idle: Iterable[Idle]) -> list[Verdict]:
    """Return a verdict for each figure of metako's that has a target."""
    found = []
    for place, one in figures.items():
        if not is_metako(place.contestant):
            continue
        if place.workload in CPU_WORKLOADS and place.clients in CPU_CLIENTS:
            value = of_pgbouncer(place, figures)
            found.append(
                _at_most("CPU a transaction, of PgBouncer's", place, value, CPU_OF_PGBOUNCER_MAX)
            )
        if place.workload in LARGE_WORKLOADS:
            value = of_direct(place, figures)
            found.append(_at_least("large results, of direct", place, value, LARGE_OF_DIRECT_MIN))
        if place.workload in CONNECT_WORKLOADS:
            value = of_direct(place, figures)
            what = "a connection each, of direct"
            found.append(_at_least(what, place, value, CONNECT_OF_DIRECT_MIN))
        if place.clients == TAIL_CLIENTS:
            found.append(_at_most("p99 / p50", place, one.tail, TAIL_MAX))
    return found + [_idle(one) for one in idle if is_metako(one.contestant)]


def is_metako(contestant: str) -> bool:
    return contestant.split("-")[0] == METAKO


def _at_most(what: str, place: Place, value: float | None, limit: float) -> Verdict:
    met = None if value is None else value <= limit
    return _verdict(what, place, value, f"≤ {limit:g}", met)


def _at_least(what: str, place: Place, value: float | None, limit: float) -> Verdict:
    met = None if value is None else value >= limit
    return _verdict(what, place, value, f"≥ {limit:g}", met)


def _verdict(what: str, place: Place, value: float | None, limit: str, met: bool | None) -> Verdict:
    where = f"{place.workload}, {place.clients} clients"
    measured = "" if value is None else f"{value:.2f}"
    return Verdict(what, where, place.contestant, measured, limit, met)


def _idle(one: Idle) -> Verdict:
    # Fewer clients say nothing of so many: what is shared is a large part of what they cost.
    enough = one.clients >= IDLE_CLIENTS and one.after is not None and not one.error
    taken = one.after.pss if one.after is not None else 0
    return Verdict(
        what=f"memory with {IDLE_CLIENTS} idle clients",
        where=f"{one.clients} idle clients",
        contestant=one.contestant,
        measured=f"{taken / 1e6:.0f} MB" if one.after is not None else "",
        limit=f"≤ {IDLE_BYTES_MAX / 1e6:.0f} MB",
        met=taken <= IDLE_BYTES_MAX if enough else None,
    )
