"""What was measured, its medians over the rounds, and its ratios. Pure."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.machine import Machine
from benchmarks.proxy.pgbench import Latencies
from benchmarks.proxy.procfs import Memory

DIRECT = "direct"
PGBOUNCER = "pgbouncer"
METAKO = "metako"
TLS_SUFFIX = "-tls"  # of a contestant whose clients speak TLS
DIRECT_TLS = DIRECT + TLS_SUFFIX


def speaks_tls(contestant: str) -> bool:
    return contestant.endswith(TLS_SUFFIX)


def is_direct(contestant: str) -> bool:
    return contestant in (DIRECT, DIRECT_TLS)


@dataclass(frozen=True, slots=True)
class Place:
    """One line of the tables: who, with what, for how many clients."""

    workload: str
    clients: int
    contestant: str

    def of(self, contestant: str) -> Place:
        return Place(self.workload, self.clients, contestant)

    def alike(self, contestant: str) -> Place:
        """Return the place of another contestant, whose clients speak TLS if those of this do.

        What TLS costs is no merit or fault of a proxy, so with it is only compared with it.
        """
        return self.of(contestant + TLS_SUFFIX if speaks_tls(self.contestant) else contestant)


@dataclass(slots=True)
class Cell:
    """One run of pgbench. A figure that could not be measured is None."""

    round: int
    place: Place
    tps: float | None = None
    transactions: int = 0
    latencies: Latencies | None = None  # milliseconds
    sampled: bool = False  # latencies are of a part of the transactions
    cpu_s: float | None = None  # of the contestant's processes; None: it has none
    agent_cpu_s: float | None = None  # of metako's agent, which takes no part in queries
    wall_s: float | None = None  # in which the CPU seconds were spent
    server_cpu_s: float | None = None  # of PostgreSQL
    peak: Memory | None = None  # of the contestant's processes
    failed: int = 0  # transactions, and clients that gave up
    error: str = ""


@dataclass(slots=True)
class Idle:
    """What some idle, logged-in clients cost one contestant."""

    contestant: str
    clients: int = 0
    asked: int = 0  # clients that were wanted
    servers: int = 0  # sessions on PostgreSQL with them
    session_bytes: float | None = None  # of PostgreSQL for each of the first clients
    fewer_because: str = ""  # why it is fewer clients; "" if it is not
    before: Memory | None = None  # without them; None: it has no processes
    after: Memory | None = None
    error: str = ""

    @property
    def bytes_per_client(self) -> float | None:
        if self.before is None or self.after is None or not self.clients:
            return None
        return (self.after.pss - self.before.pss) / self.clients


@dataclass(frozen=True, slots=True)
class Encryption:
    """What TLS there is on the two ways of a contestant."""

    clients: str  # version and cipher; "": in clear
    server: bool  # whether there is any towards PostgreSQL


@dataclass(slots=True)
class Result:
    """Everything there is to print; filled as the run goes on."""

    machine: Machine
    command: str
    versions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # contestants, and why
    broken: dict[str, str] = field(default_factory=dict)  # installed, and of no use
    encryption: dict[str, Encryption] = field(default_factory=dict)  # of contestants
    cells: list[Cell] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    load_after: float = 0.0
    error: str = ""  # what broke the run off

    @property
    def good(self) -> bool:
        """Return whether the run came to its end and nothing failed in it."""
        cells = all(cell.tps is not None and not cell.failed for cell in self.cells)
        measured = bool(self.cells or self.idle)
        failed = self.error or self.broken or any(one.error for one in self.idle)
        return measured and cells and not failed


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over the rounds of one place; `max_ms` and the memory are the highest."""

    place: Place
    rounds: int
    tps: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    sampled: bool
    cpu_s_per_1000: float | None
    agent_cpu_share: float | None  # of one processor: the agent works by the clock
    server_cpu_s_per_1000: float | None
    peak: Memory | None
    failed: int

    @property
    def tail(self) -> float | None:
        """Return p99 / p50."""
        return ratio(self.p99_ms, self.p50_ms)


def ratio(value: float | None, base: float | None) -> float | None:
    """Return value / base; None if one of them is not known or there is nothing to divide by."""
    return value / base if value is not None and base else None


def turns(
    groups: Iterable[tuple[str, int]],
    contestants: Sequence[str],
    rounds: int,
    seed: int,
) -> list[tuple[int, Place]]:
    """Return the order of all cells, as round and place.

    Within a group, that is a workload and a number of clients, the contestants follow each other,
    each round in another order: noise that lasts longer than a few cells meets all of them.
    """
    rng = random.Random(f"{seed}/proxy")  # noqa: S311 - repeatable
    groups = list(groups)
    order = []
    for number in range(1, rounds + 1):
        for workload, clients in groups:
            names = list(contestants)
            rng.shuffle(names)
            order += [(number, Place(workload, clients, name)) for name in names]
    return order


def medians(cells: Iterable[Cell]) -> dict[Place, Figures]:
    """Return the figures of each place: workloads as they were measured, then by contestant."""
    groups: dict[tuple[str, int], dict[Place, list[Cell]]] = {}
    for cell in cells:
        group = groups.setdefault((cell.place.workload, cell.place.clients), {})
        group.setdefault(cell.place, []).append(cell)
    return {
        place: _figures(place, group[place])
        for group in groups.values()
        for place in sorted(group, key=_rank)
    }


def _rank(place: Place) -> tuple[int, str]:
    """Return a key to sort by: what others are measured against, ourselves, then the peers."""
    name = place.contestant
    return (0 if is_direct(name) else 1 if name.startswith(METAKO) else 2, name)


def _figures(place: Place, cells: Sequence[Cell]) -> Figures:
    seen = [cell.latencies for cell in cells if cell.latencies is not None]
    peaks = [cell.peak for cell in cells if cell.peak is not None]

    def per_1000(spent: Callable[[Cell], float | None]) -> float | None:
        return _median(
            value / cell.transactions * 1000
            for cell in cells
            if cell.transactions and (value := spent(cell)) is not None
        )

    return Figures(
        place=place,
        rounds=len(cells),
        tps=_median(cell.tps for cell in cells if cell.tps is not None),
        p50_ms=_median(one.p50 for one in seen),
        p95_ms=_median(one.p95 for one in seen),
        p99_ms=_median(one.p99 for one in seen),
        max_ms=max((one.max for one in seen), default=None),
        sampled=any(cell.sampled for cell in cells),
        cpu_s_per_1000=per_1000(lambda cell: cell.cpu_s),
        agent_cpu_share=_median(
            cell.agent_cpu_s / cell.wall_s
            for cell in cells
            if cell.wall_s and cell.agent_cpu_s is not None
        ),
        server_cpu_s_per_1000=per_1000(lambda cell: cell.server_cpu_s),
        peak=Memory(max(p.rss for p in peaks), max(p.pss for p in peaks)) if peaks else None,
        failed=sum(cell.failed for cell in cells),
    )


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def of_direct(place: Place, figures: Mapping[Place, Figures]) -> float | None:
    """Return the rate as a multiple of that without any proxy; None for `direct` itself."""
    base = figures.get(place.alike(DIRECT))
    if base is None or base.place == place:
        return None
    return ratio(figures[place].tps, base.tps)


def of_pgbouncer(place: Place, figures: Mapping[Place, Figures]) -> float | None:
    """Return the CPU time a transaction as a multiple of PgBouncer's; None for itself."""
    base = figures.get(place.alike(PGBOUNCER))
    if base is None or base.place == place:
        return None
    return ratio(figures[place].cpu_s_per_1000, base.cpu_s_per_1000)
