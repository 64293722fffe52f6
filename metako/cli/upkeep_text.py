"""What is planned, paused or restarted in a cluster, in words, and points in time for people.

In: the document in the JSON of a node's status, and what the clock here shows. Out: labels and
values for `metako status`, and texts for commands that give such orders. Times of day are those of
this machine's zone.

Deliberately unaware of where the data came from, and of how they are drawn.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from metako.cli.status_data import Data, object_at, objects_at, text_at
from metako.model.moment import EPOCH, parse_moment_ms

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def upkeep_facts(document: Data, now: datetime | None) -> list[tuple[str, str]]:
    """Return labels and values of what an operator has ordered that lasts; usually nothing."""
    facts: list[tuple[str, str]] = []
    if document.get("paused") is True:
        facts.append(("paused", paused_words(text_at(document, "primary"))))
    scheduled = object_at(document, "scheduled")
    if scheduled is not None:
        facts.append(("scheduled", scheduled_words(scheduled, now)))
    left = [text_at(restart, "node") for restart in objects_at(document, "restarts")]
    if left:
        facts.append(("restarts", f"under way: {', then '.join(left)}"))
    return facts


def paused_words(primary: str) -> str:
    """Return what a pause means."""
    return f"nobody takes over from {primary} until `metako resume`"


def scheduled_words(scheduled: Data, now: datetime | None) -> str:
    """Return to whom there will be a switchover, and when."""
    to = scheduled.get("to")
    whom = text_at(scheduled, "to") if to is not None else "whoever is fit then"
    try:
        time = EPOCH + timedelta(milliseconds=parse_moment_ms(text_at(scheduled, "at")))
    except ValueError:
        return f"switchover to {whom}, at an unknown time"
    return f"switchover to {whom} {when_words(time, now)}"


def when_words(time: datetime, now: datetime | None) -> str:
    """Return `at 02:00:00 (in 3 h 12 min)`, with the date unless it is today's."""
    local = time.astimezone(now.tzinfo if now is not None else None)
    if now is None:
        return f"at {local:%Y-%m-%d %H:%M:%S}"
    day = "" if local.date() == now.date() else f"{local:%Y-%m-%d} "
    left_s = round((time - now).total_seconds())
    left = f"in {duration_words(left_s)}" if left_s > 0 else "now"
    return f"at {day}{local:%H:%M:%S} ({left})"


def both_zones(time: datetime) -> str:
    """Return a point in time by the zone of this machine and in UTC."""
    local, utc = time.astimezone(), time.astimezone(UTC)
    shown = f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    if not local.utcoffset():
        return shown
    return f"{local:%Y-%m-%d %H:%M:%S %Z} ({shown})"


def duration_words(seconds: int) -> str:
    """Return whole seconds in their two largest units: `3 h 12 min`."""
    words: list[str] = []
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            words.append(f"{count} {unit}")
        if len(words) == 2 or (words and not count):
            break
    return " ".join(words) or "0 s"
