"""A plausible history for the report: five minutes, three nodes, failovers and overlapping faults.

Nothing here happened: the story is a table, and only the traffic around it is drawn from a seeded
generator. `history` gives the lines, `verdict` what a checker would say of them, and as a command
this writes both, which is the report's demonstration:

    python -m chaos.report_kit DIR [--rate N] [--failing]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2", "n3")
CLIENTS = ("c1", "c2", "c3", "c4")
END_S = 300.0
PEACE_S = 270.0
Line = dict[str, object]


@dataclass(frozen=True, slots=True)
class Failover:
    """One outage: when the last write was acknowledged, by whom the next one is."""

    at: float
    old: str
    new: str
    term: int
    detect_s: float  # fault → hold expired
    vote_s: float
    promote_s: float
    first_s: float  # promoted → first acknowledged write
    back_s: float  # when the old one streams again, after `at`

    @property
    def promoted(self) -> float:
        return self.at + self.detect_s + self.vote_s + self.promote_s

    @property
    def end(self) -> float:
        return self.promoted + self.first_s


FAILOVERS = (
    Failover(40.0, "n1", "n2", 2, 1.412, 0.061, 0.183, 0.044, 14.0),
    Failover(95.0, "n2", "n3", 3, 1.520, 0.084, 0.201, 0.052, 10.5),
    Failover(150.0, "n3", "n1", 4, 1.377, 0.058, 0.176, 0.039, 9.0),
    Failover(230.0, "n1", "n2", 7, 4.902, 0.911, 0.240, 0.071, 21.0),
)
FAULTS: tuple[tuple[float, str, str, tuple[str, ...], float | None], ...] = (
    (12.0, "delay", "delay n2 → n3 by 40 ms for 15s", ("n2", "n3"), 15.0),
    (39.95, "kill", "kill host n1 for 10s", ("n1",), 10.0),
    (70.0, "kill", "kill postgres on n3", ("n3",), None),
    (94.96, "isolate", "isolate n2 for 8s", ("n2",), 8.0),
    (120.0, "loss", "lose 20 % of gossip of n1 for 20s", ("n1",), 20.0),
    (125.0, "clog", "clog n2 → n1 for 6s", ("n1", "n2"), 6.0),
    (149.97, "freeze", "freeze the agent of n3 for 6s", ("n3",), 6.0),
    (185.0, "delay", "delay everything by 25 ms for 60s", NODES, 60.0),
    (200.0, "fill", "fill the disk of n3 for 12s", ("n3",), 12.0),
    (205.0, "loss", "lose 10 % of packets n1 ↔ n2 for 15s", ("n1", "n2"), 15.0),
    (229.9, "kill", "kill host n1 for 18s", ("n1",), 18.0),
    (230.4, "isolate", "isolate n3 for 3s", ("n3",), 3.0),
)
SLOW = (185.0, 245.0)  # while everything is delayed


class Run:
    """Collects lines in any order; `lines` puts them in the order of time."""

    def __init__(self, rate: float, seed: int, split_s: float) -> None:
        self.rng = random.Random(seed)
        self.rate = rate  # operations a second of each client
        self.split_s = split_s  # how long the second old primary stays writable beside the new
        self.found: list[tuple[float, int, Line]] = []

    def add(self, t: float, e: str, **fields: object) -> None:
        self.found.append((t, len(self.found), {"t": round(t, 6), "e": e, **fields}))

    def lines(self) -> Iterator[str]:
        for _, _, line in sorted(self.found, key=lambda each: each[:2]):
            yield json.dumps(line)


def primary_at(t: float) -> str:
    """Return whose server acknowledges writes, "" in an outage."""
    name = "n1"
    for each in FAILOVERS:
        if t > each.at:
            name = each.new if t >= each.end else ""
    return name


def history(*, rate: float = 20.0, seed: int = 7, split_s: float = 0.0) -> list[str]:
    """Return the lines of a whole run, in the order of time."""
    run = Run(rate, seed, split_s)
    run.add(
        0.0, "run", id="3fa1", scenario="random faults", seed=seed, timing="fast",
        nodes=list(NODES), wall="2026-03-14T09:26:53Z", start_mono=12345.6,
    )  # fmt: skip
    _faults(run)
    _states(run)
    for each in FAILOVERS:
        _log(run, each)
    _probes(run)
    for name in CLIENTS:
        _client(run, name)
    _after(run)
    return list(run.lines())


def _faults(run: Run) -> None:
    run.add(5.0, "phase", name="faults")
    run.add(PEACE_S, "phase", name="peace")
    run.add(END_S - 1, "phase", name="end")
    for number, (t, do, text, nodes, for_s) in enumerate(FAULTS):
        run.add(t, "fault", id=number, do=do, text=text, nodes=list(nodes), for_s=for_s)
        if for_s is not None:
            run.add(t + for_s, "fault_end", id=number)
    run.add(110.0, "skipped", do="kill", text="kill host n3", why="only two nodes are well")


def _states(run: Run) -> None:
    def node(t: float, n: str, role: str, state: str, term: int, leader: str) -> None:
        run.add(
            t, "node", n=n, role=role, state=state, term=term, timeline=term, lsn=int(t * 1e6),
            leader=leader,
        )  # fmt: skip

    for name in NODES:
        node(0.2, name, "primary" if name == "n1" else "standby", "running", 1, "n1")
    for each in FAILOVERS:
        node(each.at + 0.2, each.old, "down", "no answer", each.term - 1, "")
        node(each.promoted, each.new, "primary", "running", each.term, each.new)
        (third,) = set(NODES) - {each.old, each.new}
        node(each.promoted + 0.2, third, "standby", "running", each.term, each.new)
        node(each.at + each.back_s - 3, each.old, "unknown", "rewinding", each.term, each.new)
        node(each.at + each.back_s, each.old, "standby", "running", each.term, each.new)
    node(70.1, "n3", "down", "postgres crashed", 2, "n2")
    node(71.4, "n3", "standby", "running", 2, "n2")


def _log(run: Run, each: Failover) -> None:
    def log(t: float, n: str, name: str, text: str, **fields: object) -> None:
        run.add(t, "log", n=n, name=name, text=text, fields=fields)

    won = each.at + each.detect_s + each.vote_s
    held = each.at + each.detect_s
    (third,) = set(NODES) - {each.old, each.new}
    log(each.at + 0.9, each.new, "member_suspect", f"{each.old} does not answer {third}")
    if each.term == 7:  # an election that led to nothing
        log(each.at + 2.1, third, "candidacy_started", "candidacy in term 5", term=5)
        log(each.at + 2.6, third, "candidacy_lost", "no majority answered", term=5)
    log(held, third, "hold_expired", f"heard nothing of {each.old} for a whole hold")
    log(held + 0.012, each.new, "candidacy_started", f"candidacy in term {each.term}")
    log(held + 0.030, third, "vote_granted", f"votes for {each.new} in term {each.term}")
    log(won, each.new, "election_won", f"won term {each.term} with 2 of 3 votes", term=each.term)
    log(each.promoted, each.new, "promoted", f"out of recovery on timeline {each.term}")
    log(each.promoted + 0.021, each.new, "primary_active", "admits clients")
    log(each.promoted + 0.25, each.new, "sync_set_changed", f"commits wait for 1 of {third}")
    if each.old == "n2":
        log(each.at + 1.3, each.old, "fenced", "the guard ended PostgreSQL: the lease is over")
        log(each.at + 1.31, each.old, "stepped_down", "leads no more: the lease ran out")
    back = each.at + each.back_s
    log(back - 3, each.old, "postgres_started", "starts to see where its WAL ends")
    log(back - 0.4, each.old, "step_finished", "Rewind took 1840 ms", step="Rewind")
    log(back, each.old, "rejoin", f"streams from {each.new}", upstream=each.new)


def _probes(run: Run) -> None:
    for step in range(int(END_S * 5)):
        t = step / 5 + 0.1
        for name in NODES:
            recovery: bool | None = True
            for each in FAILOVERS:
                if name == each.old and t > each.at:
                    stays = 1.8 + run.split_s if each.old == "n2" and run.split_s else 0.0
                    recovery = None if t < each.at + each.back_s - 1 else True
                    recovery = False if t < each.at + stays else recovery
                if name == each.new and t >= each.promoted:
                    recovery = False
            if name == "n1" and t <= FAILOVERS[0].at:
                recovery = False
            answered = t + run.rng.uniform(0.001, 0.004)
            run.add(answered, "probe", n=name, asked=t, answered=answered, in_recovery=recovery)


def _client(run: Run, name: str) -> None:
    rng = run.rng
    t = 0.3 + rng.random() / run.rate
    number = 0
    while t < END_S - 2:
        number += 1
        kind = rng.choices(("append", "read", "txn"), (6, 3, 1))[0]
        count = rng.randint(2, 4) if kind == "txn" else 1
        values = [] if kind == "read" else [f"{name}-{number * 4 + k}" for k in range(count)]
        keys = [rng.randrange(16) for _ in range(count)]
        took = rng.lognormvariate(-5.6, 0.5)
        if SLOW[0] < t < SLOW[1]:
            took += 0.05 + rng.expovariate(200)
        if rng.random() < 0.0005:
            took += rng.uniform(0.2, 0.45)
        outcome, error, end = "ok", "", t + took
        serves = primary_at(t)
        if kind != "read" and (not serves or primary_at(end) != serves):
            began = max(each.at for each in FAILOVERS if each.at <= end)
            if t < began + 0.01 or rng.random() < 0.05:
                outcome, error, end = "unknown", "08006 connection lost", t + rng.uniform(0.3, 1.4)
            else:
                outcome, error, end = "failed", "25006 no primary", t + rng.uniform(0.2, 0.4)
        via = f"proxy:{NODES[int(name[1:]) % 3]}" if name != "c4" else "direct:n3"
        if name == "c4":  # asks a server itself, so it can only read
            kind, values, outcome, error, end = "read", [], "ok", "", t + took
        more = {"seen": [], "role": "primary"} if kind == "read" else {"keys": keys}
        run.add(
            end, "op", client=name, via=via, kind=kind, key=keys[0], values=values, begin=t,
            end=end, outcome=outcome, error=error, server="10.77.0.11" if outcome == "ok" else "",
            timeline=1, warning="", **more,
        )  # fmt: skip
        t = end + rng.expovariate(run.rate)


def _after(run: Run) -> None:
    for number, name in enumerate(NODES):
        run.add(PEACE_S + 1.2 + number, "recovered", n=name, after_s=1.2 + number)
        run.add(
            END_S - 0.5 + number / 100, "final", n=name, rows=12345, hash="9e107d9d372bb682",
            timeline=7, streaming=name != "n2", checksums="ok", values_file=f"final-{name}.txt",
        )  # fmt: skip
    run.add(END_S, "left", processes=[], namespaces=[], files=[])


def verdict(*, failing: bool = False) -> Line:
    """Return what a checker would say."""
    evidence = [
        {"client": "c1", "kind": "append", "values": ["c1-7716"], "begin": 96.81, "end": 96.823,
         "outcome": "ok"},
        {"client": "c2", "kind": "read", "values": [], "begin": 99.4, "end": 99.402,
         "outcome": "ok"},
    ]  # fmt: skip
    lost = {
        "check": "lost",
        "text": "c1-7716 was acknowledged by n2 at 96.823 s and is in no server's table.",
        "evidence": evidence,
        "at": 96.823,
    }
    return {
        "ok": not failing,
        "violations": [lost] if failing else [],
        "stats": {"lost": int(failing), "duplicated": 0, "stale_reads": 0},
    }


def write_run(directory: Path, *, rate: float = 20.0, failing: bool = False) -> None:
    """Write history and verdict into a directory, which is made if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = history(rate=rate, split_s=0.7 if failing else 0.0)
    (directory / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (directory / "verdict.json").write_text(json.dumps(verdict(failing=failing)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a demonstration."""
    parser = argparse.ArgumentParser(prog="python -m chaos.report_kit", description=main.__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--rate", type=float, default=20.0, help="operations a second of a client")
    parser.add_argument("--failing", action="store_true", help="with a violation")
    options = parser.parse_args(arguments)
    write_run(options.directory, rate=options.rate, failing=options.failing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
