"""The result of a run of the proxy benchmark, as Markdown and as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict

from benchmarks.proxy.pgbench import WORKLOADS
from benchmarks.proxy.procfs import Memory
from benchmarks.proxy.results import (
    Figures,
    Place,
    Result,
    medians,
    of_direct,
    of_pgbouncer,
)
from benchmarks.proxy.targets import judge
from benchmarks.tables import NONE, Table

MIB = 1 << 20
LOAD_QUIET_MAX = 0.5


def number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def seconds(value: float | None) -> str:
    """Return CPU seconds a thousand transactions with three significant digits."""
    return NONE if value is None else f"{value:#.3g}"


def mebibytes(value: float | None) -> str:
    return NONE if value is None else f"{value / MIB:.1f}"


def rate_table(figures: dict[Place, Figures]) -> Table:
    header = (
        *("workload", "contestant", "clients", "tps", "of direct"),
        *("p50 ms", "p95 ms", "p99 ms", "max ms", "p99/p50", "failed"),
    )
    rows = []
    for place, one in figures.items():
        mark = "*" if one.sampled else ""
        rows.append(
            (
                place.workload,
                place.contestant,
                str(place.clients),
                number(one.tps, 0),
                number(of_direct(place, figures)),
                number(one.p50_ms, 3),
                number(one.p95_ms, 3),
                number(one.p99_ms, 3),
                number(one.max_ms, 1) + mark,
                number(one.tail, 1),
                str(one.failed),
            )
        )
    return Table(header, rows, left=2)


def cost_table(figures: dict[Place, Figures]) -> Table:
    header = (
        *("workload", "contestant", "clients", "CPU s/1000", "of PgBouncer"),
        *("PostgreSQL CPU s/1000", "agent, % of a CPU", "peak PSS MiB", "peak RSS MiB"),
    )
    rows = [
        (
            place.workload,
            place.contestant,
            str(place.clients),
            seconds(one.cpu_s_per_1000),
            number(of_pgbouncer(place, figures)),
            seconds(one.server_cpu_s_per_1000),
            number(one.agent_cpu_share and one.agent_cpu_share * 100, 1),
            mebibytes(one.peak.pss if one.peak else None),
            mebibytes(one.peak.rss if one.peak else None),
        )
        for place, one in figures.items()
    ]
    return Table(header, rows, left=2)


def idle_table(result: Result) -> Table:
    rows = [
        (
            one.contestant,
            f"{one.clients} of {one.asked}",
            str(one.servers),
            mebibytes(one.before.pss if one.before else None),
            mebibytes(one.after.pss if one.after else None),
            number(one.bytes_per_client and one.bytes_per_client / 1024, 1),
            mebibytes(one.session_bytes),
        )
        for one in result.idle
    ]
    header = (
        *("contestant", "idle clients", "sessions on PostgreSQL"),
        *("PSS MiB without", "PSS MiB with", "KiB a client", "PostgreSQL, MiB a client"),
    )
    return Table(header, rows)


def verdict_table(result: Result) -> Table:
    rows = [
        (one.what, one.where, one.contestant, one.word, one.measured or NONE, one.limit)
        for one in judge(medians(result.cells), result.idle)
    ]
    header = ("target", "where", "contestant", "verdict", "measured", "limit")
    return Table(header, rows, left=4)


def tables(result: Result) -> list[tuple[str, Table]]:
    """Return the tables with their headings; those without a row are left out."""
    figures = medians(result.cells)
    found = [
        ("Rate and latency", rate_table(figures)),
        ("Cost", cost_table(figures)),
        ("Idle clients", idle_table(result)),
        ("Against the targets", verdict_table(result)),
    ]
    return [(heading, table) for heading, table in found if table.rows]


def notes(result: Result) -> list[str]:
    """Return what a reader must know of these figures, one sentence or two each."""
    found = []
    load = result.machine.load_before
    if load > LOAD_QUIET_MAX:
        found.append(
            f"The load average was {load} before the run: somebody else used the machine, so "
            "compare within this run only."
        )
    if any(cell.sampled for cell in result.cells):
        found.append("*: of a sample of the transactions; the longest may not be in it.")
    for one in result.idle:
        if one.fewer_because:
            found.append(
                f"{one.contestant} was measured with {one.clients} idle clients and not with "
                f"{one.asked}: {one.fewer_because}."
            )
    found += [f"Left out: {name}: {why}." for name, why in result.left_out.items()]
    found += problems(result)
    return found


def problems(result: Result) -> list[str]:
    """Return what failed, for which the exit status is 1."""
    found = [f"FAILED: {name} cannot be used: {why}." for name, why in result.broken.items()]
    for cell in result.cells:
        if cell.tps is None or cell.failed:
            place = cell.place
            where = f"{place.workload}, {place.clients} clients, {place.contestant}"
            # Several rounds of one failure are told one by one: each may be another.
            why = cell.error or f"{cell.failed} failed"
            found.append(f"FAILED: {where}, round {cell.round}: {why}.")
    found += [f"FAILED: idle clients of {i.contestant}: {i.error}." for i in result.idle if i.error]
    return [*found, f"BROKE OFF: {result.error}."] if result.error else found


def markdown(result: Result, *, picture: str | None = None) -> str:
    """Return a section for docs/benchmarks.md.

    Args:
        picture: where the plot is, as seen from the document; None if there is none.
    """
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    workloads = dict.fromkeys(cell.place.workload for cell in result.cells)
    facts = [
        f"- **Machine:** {machine.processor}, {machine.cores} cores, {machine.memory_gib} GiB; "
        f"Linux {machine.kernel}, data on {machine.file_system}. PostgreSQL, proxy and clients "
        "are all on it, and share the processors.",
        f"- **Versions:** metako {machine.metako} at commit `{machine.commit or 'unknown'}`, "
        f"Python {machine.python}, {versions or 'others unknown'}.",
        f"- **When:** begun {machine.date} UTC; load average {machine.load_before} before, "
        f"{result.load_after} after; {max((c.round for c in result.cells), default=0)} rounds.",
        *([f"- **TLS:** {encryption}."] if (encryption := _encryption(result)) else []),
        *(f"- **{name}:** {WORKLOADS[name].what}." for name in workloads),
    ]
    parts = [f"### Proxy, {machine.date.split(' ')[0]}", "\n".join(facts)]
    parts.append(f"```\n{result.command}\n```")
    for title, table in tables(result):
        parts += [f"**{title}**", table.markdown()]
        if title.startswith("Rate") and picture is not None:
            parts.append(f"![Rates and CPU time]({picture})")
    return "\n\n".join([*parts, *notes(result)]) + "\n"


def _encryption(result: Result) -> str:
    """Return who speaks TLS, and how; "" if nobody does."""
    found = [
        f"{name} {one.clients or 'in clear'} with clients, "
        f"{'by TLS' if one.server else 'in clear'} to PostgreSQL"
        for name, one in result.encryption.items()
        if one.clients or one.server
    ]
    return "; ".join(found)


def as_json(result: Result) -> dict[str, object]:
    """Return everything, each cell by itself; units are in the names."""
    figures = medians(result.cells)
    return {
        "machine": asdict(result.machine),
        "command": result.command,
        "versions": result.versions,
        "left_out": result.left_out,
        "broken": result.broken,
        "encryption": {name: asdict(one) for name, one in result.encryption.items()},
        "load_after": result.load_after,
        "good": result.good,
        "error": result.error,
        "cells": [
            {
                "round": cell.round,
                **asdict(cell.place),
                "tps": cell.tps,
                "transactions": cell.transactions,
                "latency_ms": asdict(cell.latencies) if cell.latencies else None,
                "latencies_sampled": cell.sampled,
                "cpu_s": cell.cpu_s,
                "agent_cpu_s": cell.agent_cpu_s,
                "server_cpu_s": cell.server_cpu_s,
                "wall_s": cell.wall_s,
                "peak_bytes": _bytes(cell.peak),
                "failed": cell.failed,
                "error": cell.error,
            }
            for cell in result.cells
        ],
        "medians": [
            {
                **asdict(place),
                **{k: v for k, v in asdict(one).items() if k not in ("place", "peak", "sampled")},
                "p99_of_p50": one.tail,
                "tps_of_direct": of_direct(place, figures),
                "cpu_of_pgbouncer": of_pgbouncer(place, figures),
                "peak_bytes": _bytes(one.peak),
            }
            for place, one in figures.items()
        ],
        "idle": [
            {
                "contestant": one.contestant,
                "clients": one.clients,
                "asked": one.asked,
                "servers": one.servers,
                "server_bytes_per_client": one.session_bytes,
                "fewer_because": one.fewer_because,
                "before_bytes": _bytes(one.before),
                "after_bytes": _bytes(one.after),
                "bytes_per_client": one.bytes_per_client,
                "error": one.error,
            }
            for one in result.idle
        ],
        "targets": [{**asdict(v), "verdict": v.word} for v in judge(figures, result.idle)],
    }


def _bytes(memory: Memory | None) -> dict[str, int] | None:
    return None if memory is None else asdict(memory)
