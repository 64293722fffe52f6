"""A process that plays runs, one after the other, and tells what came of each.

In: batches of jobs through a pipe, `None` at the end. Out: `Ready`, or a text that says why this
process cannot play; then one `Reply` a job, as soon as it is known. Invariant: it ends when its
parent does, and no seed can keep it busy for more than its CPU time.

It does not know what the runs are for, nor that there are other workers.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from types import FrameType
from typing import IO

from sim.result import Result
from sim.swarm.job import (
    EXCEPTION,
    TIME_LIMIT,
    Divergence,
    Job,
    Outcome,
    Player,
    failed,
    place,
    raised,
)
from sim.swarm.version import engine_version

MEMORY_BYTES_MAX = 4 << 30
"""Address space of a worker: a run that leaks fails by itself and leaves the machine alone."""
PR_SET_PDEATHSIG = 1


class SeedTimeLimit(BaseException):
    """The run used up its CPU time. Not an `Exception`: no handler in a run may swallow it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The player is loaded."""

    engine: str  # version of the sources, looked at when they had been loaded


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of the next job of the batch."""

    outcome: Outcome
    ends: bool = False  # the worker ends after this one; what is left of the batch was not begun


def serve(pipe: Connection, parent: int, player_name: str, limit_s: float) -> None:
    """Play what comes through `pipe` until the parent ends or says that it was all.

    Args:
        parent: its process id, to notice that it ended before we could ask the kernel to tell us.
        player_name: `module:function` of the player.
        limit_s: CPU time of a run.
    """
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    signal.signal(signal.SIGPROF, _out_of_time)
    try:
        try:
            player = find_player(player_name)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells the user
            pipe.send(f"{type(error).__name__}: {error}")
            return
        pipe.send(Ready(engine_version()))
        while (batch := pipe.recv()) is not None:
            for job in batch:
                reply = play(player, job, limit_s)
                pipe.send(reply)
                if reply.ends:
                    return
                if reply.outcome.ends_batch:
                    break
    except (EOFError, ConnectionError):
        return  # the parent has gone: nobody wants to know


def find_player(name: str) -> Player:
    """Return the function that a `module:function` names."""
    module, _, function = name.partition(":")
    player: Player = getattr(importlib.import_module(module), function)
    return player


def play(player: Player, job: Job, limit_s: float) -> Reply:
    """Play one job; whatever happens in it is an outcome."""
    began_ns = time.process_time_ns()
    try:
        # The timer counts this process's own time: a busy machine makes no run fail.
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        try:
            outcome = _play(player, job)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except SeedTimeLimit as error:
        # The innermost frame is the handler of the signal.
        where = place(error, without=_out_of_time.__name__)
        text = f"not at its end after {limit_s:g} s of CPU time; it was {where}"
        outcome = failed(job, TIME_LIMIT, text, cpu_ns=time.process_time_ns() - began_ns)
        # Interrupted anywhere, the run may have left a planted bug behind: no more runs here.
        return Reply(outcome, ends=True)
    except MemoryError as error:
        text = f"more than {MEMORY_BYTES_MAX >> 30} GiB of memory; it was {place(error)}"
        outcome = failed(job, EXCEPTION, text, cpu_ns=time.process_time_ns() - began_ns)
        return Reply(outcome, ends=True)
    except Exception as error:  # noqa: BLE001 - an assertion of the engine is a finding like others
        outcome = failed(job, EXCEPTION, raised(error))
    return Reply(replace(outcome, cpu_ns=time.process_time_ns() - began_ns))


def _play(player: Player, job: Job) -> Outcome:
    divergence = None
    if job.compare_trace is not None:
        with open(job.compare_trace, encoding="utf-8") as trace:
            comparison = Comparison(trace)
            result = player(job, comparison.line)
            divergence = comparison.end()
    elif job.write_trace is not None:
        with open(job.write_trace, "w", encoding="utf-8") as trace:
            result = player(job, _writer(trace))
    else:
        result = player(job, None)
    outcome = Outcome(job, _portable(result), divergence=divergence)
    if outcome.ok or not job.control:
        return outcome
    return replace(outcome, control_violation=player(replace(job, mutation=None), None).violation)


class Comparison:
    """Compares a trace, line by line as it is made, with one that was written before."""

    def __init__(self, expected: IO[str]) -> None:
        self._expected = expected
        self._count = 0
        self._first: Divergence | None = None

    def line(self, text: str) -> None:
        if self._first is not None:
            return
        self._count += 1
        expected = self._expected.readline().rstrip("\n")
        if expected != text.rstrip("\n"):
            self._first = Divergence(self._count, expected, text.rstrip("\n"))

    def end(self) -> Divergence | None:
        """Return the first difference; a trace that ended early is one."""
        more = self._expected.readline() if self._first is None else ""
        if more:
            return Divergence(self._count + 1, more.rstrip("\n"), "")
        return self._first


def _writer(file: IO[str]) -> Callable[[str], None]:
    def write(line: str) -> None:
        file.write(line if line.endswith("\n") else line + "\n")

    return write


def _portable(result: Result) -> Result:
    """Return `result` as it travels: any mapping as a dict, no faults of a run that went well."""
    return replace(result, marks=dict(result.marks), faults=() if result.ok else result.faults)


def _out_of_time(signal_number: int, frame: FrameType | None) -> None:
    raise SeedTimeLimit


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)
