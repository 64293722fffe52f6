"""The timing of agreement. Every number has its unit in its name; relations are asserted here."""

from __future__ import annotations

from dataclasses import dataclass

from metako.model.document import Durability, PairMode
from metako.model.ids import NodeId

CLOCK_RATE_ERROR = 0.01
"""ρ: clock rates of any two nodes may differ from true time by at most this fraction."""


@dataclass(frozen=True, slots=True)
class ElectionSettings:
    """What an operator can tune. `profile` values are in `metako.config`."""

    heartbeat_ms: int = 250  # between two rounds of a leader
    hold_ms: int = 2000  # Lv: how long a voter holds after a heartbeat
    fence_margin_ms: int = 150  # F: time PostgreSQL needs to die; the guard fires this early
    stagger_ms: int = 80  # between the candidacies of two ranks
    jitter_ms: int = 30  # random part of the delay of a candidacy
    retry_ms: int = 60  # unanswered requests are repeated this often
    candidacy_timeout_ms: int = 2000  # a candidacy that has not won by then is given up
    standby_grace_ms: int = 1500  # a listed standby may be away this long before it is removed
    standby_settle_ms: int = 200  # a standby must stream this long before it is added
    sync_change_timeout_ms: int = 5000  # a change of PostgreSQL's setting may take this long
    hang_timeout_ms: int = 6000  # a primary that answers nobody for so long is ended
    timelines_sent: int = 4  # the newest ones, in a document sent to who should have the others
    stop_timeout_ms: int = 10_000  # a fast shutdown becomes an immediate one after this

    def __post_init__(self) -> None:
        assert 0 < self.heartbeat_ms * 4 <= self.hold_ms, "hold must span four heartbeats"
        assert 0 < self.fence_margin_ms < self.hold_ms // 2
        assert self.timelines_sent > 0

    def lease_ms(self, hold_ms: int) -> int:
        """Return Ll ≤ Lv·(1−ρ)/(1+ρ): what a leader may count for a hold of `hold_ms`."""
        return int(hold_ms * (1 - CLOCK_RATE_ERROR) / (1 + CLOCK_RATE_ERROR))


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What the configuration says about the cluster.

    Name, bootstrap node, members and durability are used at the first bootstrap only.
    """

    name: str
    bootstrap_node: NodeId
    voters: tuple[NodeId, ...]  # every configured voter, this node included if it is one
    witnesses: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    durability: Durability = Durability.QUORUM
    acks: int = 1  # k wanted once enough standbys stream
    min_votes: int = 0  # least votes for a failover; never fewer than a majority
    priority: int = 100  # of this node; 0 never stands
    zone: str = ""  # of this node; among equals who is in the primary's zone goes first
    max_lag_bytes: int = 1 << 20  # `async` only: who is further behind is not elected
    watchdog_required: bool = False  # this node does not lead while its watchdog cannot be armed
    pair_mode: PairMode | None = PairMode.MANUAL  # of two voters; None: their majority, both
    takeover_wait_ms: int = 0  # `takeover` only: beyond the hold, before the standby takes over
