"""What a guard's client tells its reader: past facts about the server, in the order seen.

Plain values; nothing here knows how they came about.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exited:
    """The postmaster ended. Some of its processes may be left until `Gone`."""

    pid: int
    status: int | None  # as waitpid gives it; None if the guard has not told it yet


@dataclass(frozen=True, slots=True)
class Gone:
    """Every process of the server is reaped."""

    pid: int  # of the postmaster


@dataclass(frozen=True, slots=True)
class Fenced:
    """A deadline passed and every process was ended. The term can never be armed again."""

    term: int
    reason: str


@dataclass(frozen=True, slots=True)
class GuardLost:
    """The guard ended or closed the connection. Its server got SIGQUIT if it ended."""


GuardEvent = Exited | Gone | Fenced | GuardLost
