"""A task of the simulated agent: a generator that yields how long it sleeps.

The same linear text as production's coroutines, on the event heap. A task of a paused agent does
not run; it goes on, late, when the agent does. A cancelled task runs its clean-up; a task of a
killed agent just ends, as a process does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol

from sim.heap import Entry, Heap

Steps = Generator[int, None, None]
"""Yields nanoseconds to sleep."""


class Owner(Protocol):
    """The agent process that a task belongs to."""

    @property
    def heap(self) -> Heap: ...

    @property
    def paused(self) -> bool: ...

    @property
    def alive(self) -> bool: ...


class Task:
    """Runs a generator until it ends, is cancelled, or its owner is killed."""

    __slots__ = ("_body", "_entry", "_finished", "_owner", "_running", "_woken", "error", "over")

    def __init__(
        self, owner: Owner, body: Steps, finished: Callable[[Task], None] | None = None
    ) -> None:
        self._owner = owner
        self._body = body
        self._finished = finished
        self._entry: Entry | None = None  # when it goes on; None while it runs or waits for resume
        self._running = False
        self._woken = False  # the next sleep ends at once
        self.error: Exception | None = None  # that it ended with
        self.over = False

    def start(self) -> None:
        """Run to the first sleep."""
        self._go_on()

    def wake(self) -> None:
        """End the current sleep, or the next one if it runs now."""
        if self._running or self.over:
            self._woken = True
        elif self._entry is not None:
            Heap.cancel(self._entry)
            self._entry = self._owner.heap.after(0, self._go_on)

    def resume(self) -> None:
        """Go on after the owner's pause, if the sleep has ended meanwhile."""
        if self._entry is None and not self._running and not self.over:
            self._entry = self._owner.heap.after(0, self._go_on)

    def cancel(self) -> None:
        """End it now; its clean-up runs."""
        if not self.over and not self._running:
            self._end()
            self._body.close()

    def _go_on(self) -> None:
        self._entry = None
        owner = self._owner
        if self.over or not owner.alive or owner.paused:
            return
        self._running = True
        try:
            delay = next(self._body)
        except StopIteration:
            self._end()
        except (StepError, SqlError) as error:
            self.error = error
            self._end()
        else:
            if self._woken:
                self._woken, delay = False, 0
            self._entry = owner.heap.after(delay, self._go_on)
        finally:
            self._running = False
        if self.over and self._finished is not None:
            self._finished(self)

    def _end(self) -> None:
        self.over = True
        Heap.cancel(self._entry)
        self._entry = None


class StepError(Exception):
    """The step did not succeed; it may have been done in part and can be tried again."""


class SqlError(Exception):
    """A statement failed or was not answered in time."""
