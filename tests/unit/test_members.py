"""Changes of who is a member: what is refused, what is written when, and whose answers count."""

from dataclasses import replace

import pytest
from handover_kit import OF_THREE, Office, member, serving, standby
from resuming_kit import DOCUMENT, A, B, C, D, E

from metako.cluster.engine import blank_hard_state
from metako.election.members import LEARNERS_MAX, VOTERS_MAX
from metako.model.document import DocumentRef, Durability, MemberRecord, SyncMember, SyncSet
from metako.model.events import EventName
from metako.model.ids import Address, DataId, NodeId, RecordId, Term
from metako.model.member import MemberState
from metako.model.orders import Order, OrderKind
from metako.model.postgres import sync_setting
from metako.wire.messages import DocumentAck, DocumentCopy, HeartbeatAck

IDS = {node: RecordId(f"of-{node}") for node in (A, B, C)}
RECORDED = replace(OF_THREE, records=tuple(MemberRecord(n, IDS[n]) for n in (A, B, C)))


def known(node, record_id=None, state=MemberState.ALIVE, **meta):
    """Return a member as gossip shows it, by the record that it says it has."""
    made = member(node, state)
    record_id = record_id or IDS.get(node) or RecordId(f"of-{node}")
    return replace(made, meta=replace(made.meta, record_id=record_id, **meta))


def office(document=RECORDED, **options):
    options.setdefault("answering", document.voters)
    made = Office(document, roster=known, **options)
    made.run(600)  # some rounds: the lease is granted by the voters that there are
    return made


def add(node=D, *, voter=True, order_id="o1"):
    return Order(order_id, OrderKind.ADD_MEMBER, node, 0, voter)


def remove(node=B, order_id="o1"):
    return Order(order_id, OrderKind.REMOVE_MEMBER, node, 0)


def ask(made, order):
    """Give an order and wait for its answer: that of a change may have to wait for a round."""
    before = len(made.answers)
    made.give(order)
    for _ in range(400):
        if len(made.answers) > before:
            return made.answers[before]
        made.run(20)
    raise AssertionError(order)


def refusal(made, order):
    before = made.document
    answer = ask(made, order)
    assert not answer.accepted
    assert made.document.members() == before.members()
    return answer.reason


def with_streaming(made, *nodes):
    standbys = [standby(node) for node in nodes]
    made.look(serving(standbys, sync=sync_setting(made.document.sync)))


# ------------------------------------------------------------------- adding


def test_a_node_is_a_learner_first_and_votes_once_it_has_caught_up():
    made = office()
    made.know(known(D))
    answer = ask(made, add())
    assert (answer.accepted, answer.target) == (True, D)
    assert "voter as soon as it has caught up" in answer.reason
    learner = made.document
    assert (learner.voters, learner.learners, learner.joining) == ((A, B, C), (D,), (D,))
    assert learner.record_of(D) == MemberRecord(D, RecordId("of-d"), learner.ref, Address("h", 1))
    made.run(1000)
    assert made.document == learner  # it neither answers nor streams
    made.answering.add(D)
    made.run(1000)
    assert made.document == learner
    with_streaming(made, B, C, D)
    made.run(600)
    assert (made.document.voters, made.document.learners) == ((A, B, C, D), ())
    assert made.document.joining == ()
    assert made.told(EventName.MEMBERS_CHANGED)[-1]["member"] == D


def test_one_that_is_far_behind_waits_for_its_vote():
    made = office()
    made.know(known(D))
    made.answering.add(D)
    ask(made, add())
    made.look(
        serving(
            [standby(B), standby(C), standby(D, 1)],
            lsn=1 << 26,
            sync=sync_setting(made.document.sync),
        )
    )
    made.run(600)
    assert made.document.joining == (D,)
    made.look(
        serving(
            [standby(B), standby(C), standby(D, 1 << 26)],
            lsn=1 << 26,
            sync=sync_setting(made.document.sync),
        )
    )
    made.run(300)
    assert D in made.document.voters


def test_a_witness_needs_no_data_to_get_its_vote():
    made = office()
    made.know(known(D, witness=True, data_id=DataId("")))
    made.answering.add(D)
    assert ask(made, add()).accepted
    made.run(600)
    assert D in made.document.voters
    assert made.document.witnesses == (D,)
    assert "witness" in refusal(made, add(D, voter=False, order_id="o2"))


