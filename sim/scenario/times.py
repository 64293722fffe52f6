"""The `at` of a step: `10s`, `10s..12s`, `+2s`, `ended+1s`, `$event(promoted)+0ms..400ms`.

In: text. Out: a `When`, or an ArgumentError with a hint. Knows no names of events.
"""

from __future__ import annotations

import re

from sim.faults import Argument, ArgumentError, Range, Type
from sim.faults.arguments import show_duration
from sim.scenario.model import Anchor, When

_EVENT = re.compile(r"\$event\(\s*([A-Za-z0-9_]+)\s*(?:,\s*([0-9]+)\s*)?\)\s*(?:\+\s*(.+))?")
_AFTER = re.compile(r"(previous|ended)?\s*(?:\+\s*(.+))?")
_OFFSET = Argument("at", Type.DURATION, "", low=0)
HINT = "write it like 10s, +2s, 'ended+1s' or '$event(promoted)+0ms..400ms'"
EVENTS_MAX = 1000


def parse_when(raw: object) -> When:
    """Return the time that a text stands for.

    Raises:
        ArgumentError: it stands for none.
    """
    if not isinstance(raw, str) or not raw.strip():
        raise ArgumentError(f"{raw!r} is no time", HINT)
    text = raw.strip()
    event = _EVENT.fullmatch(text)
    if event is not None:
        low, high = _offset(event[3])
        nth = int(event[2] or 1)
        if not 1 <= nth <= EVENTS_MAX:
            raise ArgumentError(f"no event is number {nth}", f"count from 1 to {EVENTS_MAX}")
        return When(Anchor.EVENT, low, high, event[1], nth)
    if text.startswith("$"):
        raise ArgumentError(f"{raw!r} is no time", HINT)
    after = _AFTER.fullmatch(text)
    if after is not None:
        low, high = _offset(after[2])
        return When(Anchor.ENDED if after[1] == "ended" else Anchor.PREVIOUS, low, high)
    try:
        low, high = _offset(text)
    except ArgumentError as error:
        raise ArgumentError(str(error), HINT) from None
    return When(Anchor.START, low, high)


def _offset(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 0
    value = _OFFSET.read(text)
    if isinstance(value, Range):
        return int(value.low), int(value.high)
    assert isinstance(value, int)
    return value, value


def show_when(when: When) -> str:
    """Return the text that `parse_when` reads back."""
    offset = show_duration(when.low_ns)
    if when.high_ns != when.low_ns:
        offset += f"..{show_duration(when.high_ns)}"
    match when.anchor:
        case Anchor.START:
            return offset
        case Anchor.PREVIOUS:
            return f"+{offset}"
        case Anchor.ENDED:
            return f"ended+{offset}"
        case Anchor.EVENT:
            nth = f", {when.nth}" if when.nth != 1 else ""
            return f"$event({when.event}{nth})+{offset}"
