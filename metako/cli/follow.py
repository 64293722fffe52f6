"""What `metako switchover` and `metako members` have in common: an order, and what becomes of it.

In: the agent that took the order, and whoever judges each status that it shows. Out: the ending,
told in a line or as JSON, and an exit code: 0 done, 1 not, 130 after an interrupt.

Invariant: an agent that is away for a moment is waited for, because the change does not depend on
it; nothing here ends the change.

Deliberately unaware of what was ordered.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from metako.api.client import AgentAnswer, LocalAgent
from metako.cli.main import EXIT_INTERRUPTED
from metako.cli.output import printable, write_json, write_line
from metako.cli.status_data import Data
from metako.model.errors import MetakoError, UnreachableError

EXIT_FAILED = 1
POLL_INTERVAL_S = 0.1
STATUS_TIMEOUT_S = 3.0

Seen = TypeVar("Seen")


class Ending(Protocol):
    """How it ended, or why it was not begun."""

    @property
    def ok(self) -> bool:
        """Whether what was wanted is so now."""

    @property
    def reason(self) -> str:
        """Why not, for people."""

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""


class Watch:
    """One order, from the moment when it is given."""

    def __init__(self, agent: LocalAgent) -> None:
        self._agent = agent
        self._began_s = time.monotonic()

    def after_s(self) -> float:
        return time.monotonic() - self._began_s

    def follow(self, see: Callable[[Data, float], Seen | None], limit_s: float) -> Seen | None:
        """Show `see` each status, with its age, until it returns something; None: time is up.

        Args:
            see: the judge.
            limit_s: since the order was given.
        """
        silent = False  # the agent did not answer when last asked
        while self.after_s() < limit_s:
            try:
                data = self._agent.status(STATUS_TIMEOUT_S)
            except UnreachableError as error:
                # An agent that is restarted comes back; the change does not depend on it.
                if not silent:
                    sys.stderr.write(f"metako: {error}; still waiting\n")
                silent = True
            else:
                silent = False
                seen = see(data, self.after_s())
                if seen is not None:
                    return seen
            time.sleep(POLL_INTERVAL_S)
        return None


def finish(ending: Ending, done: str, *, as_json: bool) -> int:
    """Tell the ending, in the line `done` if it is a good one; return the exit code.

    Raises:
        MetakoError: it is a bad one, and JSON is not asked for.
    """
    if as_json:
        write_json(ending.as_json())
        return 0 if ending.ok else EXIT_FAILED
    if not ending.ok:
        raise MetakoError(ending.reason)
    write_line(done)
    return 0


def interrupted(ending: Ending, *, as_json: bool) -> int:
    """Tell that nobody watches any more; return the exit code."""
    if as_json:
        write_json(ending.as_json())
    else:
        sys.stderr.write(f"metako: {ending.reason}\n")
    return EXIT_INTERRUPTED


def words_of(answer: AgentAnswer) -> str:
    """Return what the leader, or the agent, said to an order."""
    default = "taken" if answer.accepted else "refused without a reason"
    return printable(answer.reason) or default


def teller(*, as_json: bool) -> Callable[[str], None]:
    """Return where lines about the course go: JSON is one object at the end, and nothing before."""
    return _silent if as_json else write_line


def _silent(_line: str) -> None:
    return
