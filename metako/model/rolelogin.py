"""What the catalogue says of one role that wants to log in."""

from __future__ import annotations

from dataclasses import dataclass, field

STORED_CHARS_MAX = 1024
"""Of a `rolpassword`. PostgreSQL makes none so long; a longer one is of no use to anybody."""


@dataclass(frozen=True, slots=True)
class RoleLogin:
    """The answer of a server that could be asked.

    `stored` logs in as well as a password does, or nearly: it goes into no log and no message but
    the one that it was asked for by.
    """

    found: bool  # whether there is such a role
    # `rolpassword`; None: it has none, may not log in, or its password is not valid any more.
    stored: str | None = field(default=None, repr=False)
