"""How many connections to servers a proxy may have, and for how long.

Apart from the pool that keeps to them: the agent, which only hands them on, need not load it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Limits:
    """0 says that there is none."""

    server: int = 0  # legs in all
    user: int = 0  # of one user
    database: int = 0  # of one database
    key: int = 0  # of one key
    idle_ns: int = 600_000_000_000  # a leg that nobody used for so long is closed
    life_ns: int = 3_600_000_000_000  # a leg that is so old is not kept when it comes back

    def shared_by(self, workers: int) -> Limits:
        """Return the share of each of so many workers, rounded up."""
        counts = (self.server, self.user, self.database, self.key)
        server, user, database, key = (-(-count // workers) for count in counts)
        return replace(self, server=server, user=user, database=database, key=key)


NO_LIMITS = Limits()
