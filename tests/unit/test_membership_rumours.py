"""Precedence of rumours, and the queue that tells them."""

from __future__ import annotations

import pytest

from metako.membership.dissemination import (
    UPDATES_MAX,
    Rumours,
    retransmit_limit,
    update_bytes,
)
from metako.membership.precedence import Verdict, judge
from metako.membership.roster import Entry
from metako.model.document import DocumentRef
from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.member import MemberMeta, MemberState, ServerRole, ServerState
from metako.wire.codec import encode
from metako.wire.messages import Gossip, MemberUpdate

X, Y, Z = NodeId("x"), NodeId("y"), NodeId("z")
HOME = Address("10.0.0.1", 7946)
ALIVE, SUSPECT, DEAD, LEFT, EXPECTED = (
    MemberState.ALIVE,
    MemberState.SUSPECT,
    MemberState.DEAD,
    MemberState.LEFT,
    MemberState.EXPECTED,
)


def entry(state: MemberState, incarnation: int, *, epoch: int = 1) -> Entry:
    return Entry(X, epoch, incarnation, state, HOME, address_learned=True)


def rumour(
    state: MemberState, incarnation: int, *, epoch: int = 1, accuser: NodeId | None = None
) -> MemberUpdate:
    return MemberUpdate(X, epoch, incarnation, state, accuser=accuser)


@pytest.mark.parametrize(
    ("known", "told", "verdict"),
    [
        # SWIM §4.2: Alive(i) overrides Suspect(j) and Alive(j) for i > j.
        ((ALIVE, 5), (ALIVE, 6), Verdict.REFRESH),
        ((SUSPECT, 5), (ALIVE, 6), Verdict.REFRESH),
        ((ALIVE, 5), (ALIVE, 5), Verdict.FILL),
        ((SUSPECT, 5), (ALIVE, 5), Verdict.FILL),
        ((ALIVE, 5), (ALIVE, 4), Verdict.STALE),
        # SWIM §4.2: Suspect(i) overrides Suspect(j) for i > j, Alive(j) for i >= j.
        ((ALIVE, 5), (SUSPECT, 5), Verdict.SUSPECT),
        ((ALIVE, 5), (SUSPECT, 6), Verdict.SUSPECT),
        ((ALIVE, 5), (SUSPECT, 4), Verdict.STALE),
        ((SUSPECT, 5), (SUSPECT, 6), Verdict.SUSPECT),
        ((SUSPECT, 5), (SUSPECT, 5), Verdict.CONFIRM),
        ((SUSPECT, 5), (SUSPECT, 4), Verdict.STALE),
        # Death never skips suspicion.
        ((ALIVE, 5), (DEAD, 5), Verdict.SUSPECT),
        ((ALIVE, 5), (DEAD, 9), Verdict.SUSPECT),
        ((SUSPECT, 5), (DEAD, 5), Verdict.CONDEMN),
        ((SUSPECT, 5), (DEAD, 6), Verdict.SUSPECT),
        ((SUSPECT, 5), (DEAD, 4), Verdict.STALE),
        # The dead come back by a newer incarnation only.
        ((DEAD, 5), (ALIVE, 6), Verdict.REFRESH),
        ((DEAD, 5), (ALIVE, 5), Verdict.FILL),
        ((DEAD, 5), (SUSPECT, 5), Verdict.STALE),
        ((DEAD, 5), (SUSPECT, 6), Verdict.SUSPECT),
        ((DEAD, 5), (DEAD, 5), Verdict.STALE),
        ((DEAD, 5), (DEAD, 6), Verdict.RAISE),
        # A goodbye needs no incarnation and is final.
        ((ALIVE, 5), (LEFT, 1), Verdict.LEAVE),
        ((DEAD, 5), (LEFT, 1), Verdict.LEAVE),
        ((LEFT, 5), (ALIVE, 99), Verdict.STALE),
        ((LEFT, 5), (SUSPECT, 99), Verdict.STALE),
        ((LEFT, 5), (LEFT, 99), Verdict.STALE),
    ],
)
def test_precedence_within_a_life(
    known: tuple[MemberState, int], told: tuple[MemberState, int], verdict: Verdict
) -> None:
    assert judge(entry(*known), rumour(*told)) is verdict


@pytest.mark.parametrize("known", [ALIVE, SUSPECT, DEAD, LEFT])
@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (ALIVE, Verdict.RENEW),
        (SUSPECT, Verdict.SUSPECT),
        (DEAD, Verdict.SUSPECT),
        (LEFT, Verdict.LEAVE),
    ],
)
def test_newer_life_replaces_whatever_was_known(
    known: MemberState, told: MemberState, verdict: Verdict
) -> None:
    assert judge(entry(known, 99), rumour(told, 0, epoch=2)) is verdict


