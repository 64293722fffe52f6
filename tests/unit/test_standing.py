"""What of a roster is news: everything but positions, which change all the time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metako.cluster.projection import same_standing
from metako.cluster.routing import Replicas
from metako.membership.roster import Entry, Roster
from metako.model.document import DocumentRef
from metako.model.ids import Address, DataId, NodeId, Term
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberMeta, MemberState, ServerRole, ServerState

A, B = NodeId("a"), NodeId("b")
META = MemberMeta(
    role=ServerRole.STANDBY,
    state=ServerState.STREAMING,
    postgres_address=Address("b", 5432),
)
MEMBER = Member(B, 1, 4, MemberState.ALIVE, Address("b", 7946), META)
ONESELF = Member(A, 1, 1, MemberState.ALIVE, Address("a", 7946), MemberMeta())
ROSTER = (ONESELF, MEMBER)


@pytest.mark.parametrize("position", ["lsn", "replay_lsn", "lag_ms", "proxy_sessions"])
def test_positions_under_a_new_incarnation_are_no_news(position: str) -> None:
    grown = replace(MEMBER, incarnation=5, meta=replace(META, **{position: 7}))
    assert same_standing(ROSTER, (ONESELF, grown))


def test_a_newer_document_is_no_news_because_gossip_decides_nothing_by_it() -> None:
    newer = replace(MEMBER, incarnation=5, meta=replace(META, document_ref=DocumentRef(Term(2), 9)))
    assert same_standing(ROSTER, (ONESELF, newer))


@pytest.mark.parametrize(
    "changed",
    [
        replace(MEMBER, state=MemberState.SUSPECT),
        replace(MEMBER, boot_epoch=2),
        replace(MEMBER, address=Address("c", 7946)),
        replace(MEMBER, meta=None),
        replace(MEMBER, meta=replace(META, data_id=DataId("d"))),
        replace(MEMBER, meta=replace(META, state=ServerState.RUNNING)),
    ],
)
def test_everything_else_is_news(changed: Member) -> None:
    assert not same_standing(ROSTER, (ONESELF, changed))
    assert not same_standing((ONESELF, changed), ROSTER)


def test_who_comes_or_goes_is_news() -> None:
    assert not same_standing((ONESELF,), ROSTER)
    assert not same_standing(ROSTER, (ONESELF,))
    assert not same_standing(ROSTER, (ONESELF, replace(MEMBER, node=NodeId("c"))))


def test_routes_to_replicas_stay_until_one_of_them_leads_elsewhere() -> None:
    replicas = Replicas(A)
    routes = replicas.among(ROSTER)
    assert [route.node for route in routes] == [B]
    other_data = replace(MEMBER, meta=replace(META, data_id=DataId("d"), lsn=Lsn(9)))
    assert replicas.among((ONESELF, other_data)) is routes
    moved = replace(MEMBER, meta=replace(META, postgres_address=Address("b", 5433)))
    assert replicas.among((ONESELF, moved))[0].address == Address("b", 5433)
    assert replicas.among((ONESELF, replace(MEMBER, state=MemberState.SUSPECT))) == ()


def test_members_that_were_not_touched_stay_the_same_objects() -> None:
    roster = Roster(node=A, limit=9)
    for member in (MEMBER, ONESELF):
        at = member.address
        roster.add(Entry(member.node, 1, 1, MemberState.ALIVE, at, meta=member.meta))
    first = roster.snapshot()
    assert [member.node for member in first] == [A, B]
    assert roster.snapshot() is first
    entry = roster.get(B)
    assert entry is not None
    entry.incarnation = 2
    roster.touch(entry)
    second = roster.snapshot()
    assert second[0] is first[0]
    assert second[1].incarnation == 2
    roster.set_state(entry, MemberState.DEAD, 7)
    roster.remove(B)
    assert roster.snapshot() == (first[0],)
