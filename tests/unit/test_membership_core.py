"""One `Membership` alone: joining, and the answers to each message."""

from __future__ import annotations

from dataclasses import replace

from membership_solo import (
    ADDRESSES,
    ME,
    META,
    STRANGER,
    A,
    B,
    Solo,
    accused,
    alive,
    joined,
    messages,
    names,
)

from metako.membership import MembershipConfig, MembershipOutput
from metako.model.events import EventName
from metako.model.ids import NodeId
from metako.model.member import Member, MemberState
from metako.wire.messages import (
    Ack,
    Candidacy,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    PushPull,
)

# ---------------------------------------------------------------- joining


def test_start_exchanges_rosters_with_every_peer_by_stream() -> None:
    solo = Solo(A, B)
    assert {o.to for o in solo.out.outbound} == {A, B}
    for outbound in solo.out.outbound:
        assert outbound.stream
        assert outbound.address == ADDRESSES[outbound.to]
        assert isinstance(outbound.message, PushPull)
        assert outbound.message.reply
        assert [u.node for u in outbound.message.updates] == [ME]


def test_configured_peer_is_expected_until_heard() -> None:
    solo = Solo(A)
    assert solo.state(A) is MemberState.EXPECTED
    assert solo.core.last_heard(A) is None
    output = solo.hear(A, Gossip((alive(A),)))
    assert names(output) == [EventName.MEMBER_JOINED]
    assert solo.member(A) == Member(A, 1, 1, MemberState.ALIVE, ADDRESSES[A], META)
    assert solo.core.last_heard(A) == solo.now_ns


def test_peer_heard_without_a_word_about_itself_is_alive_and_asked_for_it() -> None:
    solo = Solo(A)
    solo.hear(A, Ping(1))
    assert solo.member(A) == Member(A, 1, 0, MemberState.ALIVE, ADDRESSES[A], None)
    asked = [m for m in messages(solo.advance(0.01), A) if isinstance(m, PushPull)]
    assert [m.reply for m in asked] == [True]


def test_guessed_address_is_not_passed_on_as_the_members_own_word() -> None:
    solo = Solo(A, B)
    solo.hear(A, Ping(1))
    output = solo.hear(B, PushPull(True, (alive(B),)))
    (reply,) = [o.message for o in output.outbound if isinstance(o.message, PushPull)]
    assert {u.node: u.address for u in reply.updates}[A] is None
    assert {u.node: u.address for u in reply.updates}[B] == ADDRESSES[B]


def test_unknown_member_is_taken_in_by_its_own_word_and_answered() -> None:
    solo = joined(A)
    output = solo.hear(STRANGER, Ping(5, (alive(STRANGER),)))
    assert solo.state(STRANGER) is MemberState.ALIVE
    assert [(o.to, o.address) for o in output.outbound] == [(STRANGER, ADDRESSES[STRANGER])]


def test_sender_without_an_address_is_dropped_and_counted() -> None:
    solo = joined(A)
    output = solo.hear(STRANGER, Ping(5))
    assert output == MembershipOutput()
    assert solo.core.counters.unknown_sender == 1


def test_accusation_by_a_sender_without_an_address_is_survived() -> None:
    solo = joined(A)
    solo.hear(STRANGER, Gossip((accused(ME, MemberState.SUSPECT, 1, 3),)))
    solo.advance(5)
    assert solo.member(ME).incarnation == 2


def test_death_of_somebody_unknown_is_nothing_to_us() -> None:
    solo = joined(A)
    for state in (MemberState.DEAD, MemberState.LEFT, MemberState.SUSPECT):
        solo.hear(A, Gossip((accused(STRANGER, state),)))
    assert [m.node for m in solo.core.members()] == [A, ME]


def test_what_is_told_again_is_no_change_of_the_roster() -> None:
    solo = joined(A, B)
    solo.hear(A, Gossip((alive(B),)))
    before = solo.core.members()
    solo.hear(A, PushPull(False, (replace(alive(B), meta=replace(META)),)))
    assert solo.core.members() is before


def test_roster_is_bounded() -> None:
    solo = joined(A, config=MembershipConfig(max_members=3))
    many = tuple(replace(alive(A), node=NodeId(f"x{i}")) for i in range(10))
    solo.hear(A, PushPull(False, many))
    assert len(solo.core.members()) == 3
    assert solo.core.counters.roster_full == 9


# ---------------------------------------------------------------- answers


def test_ping_is_answered_by_an_ack_of_its_sequence() -> None:
    solo = joined(A)
    (outbound,) = solo.hear(A, Ping(99)).outbound
    assert (outbound.to, outbound.stream) == (A, False)
    assert isinstance(outbound.message, Ack)
    assert outbound.message.sequence == 99


def test_accused_hears_of_its_accusation_first_in_every_message() -> None:
    # Lifeguard, buddy system.
    solo = joined(A, B)
    solo.hear(B, Gossip((accused(A, MemberState.SUSPECT),)))
    assert [first_word(solo.hear(A, Ping(i))) for i in range(20)] == [(A, MemberState.SUSPECT)] * 20
    solo.advance(10)
    assert [first_word(solo.hear(A, Ping(i))) for i in range(20)] == [(A, MemberState.DEAD)] * 20


def first_word(output: MembershipOutput) -> tuple[NodeId, MemberState]:
    (outbound,) = output.outbound
    assert isinstance(outbound.message, Ack)
    first = outbound.message.updates[0]
    return first.node, first.state


def test_relay_pings_the_target_and_passes_its_ack_on() -> None:
    solo = joined(A, B)
    (ping,) = solo.hear(A, PingRequest(7, B)).outbound
    assert ping.to == B
    assert isinstance(ping.message, Ping)
    (ack,) = solo.hear(B, Ack(ping.message.sequence)).outbound
    assert ack.to == A
    assert isinstance(ack.message, Ack)
    assert ack.message.sequence == 7


def test_relay_without_an_ack_says_so_in_its_own_time() -> None:
    solo = joined(A, B)
    solo.hear(A, PingRequest(7, B))
    assert Nack(7) not in messages(solo.advance(0.159), A)
    assert Nack(7) in messages(solo.advance(0.002), A)


def test_relay_names_a_member_and_never_an_address() -> None:
    solo = joined(A)
    (outbound,) = solo.hear(A, PingRequest(7, STRANGER)).outbound
    assert (outbound.to, outbound.message) == (A, Nack(7))


def test_roster_reply_is_rate_limited() -> None:
    solo = joined(A)
    replies = [solo.hear(A, PushPull(True, ())).outbound for _ in range(5)]
    assert [len(r) for r in replies] == [1, 0, 0, 0, 0]
    solo.advance(0.2)
    assert len(solo.hear(A, PushPull(True, ())).outbound) == 1
    assert solo.core.counters.rosters_withheld == 4


def test_agreement_message_is_proof_of_life_and_nothing_else() -> None:
    solo = joined(A)
    solo.advance(0.3)
    assert solo.hear(A, Candidacy(4)).outbound == ()
    assert solo.core.last_heard(A) == solo.now_ns


def test_message_of_a_former_life_is_dropped() -> None:
    solo = joined(A)
    solo.hear(A, Gossip((alive(A, 1, epoch=5),)), epoch=5)
    output = solo.hear(A, Ping(1, (accused(B, MemberState.DEAD),)), epoch=4)
    assert output == MembershipOutput()
    assert solo.core.counters.former_life == 1
