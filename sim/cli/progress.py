"""How far a long command is, on stderr: a bar on a terminal, now and then a line elsewhere.

In: counts. Out: nothing that a program would read; results go to stdout. Invariant: what is told
with `say` stays on the screen, and no half-drawn bar is left, however the command ends.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from metako.cli.output import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_INTERVAL_S = 15.0
BAR_INTERVAL_S = 0.1


class Progress(Protocol):
    """Something that shows how far it is."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, *error: object) -> None: ...

    def begin(self, what: str, total: int) -> None:
        """Begin something that has `total` parts."""
        ...

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` parts are done."""
        ...

    def say(self, text: str) -> None:
        """Tell something that stays."""
        ...


def progress() -> Progress:
    """Return what suits stderr."""
    return BarProgress() if sys.stderr.isatty() else PlainProgress()


class PlainProgress:
    """Lines, seldom."""

    def __init__(self, interval_s: float = PLAIN_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._what, self._total = "", 0
        self._told_s = self._began_s = time.monotonic()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def begin(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._told_s = self._began_s = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < self._interval_s:
            return
        self._told_s = now_s
        more = f", {note}" if note else ""
        self.say(f"{self._what}: {done} of {self._total} in {now_s - self._began_s:.0f} s{more}")

    def say(self, text: str) -> None:
        _write(printable(text) + "\n")


class BarProgress:
    """A bar that is drawn again in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        # Drawn by `update` only: a thread of its own would have to be stopped around fork.
        self._bar: RichProgress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task: TaskID | None = None
        self._drawn_s = 0.0

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def begin(self, what: str, total: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=total, note="")
        self._bar.refresh()

    def update(self, done: int, note: str = "") -> None:
        now_s = time.monotonic()
        # Drawing takes milliseconds, and the caller has as many outcomes a second as there are.
        if self._task is not None and now_s - self._drawn_s >= BAR_INTERVAL_S:
            self._drawn_s = now_s
            self._bar.update(self._task, completed=done, note=note)
            self._bar.refresh()

    def say(self, text: str) -> None:
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        return  # nobody is left to be told