@pytest.mark.parametrize("known", [ALIVE, SUSPECT, DEAD, LEFT])
@pytest.mark.parametrize("told", [ALIVE, SUSPECT, DEAD, LEFT])
def test_older_life_is_never_listened_to(known: MemberState, told: MemberState) -> None:
    assert judge(entry(known, 1, epoch=2), rumour(told, 99, epoch=1)) is Verdict.STALE


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("known", [ALIVE, SUSPECT, DEAD, LEFT])
def test_expected_is_no_rumour(known: MemberState, epoch: int) -> None:
    assert judge(entry(known, 1), rumour(EXPECTED, 5, epoch=epoch)) is Verdict.STALE


def test_one_life_with_two_addresses_is_a_conflict() -> None:
    elsewhere = MemberUpdate(X, 1, 9, ALIVE, address=Address("10.0.0.2", 7946))
    assert judge(entry(ALIVE, 1), elsewhere) is Verdict.CONFLICT


def test_configured_address_is_no_evidence_of_a_conflict() -> None:
    known = Entry(X, 1, 0, ALIVE, HOME, configured=HOME)
    elsewhere = MemberUpdate(X, 1, 1, ALIVE, address=Address("10.0.0.2", 7946))
    assert judge(known, elsewhere) is Verdict.REFRESH


@pytest.mark.parametrize(("members", "sends"), [(1, 4), (3, 4), (9, 4), (10, 8), (128, 12)])
def test_retransmit_limit_is_that_of_memberlist(members: int, sends: int) -> None:
    assert retransmit_limit(4, members) == sends


def take(rumours: Rumours, to: NodeId = Z, bytes_max: int = 1000) -> list[MemberUpdate]:
    return list(rumours.take(to, bytes_max=bytes_max))


