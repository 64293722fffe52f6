"""Which lines of a trace led to a violation: what should have stopped it, and who did not heed it.

In: numbers of lines with what they say, as they are written. Out: at a violation, some of them in
order, each with a note where its own words do not say why it matters.

A selection by kind, not a proof: the last election with its votes and what the voters had waited
for, the leases that still ran, what commits waited for under the primary before, the commits that
are gone, and the faults that were at work among those concerned.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple

from metako.model.events import Event, EventName, Severity
from sim.heap import NS_PER_S

LINES_MAX = 16
FAULTS_MAX = 5
RECENT_MAX = 6
"""Lines of a node that are remembered whatever they say."""
ENOUGH = 7
"""With fewer lines that were chosen for a reason, the newest of those concerned are added."""
JUST_NS = 2 * NS_PER_S
"""A fault that began within this explains it, whomever it is about: a standby that is gone, say."""
SOON_NS = 5 * NS_PER_S
"""The start of an agent explains what happens within this."""
BEFORE_NS = 15 * NS_PER_S
"""Silence, and a fault that has ended, explain nothing that happens so much later."""

KEPT = frozenset(
    {
        *(EventName.ELECTION_WON, EventName.HOLD_EXPIRED, EventName.PRIMARY_ACTIVE),
        *(EventName.LEASE_LOST, EventName.LEASE_RELEASED, EventName.CANDIDACY_HANDED_OVER),
        EventName.CANDIDACY_STARTED,
    }
)
"""Events of which the newest of each node is remembered."""


class Line(NamedTuple):
    """A line of the trace."""

    number: int
    at_ns: int
    node: str
    note: str = ""


class Lease(NamedTuple):
    """The newest line of a node about its lease."""

    line: Line
    until_ns: int


class Failing(NamedTuple):
    """Candidacies of a node that ended one after the other for the same reason."""

    line: Line  # of the last one
    reason: object
    times: int
    since_ns: int


class Effect(NamedTuple):
    """A fault: its line, which nodes it is about, when it ended (None: it goes on)."""

    line: Line
    nodes: tuple[str, ...]
    ended_ns: int | None


class Story:
    """What may be told of a run if it fails."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], Line] = {}  # (node, kind)
        self._votes: dict[object, list[Line]] = defaultdict(list)  # by term
        self._terms: dict[int, object] = {}  # term by the line of a won election
        self._changes: dict[str, deque[Line]] = defaultdict(lambda: deque(maxlen=2))
        self._changing: dict[str, Line] = {}  # the newest of each node
        self._leases: dict[str, Lease] = {}
        self._holds: dict[str, Line] = {}
        self._started: dict[str, Line] = {}
        self._failing: dict[str, Failing] = {}
        self._acknowledged: dict[str, Line] = {}  # by value
        self._faults: dict[int, Effect] = {}
        self._recent: dict[str, deque[Line]] = defaultdict(lambda: deque(maxlen=RECENT_MAX))

    # ------------------------------------------------------------ what was written

    def wrote(self, line: Line) -> None:
        """Remember a line about a node for a while."""
        self._recent[line.node].append(line)

    def logged(self, line: Line, event: Event) -> None:
        """Remember an event of the engine."""
        if event.severity is not Severity.DEBUG:
            self.wrote(line)
        fields = dict(event.fields)
        if event.name in KEPT:
            self._newest[line.node, event.name] = line
        if event.name is EventName.ELECTION_WON:
            self._terms[line.number] = fields.get("term")
            self._failing.pop(line.node, None)
        elif event.name is EventName.VOTE_GRANTED:
            self._votes[fields.get("term")].append(line)
        elif event.name is EventName.SYNC_SET_CHANGING:
            self._changing[line.node] = line
        elif event.name is EventName.SYNC_SET_CHANGED:
            self._changes[line.node].append(line)
        elif event.name is EventName.CANDIDACY_LOST:
            self._lost(line, fields.get("reason"))

    def _lost(self, line: Line, reason: object) -> None:
        before = self._failing.get(line.node)
        times, since_ns = 1, line.at_ns
        if before is not None and before.reason == reason:
            times, since_ns = before.times + 1, before.since_ns
        self._failing[line.node] = Failing(line, reason, times, since_ns)

    def started(self, line: Line) -> None:
        """Remember the start of an agent."""
        self._started[line.node] = line._replace(note=f"the agent of {line.node} starts")

    def hold(self, line: Line, until_ns: int, leader: str | None) -> None:
        """Remember for whom a voter holds; 0: for nobody."""
        whom = leader or "anybody that may still lead"
        says = (
            f"holds for {whom} until {until_ns / NS_PER_S:.3f} s"
            if until_ns
            else "holds for nobody"
        )
        self._holds[line.node] = line._replace(note=f"{line.node} {says}")

    def promoted(self, line: Line) -> None:
        """Remember a promotion."""
        self.wrote(line)
        self._newest[line.node, "promotion"] = line

    def lease(self, line: Line, until_ns: int) -> None:
        """Remember until when a lease runs; 0: it was given up."""
        self._leases[line.node] = Lease(line, until_ns)

    def acknowledged(self, line: Line, values: Iterable[str]) -> None:
        """Remember who acknowledged a commit."""
        note = f"{line.node} acknowledges {', '.join(values)}"
        for value in values:
            self._acknowledged[value] = line._replace(note=note)

    def fault_began(self, number: int, line: Line, nodes: tuple[str, ...]) -> None:
        self._faults[number] = Effect(line, nodes, None)

    def fault_ended(self, number: int, now_ns: int) -> None:
        fault = self._faults.get(number)
        if fault is not None:
            self._faults[number] = fault._replace(ended_ns=now_ns)

    # ------------------------------------------------------------ what is told

    def tell(self, nodes: Iterable[str], about: Iterable[str], now_ns: int) -> list[Line]:
        """Return the lines that led to a violation, oldest first.

        Args:
            nodes: whom it concerns; nobody: everybody.
            about: the values of commits that it is about.
            now_ns: when it happened.
        """
        concerned = set(nodes) or set(self._recent)
        told: dict[int, Line] = {}

        def tell(lines: Iterable[Line]) -> None:
            for line in lines:
                known = told.get(line.number)
                if known is None or not known.note:  # the first note on a line stays
                    told[line.number] = line

        lost = [self._acknowledged[value] for value in about if value in self._acknowledged]
        tell(lost)
        elections = self._elections(concerned)
        for won in elections:
            tell([won, *self._votes[self._terms.get(won.number)]])
        first_ns = min((won.at_ns for won in elections), default=now_ns)
        tell(self._silences(first_ns))
        tell(self._leases_after(first_ns, now_ns))
        # Nobody was elected: then it is about the primary that there is, and what it changed.
        deciding = self._changes if lost or elections else concerned & set(self._changes)
        tell(change for node in sorted(deciding) for change in self._changes[node])
        if not (lost or elections):
            tell(line for node, line in self._changing.items() if node in concerned)
        kinds = ("promotion", EventName.PRIMARY_ACTIVE, EventName.LEASE_RELEASED)
        leaders = concerned | {line.node for line in told.values()}
        tell(
            line for (node, kind), line in self._newest.items() if kind in kinds and node in leaders
        )
        tell(self._candidacies(concerned))
        restarted = [
            s for n, s in self._started.items() if n in concerned and now_ns - s.at_ns < SOON_NS
        ]
        tell(restarted)
        if restarted or not elections:
            tell(hold for node, hold in self._holds.items() if node in concerned)
        tell(self._at_work(concerned | {line.node for line in lost}, now_ns))
        if len(told) < ENOUGH:
            tell(line for node in sorted(concerned) for line in self._recent[node])
        return [told[number] for number in sorted(told)[-LINES_MAX:]]

    def _candidacies(self, concerned: set[str]) -> Iterable[Line]:
        """Return who stood in vain, how often and why, and who stands since."""
        for failing in self._failing.values():
            line, reason, times, since_ns = failing
            if line.node not in concerned:
                continue
            note = ""
            if times > 1:
                since = f"{since_ns / NS_PER_S:.3f} s"
                note = f"{times} candidacies of {line.node} have ended so since {since}: {reason}"
            yield line._replace(note=note)
        for (node, kind), line in self._newest.items():
            won = self._newest.get((node, EventName.ELECTION_WON))
            over = self._failing.get(node)
            ended = max(won.at_ns if won else 0, over.line.at_ns if over else 0)
            if kind == EventName.CANDIDACY_STARTED and node in concerned and line.at_ns > ended:
                yield line

    def _elections(self, concerned: set[str]) -> list[Line]:
        """Return the newest election of the cluster, and the newest of each of those concerned."""
        won = [line for (_, kind), line in self._newest.items() if kind == EventName.ELECTION_WON]
        if not won:
            return []
        newest = max(won)
        return [line for line in won if line is newest or line.node in concerned]

    def _silences(self, before_ns: int) -> Iterable[Line]:
        """Return which voters had waited for a whole hold before an election."""
        for (_, kind), line in self._newest.items():
            if kind == EventName.HOLD_EXPIRED and 0 <= before_ns - line.at_ns <= BEFORE_NS:
                yield line

    def _leases_after(self, election_ns: int, now_ns: int) -> Iterable[Line]:
        """Return the leases that had not ended when somebody was elected, or do not end."""
        for lease in self._leases.values():
            line, until = lease
            if until < election_ns and line.at_ns < election_ns:
                continue
            runs = "it still runs" if until > now_ns else "it has ended"
            ends = f"until {until / NS_PER_S:.3f} s; {runs}" if until else "no lease any more"
            yield line._replace(note=f"the newest lease of {line.node}: {ends}")

    def _at_work(self, nodes: set[str], now_ns: int) -> list[Line]:
        """Return the newest faults that may have had to do with it."""
        found = [
            fault.line
            for fault in self._faults.values()
            if (fault.ended_ns is None or now_ns - fault.ended_ns <= BEFORE_NS)
            and (nodes & set(fault.nodes) or now_ns - fault.line.at_ns <= JUST_NS)
        ]
        return sorted(found)[-FAULTS_MAX:]
