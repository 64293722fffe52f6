"""Leases and holds: the arithmetic that keeps two primaries apart, and what ends a hold early."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.election.lease import ROUNDS_REMEMBERED_MAX, Hold, Lease
from metako.election.settings import CLOCK_RATE_ERROR, ElectionSettings
from metako.model.document import ClusterDocument, Durability, Phase, SyncSet
from metako.model.ids import DataId, NodeId, Term
from metako.model.instant import NS_PER_MS, Instant

A, B, C, D, E = (NodeId(n) for n in "abcde")
SETTINGS = ElectionSettings()
PPM = 1_000_000
RATES = st.integers(round(PPM * (1 - CLOCK_RATE_ERROR)), round(PPM * (1 + CLOCK_RATE_ERROR)))


def document(*voters: NodeId) -> ClusterDocument:
    return ClusterDocument(
        cluster_id="c",
        cluster_name="test",
        system_id=1,
        term=Term(1),
        version=1,
        primary=A,
        primary_data_id=DataId("d"),
        phase=Phase.ACTIVE,
        voters=voters,
        learners=(),
        witnesses=(),
        sync=SyncSet(),
        durability=Durability.QUORUM,
        timelines=(),
        hold_ms=SETTINGS.hold_ms,
    )


def at(ms: float) -> Instant:
    return Instant(round(ms * NS_PER_MS), round(ms * NS_PER_MS))


@dataclass(frozen=True)
class DriftingClock:
    """A clock with its own origin and rate: its reading at a true time, whole nanoseconds."""

    origin_ns: int
    rate_ppm: int

    def read(self, true_ns: int) -> Instant:
        value = self.origin_ns + true_ns * self.rate_ppm // PPM
        return Instant(value, value)


CLOCKS = st.builds(DriftingClock, st.integers(0, 10**18), RATES)


@given(
    leader=CLOCKS,
    voters=st.tuples(CLOCKS, CLOCKS),
    delays_ms=st.tuples(st.integers(0, 4000), st.integers(0, 4000)),
    answered=st.sets(st.sampled_from((B, C)), min_size=1),
    hold_ms=st.integers(800, 60_000),
    probe=st.integers(0, 2 * PPM),
)
def test_lease_has_ended_before_any_hold_that_it_rests_on(
    leader: DriftingClock,
    voters: tuple[DriftingClock, DriftingClock],
    delays_ms: tuple[int, int],
    answered: set[NodeId],
    hold_ms: int,
    probe: int,
) -> None:
    """At every true moment: whoever sees a valid lease, each voter behind it still holds."""
    sent_ns = 10**12
    lease = Lease(SETTINGS, A, Term(1))
    round_ = lease.begin_round(leader.read(sent_ns))
    holds: dict[NodeId, tuple[DriftingClock, Hold, int]] = {}
    for node, clock, delay_ms in zip((B, C), voters, delays_ms, strict=True):
        if node in answered:
            received_ns = sent_ns + delay_ms * NS_PER_MS
            hold = Hold()
            hold.extend(clock.read(received_ns), hold_ms, A, Term(1), 1, round_)
            holds[node] = (clock, hold, received_ns)
            lease.answer(node, round_)
    assert lease.renew(document(A, B, C), hold_ms)
    # A random moment of twice the hold, and the last moments of the lease itself.
    end_ns = sent_ns + (lease.until_boot_ns - leader.read(sent_ns).boot_ns) * PPM // leader.rate_ppm
    moments = [sent_ns + hold_ms * NS_PER_MS * probe // PPM, end_ns - 2, end_ns - 1, end_ns]
    for true_ns in moments:
        if lease.valid(leader.read(true_ns)):
            for clock, hold, received_ns in holds.values():
                assert true_ns < received_ns or hold.active(clock.read(true_ns))


@given(hold_ms=st.integers(800, 3_600_000))
def test_lease_is_the_longest_that_the_formula_allows(hold_ms: int) -> None:
    exact = hold_ms * (1 - CLOCK_RATE_ERROR) / (1 + CLOCK_RATE_ERROR)
    assert exact - 1 < SETTINGS.lease_ms(hold_ms) <= exact


def test_lease_counts_from_the_sending_of_the_round_not_from_its_answers() -> None:
    lease = Lease(SETTINGS, A, Term(1))
    round_ = lease.begin_round(at(1000))
    lease.answer(B, round_)
    lease.renew(document(A, B, C), 2000)
    assert lease.until_boot_ns == at(1000 + SETTINGS.lease_ms(2000)).boot_ns


def test_answers_of_a_minority_renew_nothing() -> None:
    lease = Lease(SETTINGS, A, Term(1))
    lease.answer(B, lease.begin_round(at(0)))
    assert not lease.renew(document(A, B, C, D, E), 2000)
    assert not lease.valid(at(0))


def test_answers_to_two_rounds_do_not_add_up() -> None:
    lease = Lease(SETTINGS, A, Term(1))
    lease.answer(B, lease.begin_round(at(0)))
    lease.answer(C, lease.begin_round(at(250)))
    assert not lease.renew(document(A, B, C, D, E), 2000)


def test_answers_of_strangers_do_not_count() -> None:
    lease = Lease(SETTINGS, A, Term(1))
    lease.answer(E, lease.begin_round(at(0)))
    assert not lease.renew(document(A, B, C), 2000)


def test_late_answer_to_an_old_round_never_shortens_the_lease() -> None:
    lease = Lease(SETTINGS, A, Term(1))
    first = lease.begin_round(at(0))
    lease.answer(B, lease.begin_round(at(250)))
    assert lease.renew(document(A, B, C), 2000)
    until = lease.until_boot_ns
    lease.answer(C, first)
    assert not lease.renew(document(A, B, C), 2000)
    assert lease.until_boot_ns == until


def test_single_voter_renews_alone() -> None:
    lease = Lease(SETTINGS, A, Term(1))
    lease.begin_round(at(0))
    assert lease.renew(document(A), 2000)


def test_rounds_are_forgotten_beyond_the_limit() -> None:
    lease = Lease(SETTINGS, A, Term(1))
    first = lease.begin_round(at(0))
    for i in range(ROUNDS_REMEMBERED_MAX):
        lease.begin_round(at(i))
    lease.answer(B, first)
    assert not lease.renew(document(A, B, C), 2000)
    assert lease.answered_since(0) == {A}


def test_suspend_ends_a_lease_and_not_a_hold() -> None:
    """Suspended, CLOCK_MONOTONIC stands still and CLOCK_BOOTTIME goes on."""
    lease, hold = Lease(SETTINGS, A, Term(1)), Hold()
    lease.begin_round(at(0))
    lease.renew(document(A), 2000)
    hold.extend(at(0), 2000, A, Term(1), 1, 1)
    resumed = at(100)._replace(boot_ns=at(5000).boot_ns)
    assert not lease.valid(resumed)
    assert hold.active(resumed)


def test_hold_of_one_leader_never_gets_shorter() -> None:
    hold = Hold()
    hold.extend(at(0), 8000, A, Term(1), 1, 1)
    hold.extend(at(100), 800, A, Term(1), 1, 2)
    assert hold.remaining_ms(at(100)) == 7900


def test_hold_of_a_later_term_replaces_the_old_one() -> None:
    hold = Hold()
    hold.extend(at(0), 8000, A, Term(1), 1, 1)
    hold.extend(at(100), 800, B, Term(2), 1, 1)
    assert hold.remaining_ms(at(100)) == 800
    assert hold.leader == B


def test_hold_is_rounded_up_so_that_waiting_for_it_is_enough() -> None:
    hold = Hold()
    hold.extend(Instant(0, 0), 1, A, Term(1), 1, 1)
    almost = Instant(NS_PER_MS - 1, 0)
    assert hold.active(almost)
    assert hold.remaining_ms(almost) == 1
    assert not hold.active(Instant(NS_PER_MS, 0))


@pytest.mark.parametrize(
    ("leader", "term", "epoch", "last_round", "ends"),
    [
        (A, 3, 1, 7, True),
        (A, 3, 1, 8, True),
        (A, 4, 9, 0, True),  # released in a later term: the older one is over as well
        (A, 3, 1, 6, False),  # a round after it was heard: the release is of the past
        (A, 3, 2, 7, False),  # another life of the same node
        (A, 2, 1, 7, False),
        (B, 3, 1, 7, False),  # nobody releases for another
    ],
)
def test_release_ends_only_the_hold_that_it_means(
    leader: NodeId, term: int, epoch: int, last_round: int, ends: bool
) -> None:
    hold = Hold()
    hold.extend(at(0), 2000, A, Term(3), 1, 7)
    assert hold.released_by(leader, Term(term), epoch, last_round) is ends


def test_settings_without_room_for_four_heartbeats_are_refused() -> None:
    with pytest.raises(AssertionError):
        ElectionSettings(heartbeat_ms=600, hold_ms=2000)
