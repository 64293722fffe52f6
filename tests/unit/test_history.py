"""The history of a cluster: what each node tells of new versions of the document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from resuming_kit import DOCUMENT, A, B, C

from metako.cluster.history import changes, election_event
from metako.election.course import Course
from metako.model.document import (
    ClusterDocument,
    MemberRecord,
    Restart,
    Scheduled,
    Switchover,
    SyncMember,
    SyncSet,
)
from metako.model.events import EventName, event
from metako.model.ids import DataId, NodeId, RecordId, Term, TimelineId
from metako.model.instant import Instant, milliseconds
from metako.model.lsn import Lsn
from metako.model.orders import Order, OrderKind
from metako.model.timeline import TimelineEntry, Took
from metako.runtime.history import FILE_NAME, HistoryBook, entry_of, with_elections
from sim.settled import Stage, document, primary, settled, status, wait_primary

TOOK = Took(2000, 60, 160, 8, 120, 61)
ELECTED = TimelineEntry(
    Term(5), TimelineId(3), TimelineId(2), Lsn(0x5000000), B, "a fell silent", True, 1000, TOOK
)


def told(after: ClusterDocument, before: ClusterDocument = DOCUMENT) -> list[tuple[str, str]]:
    """Return kind and text of what a later version changes."""
    events = changes(before, after, 7)
    assert all(each.name is EventName.HISTORY for each in events)
    return [(str(dict(e.fields)["kind"]), e.message) for e in changes(before, after, 7)]


def test_an_election_is_told_with_its_parts() -> None:
    elected = replace(DOCUMENT, term=Term(5), timelines=(*DOCUMENT.timelines, ELECTED))
    (change,) = changes(DOCUMENT, elected, 7)
    assert change.message == "b became the primary after 2.4 s: a fell silent"
    assert dict(change.fields) == {
        "kind": "election",
        "when_ms": 1000,
        "document": str(elected.ref),
        "term": 5,
        "timeline": 3,
        "lsn": "0/5000000",
        "primary": "b",
        "reason": "a fell silent",
        "total_ms": 2409,
        "silence_ms": 2000,
        "delay_ms": 60,
        "votes_ms": 160,
        "document_ms": 8,
        "promotion_ms": 120,
        "commit_ms": 61,
    }


def test_a_timeline_that_is_only_reserved_is_no_election_yet() -> None:
    reserved = replace(ELECTED, confirmed=False, took=None)
    assert told(replace(DOCUMENT, timelines=(*DOCUMENT.timelines, reserved))) == []


def test_a_term_that_is_about_to_promote_is_not_told_of_by_itself() -> None:
    reserved = replace(ELECTED, confirmed=False, took=None)
    promoting = replace(DOCUMENT, term=Term(5), timelines=(*DOCUMENT.timelines, reserved))
    assert told(promoting) == []


def test_the_first_database_is_no_election() -> None:
    first = replace(ELECTED, parent_tli=TimelineId(0), reason="first database", took=None)
    assert election_event(first).message == "b holds the first database"


SYNC = SyncSet((SyncMember(B, DataId("b")), SyncMember(C, DataId("c"))), 1)


@pytest.mark.parametrize(
    ("changed", "kind", "text"),
    [
        ({"sync": SYNC}, "sync_set", "commits wait for 1 of b, c (before: nobody)"),
        ({"paused": True}, "pause", "the cluster is paused: nobody takes over"),
        ({"learners": (NodeId("d"),)}, "member", "d was taken in"),
        (
            {"switchover": Switchover("o", B, 1)},
            "switchover",
            "a switchover to b was asked for",
        ),
        (
            {"scheduled": Scheduled("o", None, 1, 2)},
            "switchover",
            "a switchover to whoever is fit then was asked for by the clock",
        ),
        (
            {"restarts": (Restart(B, "o", 1), Restart(A, "o", 1))},
            "restart",
            "a restart of b, a was asked for",
        ),
        ({"term": Term(9)}, "term", "a leads on, by an election of term 9"),
    ],
)
def test_each_change_is_told(changed: dict[str, object], kind: str, text: str) -> None:
    plain = replace(DOCUMENT, sync=SyncSet(), primary=A)
    after = replace(plain, **changed)  # type: ignore[arg-type]
    assert told(after, plain) == [(kind, text)]


def test_what_was_given_up_is_told() -> None:
    before = replace(
        DOCUMENT,
        switchover=Switchover("o", B, 1),
        restarts=(Restart(B, "o", 1), Restart(C, "o", 1)),
    )
    after = replace(before, switchover=None, restarts=())
    assert told(after, before) == [
        ("switchover", "the switchover to b was given up"),
        ("restart", "the restart has ended, b, c were left"),
    ]


def test_members_are_told_with_votes_and_records() -> None:
    record = MemberRecord(B, RecordId("one"))
    before = replace(DOCUMENT, records=(record,))
    again = record._replace(record_id=RecordId("two"))
    rest = tuple(node for node in DOCUMENT.voters if node != C)
    after = replace(before, records=(again,), voters=rest, learners=(C,))
    assert told(after, before) == [
        ("member", "b was taken in again, with another durable record"),
        ("member", "c has no vote any more"),
    ]
    gone = replace(before, voters=rest)
    assert told(gone, before) == [("member", "c was removed")]


# ---------------------------------------------------------------- durations


def at(ms: int) -> Instant:
    return Instant(milliseconds(ms), milliseconds(ms))


def test_the_parts_of_an_election_add_up() -> None:
    course = Course()
    course.nobody_leads(at(10_000), "a fell silent", milliseconds(2000))
    for step, ms in (
        (course.stands, 10_060),
        (course.won, 10_220),
        (course.committed, 10_228),
        (course.committed, 10_300),
        (course.promoted, 10_348),
    ):
        step(at(ms))
    assert course.took(at(10_409)) == TOOK
    assert TOOK.total == 2409


def test_an_agent_that_was_restarted_amid_an_election_tells_no_durations() -> None:
    course = Course()
    course.promoted(at(10_348))
    assert course.took(at(10_409)) is None


# ---------------------------------------------------------------- every node


def histories(world: Stage) -> dict[NodeId, list[str]]:
    found: dict[NodeId, list[str]] = {}
    for _, node, each in world.story.events:
        if each.name is EventName.HISTORY:
            found.setdefault(node, []).append(each.message)
    return found


def test_every_node_tells_the_same_election() -> None:
    world = settled()
    world.nodes[A].kill_host()
    new = wait_primary(world, 10, other_than=A)
    world.run(3)
    world.nodes[A].start()
    world.run(10)
    assert primary(world) == new
    entry = document(world).timelines[-1]
    assert entry.reason == "a fell silent"
    assert entry.took is not None
    assert 1800 < entry.took.silence < 2300
    assert 0 < entry.took.total < 4000
    for node in world.names:
        elections = [text for text in histories(world)[node] if "a fell silent" in text]
        assert elections == [election_event(entry).message], node


def test_a_version_that_is_not_committed_is_not_told() -> None:
    world = settled()
    for node in (B, C):
        world.nodes[node].kill_agent()
    before = histories(world)[A]
    world.nodes[A].order(Order("", OrderKind.PAUSE))
    world.run(1)
    shown = status(world, A).document
    assert shown is not None
    assert shown.paused
    assert histories(world)[A] == before
    for node in (B, C):
        world.nodes[node].start()
    world.run(2)
    assert histories(world)[A][-1] == "the cluster is paused: nobody takes over"


# ---------------------------------------------------------------- the book


def test_the_book_outlives_its_agent(tmp_path: Path) -> None:
    book = HistoryBook(tmp_path)
    book.add(event(EventName.HISTORY, "one", kind="pause", when_ms=1_700_000_000_123, term=4))
    book.add(election_event(ELECTED, "5.1"))
    assert [entry["kind"] for entry in book.entries(None)] == ["pause", "election"]
    book.close()
    again = HistoryBook(tmp_path)
    shown = again.entries(None)
    again.close()
    assert shown[0] == {
        "at": "2023-11-14T22:13:20.123+00:00",
        "kind": "pause",
        "text": "one",
        "term": 4,
    }
    assert shown[1] == entry_of(election_event(ELECTED, "5.1"))


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({"text": "one"}) + '\n{"text": "tw')
    book = HistoryBook(tmp_path)
    assert book.entries(None) == [{"text": "one"}]
    book.close()


def test_elections_that_a_node_missed_come_from_the_document() -> None:
    later = replace(ELECTED, tli=TimelineId(4), term=Term(6), reason="switchover")
    known = replace(DOCUMENT, timelines=(*DOCUMENT.timelines, ELECTED, later))
    told_of = [{"kind": "pause", "term": 4}, {"kind": "election", "term": 6, "timeline": 4}]
    shown = with_elections(told_of, known)
    assert [(entry["kind"], entry["term"]) for entry in shown][-3:] == [
        ("pause", 4),
        ("election", 5),
        ("election", 6),
    ]
