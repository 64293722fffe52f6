"""What the guard did while no agent was there, as events for the log.

In: its notes, `2026-11-30T07:42:51Z what happened`, oldest first. Out: one event for each, of the
newest ones. The guard is a process of its own, maybe of another version: nothing in a note is
taken for granted, neither its form nor its length.
"""

from __future__ import annotations

from collections.abc import Sequence

from metako.model.events import Event, EventName, event

NOTES_TOLD_MAX = 50
NOTE_CHARACTERS_MAX = 300


def guard_note_events(notes: Sequence[str]) -> tuple[Event, ...]:
    """Return what is told of the newest `NOTES_TOLD_MAX` notes."""
    return tuple(_told(note) for note in notes[-NOTES_TOLD_MAX:])


def _told(note: str) -> Event:
    when, _, what = note.partition(" ")
    if not when.endswith("Z") or not what:
        when, what = "", note
    text = " ".join(what.split())[:NOTE_CHARACTERS_MAX]
    return event(EventName.GUARD_NOTE, f"the guard, without an agent: {text}", at=when or None)