def test_a_replica_stays_a_learner_until_it_is_told_otherwise():
    made = office()
    made.know(known(D))
    made.answering.add(D)
    ask(made, add(voter=False))
    with_streaming(made, B, C, D)
    made.run(1000)
    assert (made.document.learners, made.document.joining) == ((D,), ())
    assert ask(made, add(voter=False, order_id="o2")).reason.endswith("it is a learner already")
    assert ask(made, add(order_id="o3")).accepted
    made.run(600)
    assert D in made.document.voters
    again = ask(made, add(order_id="o4"))
    assert (again.accepted, again.reason) == (True, "d: it is a voter already")


def test_a_voter_becomes_a_learner():
    made = office()
    answer = ask(made, add(C, voter=False))
    assert answer.reason == "c: it becomes a learner; 2 voters, of which 2 are needed"
    assert (made.document.voters, made.document.learners) == ((A, B), (C,))
    assert "needs its vote" in refusal(made, add(A, voter=False, order_id="o2"))


@pytest.mark.parametrize(
    ("as_known", "why"),
    [
        (None, "no agent of that name is heard"),
        (known(D, state=MemberState.SUSPECT), "no agent of that name is heard"),
        (known(D, state=MemberState.DEAD), "no agent of that name is heard"),
        (member(D), "upgrade it first"),
        (known(D, system_id=7), "another database system"),
    ],
)
def test_who_cannot_be_taken_in_is_refused(as_known, why):
    made = office()
    if as_known is not None:
        made.know(as_known)
    assert why in refusal(made, add())
    assert made.document.members() == (A, B, C)


def test_there_is_a_limit_to_voters_and_learners():
    many = tuple(NodeId(f"v{n}") for n in range(VOTERS_MAX - 3))
    made = office(replace(RECORDED, voters=(A, B, C, *many)), answering=(A, B, C, *many))
    made.know(known(D))
    assert f"{VOTERS_MAX} voters already" in refusal(made, add())
    assert ask(made, add(voter=False, order_id="o2")).accepted
    full = replace(RECORDED, learners=tuple(NodeId(f"l{n}") for n in range(LEARNERS_MAX)))
    made = office(full)
    made.know(known(D))
    assert f"{LEARNERS_MAX} learners already" in refusal(made, add(voter=False))


def test_votes_are_given_one_at_a_time_and_only_under_a_lease_of_the_voters_there_are():
    made = office()
    made.know(known(D), known(E))
    made.answering |= {D, E}
    ask(made, add(D))
    ask(made, add(E, order_id="o2"))
    assert made.document.joining == (D, E)
    made.picture = serving(
        [standby(n) for n in (B, C, D, E)], sync=sync_setting(made.document.sync)
    )
    assert made.leader.lease.settled
    made.election.observe(made.now, replace(made.picture, under=made.target))
    seen = [made.document.voters]
    made.settle()
    while E not in made.document.voters:
        if made.document.voters != seen[-1]:
            assert not made.leader.lease.settled  # no round of these voters yet
            seen.append(made.document.voters)
        made.run(5)
    assert seen == [(A, B, C), (A, B, C, D)]
    assert made.document.voters == (A, B, C, D, E)


def test_no_vote_is_given_while_the_new_voters_do_not_renew_the_lease():
    made = office()
    made.know(known(D), known(E))
    made.answering |= {D, E}
    ask(made, add(D))
    ask(made, add(E, order_id="o2"))
    with_streaming(made, B, C, D, E)
    while D not in made.document.voters:
        made.run(5)
    made.answering -= {C, D}  # two of four answer
    made.run(1500)
    assert E not in made.document.voters
    made.answering |= {C}
    made.run(600)
    assert E in made.document.voters


def test_a_vote_that_is_given_takes_a_majority_of_those_that_there_are_then():
    made = office(replace(RECORDED, learners=(D,)), answering=(A, B, C, D))
    ask(made, add(D))
    made.run(600)  # d has the newest document, and does not stream
    made.answering.clear()
    with_streaming(made, B, C, D)
    proposal = made.leader.proposal
    assert proposal is not None
    assert proposal.voters == (A, B, C, D)
    made.receive(B, DocumentAck(Term(4), proposal.ref))  # two of four
    assert made.leader.proposal is proposal
    made.receive(D, DocumentAck(Term(4), proposal.ref))
    assert made.document == proposal


