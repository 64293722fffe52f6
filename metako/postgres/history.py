"""Timeline history files: reading them, and which timeline descends from which.

A history file `NNNNNNNN.history` lists the ancestors of timeline N, oldest first, one line each:
`parentTLI<tab>switchLSN<tab>reason`. PostgreSQL takes the number after the newest consecutive
history file for a promotion, so skipped numbers are filled by *placeholders*: files that hold only
a comment and therefore name no parent.

Pure: the driver reads the files; a mapping from number to text is all that is needed here.

Source: PostgreSQL, src/backend/access/transam/timeline.c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from metako.model.ids import TimelineId
from metako.model.lsn import Lsn, format_lsn, parse_lsn
from metako.model.timeline import HistoryStep

PLACEHOLDER = "# metako: this timeline number is reserved and was never used\n"

PARSED_MAX = 64
"""History files that are remembered as parsed: the one of the timeline in use is asked for at every
look at the server, and grows with each failover."""

_FILE = re.compile(r"([0-9A-F]{8})(?:\.history|[0-9A-F]{16}(?:\.partial)?)")
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_LINE = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)(?:\s.*)?")


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One line of a history file: `tli` was left at `switch_lsn`."""

    tli: TimelineId
    switch_lsn: Lsn


def history_name(tli: int) -> str:
    return f"{tli:08X}.history"


def timeline_of_file(name: str) -> TimelineId | None:
    """Return the timeline that a file of pg_wal belongs to; None for any other file."""
    match = _FILE.fullmatch(name)
    return TimelineId(int(match[1], 16)) if match else None


def is_segment(name: str) -> bool:
    return _SEGMENT.fullmatch(name) is not None


def segment_name(tli: int, number: int, segment_size: int) -> str:
    """Return the file name of the `number`-th segment of a timeline."""
    per_id = (1 << 32) // segment_size
    return f"{tli:08X}{number // per_id:08X}{number % per_id:08X}"


def segment_number(name: str, segment_size: int) -> int:
    """Return the number of a segment, counted from the beginning of the WAL."""
    return int(name[8:16], 16) * (0x1_0000_0000 // segment_size) + int(name[16:24], 16)


@lru_cache(maxsize=PARSED_MAX)
def parse_history(text: str) -> tuple[Ancestor, ...]:
    """Return the ancestors that a history file lists; empty for a placeholder.

    Raises:
        ValueError: a line is neither a comment nor an ancestor.
    """
    lines = (_ancestor(line) for line in text.splitlines())
    return tuple(ancestor for ancestor in lines if ancestor is not None)


def _ancestor(line: str) -> Ancestor | None:
    """Return what a line of a history file says; None for a comment.

    Raises:
        ValueError: it is neither.
    """
    if not line.strip() or line.lstrip().startswith("#"):
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a line of a history file: {line!r}")
    return Ancestor(TimelineId(int(match[1])), parse_lsn(match[2]))


def _parent(text: str) -> Ancestor | None:
    """Return the last ancestor that a history file lists, without reading the others."""
    for line in reversed(text.splitlines()):
        if (ancestor := _ancestor(line)) is not None:
            return ancestor
    return None


def is_placeholder(text: str) -> bool:
    return text.startswith("# metako")


def own_chain(tli: TimelineId, files: Mapping[int, str]) -> tuple[HistoryStep, ...]:
    """Return the chain of a server that is on `tli`, oldest first, as its history file tells it.

    Without a file the server knows only the timeline itself; that is right for timeline 1 and
    says too little, never too much, for any other.
    """
    if not tli:
        return ()
    ancestors = parse_history(files.get(tli, ""))
    begins = [Lsn(0), *(a.switch_lsn for a in ancestors)]
    numbers = [*(a.tli for a in ancestors), tli]
    return tuple(HistoryStep(number, begin) for number, begin in zip(numbers, begins, strict=True))


def children_of(tli: TimelineId, files: Mapping[int, str]) -> tuple[HistoryStep, ...]:
    """Return the timelines that branch directly off `tli` and where, newest number first."""
    return branches(files).get(tli, ())


def branches(files: Mapping[int, str]) -> Mapping[TimelineId, tuple[HistoryStep, ...]]:
    """Return, for each timeline that others branch off, what `children_of` returns for it."""
    children: dict[TimelineId, tuple[HistoryStep, ...]] = {}
    for number in sorted(files, reverse=True):
        parent = _parent(files[number])
        if parent is not None and number > parent.tli:
            child = HistoryStep(TimelineId(number), parent.switch_lsn)
            children[parent.tli] = (*children.get(parent.tli, ()), child)
    return children


def may_have_gone_over(current: TimelineId, files: Mapping[int, str]) -> TimelineId | None:
    """Return a timeline that a running standby on `current` may follow by now, or None.

    A standby that waits for WAL goes over as soon as it finds the history file of a descendant,
    also of one that begins beyond the end of its own WAL. Its promotion would then write a history
    that leads through that timeline, and nothing could follow it.
    """
    for number in sorted(files, reverse=True):
        if number > current and current in {a.tli for a in parse_history(files[number])}:
            return TimelineId(number)
    return None


def missing_histories(
    current: TimelineId, reserved: TimelineId, files: Mapping[int, str]
) -> Mapping[int, str]:
    """Return the history files, by timeline, that have to be there before a promotion.

    Numbers that were skipped get placeholders, else PostgreSQL would not take the reserved one. The
    ancestors of the timeline in use get their own history again: a base backup brings only the
    newest file, and a standby that is still on an older timeline asks its upstream for each one in
    between and cannot go on if a single one is missing.

    Args:
        current: the timeline in use.
        reserved: the one that the promotion is to take.
        files: the history files that are there.
    """
    ancestors = parse_history(files.get(current, ""))
    known = {a.tli: ancestors[:index] for index, a in enumerate(ancestors)}
    return {
        number: _history_text(known[TimelineId(number)]) if number in known else PLACEHOLDER
        for number in range(2, reserved)
        if number not in files and number != current
    }


def _history_text(ancestors: Sequence[Ancestor]) -> str:
    return "".join(f"{a.tli}\t{format_lsn(a.switch_lsn)}\tbefore a promotion\n" for a in ancestors)
