"""What a proxy limits, and for how long: all that a running worker can be given anew.

Apart from the parts that keep to them: the agent, which only hands them on, need not load those.
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
    # 1: DISCARD ALL only where something is seen to be left behind. What functions and triggers do
    # to a session is not seen, such as the setting of a tenant: the next client would have it too.
    lenient: int = 0

    def shared_by(self, workers: int) -> Limits:
        """Return the share of each of so many workers, rounded up."""
        counts = (self.server, self.user, self.database, self.key)
        server, user, database, key = (-(-count // workers) for count in counts)
        return replace(self, server=server, user=user, database=database, key=key)


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds; 0 says that there is none."""

    read_s: float = 0.0  # a statement that certainly only reads, outside of a transaction
    write_s: float = 0.0  # any other statement
    idle_s: float = 0.0  # a client between two transactions
    idle_in_transaction_s: float = 0.0  # a client within one
    login_s: float = 60.0  # people type passwords after they connected
    drain_s: float = 600.0  # a worker that was replaced, before it ends those who are still there


NO_TIMEOUTS = Timeouts()


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a running worker can be given anew."""

    sessions_max: int
    queue_timeout_s: float
    limits: Limits = NO_LIMITS
    timeouts: Timeouts = NO_TIMEOUTS
    admins: tuple[str, ...] = ()  # who may use the console

    def shared_by(self, workers: int) -> Tuning:
        """Return what each of so many workers is to keep to, of what is meant for their node."""
        share = -(-self.sessions_max // workers)
        return replace(self, sessions_max=share, limits=self.limits.shared_by(workers))
