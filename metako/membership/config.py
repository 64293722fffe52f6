"""Settings of the failure detector, with the formula of each beside it.

In: numbers from the timing profile. Out: one frozen value that every part of membership reads.
Invariant: the relations asserted in `__post_init__` hold, so no part checks them again.
Deliberately unaware of where the numbers come from, and of leases: gossip never shortens a hold.

Source of the formulas: SWIM (DSN 2002), Lifeguard (arXiv:1707.00788), hashicorp/memberlist.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """Settings. n is the number of members held alive or suspect, this node included."""

    # One member is probed per interval x (health score + 1). First detection of a crash takes
    # e/(e-1) = 1.58 intervals on average, 2n-1 at most.
    probe_interval_ms: int = 500
    # Wait for the direct ack before asking others. Not scaled by the health score: waiting longer
    # does not make UDP arrive, it only eats the time of the indirect probes.
    probe_timeout_ms: int = 200
    # A relay says "no ack" after this; 80 % of the timeout, so that its nack arrives in time.
    nack_timeout_ms: int = 160
    # Members asked to probe the target for us when it does not answer.
    indirect_checks: int = 3
    # a in: floor = a * scale(n) * probe_interval. See `suspicion.window_for`.
    suspicion_mult: int = 3
    # b in: ceiling = b * floor.
    suspicion_max_mult: int = 4
    # A rumour is sent retransmit_mult * ceil(log10(n + 1)) times by every member that learns it.
    retransmit_mult: int = 4
    # Rumours also travel without a probe, to `gossip_fanout` members every interval.
    gossip_interval_ms: int = 200
    gossip_fanout: int = 3
    # A dead member is still told the news for so long; it may only have been paused.
    gossip_to_dead_s: int = 30
    # The whole roster is exchanged with one random member; the interval grows by one multiple
    # for each doubling of n above 32.
    push_pull_interval_s: int = 15
    # A member gets at most one roster per this time from us, however often it asks.
    push_pull_reply_min_ms: int = 100
    # While nobody was heard: rounds to the configured peers, doubling up to the maximum, for ever.
    join_backoff_ms: int = 250
    join_backoff_max_ms: int = 5000
    join_fanout: int = 16
    # One dead or never heard member is tried per interval * max(1, n / 8): this heals partitions
    # at a rate that does not grow with the cluster.
    reconnect_interval_s: int = 2
    # The health score is 0..awareness_max-1.
    awareness_max: int = 8
    # A member that is dead or has left is forgotten after this, unless it is configured.
    dead_reclaim_s: int = 86_400
    # A name conflict is reported at most this often per name; all are counted.
    conflict_interval_s: int = 60
    # A call that comes so much later than asked for means that we were paused, not the others.
    stall_ms: int = 500
    # A departure is told to so many members at once.
    leave_fanout: int = 8

    # Limits. What exceeds one is dropped and counted.
    max_members: int = 2000
    max_rumours: int = 4096
    max_relays: int = 128
    # Encoded updates in one datagram, in bytes (upper bound, see `dissemination.update_bytes`):
    # 1400 less the envelope with its names, the seal, and the probe itself.
    datagram_updates_bytes: int = 1050
    # The same for one push/pull; a frame is at most 1 MiB.
    stream_updates_bytes: int = 900_000

    def __post_init__(self) -> None:
        assert 0 < self.nack_timeout_ms <= self.probe_timeout_ms < self.probe_interval_ms, self
        assert self.suspicion_mult >= 1, self
        assert self.suspicion_max_mult >= 1, self
        assert self.awareness_max >= 1, self
        assert self.max_members >= 2, self
        assert self.join_backoff_ms <= self.join_backoff_max_ms, self
        assert self.stall_ms >= self.probe_timeout_ms, self
