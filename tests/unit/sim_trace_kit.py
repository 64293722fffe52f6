"""Plausible traces, written by hand: the same lines that a run of the simulator would give.

`failing()` is a split brain with its causes, `passing()` the same partition handled well, `long()`
one failover after the other until there are enough lines. Nothing here is simulated: the story is
fixed and only the traffic around it is drawn from a seeded generator.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

MS = 1_000_000
S = 1_000_000_000
NODES = ("n1", "n2", "n3")
HOLD = 2 * S
Event = dict[str, object]
Cut = Callable[[str, str, int], bool]  # sender, receiver, time → nothing gets through


class Story:
    """Collects events in any order; `lines` puts them in the order of time and numbers them."""

    def __init__(self, scenario: str, seed: int, nodes: tuple[str, ...] = NODES) -> None:
        self.rng = random.Random(seed)
        self.events: list[tuple[int, int, Event]] = []
        self.nodes = nodes
        self.lsn = 0x3000028
        self.messages = 0
        self.state: dict[tuple[str, str], Event] = {}
        self.add(
            0, "run", format=1, scenario=scenario, seed=seed, nodes=list(nodes), witnesses=[],
            clients=["c1", "c2"], engine="5f1d0c3a",
        )  # fmt: skip

    def add(self, t: int, e: str, **fields: object) -> Event:
        event: Event = {"i": 0, "t": t, "e": e, **fields}
        self.events.append((t, len(self.events), event))
        return event

    def change(self, t: int, e: str, n: str, **fields: object) -> Event:
        """A `node` or `pg` event: the node's state with these fields changed."""
        state = self.state[e, n] = {**self.state.get((e, n), {}), **fields}
        return self.add(t, e, n=n, **state)

    def log(self, t: int, n: str, name: str, text: str, level: str = "INFO", **f: object) -> Event:
        return self.add(t, "log", n=n, name=name, level=level, text=text, fields=f)

    def step(self, n: str, step: str, begin: int, took: int, error: str = "") -> Event:
        end = begin + took
        return self.add(
            end, "step", n=n, step=step, begin=begin, end=end, ok=not error, error=error
        )

    def send(
        self, t: int, a: str, b: str, kind: str, cut: Cut, term: int | None = None, says: str = ""
    ) -> Event:  # fmt: skip
        """A message; it is cut, or lost at times, or arrives after a millisecond or so."""
        self.messages += 1
        took = self.rng.randint(400_000, 3 * MS)
        fate, at = "delivered", t + took
        if cut(a, b, t):
            fate, at = "cut", None
        elif self.rng.random() < 0.01:
            fate, at = "lost", None
        named: Event = {} if term is None else {"term": term}
        if says:
            named["says"] = says
        return self.add(
            t, "msg", id=self.messages, **{"from": a, "to": b}, kind=kind, **named, at=at, fate=fate
        )

    def op(
        self, c: str, begin: int, took: int, result: str, n: str | None, branch: str, tli: int,
        kind: str = "append", why: str = "",
    ) -> tuple[Event, Event | None]:  # fmt: skip
        """A client's operation, and its acknowledgement if it is a write that succeeded."""
        number = len(self.events)
        value = None if kind == "read" else f"k{number % 7}:{number}"
        acked = None
        if result == "ok" and kind != "read":
            self.lsn += self.rng.randint(64, 400)
            acked = self.add(
                begin + took, "ack", n=n, tli=tli, branch=branch, lsn=self.lsn, value=value
            )
        done = self.add(
            begin + took, "op", id=number, c=c, kind=kind, key=f"k{number % 7}", value=value,
            via=n, n=n, begin=begin, end=begin + took, result=result, why=why,
        )  # fmt: skip
        return done, acked

    def well(self) -> list[str]:
        """The lines, with the verdict after everything else."""
        self.add(max(t for t, _, _ in self.events), "end", verdict="ok", text="")
        return self.lines()

    def lines(self) -> list[str]:
        ordered = [event for _, _, event in sorted(self.events, key=lambda each: each[:2])]
        for i, event in enumerate(ordered):
            event["i"] = i
        for event in ordered:
            if event["e"] == "violation":
                causes = event["causes"]
                assert isinstance(causes, list)
                event["causes"] = [cause["i"] for cause in causes]
        return [json.dumps(event, separators=(",", ":")) for event in ordered]


