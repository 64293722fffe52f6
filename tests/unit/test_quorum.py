"""Control and data quorums, by example and by brute force over every small case."""

from __future__ import annotations

import itertools

import pytest

from metako.election.quorum import Promise, data_grounds, judge, successor_sync_set
from metako.model.document import ClusterDocument, Durability, Phase, SyncMember, SyncSet
from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn, RankedPosition


def data_id(node: str) -> DataId:
    return DataId(f"data-{node}")


def document(
    *, voters: str = "abc", primary: str = "a", sync: str = "bc", k: int = 1, witnesses: str = ""
) -> ClusterDocument:
    members = tuple(SyncMember(NodeId(n), data_id(n)) for n in sync)
    return ClusterDocument(
        cluster_id="c",
        cluster_name="test",
        system_id=1,
        term=Term(3),
        version=7,
        primary=NodeId(primary),
        primary_data_id=data_id(primary),
        phase=Phase.ACTIVE,
        voters=tuple(NodeId(v) for v in voters),
        learners=(),
        witnesses=tuple(NodeId(w) for w in witnesses),
        sync=SyncSet(members, k if members else 0),
        durability=Durability.QUORUM,
        timelines=(),
        hold_ms=2000,
    )


def promise(
    node: str,
    lsn: int | None,
    *,
    detached: bool = True,
    can_lead: bool = True,
    term: int = 3,
    data: str | None = None,
) -> Promise:
    return Promise(
        node=NodeId(node),
        detached=detached,
        data_id=DataId(data) if data is not None else data_id(node),
        position=None if lsn is None else RankedPosition(Term(term), Lsn(lsn)),
        can_lead=can_lead,
        priority=100,
        max_tli=TimelineId(1),
    )


def promises(*given: Promise) -> dict[NodeId, Promise]:
    return {p.node: p for p in given}


def test_both_standbys_are_needed_when_either_may_have_the_commit() -> None:
    doc = document()
    alone = judge(doc, NodeId("b"), promises(promise("b", 10)))
    both = judge(doc, NodeId("b"), promises(promise("b", 10), promise("c", 9)))
    assert not alone.control
    assert not alone.data
    assert both.won


def test_candidate_behind_a_member_that_can_lead_hands_over() -> None:
    verdict = judge(document(), NodeId("b"), promises(promise("b", 9), promise("c", 10)))
    assert verdict.better == NodeId("c")
    assert not verdict.won


def test_member_that_is_ahead_but_cannot_lead_blocks_only_without_another_quorum() -> None:
    ahead = promise("c", 10, can_lead=False)
    blocked = judge(document(), NodeId("b"), promises(promise("b", 9), ahead))
    assert not blocked.data
    wide = document(voters="abcd", sync="bcd", k=2)  # R = 2
    enough = judge(wide, NodeId("b"), promises(promise("b", 9), ahead, promise("d", 9)))
    assert enough.won


def test_listed_member_with_other_data_is_not_told_to_count() -> None:
    restored = promise("b", 10, data="data-a")
    verdict = judge(document(voters="abw", sync="b"), NodeId("b"), promises(restored))
    assert not verdict.data
    assert verdict.missing == "votes: 1 of 2; data: 0 of the 1 promises needed of b, or that of a"


def test_grounds_of_a_winner_are_told_and_agree_with_the_verdict() -> None:
    b = NodeId("b")
    both = promises(promise("b", 10), promise("c", 9))
    told = data_grounds(document(), b, both)
    assert told == "the promises of b, c; any 2 of b, c have every commit"
    told = data_grounds(document(), b, promises(promise("b", 10), promise("a", 10)))
    assert told == "the promise of a, the primary before"
    told = data_grounds(document(sync=""), b, both)
    assert told == "nothing; missing is the promise of a, whose acknowledgements stood alone"
    ahead = promises(promise("b", 8), promise("c", 9, can_lead=False))
    assert data_grounds(document(), b, ahead).startswith("nothing; ")


def test_undetached_promise_is_no_part_of_a_data_quorum() -> None:
    verdict = judge(
        document(), NodeId("b"), promises(promise("b", 10), promise("c", 10, detached=False))
    )
    assert verdict.control
    assert not verdict.data


def test_dead_primary_alone_is_a_data_quorum() -> None:
    doc = document(sync="b")
    verdict = judge(doc, NodeId("c"), promises(promise("c", 12), promise("a", 12)))
    assert verdict.won


def test_primary_that_is_ahead_is_no_quorum_for_a_candidate_behind_it() -> None:
    doc = document(sync="")
    ahead = promise("a", 13, can_lead=False)
    assert not judge(doc, NodeId("c"), promises(promise("c", 12), ahead, promise("b", 12))).data


def test_empty_sync_set_leaves_only_the_old_primary() -> None:
    doc = document(sync="")
    assert not judge(doc, NodeId("b"), promises(promise("b", 10), promise("c", 10))).data
    assert judge(doc, NodeId("a"), promises(promise("a", 10), promise("c", 10))).won


def test_fresh_clone_of_a_listed_standby_does_not_count() -> None:
    verdict = judge(
        document(), NodeId("b"), promises(promise("b", 10), promise("c", 10, data="new"))
    )
    assert verdict.control
    assert not verdict.data


def test_record_of_a_newer_term_beats_a_longer_old_one() -> None:
    verdict = judge(
        document(), NodeId("b"), promises(promise("b", 5, term=4), promise("c", 100, term=3))
    )
    assert verdict.won


def test_witness_votes_but_brings_no_data() -> None:
    doc = document(voters="abw", sync="b", witnesses="w")
    witness = Promise(NodeId("w"), True, DataId(""), None, False, 100, TimelineId(0))
    assert judge(doc, NodeId("b"), promises(promise("b", 10), witness)).won
    assert not judge(document(voters="abw", sync=""), NodeId("b"), promises(witness)).data


def test_min_votes_can_ask_for_more_than_a_majority_never_for_less() -> None:
    given = promises(promise("b", 10), promise("c", 10))
    assert not judge(document(), NodeId("b"), given, min_votes=3).won
    assert judge(document(), NodeId("b"), given, min_votes=1).won
    one = promises(promise("b", 10))
    assert not judge(document(sync="b"), NodeId("b"), one, min_votes=1).won


def test_winner_takes_the_old_primary_into_the_sync_set_and_keeps_k() -> None:
    new = successor_sync_set(document(), NodeId("b"), primary_data_id=data_id("a"))
    assert new.nodes() == {"a", "c"}
    assert new.k == 1
    same = successor_sync_set(document(), NodeId("a"), primary_data_id=data_id("a"))
    assert same.nodes() == {"b", "c"}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_winner_has_every_acknowledged_commit(size: int) -> None:
    """Brute force: whatever k members had flushed the last commit, no other candidate wins."""
    nodes = "abcde"[: size + 1]
    primary, standbys = nodes[0], nodes[1:]
    checked = 0
    for k in range(1, size + 1):
        doc = document(voters=nodes, primary=primary, sync=standbys, k=k)
        for holders in itertools.combinations(standbys, k):
            # The commit ends at 10. Holders and the primary have it, the others do not.
            position = {n: 10 if n in holders or n == primary else 9 for n in nodes}
            for count in range(1, size + 2):
                for granted in itertools.combinations(nodes, count):
                    given = promises(*(promise(n, position[n]) for n in granted))
                    for candidate in granted:
                        verdict = judge(doc, NodeId(candidate), given)
                        checked += 1
                        if verdict.won:
                            assert position[candidate] == 10, (k, holders, granted, candidate)
    assert checked
