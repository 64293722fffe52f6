"""CPU time and memory of process trees, as /proc has them.

CPU time of a tree is that of its live processes and of all that they have waited for: a process
that forks for each client is charged for children that came and went between two looks.

User and system time are told in ticks of 10 ms, rounded down for each process, which hides all of
what two hundred processes did that worked for some milliseconds each. The scheduler's own account
has nanoseconds, but not of threads that have ended. So the larger of both is taken.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says of one process."""

    pid: int
    parent: int
    own_ticks: int
    waited_ticks: int  # of children that it waited for


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process tree. Pages that processes share are divided among them in `pss`."""

    rss: int = 0
    pss: int = 0


def parse_stat(text: str) -> Stat:
    """Return the parts of a line of /proc/PID/stat.

    Raises:
        ValueError: it is no such line.
    """
    pid, _, rest = text.partition(" ")
    # The name in parentheses may itself hold spaces and parentheses.
    words = rest[rest.rindex(")") + 1 :].split()
    if len(words) < 15:
        raise ValueError(f"no line of /proc/PID/stat: {text!r}")
    own, waited = (sum(int(word) for word in part) for part in (words[11:13], words[13:15]))
    return Stat(int(pid), int(words[1]), own, waited)


def parse_schedstat(text: str) -> int:
    """Return the nanoseconds that a thread ran, from /proc/PID/task/TID/schedstat."""
    return int(text.split()[0])


def parse_sizes(text: str) -> dict[str, int]:
    """Return the bytes of each line that has kilobytes, as several files of /proc have them."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found


def parse_rollup(text: str) -> Memory:
    """Return what /proc/PID/smaps_rollup says; fields that it does not have count as nothing."""
    found = parse_sizes(text)
    return Memory(found.get("Rss", 0), found.get("Pss", 0))


def process_stats() -> dict[int, Stat]:
    """Return every process that can be seen, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path("/proc", name, "stat").read_text(encoding="utf-8", errors="replace")
                found[int(name)] = parse_stat(text)
            except (OSError, ValueError):
                continue  # it ended meanwhile
    return found


def tree(roots: Iterable[int], stats: Mapping[int, Stat]) -> set[int]:
    """Return the pids of the processes that are there of `roots`, and of their descendants."""
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: set[int] = set()
    queue = [pid for pid in roots if pid in stats]
    while queue:
        pid = queue.pop()
        if pid not in found:
            found.add(pid)
            queue += children.get(pid, ())
    return found


def scheduled_ns(pid: int) -> int:
    """Return how long the threads that a process has now ran; 0 if the kernel does not tell."""
    total = 0
    # The process, or a thread of it, may end meanwhile.
    with contextlib.suppress(OSError):
        for path in Path("/proc", str(pid), "task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                total += parse_schedstat(path.read_text(encoding="ascii"))
    return total


def own_cpu_s(stat: Stat, scheduled: Callable[[int], int] = scheduled_ns) -> float:
    """Return the CPU seconds, user and system, of one process without its children."""
    return max(stat.own_ticks / TICKS_PER_S, scheduled(stat.pid) / 1e9)


def cpu_s(
    roots: Iterable[int],
    stats: Mapping[int, Stat],
    scheduled: Callable[[int], int] = scheduled_ns,
) -> float:
    """Return the CPU seconds, user and system, of the trees so far."""
    found = [stats[pid] for pid in tree(roots, stats)]
    waited = sum(stat.waited_ticks for stat in found) / TICKS_PER_S
    return waited + sum(own_cpu_s(stat, scheduled) for stat in found)


def memory(roots: Iterable[int]) -> Memory:
    """Return the memory of the trees now; processes that end meanwhile count as nothing."""
    rss = pss = 0
    for pid in tree(roots, process_stats()):
        try:
            text = Path("/proc", str(pid), "smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        one = parse_rollup(text)
        rss, pss = rss + one.rss, pss + one.pss
    return Memory(rss, pss)


def own_bytes(pids: Iterable[int]) -> int:
    """Return what would be free without these processes: what they share with others is not in it.

    Page tables are: a server process that maps shared memory has a good part of its memory there.
    """
    total = 0
    for pid in pids:
        at = Path("/proc", str(pid))
        try:
            mapped = parse_sizes((at / "smaps_rollup").read_text(encoding="ascii"))
            tables = parse_sizes((at / "status").read_text(encoding="ascii", errors="replace"))
        except OSError:
            continue  # it ended meanwhile
        total += mapped.get("Private_Clean", 0) + mapped.get("Private_Dirty", 0)
        total += tables.get("VmPTE", 0)
    return total


def available_bytes() -> int:
    """Return the memory that new processes may have before anything is swapped; 0: not told."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return parse_sizes(text).get("MemAvailable", 0)


def peak(one: Memory, other: Memory) -> Memory:
    return Memory(max(one.rss, other.rss), max(one.pss, other.pss))
