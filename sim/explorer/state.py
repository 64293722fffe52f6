"""What a state of the explored model is made of, and the tables that keep it small.

Nodes, documents and WALs are immutable; each different one is stored once and has a number, in the
order of discovery, which is the same in every run. A state is compared by those numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from metako.model.ids import TimelineId
from metako.model.lsn import Lsn, WalPosition
from metako.model.timeline import HistoryStep

NOBODY = -1
UNTOLD = -2
"""`Node.upstream` of a lost record that never told of a server that had left its primary."""

STANDBY, CLOSED, OPEN = 0, 1, 2
"""A server in recovery; a primary before it admits applications; one that has admitted them."""

PRESENT, FORGOTTEN, REPLACED = 0, 1, 2
"""The agent of a name now; one whose record is lost, of which only answers under way are left; and
one whose host was replaced under its name, which goes on elsewhere."""

Setting = tuple[int, int]
"""A sync set as PostgreSQL has it: the nodes as bits, and k."""

NOTHING: Setting = (0, 0)


class Record(NamedTuple):
    """One WAL record. A server sees its timeline; who wrote it, and in which term, only we see."""

    tli: int
    term: int
    node: int


Branch = tuple[int, int]
"""Who wrote a stretch of WAL: the term, and the node."""

Wal = tuple[Record, ...]
Acked = tuple[tuple[Branch, int], ...]
"""For each branch with an acknowledged record, the last one's LSN."""


class Node(NamedTuple):
    """One durable record (first three), the leadership of its agent, and the server beside it.

    There is one for each name, and one more for each record that was made anew. Votes, answers and
    settings go by names, as those of production; `upstream` is one of these.
    """

    promised: int  # promised_term
    vote: int  # the name it voted for in that term; NOBODY if none, or if it matters no more
    document: int  # number of the document held
    acks: int  # the names that acknowledged that document, as bits; 0 if this node does not lead
    server: int  # STANDBY, CLOSED or OPEN
    upstream: int  # from whom the WAL receiver gets WAL; NOBODY when it is gone; UNTOLD
    wal: int  # number of the WAL on disk
    sync: Setting  # in force at a primary
    stale: tuple[Setting, ...]  # settings before it that some WAL sender may still go by
    change: int  # 0; else PostgreSQL makes a change first: the barrier's LSN, -1 if read at its end
    fresh: bool = False  # it has stood again, and no document of the new term is on a majority yet
    before: Setting | None = None  # the committed sync set, while a newer one is not on a majority
    name: int = 0  # under which it is known
    data: int = 0  # identity of its data (`data_after`); NOBODY while it has none
    past: int = PRESENT  # or FORGOTTEN, or REPLACED
    adds: int = NOBODY  # data of the first standby, while a change from empty is not proposed yet
    former: int = NOBODY  # the committed document, while one with other voters is not
    sole: int = 0  # term of which it knows a committed document by which it decides alone; 0: none


class State(NamedTuple):
    """All nodes, and what was ever acknowledged."""

    nodes: tuple[Node, ...]
    acked: Acked


Step = tuple[str | int, ...]
"""The name of an action and what it was done with; `narrate` turns it into words."""

T = TypeVar("T", bound=Hashable)


class Table(Generic[T]):
    """Different values, numbered in the order in which they were first seen."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[T, int] = {}

    def number(self, value: T) -> int:
        known = self._numbers.get(value)
        if known is None:
            known = self._numbers[value] = len(self.values)
            self.values.append(value)
        return known

    def __getitem__(self, number: int) -> T:
        return self.values[number]

    def __len__(self) -> int:
        return len(self.values)


class Renamed(Generic[T]):
    """The numbers of a table's values after the nodes were renamed in one way."""

    def __init__(self, table: Table[T], rename: Callable[[T], T]) -> None:
        self._table, self._rename = table, rename
        self._known: list[int] = []

    def number(self, number: int) -> int:
        known = self._known
        while len(known) <= number:
            known.append(NOBODY)
        if known[number] == NOBODY:
            known[number] = self._table.number(self._rename(self._table[number]))
        return known[number]


REWOUND = 16
"""Data is known by the node where it was first, and this for each time that it was rewound."""


def data_after(data: int, number: int) -> int:
    """Return the identity of data that a node has rewound."""
    return number + REWOUND * (data // REWOUND + 1)


def history_of(wal: Wal) -> tuple[HistoryStep, ...]:
    """Return the history that a server with this WAL has: the timelines in it, and their begins."""
    found: list[HistoryStep] = []
    for lsn, record in enumerate(wal):
        if not found or found[-1].tli != record.tli:
            found.append(HistoryStep(TimelineId(record.tli), Lsn(lsn)))
    return tuple(found)


def position_of(wal: Wal) -> WalPosition:
    """Return the end of the WAL as its server finds it."""
    return WalPosition(TimelineId(wal[-1].tli), Lsn(len(wal)))


def shared(one: Wal, other: Wal) -> int:
    """Return how many records two servers take for the same: they see timelines, not branches."""
    length = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine.tli != theirs.tli:
            break
        length += 1
    return length


def holds(wal: Wal, branch: Branch, lsn: int) -> bool:
    """Return whether the record that ended at `lsn` on `branch` is in a WAL."""
    return len(wal) >= lsn and wal[lsn - 1][1:] == branch


def bits(mask: int) -> list[int]:
    """Return the nodes of a set given as bits."""
    return [node for node in range(mask.bit_length()) if mask >> node & 1]