def test_a_vote_that_is_taken_takes_a_majority_of_those_that_there_were():
    made = office(replace(RECORDED, voters=(A, B, C, D), sync=SyncSet()))
    made.answering.clear()
    made.give(remove(D))
    for node in (B, C):
        made.receive(node, DocumentAck(Term(4), made.leader.proposal.ref))
    proposal = made.leader.proposal
    assert proposal.voters == (A, B, C)
    made.receive(B, DocumentAck(Term(4), proposal.ref))  # two of three, and of four
    assert made.leader.proposal is proposal
    made.receive(C, DocumentAck(Term(4), proposal.ref))
    assert made.document == proposal


def test_a_failover_is_no_order_for_a_leader():
    made = office()
    order = Order("f", OrderKind.FAILOVER)
    answer = made.leader.answer(made.now, order)
    assert not answer.accepted
    assert "the node that is to lead" in answer.reason
    assert made.leader.proposal is None


def test_answers_by_an_older_document_than_its_record_do_not_count():
    """They may be those of the record that was lost, in the messages of a host long gone."""
    made = office()
    made.know(known(D), known(E))
    made.answering |= {D, E}
    ask(made, add(D))
    with_streaming(made, B, C, D)
    made.run(600)
    assert D in made.document.voters
    made.answering.clear()
    lease, term = made.leader.lease, made.leader.term
    made.run(300)
    round_, until = lease.round, lease.until_boot_ns
    old = DocumentRef(term, made.document.record_of(D).since.version - 1)
    for node, ref in ((B, made.document.ref), (D, old)):
        made.receive(node, HeartbeatAck(term, 7, round_, ref))
    assert lease.until_boot_ns == until
    made.receive(D, HeartbeatAck(term, 7, round_, made.document.record_of(D).since))
    assert lease.until_boot_ns > until


# ------------------------------------------------------------------- once more


def test_a_member_whose_record_was_lost_is_taken_in_by_its_new_one():
    made = office()
    made.know(known(C, RecordId("made anew")))
    # Commits may still wait for it.
    assert "its durable record was lost" in refusal(made, add(C))
    without = SyncSet((SyncMember(B, DataId("b")),), 1)
    made.run(10)
    made.look(sync_applied=sync_setting(without), sync_barrier=sync_setting(without))
    made.run(10)
    assert made.document.sync == without
    without_it = made.document
    answer = ask(made, add(C, order_id="o2"))
    assert answer.accepted
    assert "taken in again" in answer.reason
    learner = made.document
    assert (learner.voters, learner.learners, learner.joining) == ((A, B), (C,), (C,))
    record = learner.record_of(C)
    assert record.record_id == RecordId("made anew")
    assert without_it.ref < record.since <= learner.ref
    made.look(serving([standby(B), standby(C)], sync=sync_setting(without)))
    made.run(600)
    assert made.document.voters == (A, B, C)
    assert made.document.record_of(C) == record


def test_a_member_with_another_record_is_not_listed_although_it_streams():
    made = office()
    made.know(known(C, RecordId("made anew")))
    made.run(10)
    assert made.told(EventName.SYNC_SET_CHANGING)[-1]["standbys"] == "b"


def test_it_is_not_taken_in_where_its_vote_cannot_be_done_without():
    made = office(replace(RECORDED, sync=SyncSet()))
    made.know(known(C, RecordId("made anew")), known(B, state=MemberState.DEAD))
    assert "no majority: 2 of 2" in refusal(made, add(C))


def test_learners_of_the_first_configuration_are_taken_in_when_they_are_heard():
    made = office(replace(RECORDED, learners=(D, E)))
    assert made.document.record_of(D).record_id == "of-d"
    assert made.document.record_of(E).record_id == "of-e"
    old = office(replace(OF_THREE, learners=(D,)))
    assert old.document.records == ()


# ------------------------------------------------------------------- removing


def test_a_member_leaves_once_commits_do_not_wait_for_it():
    made = office()
    answer = ask(made, remove(C))
    assert answer.reason == "c: it is being removed; 2 voters, of which 2 are needed"
    made.run(300)
    assert made.document.leaving == (C,)
    assert C in made.document.members()
    assert ask(made, remove(C, "o2")).reason == "c: it is being removed already"
    assert made.leader.handover.heirs.obstacle(made.document, C) == "it is being removed"
    without = SyncSet((SyncMember(B, DataId("b")),), 1)
    made.look(sync_applied=sync_setting(without), sync_barrier=sync_setting(without))
    made.run(10)
    assert made.document.sync == without
    gone = made.document
    assert (gone.members(), gone.leaving) == ((A, B), ())
    assert [record.node for record in gone.records] == [A, B]


