"""One `Membership` alone: verdicts on others, words about itself, and the lost."""

from __future__ import annotations

from dataclasses import replace

from membership_solo import (
    ADDRESSES,
    ME,
    META,
    STRANGER,
    A,
    B,
    C,
    Solo,
    accused,
    alive,
    joined,
    messages,
    names,
)

from metako.membership import MembershipConfig, MembershipOutput
from metako.model.events import EventName
from metako.model.ids import Address, NodeId
from metako.model.instant import milliseconds, seconds
from metako.model.member import Member, MemberMeta, MemberState
from metako.wire.messages import (
    Ack,
    Candidacy,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    PushPull,
)

# ---------------------------------------------------------------- probing


def probe_of(solo: Solo) -> tuple[NodeId, int]:
    """Advance to the next probe and return its target and sequence."""
    for _ in range(100):
        solo.now_ns = solo.core.wakeup() or 0
        for outbound in solo.core.tick(solo.now).outbound:
            if isinstance(outbound.message, Ping) and not outbound.stream:
                return outbound.to, outbound.message.sequence
    raise AssertionError("no probe")


def test_silent_target_is_probed_through_others_and_by_stream() -> None:
    solo = joined(A, B, C)
    target, sequence = probe_of(solo)
    outputs = [o for out in solo.advance(0.201) for o in out.outbound]
    requests = [o for o in outputs if isinstance(o.message, PingRequest)]
    assert {o.to for o in requests} == {A, B, C} - {target}
    assert {(o.message.target, o.message.sequence) for o in requests} == {(target, sequence)}
    streams = [o for o in outputs if o.stream and isinstance(o.message, Ping)]
    assert [(o.to, o.message.sequence) for o in streams] == [(target, sequence)]


def test_answered_target_is_not_probed_further() -> None:
    solo = joined(A, B, C)
    target, sequence = probe_of(solo)
    solo.hear(target, Ack(sequence))
    assert not [m for m in messages(solo.advance(0.4)) if isinstance(m, PingRequest)]


def test_ack_through_a_relay_saves_the_target() -> None:
    solo = joined(A, B)
    target, sequence = probe_of(solo)
    relay = B if target == A else A
    solo.advance(0.25)
    solo.hear(relay, Ack(sequence))
    solo.advance(0.2)
    assert solo.state(target) is MemberState.ALIVE
    assert solo.core.counters.probes_failed == 0


def test_silent_target_is_suspected_then_dead_and_both_are_reported() -> None:
    solo = joined(A)
    outputs = solo.advance(4)
    events = [event.name for out in outputs for event in out.events]
    assert events == [EventName.MEMBER_SUSPECT, EventName.MEMBER_DEAD]
    assert solo.state(A) is MemberState.DEAD


def test_nacks_keep_the_health_score_and_their_absence_raises_it() -> None:
    scores = []
    for answered in (True, False):
        solo = joined(A, B)
        target, sequence = probe_of(solo)
        relay = B if target == A else A
        solo.advance(0.25)
        if answered:
            solo.hear(relay, Nack(sequence))
        solo.advance(0.26)
        scores.append(solo.core.health_score)
    assert scores == [0, 1]


def test_word_from_a_suspect_postpones_its_death_until_it_is_silent_again() -> None:
    solo = joined(A, B)
    solo.hear(B, Gossip((accused(A, MemberState.SUSPECT),)))
    for _ in range(50):
        solo.advance(0.2)
        solo.hear(A, Candidacy(1))
        solo.hear(B, Candidacy(1))
    assert solo.state(A) is MemberState.SUSPECT
    for _ in range(30):
        solo.advance(0.2)
        solo.hear(B, Candidacy(1))
    assert solo.state(A) is MemberState.DEAD


def test_rumour_of_death_leaves_the_time_to_refute() -> None:
    solo = joined(A, B)
    for _ in range(3):
        output = solo.hear(B, Gossip((accused(A, MemberState.DEAD),)))
    assert solo.state(A) is MemberState.SUSPECT
    assert names(output) == []
    solo.advance(0.5)
    assert solo.state(A) is MemberState.SUSPECT
    solo.hear(A, Gossip((alive(A, 2),)))
    assert solo.state(A) is MemberState.ALIVE