def open_network(_a: str, _b: str, _t: int) -> bool:
    return False


def begin(story: Story) -> None:
    """All agents start, n1 is elected and made the primary; it leads from 1.5 s on."""
    for n in story.nodes:
        story.change(
            0, "node", n, agent="up", host="up", guard="up", role="follower", term=0, promised=0,
            leader=None,
        )  # fmt: skip
        story.change(
            0, "pg", n, process="starting", recovery=None, frozen=False, tli=1, branch="b1",
            lsn=story.lsn, upstream=None, sync=[], k=1, admit=False, data="present",
        )  # fmt: skip
        story.step(n, "Start", 20 * MS, 240 * MS)
        story.change(260 * MS, "pg", n, process="running", recovery=True, admit=True)
        story.log(261 * MS, n, "postgres_started", "PostgreSQL runs as a standby", timeline=1)
    elect(story, S, "n1", 1, "b1", 1, open_network)


def elect(
    story: Story, t: int, new: str, term: int, branch: str, tli: int, cut: Cut
) -> dict[str, Event]:  # fmt: skip
    """Pre-vote, vote, promotion; active 0.5 s after `t`. Returns the events that matter."""
    key: dict[str, Event] = {}
    others = [n for n in story.nodes if n != new and not cut(new, n, t)]
    sync = [n for n in story.nodes if n != new]
    story.log(t, new, "hold_expired", "the hold on the last leader has ended", "WARNING")
    story.change(t, "node", new, role="pre-candidate")
    for n in story.nodes:
        if n == new:
            continue
        story.send(t + MS, new, n, "PreVoteRequest", cut, term)
        if n in others:
            story.send(t + 5 * MS, n, new, "PreVoteReply", cut, term)
        story.send(t + 11 * MS, new, n, "VoteRequest", cut, term)
    story.change(t + 10 * MS, "node", new, role="candidate", term=term, promised=term)
    story.log(t + 10 * MS, new, "candidacy_started", f"stands for term {term}", term=term)
    for n in others:
        story.change(t + 60 * MS, "node", n, term=term, promised=term, leader=None)
        story.change(t + 61 * MS, "pg", n, upstream=None)
        story.step(n, "Detach", t + 14 * MS, 45 * MS)
        story.log(t + 60 * MS, n, "vote_granted", f"votes for {new} in term {term}", term=term)
        granted = f"granted, detached, has {story.lsn:X} on timeline {tli - 1}"
        key["vote"] = story.send(t + 62 * MS, n, new, "VoteReply", cut, term, granted)
        story.send(t + 75 * MS, new, n, "DocumentOffer", cut, term)
        story.send(t + 82 * MS, n, new, "DocumentAck", cut, term)
        story.change(t + 90 * MS, "node", n, leader=new)
    story.change(t + 70 * MS, "node", new, role="leader", leader=new)
    key["won"] = story.log(t + 70 * MS, new, "election_won", f"leads in term {term}", term=term)
    story.add(t + 86 * MS, "lease", n=new, until=t + 86 * MS + HOLD)
    story.change(t + 120 * MS, "pg", new, sync=sync)
    story.step(new, "ApplySettings", t + 95 * MS, 25 * MS)
    key["promote"] = story.step(new, "Promote", t + 130 * MS, 140 * MS)
    key["primary"] = story.change(
        t + 270 * MS, "pg", new, recovery=False, branch=branch, tli=tli, upstream=None, admit=False
    )
    story.log(t + 271 * MS, new, "promoted", f"promoted to timeline {tli}", timeline=tli)
    story.step(new, "EmitMarker", t + 280 * MS, 60 * MS)
    for n in others:
        story.change(t + 340 * MS, "pg", n, upstream=new, branch=branch, tli=tli)
        story.log(t + 342 * MS, n, "rejoin", f"streams from {new}", upstream=new)
    story.change(t + 480 * MS, "pg", new, admit=True)
    story.log(t + 480 * MS, new, "primary_active", "clients are admitted")
    return key