def test_one_that_was_removed_is_told_though_it_is_no_member():
    made = office(replace(RECORDED, learners=(D,)))
    made.know(known(D, document_ref=RECORDED.ref))
    ask(made, remove(D))
    made.run(300)
    assert D not in made.document.members()
    copies = []
    for _ in range(60):
        made.run(5)
        copies += [to for to, message in made.sent if isinstance(message, DocumentCopy)]
    assert copies
    assert set(copies) == {D}
    made.know(known(D, document_ref=made.document.ref))
    made.run(5)
    sent = []
    for _ in range(60):
        made.run(5)
        sent += [message for _, message in made.sent if isinstance(message, DocumentCopy)]
    assert not sent


@pytest.mark.parametrize(
    ("node", "why"), [(A, "run `metako switchover` first"), (D, "it is no member")]
)
def test_who_cannot_leave_is_refused(node, why):
    made = office()
    assert why in refusal(made, remove(node))
    assert made.document.leaving == ()


def test_strict_lets_nobody_go_that_commits_wait_for():
    only_b = SyncSet((SyncMember(B, DataId("b")),), 1)
    made = office(
        replace(RECORDED, durability=Durability.STRICT, sync=only_b),
        seen=False,
        answering=(A, B, C),
    )
    made.look(serving([standby(B)], sync=sync_setting(only_b)))
    made.run(600)
    assert "another standby has to be added first" in refusal(made, remove(B))


def test_a_vote_that_is_needed_stays():
    made = office(replace(RECORDED, voters=(A, B, C, D)), answering=(A, B, C))
    made.know(known(D, state=MemberState.DEAD), known(C, state=MemberState.DEAD))
    why = refusal(made, remove(B))
    assert "2 of 3 voters would be needed, and c, d cannot be reached" in why
    assert ask(made, remove(D, "o2")).accepted


def test_one_that_took_over_meanwhile_stays():
    made = office(replace(RECORDED, leaving=(A,)))
    made.run(10)
    assert made.document.leaving == ()
    assert A in made.document.voters


def test_a_switchovers_target_does_not_leave():
    made = office()
    made.give(Order("s", OrderKind.SWITCHOVER, B, 10_000))
    assert "cancel that first" in refusal(made, remove(B))


# ------------------------------------------------------------------- whose record


def test_a_node_counts_by_the_record_that_the_document_knows():
    assert RECORDED.admits(A, RecordId("of-a"))
    assert not RECORDED.admits(A, RecordId("made anew"))
    assert not RECORDED.admits(D, RecordId("of-d"))
    assert DOCUMENT.admits(A, RecordId(""))  # from before there were identities
    assert not DOCUMENT.admits(A, RecordId("made anew"))
    later = replace(RECORDED, records=(MemberRecord(A, IDS[A], DocumentRef(Term(4), 12)),))
    assert later.counts(A, DocumentRef(Term(4), 12))
    assert not later.counts(A, DocumentRef(Term(4), 11))
    assert later.counts(B, DocumentRef(Term(0), 0))
    assert blank_hard_state(D, 1, RecordId("x")).record_id == "x"


def test_an_acknowledged_document_is_still_that_of_its_sender():
    made = office()
    made.receive(B, DocumentAck(Term(4), made.document.ref))
    assert made.leader.refs[B] == made.document.ref


def test_a_removal_is_taken_back_by_adding_once_more():
    made = office()
    ask(made, remove(C))
    assert made.document.leaving == (C,)
    answer = ask(made, add(C, order_id="o2"))
    assert (answer.accepted, answer.reason) == (True, "c: it stays as it is and is not removed")
    assert made.document.leaving == ()
    made.run(600)
    assert made.document.members() == (A, B, C)


def test_what_a_change_waits_for_is_told():
    made = office()
    made.know(known(D))
    ask(made, add(D))
    ask(made, remove(C, "o2"))
    changes, document = made.leader.decisions.members, made.document
    assert dict(changes.waiting(made.leader, document)) == {
        D: "its agent does not answer",
        C: "commits may still wait for it",
    }
