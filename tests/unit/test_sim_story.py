"""What a trace tells of a violation: the facts that should have stopped it, and what was done."""

from __future__ import annotations

import json
from typing import Any

from metako.model.document import DocumentRef
from metako.model.events import EventName, Severity, event
from metako.model.ids import DataId, Term, TimelineId
from metako.model.lsn import Lsn, RankedPosition
from metako.wire.messages import Heartbeat, Refusal, VoteReply
from sim.heap import NS_PER_S
from sim.play import play
from sim.scenario import load_scenario
from sim.story import FAULTS_MAX, LINES_MAX, Line, Story
from sim.words import said_by

S = NS_PER_S


def told(scenario: str, seed: int, mutation: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the violation of a run with a planted bug, and the lines that led to it."""
    lines: list[str] = []
    result = play(load_scenario(scenario), seed, trace=lines.append, mutation=mutation)
    assert result.violation is not None
    events = [json.loads(line) for line in lines]
    (violation,) = [line for line in events if line["e"] == "violation"]
    by_number = {line["i"]: line for line in events}
    return violation, [by_number[number] for number in violation["causes"]]


def test_a_primary_beyond_its_lease_is_told_by_the_lease_and_the_holds_that_ended() -> None:
    violation, causes = told("agent-frozen-postgres-serves", 2, "fence_late")
    assert violation["check"] == "beyond_lease"
    old, *free = violation["nodes"]
    assert len(violation["notes"]) == len(causes) <= LINES_MAX
    assert [line["i"] for line in causes] == sorted(line["i"] for line in causes)
    (lease,) = [
        note for note in violation["notes"] if note.startswith(f"the newest lease of {old}")
    ]
    assert lease.endswith("it still runs")
    assert {f"{voter} holds for nobody" for voter in free} <= set(violation["notes"])
    expired = {line["n"] for line in causes if line.get("name") == "hold_expired"}
    assert expired == set(free)
    assert any(line["e"] == "fault" and line["nodes"] == [old] for line in causes)


def test_a_split_brain_is_told_by_the_election_and_its_votes() -> None:
    story = Story()
    story.lease(line_of(1, 5, "old"), 9 * S)
    for number, voter in enumerate(("new", "c"), 2):
        story.logged(line_of(number, 7, voter), event(EventName.HOLD_EXPIRED, "silence"))
    story.logged(line_of(4, 7.5, "c"), event(EventName.VOTE_GRANTED, "voted", term=3))
    story.logged(line_of(5, 7.6, "new"), event(EventName.ELECTION_WON, "won", term=3))
    story.promoted(line_of(6, 8, "new"))
    lines = story.tell(["old", "new"], [], 8 * S)
    assert [line.number for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0].note == "the newest lease of old: until 9.000 s; it still runs"


def line_of(number: int, at_s: float, node: str = "a") -> Line:
    return Line(number, round(at_s * S), node)


def test_a_lost_commit_is_told_by_who_acknowledged_it_and_on_what_the_winner_relied() -> None:
    story = Story()
    story.logged(line_of(1, 1, "a"), event(EventName.SYNC_SET_CHANGED, "commits wait for 0", k=0))
    for number in range(2, 50):
        story.acknowledged(line_of(number, 1.5, "a"), [f"v{number}"])
    story.logged(line_of(50, 5, "c"), event(EventName.VOTE_GRANTED, "voted for b", term=2))
    story.logged(line_of(51, 5, "c"), event(EventName.VOTE_GRANTED, "voted for d", term=1))
    story.logged(line_of(52, 6, "b"), event(EventName.ELECTION_WON, "won", term=2))
    story.promoted(line_of(53, 7, "b"))
    lines = story.tell(["b"], ["v7"], 7 * S)
    assert [line.number for line in lines] == [1, 7, 50, 52, 53]
    assert lines[1].note == "a acknowledges v7"


def test_silence_and_leases_long_before_an_election_are_not_told() -> None:
    story = Story()
    story.lease(line_of(1, 1, "old"), 3 * S)
    story.logged(line_of(2, 3, "c"), event(EventName.HOLD_EXPIRED, "silence"))
    story.logged(line_of(3, 99, "b"), event(EventName.HOLD_EXPIRED, "silence"))
    story.logged(line_of(4, 100, "b"), event(EventName.ELECTION_WON, "won", term=2))
    story.lease(line_of(5, 101, "b"), 103 * S)
    story.lease(line_of(6, 102, "given-up"), 0)
    lines = story.tell(["b"], [], 104 * S)
    assert [line.number for line in lines] == [3, 4, 5, 6]
    assert lines[2].note == "the newest lease of b: until 103.000 s; it has ended"
    assert lines[3].note == "the newest lease of given-up: no lease any more"


def test_candidacies_in_vain_are_told_once_and_counted() -> None:
    story = Story()
    for number in range(1, 9):
        lost = event(EventName.CANDIDACY_LOST, "ended", term=number, reason="nobody answered")
        stands = event(EventName.CANDIDACY_STARTED, "stands", term=number)
        story.logged(line_of(10 * number, number, "b"), stands)
        story.logged(line_of(10 * number + 5, number + 0.5, "b"), lost)
    story.logged(line_of(90, 9, "b"), event(EventName.CANDIDACY_STARTED, "stands", term=9))
    lines = story.tell(["b"], [], 10 * S)
    assert [line.number for line in lines][-2:] == [85, 90]
    note = "8 candidacies of b have ended so since 1.500 s: nobody answered"
    assert next(line for line in lines if line.number == 85).note == note
    story.logged(line_of(95, 9.5, "b"), event(EventName.ELECTION_WON, "won", term=9))
    assert 85 not in [line.number for line in story.tell(["b"], [], 10 * S) if line.note]


def test_a_restart_and_the_holds_of_those_concerned_are_told() -> None:
    story = Story()
    story.hold(line_of(1, 1, "b"), 3 * S, "a")
    story.started(line_of(2, 2, "b"))
    story.hold(line_of(3, 2, "b"), 0, None)
    notes = [line.note for line in story.tell(["b"], [], 3 * S)]
    assert notes == ["the agent of b starts", "b holds for nobody"]
    assert [line.note for line in story.tell(["b"], [], 60 * S)] == ["b holds for nobody"]


def test_faults_are_told_if_they_were_at_work_on_those_concerned() -> None:
    story = Story()
    story.wrote(line_of(1, 1, "b"))
    for number in range(10, 30):
        story.fault_began(number, line_of(number, 2, ""), ("b",) if number % 2 else ("c",))
    story.fault_began(40, line_of(40, 2, ""), ())
    story.fault_ended(29, 3 * S)
    lines = story.tell(["b"], [], 60 * S)
    assert [line.number for line in lines] == [1, 19, 21, 23, 25, 27]
    assert len(lines) == FAULTS_MAX + 1


def test_whom_nothing_is_known_of_is_told_by_its_newest_lines() -> None:
    story = Story()
    for number in range(20):
        story.logged(line_of(number, number), event(EventName.REJOIN, "back"))
        quiet = event(EventName.REJOIN, "hm", severity=Severity.DEBUG)
        story.logged(line_of(100 + number, number), quiet)
    assert [line.number for line in story.tell([], [], 20 * S)] == [14, 15, 16, 17, 18, 19]


def test_messages_of_an_election_are_put_into_words() -> None:
    reply = VoteReply(
        term=Term(3),
        granted=True,
        refusal=None,
        promised=Term(3),
        document_ref=DocumentRef(Term(2), 4),
        detached=True,
        data_id=DataId("d"),
        position=RankedPosition(Term(2), Lsn(0x1002000)),
        can_lead=True,
        priority=100,
        max_tli=TimelineId(2),
    )
    text = "granted and detached, WAL until 0/1002000 of term 2, document 2.4"
    assert said_by(reply) == text
    refused = VoteReply(
        **{f: getattr(reply, f) for f in reply.__slots__}
        | {"granted": False, "refusal": Refusal.HOLD}
    )
    assert said_by(refused) == "refused: hold"
    beat = Heartbeat(Term(1), 1, 1, 2000, DocumentRef(Term(1), 1), attachable=True, active=True)
    assert said_by(beat) == ""