def test_death_in_a_roster_exchange_does_not_shorten_the_wait_as_a_rumour_does() -> None:
    states = []
    for message in (PushPull(False, (accused(A, MemberState.DEAD),)), None):
        # Three confirmations expected: our own probe, the only one here, does not end the wait.
        solo = joined(A, B, C, STRANGER, config=MembershipConfig(suspicion_mult=5))
        for _ in range(3):
            solo.hear(B, message or Gossip((accused(A, MemberState.DEAD),)))
        solo.advance(3)
        states.append(solo.state(A))
    assert states == [MemberState.SUSPECT, MemberState.DEAD]


def test_paused_process_accuses_nobody() -> None:
    solo = joined(A, B)
    solo.hear(B, Gossip((accused(A, MemberState.SUSPECT),)))
    probe_of(solo)
    solo.now_ns += seconds(60)
    output = solo.core.tick(solo.now)
    assert output.events == ()
    assert solo.core.counters.stalls == 1
    assert solo.state(A) is MemberState.SUSPECT
    solo.hear(A, Gossip((alive(A, 2),)))
    assert solo.state(A) is MemberState.ALIVE


def test_wait_that_ends_during_a_pause_leaves_time_to_read_the_inbox() -> None:
    solo = joined(A)
    while solo.state(A) is MemberState.ALIVE:
        solo.advance(0.1)
    # Walk to the moment at which nothing but the end of the wait is due next.
    end_ns = solo.core._view.suspicions[A].deadline_ns  # white box: no other view of a deadline
    while (solo.core.wakeup() or 0) < end_ns:
        solo.now_ns = solo.core.wakeup() or 0
        solo.core.tick(solo.now)
    solo.now_ns = end_ns + seconds(5)
    assert solo.core.tick(solo.now).events == ()
    solo.hear(A, Gossip((alive(A, 2),)))
    assert solo.state(A) is MemberState.ALIVE


def test_idle_node_that_meets_somebody_late_was_not_paused() -> None:
    solo = Solo()
    solo.advance(3600)
    solo.hear(STRANGER, Ping(1, (alive(STRANGER),)))
    solo.advance(0.2)
    assert solo.core.counters.stalls == 0


# ---------------------------------------------------------------- oneself


def test_accusation_is_refuted_by_a_higher_incarnation_and_lowers_the_health() -> None:
    solo = joined(A)
    solo.hear(A, Ping(1, (accused(ME, MemberState.SUSPECT, 6, 3),)))
    assert solo.member(ME) == Member(ME, 3, 7, MemberState.ALIVE, ADDRESSES[ME], META)
    assert solo.core.health_score == 1


def test_ack_to_an_accuser_carries_the_refutation() -> None:
    solo = joined(A)
    (outbound,) = solo.hear(A, Ping(1, (accused(ME, MemberState.SUSPECT, 1, 3),))).outbound
    assert isinstance(outbound.message, Ack)
    (update,) = [u for u in outbound.message.updates if u.node == ME]
    assert (update.state, update.incarnation) == (MemberState.ALIVE, 2)


def test_stale_accusation_does_not_raise_incarnation_but_is_answered() -> None:
    solo = joined(A)
    solo.core.set_meta(solo.now, MemberMeta(agent_version="2"))
    solo.advance(10)
    before = solo.member(ME).incarnation
    score = solo.core.health_score
    solo.hear(A, Gossip((accused(ME, MemberState.DEAD, before - 1, 3),)))
    assert solo.member(ME).incarnation == before
    assert solo.core.health_score == score
    told = [u for m in messages(solo.advance(0.3), A) if isinstance(m, Gossip) for u in m.updates]
    assert [u.incarnation for u in told if u.node == ME] == [before]


def test_accusation_of_a_former_life_is_ignored() -> None:
    solo = joined(A)
    solo.hear(A, Gossip((accused(ME, MemberState.DEAD, 50, 2),)))
    assert solo.member(ME).incarnation == 1


def test_metadata_gets_a_new_incarnation_only_when_it_changed() -> None:
    solo = joined(A)
    solo.core.set_meta(solo.now, META)
    assert solo.member(ME).incarnation == 1
    solo.core.set_meta(solo.now, MemberMeta(agent_version="2"))
    assert solo.member(ME).incarnation == 2
    told = [u for m in messages(solo.advance(0.3), A) for u in getattr(m, "updates", ())]
    assert any(u.node == ME and u.meta == MemberMeta(agent_version="2") for u in told)


