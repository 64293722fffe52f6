"""What the guard did while no agent was there is told by the next one."""

from __future__ import annotations

from metako.model.events import EventName, Severity
from metako.runtime.guardnotes import NOTE_CHARACTERS_MAX, NOTES_TOLD_MAX, guard_note_events


def test_every_note_is_one_event_with_its_time() -> None:
    told = guard_note_events(
        ("2026-11-30T07:42:51Z agent 12 has gone", "2026-11-30T07:43:51Z no agent came back")
    )
    assert [(fact.message, fact.fields) for fact in told] == [
        ("the guard, without an agent: agent 12 has gone", (("at", "2026-11-30T07:42:51Z"),)),
        ("the guard, without an agent: no agent came back", (("at", "2026-11-30T07:43:51Z"),)),
    ]
    assert {(fact.name, fact.severity) for fact in told} == {(EventName.GUARD_NOTE, Severity.INFO)}


def test_notes_of_another_form_are_told_on_one_line_of_limited_length() -> None:
    (told,) = guard_note_events((f"two\nlines {'x' * 1000}",))
    assert "two lines x" in told.message
    assert len(told.message) < NOTE_CHARACTERS_MAX + 40
    assert told.fields == (("at", None),)
    (told,) = guard_note_events(("",))
    assert told.fields == (("at", None),)


def test_of_many_notes_the_newest_are_told() -> None:
    told = guard_note_events([f"2026-11-30T07:42:51Z {n}" for n in range(NOTES_TOLD_MAX + 1)])
    assert len(told) == NOTES_TOLD_MAX
    assert told[-1].message.endswith(f" {NOTES_TOLD_MAX}")
