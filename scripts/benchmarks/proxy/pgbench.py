"""pgbench: its workloads, its command line, its summary and its log of transactions. Pure.

A latency is what pgbench logs for a transaction, which does not have the login in it. Where every
transaction has a connection of its own, it is therefore the time from one commit of a client to the
next: close, connect, log in, ask. For that each client has a thread, because pgbench logs in
without giving other clients of its thread a turn, and no line may be left out of the log.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

LOG_LINES_MAX = 500_000  # of one cell; beyond that pgbench logs a sample
TPS_ASSUMED = 40_000  # more than one proxy process is known to do
WARM_UP_TRANSACTIONS = 5  # of each client, so that pools are full before the clock starts
ROWS = 10_000
ROW_BYTES = 92
HUGE_ROWS = 4
HUGE_BYTES = 256 << 10


class Login(StrEnum):
    """How the clients of a workload prove who they are: to everybody and by everybody alike."""

    SCRAM = "scram-sha-256"
    TRUST = "trust"


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of transactions."""

    what: str
    options: Sequence[str]
    script: str = ""  # a script of ours; "": one that pgbench has
    login: Login = Login.TRUST  # a password is of no matter where connections are kept
    reconnects: bool = False  # a connection for each transaction
    prepares: bool = False  # by the protocol's named statements


WORKLOADS: Mapping[str, Workload] = {
    "simple": Workload("pgbench -S, simple protocol", ("-S", "-M", "simple")),
    "extended": Workload("pgbench -S, extended protocol", ("-S", "-M", "extended")),
    "prepared": Workload(
        "pgbench -S, prepared statements", ("-S", "-M", "prepared"), prepares=True
    ),
    "tpcb": Workload("pgbench's TPC-B, prepared statements", ("-M", "prepared"), prepares=True),
    "connect": Workload(
        "pgbench -C -S: a connection for each transaction, SCRAM",
        ("-C", "-S"),
        login=Login.SCRAM,
        reconnects=True,
    ),
    "connect-trust": Workload(
        "pgbench -C -S: a connection for each transaction, no password",
        ("-C", "-S"),
        reconnects=True,
    ),
    "rows": Workload(
        f"1 MiB in {ROWS} rows, prepared",
        ("-M", "prepared"),
        script="select * from bench_rows;\n",
        prepares=True,
    ),
    "huge": Workload(
        f"1 MiB in {HUGE_ROWS} rows, prepared",
        ("-M", "prepared"),
        script="select * from bench_huge;\n",
        prepares=True,
    ),
}

_SERIES = "from generate_series(1, {}) g"
TABLES_SQL = (
    "create table bench_rows (id int, filler text)",
    f"insert into bench_rows select g, repeat('x', {ROW_BYTES}) {_SERIES.format(ROWS)}",
    # Stored as they are: neither compression nor its contrary is to be measured.
    "create table bench_huge (id int, filler text)",
    "alter table bench_huge alter filler set storage external",
    f"insert into bench_huge select g, repeat('x', {HUGE_BYTES}) {_SERIES.format(HUGE_ROWS)}",
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the clients of one cell connect."""

    port: int
    user: str
    database: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What pgbench prints at the end."""

    tps: float  # reconnections are part of it where there are any, the first logins are not
    transactions: int
    failed: int
    login_s: float = 0.0  # until all clients that keep their connection had one


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds, by nearest rank."""

    p50: float
    p95: float
    p99: float
    max: float


class PgbenchError(Exception):
    """pgbench did not say what it says after a run."""


def sampling_rate(workload: Workload, seconds: int) -> float:
    """Return the share of the transactions to log, 1 for all of them."""
    if workload.reconnects:
        return 1.0
    return min(1.0, LOG_LINES_MAX / (TPS_ASSUMED * seconds))


def threads(workload: Workload, clients: int, cores: int) -> int:
    return clients if workload.reconnects else min(clients, cores)


def arguments(
    workload: Workload,
    target: Target,
    *,
    clients: int,
    cores: int,
    seconds: int | None,
    script: Path | None,
    log_prefix: Path | None = None,
    seed: int = 1,
) -> list[str]:
    """Return pgbench's arguments; without `seconds` those of the warm-up, which logs nothing."""
    found = ["-n", "-h", "127.0.0.1", "-p", str(target.port), "-U", target.user]
    found += ["-c", str(clients), "-j", str(threads(workload, clients, cores))]
    found += ["--random-seed", str(seed), *workload.options]
    if script is not None:
        found += ["-f", str(script)]
    if seconds is None:
        found += ["-t", str(WARM_UP_TRANSACTIONS)]
    else:
        found += ["-T", str(seconds)]
        if log_prefix is not None:
            found += ["-l", f"--log-prefix={log_prefix}"]
            rate = sampling_rate(workload, seconds)
            found += [f"--sampling-rate={rate:.6f}"] if rate < 1 else []
    return [*found, target.database]


def parse_summary(text: str) -> Summary:
    """Return what the summary says.

    Raises:
        PgbenchError: there is no rate in it, or no transaction.
    """
    tps = re.search(r"^tps = ([0-9.]+) \((?:without|including)", text, re.MULTILINE)
    done = re.search(r"^number of transactions actually processed: (\d+)", text, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+)", text, re.MULTILINE)
    if done is not None and done[1] == "0":
        raise PgbenchError("no transaction came to its end")
    if tps is None or done is None:
        raise PgbenchError(f"pgbench's summary is not understood: {text.strip()[-300:]!r}")
    login = re.search(r"^initial connection time = ([0-9.]+) ms", text, re.MULTILINE)
    return Summary(
        float(tps[1]),
        int(done[1]),
        int(failed[1]) if failed is not None else 0,
        float(login[1]) / 1000 if login is not None else 0.0,
    )


def count_aborted(stderr: str) -> int:
    """Return how many clients pgbench gave up."""
    return len(set(re.findall(r"client (\d+) (?:script \d+ )?aborted", stderr)))


def read_latencies(lines: Iterable[str], *, reconnects: bool = False) -> array[float]:
    """Return milliseconds from the lines of pgbench's logs.

    A line is: client, transaction, microseconds, script, seconds since the epoch, microseconds of
    that second. In the third place stands a word if the transaction failed or was skipped; those
    have no latency. The last line of a run that was killed may be torn, and is ignored.

    Args:
        reconnects: whether the time between two commits of a client is wanted instead. The first
            commit of each client then gives none.
    """
    found = array("d")
    last: dict[str, int] = {}
    for line in lines:
        words = line.split()
        if len(words) < 6 or not words[2].isdigit() or not line.endswith("\n"):
            continue
        if not reconnects:
            found.append(int(words[2]) / 1000)
            continue
        at_us = int(words[4]) * 1_000_000 + int(words[5])
        if words[0] in last:
            found.append((at_us - last[words[0]]) / 1000)
        last[words[0]] = at_us
    return found


def latencies(values: Iterable[float]) -> Latencies | None:
    """Return the figures; None if there is no value. They are values that were measured."""
    ordered = sorted(values)
    if not ordered:
        return None

    def rank(percent: int) -> float:
        return ordered[max(-(-percent * len(ordered) // 100), 1) - 1]

    return Latencies(rank(50), rank(95), rank(99), ordered[-1])