def leads(
    story: Story, t0: int, t1: int, leader: str, term: int, branch: str, tli: int, cut: Cut,
    *, rate: float = 1.0, until: int | None = None,
) -> int:  # fmt: skip
    """Traffic while somebody leads; the lease is renewed as long as a majority answers."""
    until = t0 + HOLD if until is None else until
    for t in range(t0, t1, 250 * MS):
        answers = 1
        for n in story.nodes:
            if n != leader:
                story.send(t, leader, n, "Heartbeat", cut, term)
                if not cut(leader, n, t):
                    answers += 1
                    story.send(t + 4 * MS, n, leader, "HeartbeatAck", cut, term)
                    story.add(t + 3 * MS, "hold", n=n, until=t + 3 * MS + HOLD, **{"for": leader})
        if answers * 2 > len(story.nodes):
            until = t + HOLD
            story.add(t + 6 * MS, "lease", n=leader, until=until)
    for n in story.nodes:
        for t in range(t0 + story.rng.randint(0, 500 * MS), t1, 500 * MS):
            other = story.rng.choice([each for each in story.nodes if each != n])
            story.send(t, n, other, "Ping", cut)
            if not cut(n, other, t):
                story.send(t + 3 * MS, other, n, "Ack", cut)
    t = t0
    while t < t1 - 20 * MS:
        for c in ("c1", "c2"):
            if t >= t1 - 20 * MS:
                break
            kind = "read" if story.rng.random() < 0.3 else "append"
            took = story.rng.randint(2 * MS, 9 * MS)
            story.op(c, t, took, "ok", leader, branch, tli, kind)
            t += int(story.rng.randint(20 * MS, 80 * MS) / rate)
        for n in story.nodes:
            if story.rng.random() < 0.5 and story.state["pg", n].get("branch") == branch:
                story.change(min(t, t1), "pg", n, lsn=story.lsn)
    return until


def outage(story: Story, t0: int, t1: int, n: str, branch: str, tli: int) -> None:
    """Clients while nobody acknowledges: the first do not know, the later ones are refused."""
    for c in ("c1", "c2"):
        story.op(c, t0, 900 * MS, "unknown", n, branch, tli, why="connection lost during COMMIT")
        t = t0 + 950 * MS
        while t < t1 - 350 * MS:
            story.op(c, t, 300 * MS, "failed", None, branch, tli, why="no primary: 57P03")
            t += 400 * MS


