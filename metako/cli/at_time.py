"""A point in time as it is typed after `--at`: a time of day, so much later, or a date and time.

In: text, and what the clock here shows. Out: a time with its zone. What names no zone is in that of
this machine; a time of day that its zone does not have on that day, or has twice, is refused
instead of guessed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from metako.model.errors import UsageError
from metako.model.moment import parse_time, to_ms, why_not_at

_TIME_OF_DAY = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")
_LATER = re.compile(r"\+([0-9]{1,8})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_FORMS = "HH:MM, HH:MM:SS, +90s, +10m, +2h, +1d, or a date and time like 2026-12-01T02:00"


def parse_at(text: str, now: datetime) -> datetime:
    """Return the time that an operator means, not before `now`.

    Args:
        text: as typed.
        now: what the clock here shows, with a zone.

    Raises:
        UsageError: it is no time, it has passed, it is too far ahead, or it is none or two here.
    """
    try:
        time = _time(text, now)
    except ValueError as error:
        raise UsageError(f"--at {text[:40]}: {error}") from None
    if why := why_not_at(to_ms(time), to_ms(now)):
        raise UsageError(f"--at {text[:40]}: {why}")
    return time


def _time(text: str, now: datetime) -> datetime:
    if match := _LATER.fullmatch(text):
        try:
            return now + timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
        except OverflowError:
            raise ValueError("no calendar has that date") from None
    if match := _TIME_OF_DAY.fullmatch(text):
        return _next(int(match[1]), int(match[2]), int(match[3] or 0), now)
    try:
        time = parse_time(text)
    except ValueError:
        raise ValueError(f"not a time; write {_FORMS}") from None
    return _here(time) if time.tzinfo is None else time


def _next(hour: int, minute: int, second: int, now: datetime) -> datetime:
    """Return when the clocks here show that time next: today, or else tomorrow."""
    wall = now.astimezone().replace(tzinfo=None)
    try:
        today = wall.replace(hour=hour, minute=minute, second=second, microsecond=0)
    except ValueError:
        raise ValueError("there is no such time of day") from None
    return _here(today if today > wall else today + timedelta(days=1))


def _here(wall: datetime) -> datetime:
    """Return the point in time at which the clocks of this machine's zone show `wall`."""
    try:
        first, second = wall.replace(fold=0).astimezone(), wall.replace(fold=1).astimezone()
    except (OverflowError, ValueError, OSError):
        raise ValueError("no calendar has that date") from None
    if first.utcoffset() == second.utcoffset():
        return first
    twice = first.replace(tzinfo=None) == wall
    how = "twice" if twice else "never"
    at = first.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    raise ValueError(
        f"the clocks here change on that day and show that {how}: write it with an offset, as {at}"
    )
