"""For each check of the simulator the smallest untruth that it has to notice.

Some are told to the watchers as if they had happened; some are done to a settled cluster behind the
engines' backs. In each cluster `a` is the primary of term 1 on timeline 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import sim.world
from metako.election.settings import ElectionSettings
from metako.model.document import NO_DOCUMENT, Durability, SyncSet
from metako.model.durable import HardState
from metako.model.events import EventName, event
from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.member import MemberState
from metako.model.orders import Order, OrderAnswer, OrderKind
from metako.model.postgres import ProcessState, SyncSetting
from metako.proxy.routes import Route
from metako.wire.messages import DocumentAck, Message, Outbound, Ping, VoteReply
from sim.agent import INBOX_MAX, LOCAL_MAX
from sim.checkers.agreement import Agreement
from sim.checkers.availability import FLAPPING_MAX
from sim.checkers.bounds import MESSAGES_PER_SECOND_MAX
from sim.checkers.durability import Durable
from sim.checkers.single import Single
from sim.checkers.upkeep import Upkeep
from sim.exam import TAKEN, take_exam
from sim.mutations import planted
from sim.mutations.base import Patch
from sim.network import Traffic
from sim.play import play
from sim.postgres.commits import Commit, SyncLevel
from sim.postgres.primary import Primary
from sim.postgres.server import SimServer
from sim.postgres.slots import Slot
from sim.postgres.upkeep import slot_of
from sim.postgres.wal import Record, RecordKind
from sim.scenario import read_scenario
from sim.settled import Stage, document, others, outage, primary, settled, until
from sim.streams import stream
from sim.watch import ViolationError

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
Forgery = Callable[[], None]
FORGERIES: list[tuple[str, Forgery]] = []


def breaks(check: str) -> Callable[[Forgery], Forgery]:
    """Say which check a forgery has to fail."""

    def register(forgery: Forgery) -> Forgery:
        FORGERIES.append((check, forgery))
        return forgery

    return register


# ---------------------------------------------------------------- what is forged


def a_commit(server: SimServer, tli: int, branch: str, value: str = "x") -> Commit:
    assert server.data is not None
    record = Record(server.data.end, TimelineId(tli), branch, RecordKind.COMMIT, (("k", value),))
    return Commit(1, record.values, SyncLevel.ON, record, lambda _: None)


def hard_of(world: Stage, node: NodeId) -> HardState:
    hard = world.nodes[node].hard
    assert hard is not None
    return hard


def tell(world: Stage, node: NodeId, message: Message, to: NodeId = A) -> None:
    """Let a message leave an agent, as far as the watchers know."""
    world.watch.sent(world.nodes[node], Outbound(to, Address(to, 1), message), None)


def promote_by_hand(world: Stage) -> None:
    """Promote the server of B as somebody may who arms its guard first."""
    guard = world.nodes[B].guard
    assert guard is not None
    guard.request("arm", 9, world.nodes[B].clock.instant(world.heap.now_ns).boot_ns + 10**10)
    world.run(0.01)
    world.nodes[B].server.promote(lambda: None)
    world.run(1)


def acknowledge_alone(world: Stage) -> None:
    """Let the primary wait for nobody, and nobody receive what it commits."""
    server = world.nodes[A].server
    assert server.config is not None
    server.conf = replace(server.config, sync=SyncSetting())
    server.reload()
    world.network.cut("*", "*", Traffic.REPLICATION)
    world.write_everywhere(0.1)


def a_vote(term: int, *, detached: bool = False) -> VoteReply:
    return VoteReply(
        term=Term(term),
        granted=True,
        refusal=None,
        promised=Term(term),
        document_ref=NO_DOCUMENT,
        detached=detached,
        data_id=DataId(""),
        position=None,
        can_lead=True,
        priority=100,
        max_tli=TimelineId(0),
    )


def persist(world: Stage, hard: HardState) -> None:
    """Make a record durable, as far as the watchers know."""
    node = hard.node_id
    world.watch.persisted(world.nodes[node], hard_of(world, node), hard)


def played(text: str) -> None:
    """Play a scenario and raise what it came to."""
    result = play(read_scenario(f"name: x\nsummary: A test.\n{text}", "x.yaml"), 1)
    if result.violation is not None:
        raise ViolationError(result.violation.check, result.violation.text)


@contextmanager
def patched(owner: object, name: str, value: object) -> Iterator[None]:
    patch = Patch()
    patch.set(owner, name, value)
    try:
        yield
    finally:
        patch.undo()


# ---------------------------------------------------------------- one server at a time


@breaks("one_acknowledger")
def the_older_line_acknowledges_after_the_newer_one() -> None:
    world = settled()
    single, nodes = world.checker(Single), world.nodes
    single.acknowledged(nodes[B].server, a_commit(nodes[B].server, 3, "b9"))
    single.acknowledged(nodes[A].server, a_commit(nodes[A].server, 2, nodes[A].server.branch))


@breaks("one_acknowledger")
def two_branches_of_one_number_acknowledge() -> None:
    world = settled()
    server = world.nodes[B].server
    world.checker(Single).acknowledged(server, a_commit(server, 2, "b9"))


@breaks("one_writable")
def a_standby_is_promoted_by_hand() -> None:
    world = settled()
    promote_by_hand(world)


@breaks("one_timeline")
def a_timeline_is_made_twice() -> None:
    world = settled()
    world.promoted(world.nodes[A].server, TimelineId(2))


@breaks("guarded_promotion")
def a_server_is_promoted_without_a_guard() -> None:
    world = settled()
    guard = world.nodes[B].guard
    assert guard is not None
    assert guard.armed_term == 0
    world.promoted(world.nodes[B].server, TimelineId(3))


@breaks("standby_first")
def a_server_leaves_recovery_without_a_promotion() -> None:
    server = settled().nodes[B].server
    assert server.data is not None
    server.primary, server.in_recovery = Primary(server, server.data), False
    server.changed()


# ---------------------------------------------------------------- writes


@breaks("lost_write")
def a_standby_that_lacks_a_write_is_promoted() -> None:
    world = settled()
    world.network.cut("*", B, Traffic.REPLICATION)
    world.write_everywhere(0.1)
    promote_by_hand(world)


@breaks("lost_write")
def a_write_is_missing_in_the_end() -> None:
    world = settled()
    data = world.nodes[A].server.data
    assert data is not None
    data.wal.remove(next(record for record in data.wal if record.values))
    world.checker(Durable).check_end(data, A)


@breaks("lost_write")
def a_write_is_there_twice() -> None:
    world = settled()
    data = world.nodes[A].server.data
    assert data is not None
    data.wal.append(next(record for record in data.wal if record.values))
    world.checker(Durable).check_end(data, A)


@breaks("failed_present")
def a_write_that_failed_is_there() -> None:
    world = settled()
    data = world.nodes[A].server.data
    assert data is not None
    world.clients[0].failed_values.add(world.acked[0].value)
    world.checker(Durable).check_end(data, A)


@breaks("sync_invariant")
def commits_return_that_no_standby_has() -> None:
    acknowledge_alone(settled())


@breaks("strict_copies")
def a_strict_primary_acknowledges_alone() -> None:
    acknowledge_alone(settled(durability=Durability.STRICT))


@breaks("strict_lowered")
def a_strict_document_waits_for_fewer() -> None:
    world = settled(durability=Durability.STRICT)
    base = document(world)
    fewer = replace(base, version=base.version + 1, sync=SyncSet())
    persist(world, hard_of(world, A).with_document(fewer))
    told = event(EventName.DOCUMENT_COMMITTED, "committed", document=str(fewer.ref))
    world.watch.happened(world.nodes[A], [told])


# ---------------------------------------------------------------- terms, votes, documents


@breaks("one_leader")
def somebody_else_wins_the_same_term() -> None:
    world = settled()
    won = event(EventName.ELECTION_WON, "won", term=document(world).term)
    world.watch.happened(world.nodes[B], [won])


@breaks("one_vote")
def a_voter_votes_for_two() -> None:
    world = settled()
    agreement, node = world.checker(Agreement), world.nodes[C]
    agreement.sent(node, Outbound(A, Address(A, 1), a_vote(9)), None)
    agreement.sent(node, Outbound(B, Address(B, 1), a_vote(9)), None)


@breaks("record_back")
def a_promise_is_taken_back() -> None:
    world = settled()
    persist(world, replace(hard_of(world, B), promised_term=Term(0)))


@breaks("record_back")
def an_agent_starts_from_an_old_copy_of_its_record() -> None:
    world = settled()
    world.nodes[A].kill_postgres()
    outage(world)
    world.nodes[A].kill_host()
    assert world.nodes[A].disk.restore_old()
    world.nodes[A].start()
    world.run(1)


@breaks("not_durable")
def a_document_is_acknowledged_that_is_not_on_disk() -> None:
    world = settled()
    ref = replace(document(world), version=99).ref
    tell(world, B, DocumentAck(ref.term, ref))


@breaks("not_durable")
def a_vote_leaves_that_is_not_on_disk() -> None:
    tell(settled(), B, a_vote(9))


@breaks("promise_broken")
def a_lower_term_is_followed_after_a_promise() -> None:
    tell(settled(), B, DocumentAck(Term(0), NO_DOCUMENT))


@breaks("promise_untrue")
def a_standby_that_still_receives_says_that_it_is_detached() -> None:
    world = settled()
    node = world.nodes[B]
    node.hard = replace(hard_of(world, B), term=Term(9), promised_term=Term(9), voted_for=C)
    tell(world, B, a_vote(9, detached=True), to=C)


@breaks("one_document")
def a_version_has_another_content() -> None:
    world = settled()
    persist(world, hard_of(world, B).with_document(replace(document(world), primary=C)))


@breaks("one_document")
def an_older_version_is_committed_after_a_newer_one() -> None:
    world = settled()
    committed = event(EventName.DOCUMENT_COMMITTED, "committed", document="1.1")
    world.watch.happened(world.nodes[A], [committed])


@breaks("one_document")
def the_next_leader_did_not_start_from_what_was_committed() -> None:
    world = settled()
    commit_late(world, reserved=TimelineId(7))


def commit_late(world: Stage, *, reserved: TimelineId) -> None:
    """Have a document committed whose leader was deposed before it learnt of it.

    Args:
        world: in which there is a primary.
        reserved: the timeline of the deposed leader; in the newest document there is number 5.
    """
    base = document(world)
    entry = replace(base.timelines[-1], term=Term(2), tli=reserved)
    late = replace(base, term=Term(2), version=base.version + 1, timelines=(*base.timelines, entry))
    found = replace(entry, tli=TimelineId(5))
    newest = replace(
        base, term=Term(3), version=base.version + 2, timelines=(*base.timelines, found)
    )
    for node, each in ((A, late), (B, late), (A, newest), (C, newest)):
        persist(world, hard_of(world, node).with_document(each))
    for node, each in ((C, newest), (B, late)):
        committed = event(EventName.DOCUMENT_COMMITTED, "committed", document=str(each.ref))
        world.watch.happened(world.nodes[node], [committed])


# ---------------------------------------------------------------- availability


@breaks("false_failover")
def an_election_is_won_under_a_sound_primary() -> None:
    world = settled()
    world.run(4)
    world.watch.happened(world.nodes[B], [event(EventName.ELECTION_WON, "won", term=Term(2))])


@breaks("no_recovery")
def nobody_stands() -> None:
    world = settled(election=ElectionSettings(jitter_ms=10**7))
    world.nodes[primary(world)].kill_host()
    world.run(20)


@breaks("writes_stuck")
def no_commit_returns() -> None:
    settled().run(17)


@breaks("flapping")
def elections_go_on_after_the_faults() -> None:
    world = settled()
    world.watch.phase("liveness")
    for _ in range(FLAPPING_MAX + 1):
        world.nodes[primary(world)].kill_postgres()
        outage(world)


@breaks("death_unnoticed")
def a_dead_node_is_held_alive() -> None:
    world = settled()
    engine = world.nodes[B].engine
    assert engine is not None
    roster = engine.members()
    vars(engine)["members"] = lambda: roster
    world.nodes[C].kill_host()
    for _ in range(17):
        world.run(1)
        world.write_everywhere(0.1)


@breaks("stale_listing")
def a_standby_is_listed_with_data_that_it_never_had() -> None:
    world = settled()
    base = document(world)
    others = tuple(m._replace(data_id=DataId("another")) for m in base.sync.members)
    sync = replace(base.sync, members=others)
    persist(
        world,
        hard_of(world, B).with_document(replace(base, version=base.version + 1, sync=sync)),
    )


@breaks("stale_listing")
def a_dead_standby_stays_listed() -> None:
    world = settled()
    base = document(world)
    vars(world)["document"] = lambda *_: base
    world.nodes[C].kill_host()
    for _ in range(20):
        world.run(1)
        world.write_everywhere(0.1)


@breaks("slot_kept")
def a_standby_keeps_wal_for_another_one() -> None:
    with planted("standby_keeps_slots"):
        world = settled()
        data = world.nodes[B].server.data
        assert data is not None
        data.slots[slot_of(C)] = Slot(slot_of(C), data.end)
        for _ in range(20):
            world.run(1)
            world.write_everywhere(0.1)


def ordered() -> Stage:
    """Return a cluster in which a switchover to `b` was accepted by `a` a moment ago."""
    world = settled()
    world.run(3)
    accepted = event(EventName.SWITCHOVER_ACCEPTED, "", target="b", order="x", term=1)
    world.watch.happened(world.nodes[A], (accepted,))
    return world


@breaks("slow_switchover")
def switchover_that_does_not_end() -> None:
    ordered().run(5)


@breaks("switchover_failed")
def switchover_that_was_given_up_without_need() -> None:
    world = ordered()
    failed = event(EventName.SWITCHOVER_FAILED, "", target="b", order="x", reason="no time")
    world.watch.happened(world.nodes[A], (failed,))


@breaks("switchover_rewound")
def old_primary_rewound_after_a_switchover() -> None:
    ordered().watch.noted(A, "rewind_used", "")


@breaks("usurped")
def a_standby_takes_over_in_a_pause() -> None:
    world = settled()
    world.nodes[A].order(Order("", OrderKind.PAUSE))
    until(world, lambda: document(world).paused, limit_s=3)
    won = event(EventName.ELECTION_WON, "won", term=9, document=str(document(world).ref))
    world.checker(Upkeep).happened(world.nodes[B], (won,))


@breaks("restarted_twice")
def a_server_is_restarted_again() -> None:
    world = settled()
    for _ in range(2):
        restarted = event(EventName.RESTARTED, "", node="b", order="x")
        world.watch.happened(world.nodes[A], (restarted,))


@breaks("not_restarted")
def a_server_is_said_to_have_been_restarted_and_runs_on() -> None:
    world = settled()
    accepted = event(EventName.RESTART_ACCEPTED, "", order="x")
    world.watch.happened(world.nodes[A], (accepted,))
    restarted = event(EventName.RESTARTED, "", node="b", order="x")
    world.watch.happened(world.nodes[A], (restarted,))


@breaks("order_twice")
def an_order_is_done_again() -> None:
    world = settled()
    accepted = event(EventName.SWITCHOVER_ACCEPTED, "", target="b", order="x", term=1)
    for node in (A, C):
        world.watch.happened(world.nodes[node], (accepted,))


@breaks("order_twice")
def an_order_is_answered_again() -> None:
    world = settled()
    for accepted in (False, True):
        world.watch.answered(world.nodes[A], (OrderAnswer("x", accepted, ""),))


@breaks("order_unanswered")
def nobody_answers_an_order() -> None:
    world = settled()
    world.watch.ordered(world.nodes[A], Order("x", OrderKind.SWITCHOVER))
    world.run(7)


@breaks("slow_handover")
def nobody_stands_although_the_lease_was_given_up() -> None:
    world = settled()
    world.run(4)
    released = event(EventName.LEASE_RELEASED, "released", term=Term(1))
    world.watch.happened(world.nodes[A], [released])
    world.run(3)


@breaks("unguarded")
def a_primary_whose_guard_is_not_armed_stays_writable() -> None:
    world = settled()
    node = world.nodes[A]
    node.pause_agent()
    guard = node.guard
    assert guard is not None
    guard.request("disarm", guard.armed_term, 0)
    world.run(1)


@breaks("beyond_lease")
def the_voters_hold_for_the_primary_no_more() -> None:
    world = settled()
    for name in (B, C):
        engine = world.nodes[name].engine
        assert engine is not None
        engine.hold.until_ns = 0
    world.run(0.2)


@breaks("fenced_in_vain")
def a_guard_goes_by_another_deadline_than_the_lease() -> None:
    world = settled()
    world.run(3)
    guard = world.nodes[A].guard
    assert guard is not None
    guard.request("arm", guard.armed_term, 1)
    world.run(0.1)


@breaks("refused_in_vain")
def a_proxy_takes_its_agent_for_gone() -> None:
    world = settled()
    world.run(6)
    world.watch.session_refused(world.nodes[A])


@breaks("slow_failover")
def nobody_who_could_take_over_does() -> None:
    world = settled()
    for name in (B, C):
        world.nodes[name].pause_agent()
    seed = next(n for n in range(99) if stream(n, "exam").random() < TAKEN)
    take_exam(seed, world, 0, world.names, lambda: None)


@breaks("wrongly_dead")
def a_sound_node_is_held_dead() -> None:
    world = settled()
    engine = world.nodes[B].engine
    assert engine is not None
    roster = tuple(replace(m, state=MemberState.DEAD) for m in engine.members())
    for _ in range(3):
        world.run(8)
        world.write_everywhere(0.1)
    vars(engine)["members"] = lambda: roster
    world.run(5)


@breaks("stale_route")
def a_proxy_leads_to_a_server_that_has_no_lease() -> None:
    world = settled()
    world.run(3)
    world.watch.route_taken(world.nodes[A], Route(Term(1), B, Address(B, 5432)))


# ---------------------------------------------------------------- data and bounds


@breaks("foreign_served")
def a_half_rewound_directory_serves() -> None:
    server = settled().nodes[B].server
    assert server.data is not None
    server.data.tainted = True
    server.changed()


@breaks("foreign_served")
def a_half_rewound_directory_without_its_mark_serves() -> None:
    server = settled().nodes[B].server
    assert server.data is not None
    server.data.mixed = True
    server.changed()


@breaks("foreign_served")
def data_of_another_system_serve() -> None:
    server = settled().nodes[A].server
    assert server.data is not None
    server.data.system_id += 1
    server.changed()


@breaks("foreign_replaced")
def an_agent_clones_over_data_of_another_system() -> None:
    server = settled().nodes[B].server
    assert server.data is not None
    ours = server.data.system_id
    server.data.system_id = ours + 1
    server.process = ProcessState.STOPPED
    server.changed()
    server.data.system_id = ours
    server.changed()


@breaks("unattached_read")
def reads_go_to_a_standby_that_follows_nobody() -> None:
    with planted("reads_from_unattached"):
        world = settled()
        world.network.cut(A, B, Traffic.REPLICATION)
        for _ in range(20):
            world.run(1)
            world.write_everywhere(0.1)


@breaks("too_much")
def a_node_sends_without_end() -> None:
    world = settled()
    for number in range(MESSAGES_PER_SECOND_MAX * len(others(world, A)) + 1):
        tell(world, A, Ping(number), to=B)
    world.run(1)


@breaks("too_much")
def an_inbox_grows_without_end() -> None:
    world = settled()
    agent = world.nodes[A].agent
    assert agent is not None
    agent.longest_inbox = INBOX_MAX + LOCAL_MAX + 1
    world.run(1)


@breaks("engine")
def an_engine_raises() -> None:
    agent = settled().nodes[A].agent
    assert agent is not None
    agent.give(object())  # type: ignore[arg-type]  # no input at all


@breaks("codec")
def a_message_comes_back_changed() -> None:
    world = settled()
    with patched(sim.world, "decode_untrusted", lambda _: Ping(0)):
        world.run(10)


# ---------------------------------------------------------------- scenarios


@breaks("exception")
def the_simulator_raises() -> None:
    with patched(SimServer, "commit", None):
        played("duration: 5s\n")


@breaks("expected")
def an_expected_failover_does_not_happen() -> None:
    played("duration: 5s\nexpect: {failover: required}\n")


@breaks("not_converged")
def the_cluster_is_not_whole_after_the_faults() -> None:
    played(
        "duration: 6s\n"
        "liveness: {heal_core: none, converge_within: 4s}\n"
        "timeline:\n  - {at: 5s, do: partition, groups: [[n1], [n2, n3]]}\n"
    )
