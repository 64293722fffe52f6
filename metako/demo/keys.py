"""What the user asks for: single keys on a terminal, one word a line from anything else.

Output: `Action`s into a channel. Invariant: the terminal's mode is restored on every way out.
"""

from __future__ import annotations

import enum
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import trio

LINE_BYTES_MAX = 4096


class Action(enum.StrEnum):
    KILL_PRIMARY = "kill-primary"
    KILL_HOST = "kill-host"
    PAUSE_HOST = "pause-host"
    RESUME = "resume"
    TOGGLE_PAUSE = "toggle-pause"
    RESTART = "restart"
    QUIT = "quit"


_KEYS = {
    "k": Action.KILL_PRIMARY,
    "h": Action.KILL_HOST,
    "p": Action.TOGGLE_PAUSE,
    "r": Action.RESTART,
    "q": Action.QUIT,
}


def action_of_key(key: str) -> Action | None:
    """Return what a key stands for; None for one without a meaning."""
    return _KEYS.get(key.lower())


def action_of_line(line: str) -> Action | None:
    """Return what a typed word stands for; the keys' letters work as well."""
    word = line.strip().lower()
    try:
        return Action(word)
    except ValueError:
        return action_of_key(word)


@contextmanager
def _cbreak(descriptor: int) -> Iterator[None]:
    saved = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


async def read_actions(send: trio.MemorySendChannel[Action]) -> None:
    """Send what the user asks for until the input ends.

    If cancelled, the terminal's mode is restored; a line that was being read is lost.
    """
    descriptor = sys.stdin.fileno()
    if os.isatty(descriptor):
        with _cbreak(descriptor):
            await _read_keys(descriptor, send)
    else:
        await _read_lines(descriptor, send)


async def _read_keys(descriptor: int, send: trio.MemorySendChannel[Action]) -> None:
    while True:  # ends with the terminal, or with the demo's nursery
        await trio.lowlevel.wait_readable(descriptor)
        data = os.read(descriptor, LINE_BYTES_MAX)
        if not data:
            return
        for key in data.decode("utf-8", "ignore"):
            if (action := action_of_key(key)) is not None:
                await send.send(action)


async def _read_lines(descriptor: int, send: trio.MemorySendChannel[Action]) -> None:
    # Files and /dev/null cannot be polled, so a thread reads; trio abandons it at the end.
    buffered = b""
    while True:  # ends with the input, or with the demo's nursery
        data = await trio.to_thread.run_sync(
            os.read, descriptor, LINE_BYTES_MAX, abandon_on_cancel=True
        )
        if not data:
            return
        *lines, buffered = (buffered + data).split(b"\n")
        buffered = buffered[-LINE_BYTES_MAX:]
        for line in lines:
            text = line.decode("utf-8", "ignore")
            if (action := action_of_line(text)) is not None:
                await send.send(action)
            elif text.strip():
                words = ", ".join(a.value for a in Action if a is not Action.TOGGLE_PAUSE)
                print(f"unknown command {text.strip()!r}; try {words}", file=sys.stderr)  # noqa: T201 - the program's own output
