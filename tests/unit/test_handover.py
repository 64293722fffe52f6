"""A planned change of the primary at the leader: its answers, what it waits for, and its ends.

`a` leads `b` and `c`, both synchronous. Every step ends with a deadline that lies ahead, or the
agent would run without a pause (`handover_kit`).
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from handover_kit import (
    END,
    OF_THREE,
    SETTINGS,
    Office,
    cancel,
    member,
    serving,
    standby,
    switchover,
)
from resuming_kit import A, B, C

from metako.election.decisions import ANSWERS_REMEMBERED_MAX
from metako.election.ends import HANDOVER, STOP
from metako.election.handover import SHUTDOWN_MS
from metako.election.settings import ElectionSettings
from metako.election.spare import take_spare
from metako.model.document import ClusterDocument, Switchover, SyncSet
from metako.model.events import EventName
from metako.model.ids import NodeId, Term
from metako.model.lsn import Lsn
from metako.model.member import MemberState
from metako.model.orders import OrderAnswer
from metako.model.postgres import Leading, Stopped
from metako.wire.messages import HeartbeatAck, OrderReply, OrderRequest, TermRejected

WISH = Switchover("o1", B, 10_000)
TAKEN = OrderAnswer("o1", True, "switching over to b", B)


def refused(answer: OrderAnswer | None) -> str:
    assert answer is not None
    assert not answer.accepted
    assert answer.target is None
    return answer.reason


def under_way(**options: object) -> Office:
    """Return an office whose switchover to `b` is in the document, with nothing else done."""
    office = Office(**options)  # type: ignore[arg-type]
    assert office.give(switchover()) == TAKEN
    assert office.wish == WISH
    return office


def ending() -> Office:
    """Return an office that stops its server for a switchover to `b`."""
    office = under_way()
    office.checkpoint("o1", B)
    assert office.leader.ending == HANDOVER
    return office


# ---------------------------------------------------------------- answers


def test_an_order_is_taken_and_goes_into_the_document() -> None:
    office = Office()
    assert office.give(switchover()) == TAKEN
    assert office.wish == WISH
    assert office.leader.ending == ""
    assert office.told(EventName.SWITCHOVER_ACCEPTED) == [{"target": "b", "order": "o1", "term": 4}]


def test_the_leader_chooses_by_priority_where_nobody_is_named() -> None:
    office = Office()
    office.know(member(C, priority=200))
    answer = office.give(switchover(None))
    assert answer == OrderAnswer("o1", True, "switching over to c", C)
    assert office.wish == replace(WISH, target=C)


@pytest.mark.parametrize(
    ("to", "why"),
    [
        (NodeId("z"), "z cannot take over: it is no member of the cluster"),
        (A, "a cannot take over: it is the primary already"),
        (C, "c cannot take over: it is not alive"),
    ],
)
def test_who_cannot_take_over_is_refused_with_the_reason(to: NodeId, why: str) -> None:
    office = Office()
    office.know(member(C, MemberState.SUSPECT))
    assert refused(office.give(switchover(to))) == why
    assert office.wish is None


def test_where_nobody_can_take_over_everybody_is_told_apart() -> None:
    office = Office()
    office.know(member(B, priority=0), member(C, MemberState.DEAD))
    unfit = "its priority is 0, or its watchdog is required and cannot be armed"
    why = f"nobody can take over: b: {unfit}; c: it is not alive"
    assert refused(office.give(switchover(None))) == why


def test_a_single_node_refuses() -> None:
    alone = replace(OF_THREE, voters=(A,), sync=SyncSet((), 0))
    office = Office(alone)
    why = "nobody can take over: there is no other node with data"
    assert refused(office.give(switchover(None))) == why


def test_a_reason_fits_into_its_message() -> None:
    names = tuple(NodeId(f"ü{number}") for number in range(40))
    office = Office(replace(OF_THREE, voters=(A, B, C), learners=names))
    office.look(standbys=())
    why = refused(office.give(switchover(None)))
    assert why.startswith("nobody can take over: b: ")
    assert len(why.encode()) <= 250


def test_one_change_at_a_time() -> None:
    office = under_way()
    why = refused(office.give(switchover(C, "o2")))
    assert why == "a switchover to b is under way; cancel it first"
    assert office.wish == WISH


def test_before_the_primary_serves_it_is_asked_for_again() -> None:
    office = Office(answering=())
    why = refused(office.give(switchover()))
    assert why == "the primary is not active yet; try again in a moment"


def test_an_order_waits_while_another_change_is_on_its_way_to_a_majority() -> None:
    office = Office()
    office.answering.clear()
    office.leader.propose(office.now, replace(office.document, version=10))
    assert office.give(switchover()) is None
    office.run(200)
    assert office.answers == []
    office.answering |= {B, C}
    office.run(200)
    assert office.answers == [TAKEN]
    assert office.wish == WISH


def test_so_does_a_cancellation() -> None:
    office = Office()
    office.answering.clear()
    assert office.give(switchover()) == TAKEN  # on no majority yet
    assert office.give(cancel()) is None
    office.answering |= {B, C}
    office.run(200)
    assert [(answer.order_id, answer.accepted) for answer in office.answers] == [
        ("o1", True),
        ("c1", True),
    ]
    assert office.wish is None


def test_an_order_that_comes_again_has_the_same_answer_and_is_done_once() -> None:
    office = Office()
    for _ in range(3):
        office.receive(C, OrderRequest(switchover(), Term(4), 7))
        assert (C, OrderReply(TAKEN)) in office.sent
    assert len(office.told(EventName.SWITCHOVER_ACCEPTED)) == 1


def test_it_is_not_done_again_once_it_was_cancelled() -> None:
    office = under_way()
    assert office.give(cancel()) == OrderAnswer("c1", True, "cancelled", None)
    assert office.give(switchover()) == TAKEN
    assert office.give(cancel()) == OrderAnswer("c1", True, "cancelled", None)
    assert office.wish is None
    assert len(office.told(EventName.SWITCHOVER_ACCEPTED)) == 1


def test_a_refusal_stays_one() -> None:
    office = Office()
    office.know(member(B, MemberState.SUSPECT))
    first = office.give(switchover())
    office.know(member(B))
    assert office.give(switchover()) == first


def test_only_so_many_answers_are_remembered() -> None:
    office = Office()
    for number in range(ANSWERS_REMEMBERED_MAX + 8):
        office.give(cancel(f"c{number}"))
    assert len(office.leader.decisions._answers) == ANSWERS_REMEMBERED_MAX
    assert "c0" not in office.leader.decisions._answers


def test_a_cancellation_ends_what_is_under_way_and_says_so() -> None:
    office = under_way()
    office.give(cancel())
    assert office.wish is None
    (told,) = office.told(EventName.SWITCHOVER_FAILED)
    assert (told["target"], told["order"], told["reason"]) == ("b", "o1", "it was cancelled")
    office.checkpoint("o1", B)
    office.run(1000)
    assert office.leader.ending == ""
    assert office.told(EventName.SWITCHOVER_BEGUN) == []


def test_without_anything_under_way_there_is_nothing_to_cancel() -> None:
    assert refused(Office().give(cancel())) == "no switchover is under way"


def test_once_the_server_is_being_stopped_nothing_is_taken_and_nothing_cancelled() -> None:
    office = ending()
    why = "a is being stopped and hands over already"
    assert refused(office.give(switchover(C, "o2"))) == why
    assert refused(office.give(cancel())) == why
    assert office.give(switchover()) == TAKEN  # it comes again


def test_a_node_that_is_told_to_stop_takes_no_order() -> None:
    office = Office()
    office.stop()
    assert office.leader.ending == ""  # it has yet to write its checkpoint
    why = "a is being stopped and hands over already"
    assert refused(office.give(switchover())) == why


# ---------------------------------------------------------------- a restart of the agent


def with_intent(**changes: object) -> ClusterDocument:
    return replace(OF_THREE, switchover=WISH, **changes)  # type: ignore[arg-type]


def test_an_agent_that_restarts_goes_on_with_what_the_document_says() -> None:
    office = Office(with_intent())
    assert office.target == replace(target_of(office), checkpoint="o1")
    office.checkpoint("o1", B)
    assert office.target == Stopped(fast=True, successor=B)


def target_of(office: Office) -> Leading:
    assert isinstance(office.target, Leading)
    return office.target


def test_an_order_that_the_agent_before_had_taken_is_not_refused() -> None:
    """Its reply was lost with it, perhaps: whoever asks again hears what became of it."""
    office = Office(with_intent())
    assert office.give(switchover()) == TAKEN
    early = Office(with_intent(), answering=())  # nothing is committed, nobody is served
    assert early.give(switchover()) == TAKEN
    late = Office(with_intent())
    late.checkpoint("o1", B)
    assert late.leader.ending == HANDOVER
    assert late.give(switchover()) == TAKEN


def test_time_to_give_up_begins_anew() -> None:
    office = Office(with_intent())
    office.run(WISH.timeout_ms - 100, step_ms=100)
    assert office.wish == WISH
    office.run(200, step_ms=100)
    assert office.wish is None


def test_a_server_that_is_found_gone_under_an_intent_was_stopped_for_it() -> None:
    """The agent before has begun it, and nobody has seen its standbys since."""
    office = Office(with_intent(), seen=False)
    office.gone()
    office.gone()
    (release,) = office.released
    assert release.successor == B


# ---------------------------------------------------------------- before the shutdown


def test_the_checkpoint_comes_first() -> None:
    office = under_way()
    assert target_of(office).checkpoint == "o1"
    office.run(500)
    assert office.leader.ending == ""
    office.checkpoint("another", B)
    assert office.leader.ending == ""
    office.checkpoint("o1", B)
    assert office.leader.ending == HANDOVER


def test_then_the_server_is_stopped_and_only_the_target_waited_for() -> None:
    office = ending()
    assert office.target == Stopped(fast=True, successor=B)
    assert office.told(EventName.SWITCHOVER_BEGUN) == [{"target": "b", "order": "o1", "term": 4}]


def test_applications_are_sent_elsewhere_at_once_and_standbys_stay() -> None:
    office = ending()
    assert {(beat.active, beat.attachable) for beat in office.beats()[-2:]} == {(False, True)}
    office.run(SETTINGS.heartbeat_ms)
    assert {(beat.active, beat.attachable) for beat in office.beats()} == {(False, True)}


def test_the_target_has_to_flush_what_was_written_since_the_order() -> None:
    office = under_way()
    office.checkpoint("o1")
    office.checkpoint("o1", C)
    office.run(300)
    assert office.leader.ending == ""
    office.look(standbys=(standby(B, END + 99), standby(C)))
    assert office.leader.ending == ""
    office.look(standbys=(standby(B, END + 100), standby(C)))
    assert office.leader.ending == HANDOVER


def test_what_it_had_flushed_before_proves_nothing() -> None:
    """The newest picture may be half a second old when the order comes."""
    office = Office()
    office.look(lsn=Lsn(END), standbys=(standby(B, END + 50), standby(C)))
    office.give(switchover())
    office.checkpoint("o1")
    assert office.leader.ending == ""


def test_a_server_that_takes_no_connections_proves_nothing() -> None:
    office = under_way()
    seen = office.picture
    office.look(serving((standby(B, 0), standby(C, 0)), lsn=0, checkpointed="o1"))
    assert office.leader.ending == ""
    office.look(replace(seen, checkpointed="o1", silent=True))
    assert office.leader.ending == ""


def test_its_agent_has_to_answer_since_the_checkpoint() -> None:
    office = under_way()
    office.answering -= {B}
    office.run(1000)
    office.checkpoint("o1", B)
    office.run(500)
    assert office.leader.ending == ""
    office.answering |= {B}
    office.run(SETTINGS.heartbeat_ms)
    assert office.leader.ending == HANDOVER


def test_its_agent_is_asked_at_once() -> None:
    office = under_way()
    office.answering -= {B, C}
    office.checkpoint("o1", B)
    assert office.beats()


def test_its_agent_has_to_have_the_newest_document() -> None:
    office = under_way()
    office.answering = {C}
    office.leader.propose(office.now, replace(office.document, version=20))
    office.run(100)
    assert office.document.version == 20
    office.checkpoint("o1", B)
    assert office.leader.ending == ""


def test_a_target_that_is_no_longer_fit_holds_it_up() -> None:
    office = under_way()
    office.know(member(B, MemberState.SUSPECT))
    office.checkpoint("o1", B)
    assert office.leader.ending == ""
    office.know(member(B))
    office.run(10)
    assert office.leader.ending == HANDOVER


@pytest.mark.parametrize(
    ("silent", "checkpointed", "why"),
    [
        (True, True, "its agent does not answer"),
        (False, False, "the checkpoint takes too long"),
        (False, True, "its PostgreSQL confirms nothing"),
    ],
)
def test_what_is_waited_for_too_long_is_given_up(
    silent: bool, checkpointed: bool, why: str
) -> None:
    office = under_way()
    if silent:
        office.answering -= {B}
    if checkpointed:
        office.checkpoint("o1", *([B] if silent else []))
    office.run(WISH.timeout_ms, step_ms=100)
    assert office.wish is None
    assert office.leader.ending == ""
    (told,) = office.told(EventName.SWITCHOVER_FAILED)
    assert told["reason"] == why
    assert target_of(office).checkpoint == ""
    office.checkpoint("o1", B)
    assert office.leader.ending == ""
    assert office.give(switchover(C, "o2")) is not None
    assert office.wish == replace(WISH, order_id="o2", target=C)


def test_the_end_of_waiting_is_woken_for() -> None:
    office = under_way(settings=ElectionSettings(heartbeat_ms=60_000, hold_ms=240_000))
    due = office.election.wakeup()
    assert due <= office.now.mono_ns + WISH.timeout_ms * 1_000_000


def test_an_order_of_another_time_is_another_wait() -> None:
    office = under_way()
    office.run(6000, step_ms=100)
    office.give(cancel())
    office.give(switchover(B, "o2"))
    office.run(6000, step_ms=100)
    assert office.wish == replace(WISH, order_id="o2")


def test_nothing_begins_while_somebody_has_promised_a_higher_term() -> None:
    """The leader stands again first; a server that is being stopped could not be led on."""
    office = under_way()
    office.answering.clear()
    office.receive(C, TermRejected(Term(4), Term(6)))
    office.checkpoint("o1", B)
    office.run(200)
    assert office.leader.term == 4
    assert office.leader.ending == ""


# ---------------------------------------------------------------- the shutdown


def test_the_release_names_the_target() -> None:
    office = ending()
    office.gone()
    (release,) = office.released
    assert (release.term, release.successor) == (4, B)
    assert office.election.leader is None


def test_a_shutdown_that_hangs_becomes_a_failover() -> None:
    office = ending()
    # Meanwhile `c` has got more.
    office.look(standbys=(standby(B, END + 100), standby(C, END + 200)), lsn=Lsn(END + 200))
    office.run(SHUTDOWN_MS - 100, step_ms=20)
    assert office.target == Stopped(fast=True, successor=B)
    office.run(200, step_ms=20)
    assert office.target == Stopped(fast=False)
    office.run(SETTINGS.heartbeat_ms, step_ms=20)
    assert not any(beat.attachable for beat in office.beats())
    office.gone()
    (release,) = office.released
    assert release.successor == C


def test_a_shorter_limit_for_stopping_holds_for_it_too() -> None:
    office = Office(settings=ElectionSettings(stop_timeout_ms=1000))
    office.give(switchover())
    office.checkpoint("o1", B)
    office.run(900)
    assert office.target == Stopped(fast=True, successor=B)
    office.run(200)
    assert office.target == Stopped(fast=False)


def test_a_crash_on_the_way_is_a_failover_to_whoever_has_most() -> None:
    office = under_way()
    office.look(standbys=(standby(B), standby(C, END + 8)), lsn=Lsn(END + 8))
    office.gone()
    assert office.target == Stopped(fast=False)
    office.gone()
    (release,) = office.released
    assert release.successor == C


# ---------------------------------------------------------------- a node that is told to stop


def test_a_node_that_stops_writes_its_checkpoint_first_and_hands_over() -> None:
    office = Office()
    office.stop()
    assert target_of(office).checkpoint == STOP
    office.run(100)
    office.checkpoint(STOP)
    assert office.target == Stopped(fast=True, successor=B)
    assert {(beat.active, beat.attachable) for beat in office.beats()} == {(False, True)}
    office.gone()
    (release,) = office.released
    assert release.successor == B


def test_its_checkpoint_is_not_waited_for_longer_than_half_of_its_time() -> None:
    office = Office()
    office.stop()
    half_ms = SETTINGS.stop_timeout_ms / 2
    office.run(half_ms - 100, step_ms=50)
    assert isinstance(office.target, Leading)
    office.run(200, step_ms=50)
    assert office.target == Stopped(fast=True, successor=B)
    office.run(half_ms, step_ms=50)
    assert office.target == Stopped(fast=False)


def test_a_server_that_does_not_answer_is_not_asked_for_a_checkpoint() -> None:
    office = Office()
    office.stop()
    office.look(silent=True)
    assert office.target == Stopped(fast=True, successor=B)


def test_without_an_heir_it_is_stopped_at_once_and_the_release_names_nobody() -> None:
    office = Office()
    office.know(member(B, MemberState.DEAD), member(C, MemberState.DEAD))
    office.stop()
    assert office.target == Stopped(fast=True, successor=None)
    assert {(beat.active, beat.attachable) for beat in office.beats()} == {(False, True)}
    office.gone()
    (release,) = office.released
    assert release.successor is None


def test_the_heir_of_a_node_that_stops_may_change_until_it_has() -> None:
    office = Office()
    office.stop()
    office.checkpoint(STOP)
    office.know(member(B, MemberState.DEAD))
    office.run(10)
    assert office.target == Stopped(fast=True, successor=C)


def test_a_node_that_stops_hands_over_to_whom_it_was_about_to() -> None:
    office = Office()
    office.give(switchover(C))
    office.stop()
    office.checkpoint(STOP)
    assert office.target == Stopped(fast=True, successor=C)
    office.know(member(C, MemberState.DEAD))
    office.run(10)
    assert office.target == Stopped(fast=True, successor=B)


def test_a_stop_in_the_middle_of_a_switchover_changes_nothing() -> None:
    office = ending()
    office.stop()
    assert office.target == Stopped(fast=True, successor=B)
    office.gone()
    (release,) = office.released
    assert release.successor == B


def test_a_node_that_stops_does_not_stand_again() -> None:
    """It would be at a candidacy that nobody goes on with, and its deadline would stay past."""
    office = Office()
    office.stop()
    office.receive(C, TermRejected(Term(4), Term(6)))
    office.run(200)
    assert office.target == Stopped(fast=True, successor=B)
    office.gone()
    assert office.released


def test_a_stop_ends_a_candidacy_and_the_release_is_told_all_the_same() -> None:
    office = Office()
    office.answering.clear()
    office.receive(C, TermRejected(Term(4), Term(6)))
    office.stop()
    office.run(200)
    office.gone()
    office.run(100)
    assert [release.term for release in office.released] == [4]


# ---------------------------------------------------------------- what becomes of it elsewhere


def test_the_next_leader_drops_the_intent(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(with_intent())
    handover = office.leader.handover
    handover.succeeded(office.document)
    office.settle()
    (told,) = office.told(EventName.SWITCHOVER_FAILED)
    assert (told["target"], told["reason"]) == ("b", "another node was elected")
    handover.completed(office.leader.term, office.document.timelines[-1].tli)
    office.settle()
    assert office.told(EventName.SWITCHOVER_COMPLETED) == []


def test_the_target_says_when_it_is_done() -> None:
    office = Office()
    handover = office.leader.handover
    handover.succeeded(replace(OF_THREE, switchover=replace(WISH, target=A)))
    handover.completed(office.leader.term, office.document.timelines[-1].tli)
    office.settle()
    assert office.told(EventName.SWITCHOVER_FAILED) == []
    assert office.told(EventName.SWITCHOVER_COMPLETED) == [
        {"target": "a", "term": 4, "timeline": 2}
    ]


def test_without_an_intent_an_election_is_none_of_it() -> None:
    office = Office()
    handover = office.leader.handover
    handover.succeeded(OF_THREE)
    handover.completed(office.leader.term, office.document.timelines[-1].tli)
    office.settle()
    assert office.told(EventName.SWITCHOVER_COMPLETED) == []


def test_the_answer_that_is_waited_for_is_news() -> None:
    """A majority had answered the round without it, so it would change nothing else."""
    office = under_way()
    office.answering -= {B}
    office.checkpoint("o1", B)
    assert office.leader.ending == ""
    hard, round_ = office.election.core.hard, office.leader.lease.round
    ack = HeartbeatAck(Term(4), hard.boot_epoch, round_, office.document.ref)
    assert take_spare(office.leader, hard, office.now, C, ack)
    assert not take_spare(office.leader, hard, office.now, B, ack)
    office.receive(B, ack)
    assert office.leader.ending == HANDOVER


# ---------------------------------------------------------------- whatever happens


@pytest.mark.parametrize("seed", range(25))
def test_it_always_sleeps_and_ends_in_a_release_or_goes_on(seed: int) -> None:
    """Each step of an office asserts that the next deadline lies ahead."""
    rng = random.Random(seed)
    office = Office(settings=ElectionSettings(stop_timeout_ms=2000))
    for number in range(120):
        if office.election.leader is None:
            break
        befall(office, rng, number)
    if office.election.leader is None:
        assert office.released or office.told(EventName.LEASE_LOST)
    else:
        assert office.leader.committed is not None
    orders = [answer.order_id for answer in office.answers]
    assert len(orders) == len(set(orders))
    taken = [told["order"] for told in office.told(EventName.SWITCHOVER_ACCEPTED)]
    assert len(taken) == len(set(taken))


def befall(office: Office, rng: random.Random, number: int) -> None:
    """Let one thing happen."""
    other = rng.choice((B, C))
    match rng.randrange(12):
        case 0 | 1:
            office.give(switchover(rng.choice((B, C, None)), f"o{number}", rng.choice((50, 500))))
        case 2:
            office.give(cancel(f"c{number}"))
        case 3:
            office.answering ^= {other}
        case 4:
            office.know(member(other, rng.choice((MemberState.ALIVE, MemberState.SUSPECT))))
        case 5:
            office.look(silent=rng.random() < 0.5)
        case 6:
            wish = office.wish.order_id if office.leader.committed and office.wish else STOP
            office.checkpoint(wish, *rng.sample((B, C), rng.randrange(3)))
        case 7 if rng.random() < 0.1:
            office.receive(other, TermRejected(office.leader.term, Term(9 + number)))
        case 8 if rng.random() < 0.1:
            office.stop()
        case 9 if office.leader.ending:
            office.gone()
        case _:
            office.run(rng.choice((1, 20, 300)), step_ms=20)
