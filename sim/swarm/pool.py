"""Worker processes: started, fed, watched and ended.

In: `Work`, which gives out jobs and takes outcomes. Out: exactly one outcome for each job given
out, unless the user interrupts. Invariants: after the `with` block no worker is left; a worker
that dies or gets nowhere costs the run that it was playing and nothing else; every queue is
bounded, because a worker holds one batch and sends nothing before the one before was taken.

The order of outcomes is not fixed. Whoever needs an order makes it (`sim.swarm.campaign`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Protocol

from metako.model.errors import MetakoError
from sim.swarm.job import WORKER_DIED, Job, Outcome, failed
from sim.swarm.worker import Ready, Reply, serve

TICK_S = 0.1
"""How often signals, silence and the progress are looked at while no outcome arrives."""
SILENCE_FACTOR = 10
"""A worker measures its CPU time itself. One that says nothing for this many times the limit, by
the clock on the wall, can no longer do so and is killed."""
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 10.0
DEATHS_MAX = 100
"""More deaths than this in one campaign are no property of seeds."""
PLAYER = "sim.swarm.player:play_job"
DEFAULT_LIMIT_S = 60.0


class SwarmError(MetakoError):
    """The workers cannot do their work. No outcome of a run is involved."""


class Work(Protocol):
    """What the workers are for."""

    @property
    def over(self) -> bool:
        """Whether nothing more is wanted, not even what was given out."""
        ...

    def take(self) -> Sequence[Job]:
        """Return the next batch for a free worker; empty if there is none now."""
        ...

    def put(self, outcome: Outcome) -> None:
        """Take the outcome of a job that was given out.

        After one with `ends_batch` the rest of its batch gets no outcome.
        """
        ...


@dataclass(frozen=True, slots=True)
class Workers:
    """How to run workers."""

    count: int = 2
    limit_s: float = DEFAULT_LIMIT_S  # CPU time of one run
    player: str = PLAYER  # `module:function`
    hash_seed: str | None = None  # PYTHONHASHSEED of the workers; None: whatever is set
    engine: str | None = None  # version that they must play; None: that of the first of them


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: connection.Connection
    heard_s: float  # when it last said anything
    ready: bool = False
    pending: deque[Job] = field(default_factory=deque)  # given to it, without an outcome so far


class Pool:
    """Processes that play what `Work` gives out."""

    def __init__(self, workers: Workers) -> None:
        self._how = workers
        self._engine = workers.engine
        self._workers: list[_Worker] = []
        self._again: deque[Job] = deque()  # their worker ended before they were begun
        self._deaths = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def run(self, work: Work, *, tick: Callable[[], None] = lambda: None) -> int:
        """Play everything that `work` has; return 0, or the signal that ended it early.

        The workers stay for another call; none is left after a signal, and if the work is over.

        Raises:
            SwarmError: the workers cannot be started, play another program than they must,
            or die all the time. They are ended.
        """
        try:
            with _signals() as received:
                while not received and not work.over:
                    self._feed(work)
                    if not any(worker.pending for worker in self._workers):
                        break
                    self._listen(work)
                    tick()
        except BaseException:
            self.end()
            raise
        if received or work.over:
            self.end()
        return received[0] if received else 0

    def end(self) -> None:
        """End every worker at once; they hold nothing that needs an orderly end."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            self._forget(worker)
        self._workers.clear()
        self._again.clear()

    def _feed(self, work: Work) -> None:
        free = [worker for worker in self._workers if not worker.pending]
        while free or len(self._workers) < self._how.count:
            batch = [self._again.popleft()] if self._again else list(work.take())
            if not batch:
                return
            worker = free.pop() if free else self._start()
            worker.pending.extend(batch)
            worker.heard_s = time.monotonic()
            # If it has died, `_listen` finds that out and knows what it held.
            with suppress(ConnectionError):
                worker.pipe.send(batch)

    def _listen(self, work: Work) -> None:
        busy = {worker.pipe: worker for worker in self._workers if worker.pending}
        for pipe in connection.wait(list(busy), timeout=TICK_S):
            assert isinstance(pipe, connection.Connection)
            worker = busy[pipe]
            try:
                message = pipe.recv()
            except (EOFError, ConnectionError):
                worker.process.join(END_TIMEOUT_S)
                self._died(worker, work, f"its process ended ({_exit(worker.process)})")
                continue
            worker.heard_s = time.monotonic()
            self._heard(worker, message, work)
        now_s = time.monotonic()
        for worker in list(self._workers):
            allowed_s = self._how.limit_s * SILENCE_FACTOR if worker.ready else START_TIMEOUT_S
            if worker.pending and now_s - worker.heard_s > allowed_s:
                self._died(worker, work, f"its process was silent for {allowed_s:g} s")

    def _heard(self, worker: _Worker, message: object, work: Work) -> None:
        if isinstance(message, Ready):
            # Runs of two programs have no sum, and would look like runs that do not repeat.
            self._engine = self._engine or message.engine
            if message.engine != self._engine:
                raise SwarmError("the sources changed while their runs were played; begin again")
            worker.ready = True
            return
        if not isinstance(message, Reply):
            raise SwarmError(f"a worker could not start: {message}")
        worker.pending.popleft()
        if message.outcome.ends_batch:
            worker.pending.clear()
        if message.ends:
            self._replace(worker)
        work.put(message.outcome)

    def _died(self, worker: _Worker, work: Work, text: str) -> None:
        if not worker.ready:
            raise SwarmError(f"a worker could not start: {text}")
        self._deaths += 1
        if self._deaths > DEATHS_MAX:
            raise SwarmError(f"workers keep dying; the last one: {text}")
        outcome = failed(worker.pending.popleft(), WORKER_DIED, text)
        if outcome.ends_batch:
            worker.pending.clear()
        self._replace(worker)
        work.put(outcome)

    def _replace(self, worker: _Worker) -> None:
        """Let go of a worker; what it had not begun is given out again, in its order."""
        self._again.extend(worker.pending)
        self._workers.remove(worker)
        worker.process.kill()
        self._forget(worker)

    def _start(self) -> _Worker:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve,
            args=(theirs, os.getpid(), self._how.player, self._how.limit_s),
            name=f"swarm-{len(self._workers) + 1}",
            daemon=True,
        )
        # Started by the first worker, this helper of multiprocessing unblocks the signals below.
        resource_tracker.ensure_running()
        # A worker inherits the mask: Ctrl-C at the terminal is for the parent alone to act upon.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _hash_seed(self._how.hash_seed):
                process.start()
        except OSError as error:
            raise SwarmError(f"a worker could not start: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker = _Worker(process, ours, time.monotonic())
        self._workers.append(worker)
        return worker

    @staticmethod
    def _forget(worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.join(END_TIMEOUT_S)
        if worker.process.exitcode is not None:
            worker.process.close()


def _exit(process: SpawnProcess) -> str:
    code = process.exitcode
    if code is None:
        return "still there"
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


@contextmanager
def _hash_seed(value: str | None) -> Iterator[None]:
    """Have processes that are started in the block hash with this seed."""
    if value is None:
        yield
        return
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask us to end; a second one ends us where we are."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