def test_rumour_is_told_exactly_as_often_as_asked() -> None:
    rumours = Rumours(limit=10)
    rumours.put(rumour(ALIVE, 1), sends=3)
    assert [len(take(rumours)) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert len(rumours) == 0


def test_rumour_told_least_often_goes_first() -> None:
    rumours = Rumours(limit=10)
    old = MemberUpdate(Y, 1, 1, ALIVE)
    rumours.put(old, sends=4)
    take(rumours)
    new = rumour(ALIVE, 1)
    rumours.put(new, sends=4)
    assert take(rumours) == [new, old]


def test_new_state_replaces_the_older_rumour_about_a_member() -> None:
    rumours = Rumours(limit=10)
    rumours.put(rumour(SUSPECT, 1, accuser=Y), sends=4)
    rumours.put(rumour(SUSPECT, 1, accuser=Z), sends=4)
    assert len(rumours) == 2
    rumours.put(rumour(ALIVE, 2), sends=4)
    assert take(rumours) == [rumour(ALIVE, 2)]


def test_suspicion_of_a_newer_incarnation_replaces_the_older_ones() -> None:
    rumours = Rumours(limit=10)
    rumours.put(rumour(SUSPECT, 1, accuser=Y), sends=4)
    rumours.put(rumour(SUSPECT, 2, accuser=Z), sends=4)
    assert take(rumours) == [rumour(SUSPECT, 2, accuser=Z)]


def test_receiver_is_not_told_that_it_is_alive_but_that_it_is_accused() -> None:
    rumours = Rumours(limit=10)
    rumours.put(rumour(ALIVE, 1), sends=4)
    assert take(rumours, to=X) == []
    rumours.put(rumour(SUSPECT, 1, accuser=Y), sends=4)
    assert take(rumours, to=X) == [rumour(SUSPECT, 1, accuser=Y)]


def test_rumour_that_only_its_subject_could_hear_dies_out() -> None:
    rumours = Rumours(limit=10)
    rumours.put(rumour(ALIVE, 1), sends=3)
    for _ in range(3):
        take(rumours, to=X)
    assert len(rumours) == 0


def test_first_goes_before_everything_and_is_not_repeated() -> None:
    rumours = Rumours(limit=10)
    other = MemberUpdate(Y, 1, 1, ALIVE)
    rumours.put(rumour(DEAD, 1), sends=4)
    rumours.put(other, sends=4)
    first = rumour(DEAD, 1, accuser=Z)
    assert rumours.take(X, bytes_max=1000, first=[first]) == (first, other)


def test_queue_is_bounded_and_drops_what_was_nearly_told() -> None:
    rumours = Rumours(limit=3)
    for i, sends in enumerate([4, 1, 4, 4]):
        rumours.put(MemberUpdate(NodeId(f"m{i}"), 1, 1, ALIVE), sends=sends)
    assert len(rumours) == 3
    assert rumours.dropped == 1
    assert {update.node for update in take(rumours)} == {"m0", "m2", "m3"}


def test_casual_rumour_presses_nobody_and_goes_last() -> None:
    rumours = Rumours(limit=10)
    rumours.put(MemberUpdate(Y, 1, 7, ALIVE), sends=4, casual=True)
    assert not rumours.pressing
    news = rumour(ALIVE, 1)
    rumours.put(news, sends=2)
    assert rumours.pressing
    assert [update.node for update in take(rumours, to=NodeId("a"))] == [X, Y]
    assert [update.node for update in take(rumours, to=NodeId("b"))] == [X, Y]
    assert not rumours.pressing
    assert [update.node for update in take(rumours, to=NodeId("c"))] == [Y]


def test_casual_rumour_is_told_once_to_each_and_not_to_who_told_it() -> None:
    rumours = Rumours(limit=10)
    own = MemberUpdate(Y, 1, 7, ALIVE)
    rumours.put(own, sends=4, casual=True)
    assert [take(rumours, to=NodeId(to)) for to in "aab"] == [[own], [], [own]]
    heard = MemberUpdate(Y, 1, 8, ALIVE)
    rumours.put(heard, sends=4, casual=True, source=NodeId("a"))
    assert [take(rumours, to=NodeId(to)) for to in "aab"] == [[], [], [heard]]
    assert len(rumours) == 1
    assert take(rumours, to=NodeId("b")) == []
    assert len(rumours) == 0  # whom it was spared counts as told: it does not stay for ever


def test_news_is_told_again_and_to_who_told_it() -> None:
    rumours = Rumours(limit=10)
    news = rumour(DEAD, 1)
    rumours.put(news, sends=3, source=NodeId("a"))
    assert [take(rumours, to=NodeId(to)) for to in "abb"] == [[news], [news], [news]]


def test_casual_rumour_in_the_place_of_news_is_news() -> None:
    rumours = Rumours(limit=10)
    rumours.put(rumour(ALIVE, 1), sends=4)
    assert take(rumours) == [rumour(ALIVE, 1)]
    rumours.put(rumour(ALIVE, 2), sends=4, casual=True)
    for _ in range(3):
        assert rumours.pressing
        assert take(rumours) == [rumour(ALIVE, 2)]
    assert not rumours.pressing
    rumours.put(rumour(ALIVE, 3), sends=4, casual=True)
    assert not rumours.pressing


def test_full_queue_drops_casual_rumours_first() -> None:
    rumours = Rumours(limit=2)
    rumours.put(MemberUpdate(Y, 1, 1, ALIVE), sends=4, casual=True)
    rumours.put(rumour(ALIVE, 1), sends=1)
    rumours.put(MemberUpdate(NodeId("m"), 1, 1, ALIVE), sends=4)
    assert {update.node for update in take(rumours)} == {X, "m"}


def test_message_stays_within_bytes_and_count() -> None:
    rumours = Rumours(limit=1000)
    for i in range(500):
        rumours.put(MemberUpdate(NodeId(f"member{i}"), 1, 1, ALIVE, address=HOME), sends=4)
    for room in (200, 1000, 100_000):
        updates = take(rumours, bytes_max=room)
        assert 0 < len(updates) <= UPDATES_MAX
        assert sum(map(update_bytes, updates)) <= room


def test_rumour_larger_than_the_room_goes_alone() -> None:
    rumours = Rumours(limit=10)
    large = MemberUpdate(X, 1, 1, ALIVE, meta=MemberMeta(agent_version="v" * 250))
    rumours.put(MemberUpdate(Y, 1, 1, ALIVE), sends=1)
    rumours.put(large, sends=1)
    told = [take(rumours, bytes_max=100), take(rumours, bytes_max=100)]
    assert told == [[large], [MemberUpdate(Y, 1, 1, ALIVE)]]


def test_size_is_an_upper_bound_of_the_encoding() -> None:
    address = Address("h" * 200, 65535)
    widest = MemberMeta(
        role=ServerRole.PRIMARY,
        state=ServerState.PROMOTING,
        timeline=TimelineId(2**32 - 1),
        lsn=Lsn(2**64 - 1),
        replay_lsn=Lsn(2**64 - 2),
        lag_ms=2**62,
        data_id=DataId("d" * 64),
        system_id=2**64 - 1,
        document_ref=DocumentRef(Term(2**62), 2**62),
        postgres_address=address,
        api_address=address,
        proxy_address=address,
        priority=2**62,
        witness=True,
        server_version=2**62,
        agent_version="é" * 100,
        proxy_sessions=2**62,
    )
    for meta in (None, MemberMeta(), widest):
        for where in (None, address):
            update = MemberUpdate(
                NodeId("n" * 63), 2**62, 2**62, SUSPECT, where, meta, NodeId("a" * 63)
            )
            with_one = len(encode(Gossip((update,))))
            without = len(encode(Gossip(())))
            assert with_one - without <= update_bytes(update)
