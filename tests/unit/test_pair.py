"""Two voters without a witness: who decides, who may be elected alone, and when no longer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers_kit import listen
from handover_kit import OF_THREE, Office, serving
from resuming_kit import DOCUMENT, HARD, A, B, C, core_of, detached_standby

from metako.election.candidate import Candidate
from metako.election.errand import LOST_TERMS, Errand
from metako.election.lease import Lease
from metako.election.pair import SoleRight, electorate, pair_due
from metako.election.quorum import successor_sync_set
from metako.election.settings import ElectionSettings
from metako.model.document import (
    ClusterDocument,
    Durability,
    PairMode,
    Restart,
    SyncMember,
    SyncSet,
)
from metako.model.ids import DataId, NodeId, Term
from metako.model.instant import Instant, seconds
from metako.model.orders import Order, OrderKind
from sim.settled import Stage, document, primary, settled, status, until, wait_primary, writes

LISTED = SyncSet((SyncMember(B, DataId("b")),), 1)
OF_TWO = replace(DOCUMENT, primary=A, voters=(A, B), sync=LISTED, records=())
MANUAL = replace(OF_TWO, pair=PairMode.MANUAL)
TAKEOVER = replace(OF_TWO, pair=PairMode.TAKEOVER)
ALONE = replace(TAKEOVER, sync=SyncSet())
WITNESS = NodeId("w")


@pytest.mark.parametrize(
    ("by", "decider", "granting"),
    [
        (OF_TWO, None, {(A, B)}),
        (MANUAL, A, {(A,), (A, B)}),
        (replace(MANUAL, primary=B), B, {(B,), (A, B)}),
        (TAKEOVER, B, {(A, B)}),
        (ALONE, A, {(A,), (A, B)}),
        (replace(TAKEOVER, voters=(A, B, C)), None, {(A, B)}),
        (replace(MANUAL, voters=(A, WITNESS), witnesses=(WITNESS,)), None, set()),
        (replace(MANUAL, learners=(WITNESS,), witnesses=(WITNESS,)), A, {(A,), (A, B)}),
    ],
)
def test_nothing_is_agreed_on_without_the_one_that_decides(
    by: ClusterDocument, decider: NodeId | None, granting: set[tuple[NodeId, ...]]
) -> None:
    """Two voters elect together in any case; so an election meets every lease and every version."""
    assert by.decider == decider
    assert {nodes for nodes in ((), (A,), (B,), (A, B)) if by.grants(nodes)} == granting
    assert [nodes for nodes in ((A,), (B,)) if by.has_majority(nodes)] == []


def test_a_lease_is_renewed_by_who_decides() -> None:
    now = Instant(seconds(1), seconds(1))
    lease = Lease(ElectionSettings(), A, Term(4))
    lease.begin_round(now)
    assert not lease.renew(TAKEOVER, 2000)
    assert lease.renew(MANUAL, 2000)
    # A change of the rule is a change of who has to answer: what counted before counts no more.
    lease.agreed(MANUAL, OF_TWO)
    assert not lease.settled
    lease.agreed(OF_TWO, OF_TWO)
    lease.begin_round(Instant(seconds(2), seconds(2)))
    assert not lease.renew(OF_TWO, 2000)
    lease.answer(B, lease.round)
    assert lease.renew(OF_TWO, 2000)
    assert lease.settled


def test_who_is_to_decide_grants_the_lease_as_soon_as_it_may_hear_of_that() -> None:
    lease = Lease(ElectionSettings(), A, Term(4))
    lease.begin_round(Instant(seconds(1), seconds(1)))
    assert not lease.renew(ALONE, 2000, TAKEOVER)
    assert lease.renew(ALONE, 2000, replace(OF_TWO, version=10))
    lease.begin_round(Instant(seconds(2), seconds(2)))
    lease.answer(B, lease.round)
    assert lease.renew(ALONE, 2000, TAKEOVER)


def test_who_takes_over_alone_waits_for_nobody() -> None:
    assert successor_sync_set(TAKEOVER, B, primary_data_id=DataId("a")) == SyncSet()
    kept = successor_sync_set(MANUAL, B, primary_data_id=DataId("a"))
    assert kept.nodes() == {A}


class TestRight:
    def test_it_takes_a_version_that_was_committed_while_this_agent_ran(self) -> None:
        right = SoleRight(B)
        assert not right.held(TAKEOVER)
        right.adopted(TAKEOVER)
        assert not right.held(TAKEOVER)
        right.committed(TAKEOVER)
        assert right.held(TAKEOVER)
        assert not right.held(None)

    def test_it_is_of_one_term(self) -> None:
        right = SoleRight(B)
        right.committed(TAKEOVER)
        later = replace(TAKEOVER, term=Term(TAKEOVER.term + 1))
        right.adopted(later)
        assert not right.held(later)

    def test_it_ends_with_a_version_by_which_another_decides(self) -> None:
        right = SoleRight(B)
        right.committed(TAKEOVER)
        right.adopted(ALONE)
        assert not right.held(TAKEOVER)

    def test_it_ends_with_a_vote_for_another_and_with_a_promise_of_a_higher_term(self) -> None:
        for voted_for in (B, None):
            core = core_of(replace(HARD, document=MANUAL))
            core.sole.committed(MANUAL)
            core.promise(Term(core.hard.promised_term + 1), voted_for=A)
            assert core.sole.held(MANUAL)
            core.promise(Term(core.hard.promised_term + 1), voted_for=voted_for)
            assert not core.sole.held(MANUAL)


def test_an_order_that_does_without_a_member_takes_a_term_that_nobody_else_has() -> None:
    """The lost one may not be lost, and may have led terms alone of which nobody has heard."""
    core = core_of(replace(HARD, document=MANUAL))
    core.observed = detached_standby()
    candidate = Candidate(core)
    before = candidate.next_term()
    candidate.errand = Errand(0, forced=True, lost=(B,))
    assert candidate.next_term() == before - 1 + LOST_TERMS


class TestRule:
    """The leader puts the configured rule in force, once both have agreed to it."""

    def test_what_is_configured_is_put_in_force(self) -> None:
        office = Office(replace(OF_THREE, voters=(A, B), sync=LISTED))
        office.run(600)
        assert office.document.pair is PairMode.MANUAL
        assert office.leader.lease.settled

    def test_not_while_the_other_one_is_away(self) -> None:
        from_before = replace(OF_THREE, voters=(A, B), sync=LISTED, pair=PairMode.TAKEOVER)
        office = Office(from_before, answering=(A,))
        version = office.election.core.document_ref
        office.run(600)
        assert office.election.core.document_ref == version

    def test_there_is_none_for_three(self) -> None:
        office = Office()
        office.run(600)
        assert office.document.pair is None
        assert pair_due(OF_THREE, PairMode.MANUAL) is None

    def test_the_primary_of_a_pair_leads_on_alone(self) -> None:
        office = Office(
            replace(OF_THREE, voters=(A, B), sync=SyncSet(), pair=PairMode.MANUAL), answering=(A,)
        )
        office.look(serving((), sync=()))
        office.run(10_000)
        assert office.leader.lease.valid(office.now)


def test_from_one_rule_to_the_other_it_goes_by_way_of_none() -> None:
    assert pair_due(TAKEOVER, PairMode.MANUAL) is None
    assert pair_due(OF_TWO, PairMode.MANUAL) is PairMode.MANUAL
    assert pair_due(MANUAL, PairMode.MANUAL) is PairMode.MANUAL


@pytest.mark.parametrize("durability", [Durability.ASYNC, Durability.STRICT])
def test_nobody_takes_over_where_commits_wait_for_nobody_or_always(durability: Durability) -> None:
    """Whatever a node's own file says by now: the document's durability counts."""
    document = replace(OF_TWO, durability=durability)
    assert pair_due(document, PairMode.TAKEOVER) is PairMode.MANUAL


def test_a_restarted_leader_does_not_know_who_decided_before() -> None:
    """By the version before, which it has forgotten, the standby may be elected alone."""
    assert electorate(None, ALONE, resumed=True).grants((A, B))
    assert not electorate(None, ALONE, resumed=True).grants((A,))
    assert electorate(None, ALONE, resumed=False).grants((A,))
    assert electorate(ALONE, TAKEOVER, resumed=True) is ALONE
    assert electorate(None, MANUAL, resumed=True) is MANUAL


def pair(mode: PairMode | None = PairMode.MANUAL) -> Stage:
    world = settled("ab", pair_mode=mode)
    until(world, lambda: document(world).pair is mode, limit_s=10)
    world.run(1)
    return world


def fail_over(world: Stage, node: NodeId, *lost: NodeId) -> None:
    assert world.nodes[node].order(Order("", OrderKind.FAILOVER, lost=lost))


def test_without_a_rule_the_loss_of_either_one_stops_both() -> None:
    world = pair(None)
    world.nodes[B].kill_host()
    until(world, lambda: world.primary() is None, limit_s=10)


def test_the_primary_goes_on_without_the_standby() -> None:
    world = pair()
    world.nodes[B].kill_host()
    world.run(10)
    assert primary(world) == A
    assert document(world).sync == SyncSet()
    until(world, lambda: writes(world), limit_s=5)
    world.nodes[B].start()
    until(world, lambda: B in document(world).sync.nodes(), limit_s=30)


def test_the_standby_says_what_it_waits_for() -> None:
    world = pair()
    world.nodes[A].kill_host()
    world.run(15)
    assert world.primary() is None
    assert "metako failover --lost a" in status(world, B).blocked


def test_who_decides_says_that_it_needs_nobody() -> None:
    world = pair()
    world.nodes[B].kill_host()
    world.run(10)
    world.nodes[A].kill_postgres()
    told = []

    def leads_again() -> bool:
        told.append(status(world, A).blocked)
        return world.primary() is not None

    until(world, lambda: world.primary() is None, limit_s=5)
    until(world, leads_again, limit_s=20)
    assert "no primary: this node leads again by itself; b cannot be reached" in told


def test_how_long_the_primary_has_been_silent_is_known_to_the_other_one() -> None:
    world = pair()
    assert status(world, A).primary_silent_ms is None
    silent_ms = status(world, B).primary_silent_ms
    assert silent_ms is not None
    assert silent_ms < 1000
    world.nodes[A].kill_host()
    world.run(10)
    silent_ms = status(world, B).primary_silent_ms
    assert silent_ms is not None
    assert 9_000 < silent_ms <= 10_500
    world.nodes[B].kill_host()
    world.nodes[B].start()
    world.run(3)
    assert status(world, B).primary_silent_ms is None


def test_a_node_says_that_it_can_lead_alone_while_it_knows_what_was_agreed_on() -> None:
    def alone(world: Stage) -> list[bool]:
        return [status(world, node).can_lead_alone for node in (A, B)]

    assert alone(pair()) == [True, False]
    assert alone(pair(None)) == [False, False]
    world = pair(PairMode.TAKEOVER)
    until(world, lambda: alone(world) == [False, True], limit_s=10)
    world.nodes[B].kill_host()
    until(world, lambda: world.primary() is None, limit_s=10)
    world.run(5)
    assert not status(world, A).can_lead_alone
    world.nodes[B].start()
    world.run(0.5)
    assert not status(world, B).can_lead_alone  # it decides by its disk, and does not trust that


def test_an_operator_has_the_standby_lead_and_the_old_primary_comes_back_by_itself() -> None:
    world = pair()
    answers = listen(world)
    world.nodes[A].kill_host()
    world.run(15)
    fail_over(world, B)
    world.run(3)
    assert world.primary() is None, "nothing was said of the vote of the other one"
    fail_over(world, B, A)
    assert answers[-1].accepted
    assert wait_primary(world, 5, other_than=A) == B
    assert document(world).voters == (A, B)
    assert document(world).term > LOST_TERMS
    world.nodes[A].start()
    until(world, lambda: A in document(world).sync.nodes(), limit_s=30)


def test_who_lost_its_record_can_be_done_without_although_it_is_heard() -> None:
    world = pair()
    world.nodes[A].kill_agent()
    world.nodes[A].lose_record()
    world.nodes[A].start()
    world.run(12)
    assert world.primary() is None
    fail_over(world, B, A)
    assert wait_primary(world, 5, other_than=A) == B


def test_the_standby_takes_over_alone_and_hands_the_right_back() -> None:
    world = pair(PairMode.TAKEOVER)
    world.nodes[A].kill_host()
    assert wait_primary(world, 10, other_than=A) == B
    assert document(world).decider == B
    world.nodes[A].start()
    until(world, lambda: A in document(world).sync.nodes(), limit_s=30)
    assert document(world).decider == A
    world.nodes[A].kill_host()
    until(world, lambda: world.primary() is None, limit_s=10)


def test_after_a_restart_of_both_both_are_needed() -> None:
    for mode in PairMode:
        world = pair(mode)
        for name in (A, B):
            world.nodes[name].kill_host()
        decider = document(world).decider
        assert decider is not None
        world.nodes[decider].start()
        world.run(12)
        assert world.primary() is None
        for name in (A, B):
            if name != decider:
                world.nodes[name].start()
        wait_primary(world, 10)


def test_who_decides_alone_does_one_thing_after_the_other() -> None:
    """What it proposes is committed at once, and what is due next has to be made from that."""
    gone = Restart(NodeId("x"), "o1", 1000)  # its turn has come, and it is no member any more
    both = replace(MANUAL, learners=(C,), leaving=(C,), restarts=(gone,))
    office = Office(both, answering=())
    office.run(100)
    newest = office.document
    assert newest.restarts == ()
    assert newest.learners == ()
    assert newest.version >= both.version + 2
