"""Who could take over from a leader, and in words why somebody cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from handover_kit import END, OF_THREE, member, serving, standby
from resuming_kit import HARD, A, B, C, D, core_of

from metako.election.candidate import Candidate
from metako.election.heirs import LAG_MAX_BYTES, Heirs
from metako.model.document import ClusterDocument, Durability, SyncMember, SyncSet
from metako.model.ids import DataId, NodeId
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberMeta, MemberState
from metako.model.postgres import PostgresObserved, ProcessState, StandbySeen

UNLISTED = replace(OF_THREE, sync=SyncSet())


def heirs(
    *standbys: StandbySeen, members: Iterable[Member] = (member(B), member(C)), lsn: int = END
) -> Heirs:
    core = core_of(HARD)
    core.members = {each.node: each for each in members}
    found = Heirs(core)
    found.looked(serving(standbys or (standby(B), standby(C)), lsn=lsn))
    return found


def with_meta(node: NodeId, meta: MemberMeta | None) -> Member:
    return replace(member(node), meta=meta)


def test_a_synchronous_standby_that_streams_and_lives_is_fit() -> None:
    assert heirs().obstacle(OF_THREE, B) == ""


@pytest.mark.parametrize(
    ("document", "node", "why"),
    [
        (OF_THREE, NodeId("z"), "it is no member of the cluster"),
        (OF_THREE, A, "it is the primary already"),
        (replace(OF_THREE, witnesses=(B,)), B, "it is a witness and has no data"),
        (
            replace(OF_THREE, voters=(A, C, D), learners=(B,)),
            B,
            "it is a learner and has no vote",
        ),
        (
            replace(OF_THREE, sync=SyncSet((SyncMember(C, DataId("c")),), 1)),
            B,
            "it is not a synchronous standby yet",
        ),
        (
            replace(OF_THREE, sync=SyncSet((SyncMember(B, DataId("old")),), 1)),
            B,
            "it has other data than those that are listed as synchronous",
        ),
    ],
)
def test_what_the_document_says_against_it(
    document: ClusterDocument, node: NodeId, why: str
) -> None:
    assert heirs().obstacle(document, node) == why


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ([], "it is not alive"),
        ([member(B, MemberState.SUSPECT)], "it is not alive"),
        ([member(B, MemberState.DEAD)], "it is not alive"),
        ([with_meta(B, None)], "it is not alive"),
        (
            [member(B, priority=0)],
            "its priority is 0, or its watchdog is required and cannot be armed",
        ),
    ],
)
def test_what_gossip_says_against_it(known: list[Member], why: str) -> None:
    assert heirs(members=known).obstacle(OF_THREE, B) == why


@pytest.mark.parametrize(
    ("standbys", "why"),
    [
        ([standby(C)], "it does not stream from the primary"),
        ([standby(B, streaming=False)], "it does not stream from the primary"),
        ([standby(B, END - LAG_MAX_BYTES)], ""),
        ([standby(B, END - LAG_MAX_BYTES - 1)], "it is 16 MiB of WAL behind"),
    ],
)
def test_what_its_connection_says_against_it(standbys: list[StandbySeen], why: str) -> None:
    assert heirs(*standbys).obstacle(OF_THREE, B) == why


def test_without_synchronous_standbys_whoever_streams_will_do() -> None:
    assert heirs().obstacle(UNLISTED, B) == ""


# ---------------------------------------------------------------- the best of them


def test_planned_the_priority_decides_first() -> None:
    found = heirs(
        standby(B, END), standby(C, END - 8), members=[member(B), member(C, priority=101)]
    )
    assert found.best(OF_THREE, planned=True) == C


def test_planned_more_wal_decides_between_equal_priorities() -> None:
    assert heirs(standby(B, END - 8), standby(C)).best(OF_THREE, planned=True) == C
    assert heirs().best(OF_THREE, planned=True) == B


def in_zone(node: NodeId, zone: str, priority: int = 100) -> Member:
    known = member(node, priority=priority)
    assert known.meta is not None
    return replace(known, meta=replace(known.meta, zone=zone))


@pytest.mark.parametrize("planned", [True, False])
def test_among_equals_who_is_in_the_zone_of_the_primary_goes_first(planned: bool) -> None:
    def best(*members: Member) -> NodeId | None:
        found = heirs(members=members)
        found._core.cluster = replace(found._core.cluster, zone="here")
        return found.best(OF_THREE, planned=planned)

    assert best(in_zone(B, "there"), in_zone(C, "here")) == C
    assert best(in_zone(B, "there"), in_zone(C, "elsewhere")) == B
    assert best(in_zone(B, "there", priority=101), in_zone(C, "here")) == B


def test_a_candidate_of_another_zone_lets_an_equal_of_the_primarys_stand_first() -> None:
    core = core_of(replace(HARD, document=replace(OF_THREE, primary=B)))
    core.observed = replace(core.observed, lsn=Lsn(END))

    def rank(own: str, *members: Member) -> int:
        core.cluster = replace(core.cluster, zone=own)
        core.members = {each.node: each for each in members}
        return int(Candidate(core).delay_ms(primary_crashed=False) // core.settings.stagger_ms)

    lost = replace(in_zone(B, "here"), state=MemberState.DEAD)
    other = in_zone(C, "here")
    assert other.meta is not None
    other = replace(other, meta=replace(other.meta, lsn=Lsn(END)))
    assert rank("here", lost, other) == 0
    assert rank("there", lost, other) == 1


def test_after_a_crash_more_wal_decides_first() -> None:
    known = [member(B, priority=200), member(C)]
    found = heirs(standby(B, END - 8), standby(C), members=known)
    assert found.best(OF_THREE, planned=False) == C
    found = heirs(members=[member(B), member(C, priority=101)])
    assert found.best(OF_THREE, planned=False) == C
    assert heirs().best(OF_THREE, planned=False) == B


def test_nobody_is_best_where_nobody_is_fit() -> None:
    found = heirs(members=[])
    assert found.best(OF_THREE, planned=True) is None
    assert found.best(OF_THREE, planned=False) is None


def test_who_is_not_fit_is_passed_over() -> None:
    found = heirs(members=[member(B, MemberState.DEAD), member(C)])
    assert found.best(OF_THREE, planned=True) == C


@pytest.mark.parametrize("durability", [Durability.QUORUM, Durability.ASYNC])
def test_a_crash_that_only_the_primary_can_have_survived_has_no_heir(
    durability: Durability,
) -> None:
    """With S = ∅ its own promise is needed: to keep it down for somebody else would cost time."""
    document = replace(UNLISTED, durability=durability)
    assert heirs().best(document, planned=False) is None
    assert heirs().best(document, planned=True) == B


def test_each_of_the_others_is_told_apart_where_nobody_can() -> None:
    found = heirs(standby(C), members=[member(B), member(C, MemberState.DEAD)])
    told = "b: it does not stream from the primary; c: it is not alive"
    assert found.why_nobody(OF_THREE) == told
    assert found.why_nobody(replace(OF_THREE, voters=(A,))) == "there is no other node with data"
    witness = replace(OF_THREE, voters=(A, C), witnesses=(C,))
    assert found.why_nobody(witness) == "there is no other node with data"


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    "picture",
    [
        replace(serving(()), silent=True),
        PostgresObserved(process=ProcessState.STOPPED),
        replace(serving(()), process=ProcessState.STARTING, in_recovery=None),
        replace(serving(()), in_recovery=True),
        # It answers that it takes no connections, so nothing of it is from now.
        replace(serving((standby(B, 0),)), lsn=Lsn(0)),
    ],
)
def test_a_picture_without_an_answer_leaves_the_newest_before(picture: PostgresObserved) -> None:
    found = heirs(standby(B, END - 8), standby(C))
    found.looked(picture)
    assert found.lsn == END
    assert found.flushed(B) == END - 8
    assert found.obstacle(OF_THREE, B) == ""


def test_the_newest_picture_counts() -> None:
    found = heirs()
    found.looked(serving((standby(C, END + 8),), lsn=END + 16))
    assert found.lsn == END + 16
    assert found.flushed(C) == END + 8
    assert found.flushed(B) == 0
    assert found.obstacle(OF_THREE, B) == "it does not stream from the primary"


def test_a_new_leadership_of_the_same_server_goes_on_with_what_was_seen() -> None:
    core = core_of(HARD)
    core.members = {B: member(B)}
    later = Heirs(core)
    assert later.obstacle(OF_THREE, B) == "it does not stream from the primary"
    later.adopt(heirs())
    assert later.lsn == END
    assert later.obstacle(OF_THREE, B) == ""
