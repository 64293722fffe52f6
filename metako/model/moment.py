"""A point in time as people write it: ISO 8601, in and out.

In: text, and what a wall clock shows. Out: milliseconds since 1970, UTC, and back. A time without a
zone is refused here, because only the machine in front of a person knows which one is meant.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from metako.model.orders import SCHEDULE_MAX_S

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
EXAMPLE = "2026-12-01T02:00:00Z or 2026-12-01T02:00+01:00"


def parse_time(text: str) -> datetime:
    """Return a date and time of day; one that names no zone has none.

    Raises:
        ValueError: it is none, or there is no such day or hour; the text can be shown as it is.
    """
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not a date and time; write it like {EXAMPLE}")
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date and time: {error}") from None


def parse_moment_ms(text: str) -> int:
    """Return a date and time with a zone in milliseconds since 1970, UTC.

    Raises:
        ValueError: it is none, or it names no zone; the text can be shown as it is.
    """
    time = parse_time(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone: end it with Z or an offset, like {EXAMPLE}")
    return to_ms(time)


def to_ms(time: datetime) -> int:
    """Return a time that names its zone in milliseconds since 1970, UTC."""
    return (time - EPOCH) // _MILLISECOND


def format_moment(at_ms: int) -> str:
    """Return milliseconds since 1970 as `2026-12-01T01:00:00Z`, with a fraction if there is one.

    What is beyond the calendar is given as its end.
    """
    last = datetime.max.replace(tzinfo=UTC)
    time = EPOCH + _MILLISECOND * min(max(at_ms, 0), to_ms(last))
    spec = "milliseconds" if time.microsecond else "seconds"
    return time.replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def why_not_at(at_ms: int, now_ms: int) -> str:
    """Return why nothing can be scheduled for then, by a clock that shows `now_ms`; "" if it can.

    What is far ahead is a mistake in the date.
    """
    if at_ms <= now_ms:
        return f"{format_moment(at_ms)} has passed: it is {format_moment(now_ms)} now"
    if at_ms - now_ms > SCHEDULE_MAX_S * 1000:
        days = SCHEDULE_MAX_S // 86_400
        return f"{format_moment(at_ms)} is more than {days} days ahead: look at the date"
    return ""