def test_absurd_incarnation_is_malformed_and_refuted_by_nobody() -> None:
    solo = joined(A)
    solo.hear(A, Gossip((accused(ME, MemberState.SUSPECT, (1 << 63) - 1, 3),)))
    assert solo.member(ME).incarnation == 1
    assert solo.core.counters.malformed == 1


def test_namesake_of_a_higher_epoch_is_reported_once_a_minute() -> None:
    solo = joined(A)
    reports = []
    for _ in range(5):
        output = solo.hear(A, Gossip((alive(ME, 1, epoch=9),)))
        reports += names(output)
    assert reports == [EventName.MEMBER_CONFLICT]
    assert solo.core.counters.conflicts == 5
    assert solo.core.superseded_by == 9
    assert solo.member(ME).boot_epoch == 3


def test_message_in_our_own_name_is_a_conflict() -> None:
    solo = joined(A)
    output = solo.hear(ME, Ping(1), epoch=3)
    assert output.outbound == ()
    assert names(output) == [EventName.MEMBER_CONFLICT]


def test_goodbye_goes_to_several_and_ends_everything() -> None:
    solo = joined(A, B, C)
    output = solo.core.leave(solo.now)
    assert {o.to for o in output.outbound} == {A, B, C}
    for outbound in output.outbound:
        assert isinstance(outbound.message, Gossip)
        assert [(u.node, u.state) for u in outbound.message.updates] == [(ME, MemberState.LEFT)]
    assert solo.core.wakeup() is None
    assert solo.core.tick(solo.now) == MembershipOutput()
    assert solo.hear(A, Ping(1)) == MembershipOutput()


def test_left_member_is_neither_probed_nor_contacted() -> None:
    solo = joined(A)
    output = solo.hear(A, Gossip((accused(A, MemberState.LEFT),)))
    assert names(output) == [EventName.MEMBER_LEFT]
    assert messages(solo.advance(60), A) == []


# ---------------------------------------------------------------- the lost


def test_dead_member_is_tried_again_for_ever_at_a_bounded_rate() -> None:
    solo = joined(A)
    solo.advance(10)
    assert solo.state(A) is MemberState.DEAD
    tried = [m for m in messages(solo.advance(600), A) if isinstance(m, PushPull)]
    assert 600 / 2 / 1.25 - 1 <= len(tried) <= 600 / 2 / 0.75
    assert all((A, MemberState.DEAD) in [(u.node, u.state) for u in m.updates] for m in tried)


def test_lost_peer_is_tried_at_its_configured_address_as_well() -> None:
    solo = Solo(A)
    moved = Address("10.9.9.9", 7946)
    solo.hear(A, Gossip((replace(alive(A), address=moved),)))
    assert solo.core.address_of(A) == moved
    solo.advance(10)
    tried = {o.address for out in solo.advance(60) for o in out.outbound if o.to == A}
    assert tried == {moved, ADDRESSES[A]}


def test_dead_member_is_forgotten_in_time_unless_it_is_configured() -> None:
    solo = joined(A, config=MembershipConfig(dead_reclaim_s=100))
    solo.hear(STRANGER, Ping(1, (alive(STRANGER),)))
    solo.advance(90)
    assert solo.state(STRANGER) is MemberState.DEAD
    solo.advance(60)
    assert [m.node for m in solo.core.members()] == [A, ME]


def test_node_alone_sleeps() -> None:
    solo = Solo()
    outputs = solo.advance(60)
    assert messages(outputs) == []
    assert len(outputs) <= 5


def test_pair_at_rest_wakes_for_its_probes_only() -> None:
    solo = joined(A)
    solo.advance(3)
    solo.hear(A, Gossip((alive(A, 2),)))
    ticks = 0
    for _ in range(600):
        ticks += len(solo.advance(0.1))
        solo.hear(A, Candidacy(1))
    # One tick for each probe; a roster exchange or a look at the lost now and then.
    assert ticks <= 60 * 1000 / 500 + 60


def test_late_call_within_tolerance_changes_nothing() -> None:
    solo = joined(A)
    solo.now_ns = (solo.core.wakeup() or 0) + milliseconds(400)
    solo.core.tick(solo.now)
    assert solo.core.counters.stalls == 0