def failing() -> list[str]:
    """Isolated primary whose guard is frozen: two servers acknowledge at 11.4 s."""
    story = Story("isolated-primary", 7)
    begin(story)
    leads(story, 3 * S // 2, 8 * S, "n1", 1, "b1", 1, open_network)

    def cut(a: str, b: str, t: int) -> bool:
        return t >= 8 * S and (a == "n1") != (b == "n1")

    story.add(0, "phase", name="faults")
    partition = story.add(
        8 * S, "fault", id=1, do="partition", text="partition n1 | n2 n3", nodes=["n1"],
        args={"groups": [["n1"], ["n2", "n3"]]},
    )  # fmt: skip
    freeze = story.add(
        8400 * MS, "fault", id=2, do="pause_guard", text="pause guard of n1", nodes=["n1"], args={}
    )
    frozen = story.change(8400 * MS, "node", "n1", guard="frozen")
    for t in range(8 * S, 10 * S, 250 * MS):
        for n in ("n2", "n3"):
            story.send(t, "n1", n, "Heartbeat", cut, 1)
    story.op("c1", 8100 * MS, 1500 * MS, "unknown", "n1", "b1", 1, why="commit waits")
    story.op("c2", 8137 * MS, 1200 * MS, "failed", "n1", "b1", 1, why="timeout")
    for n in ("n2", "n3"):
        story.log(9200 * MS, n, "member_suspect", "n1 does not answer", "WARNING", node="n1")
        story.change(9250 * MS, "pg", n, upstream=None)
    lost = story.log(9750 * MS, "n1", "lease_lost", "no majority answered in time", "ERROR", term=1)
    story.change(9751 * MS, "node", "n1", role="follower", leader=None)
    story.step("n1", "Stop", 9760 * MS, 900 * MS, "guard does not answer")
    story.add(9900 * MS, "mark", n="n2", name="hold_expired_after_partition", text="")
    key = elect(story, 10_100 * MS, "n2", 2, "b2", 2, cut)
    alone = story.change(10_900 * MS, "pg", "n1", sync=[], k=0)
    story.log(10_900 * MS, "n1", "sync_set_changed", "no standby is waited for", "WARNING")
    leads(story, 10_600 * MS, 11_380 * MS, "n2", 2, "b2", 2, cut, rate=2)
    _, second = story.op("c2", 11_390 * MS, 6 * MS, "ok", "n2", "b2", 2)
    _, first = story.op("c1", 11_380 * MS, 20 * MS, "ok", "n1", "b1", 1)
    causes = [partition, freeze, frozen, lost, key["vote"], key["won"], key["promote"]]
    story.add(
        11_400 * MS, "violation", check="one_acknowledger", nodes=["n1", "n2"],
        text="n1 acknowledged a commit on branch b1 while n2 acknowledges on branch b2",
        causes=[*causes, key["primary"], alone, second, first],
        notes=["", "", "nobody ends n1 from here on", *[""] * 8],
    )  # fmt: skip
    story.add(11_400 * MS, "end", verdict="violation", text="one_acknowledger")
    return story.lines()


def cycle(
    story: Story, t: int, old: str, new: str, term: int, *, rate: float = 1.0
) -> int:  # fmt: skip
    """The primary is cut off, fenced, replaced, healed and rewound; 30 s. Returns the end."""
    branch, tli = f"b{term}", term
    over = t + 12 * S

    def cut(a: str, b: str, now: int) -> bool:
        return t <= now < over and (a == old) != (b == old)

    rest = " ".join(n for n in story.nodes if n != old)
    story.add(
        t, "fault", id=term, do="partition", text=f"partition {old} | {rest}", nodes=[old],
        args={"groups": [[old], rest.split()]},
    )  # fmt: skip
    outage(story, t + 20 * MS, t + 2600 * MS, old, f"b{term - 1}", tli - 1)
    story.log(t + 1750 * MS, old, "lease_lost", "no majority answered in time", "ERROR")
    story.change(t + 1750 * MS, "node", old, role="follower", leader=None)
    story.log(t + 1760 * MS, old, "fenced", "the guard stops PostgreSQL", "ERROR")
    story.change(t + 1761 * MS, "pg", old, process="stopping", admit=False)
    story.change(t + 1790 * MS, "pg", old, process="stopped", recovery=None)
    story.add(t + 1790 * MS, "mark", n=old, name="old_primary_fenced", text="")
    elect(story, t + 2100 * MS, new, term, branch, tli, cut)
    leads(story, t + 2600 * MS, t + 30 * S, new, term, branch, tli, cut, rate=rate)
    story.add(over, "fault_end", id=term)
    story.change(over + 300 * MS, "node", old, term=term, promised=term, leader=new)
    story.step(old, "Rewind", over + 400 * MS, 1900 * MS, "source is busy" if term % 3 else "")
    story.step(old, "Rewind", over + 2500 * MS, 1700 * MS)
    story.change(over + 4300 * MS, "pg", old, process="starting", branch=branch, tli=tli)
    story.step(old, "Start", over + 4300 * MS, 400 * MS)
    story.change(
        over + 4700 * MS, "pg", old, process="running", recovery=True, upstream=new, admit=True
    )
    story.log(over + 4750 * MS, old, "rejoin", f"streams from {new}", upstream=new)
    return t + 30 * S


def passing() -> list[str]:
    """The partition handled as it should be, healed, and the old primary rewound."""
    story = Story("isolated-primary", 8)
    story.add(0, "phase", name="faults")
    begin(story)
    leads(story, 3 * S // 2, 8 * S, "n1", 1, "b1", 1, open_network)
    cycle(story, 8 * S, "n1", "n2", 2)
    story.add(25 * S, "phase", name="liveness")
    return story.well()


def long(lines: int = 100_000) -> list[str]:
    """At least so many lines of failovers, with one line `end`."""
    story = Story("endless-failovers", 9)
    begin(story)
    leads(story, 3 * S // 2, 8 * S, "n1", 1, "b1", 1, open_network)
    t, term = 8 * S, 1
    for old, new in turns():
        term += 1
        t = cycle(story, t, old, new, term, rate=3)
        if len(story.events) >= lines - 1:
            break
    return story.well()


def turns() -> Iterator[tuple[str, str]]:
    """Who is replaced by whom, for ever."""
    while True:
        yield from (("n1", "n2"), ("n2", "n3"), ("n3", "n1"))
