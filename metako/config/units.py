"""Durations and sizes as people write them.

Input: text such as `250ms`, `1m30s` or `50 MB`. Output: whole milliseconds or bytes, or a
ValueError whose text can be shown as it is. Durations follow Go's `time.ParseDuration`, because
that is what pg-metako's files are written in. Knows nothing of files or of which key it reads.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NS_PER_UNIT = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, as on keyboards
    "μs": 1_000,  # U+03BC, as in Go's own output
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_NS_PER_MS = 1_000_000
_DURATION_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h)")
DURATION_CHARACTERS_MAX = 64

_BYTES_PER_UNIT = {
    "B": 1,
    "kB": 1_000,
    "KB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "TB": 1_000_000_000_000,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")


def parse_duration_ms(text: str) -> int:
    """Return a Go-style duration in milliseconds.

    Raises:
        ValueError: the text is no duration, is negative or is not a whole number of milliseconds.
    """
    if text.startswith("-"):
        raise ValueError(f"{text!r} is negative")
    total_ns = Decimal(0)
    position = 0
    if text == "0":
        return 0
    if 0 < len(text) <= DURATION_CHARACTERS_MAX:
        while match := _DURATION_PART.match(text, position):
            total_ns += Decimal(match[1]) * _NS_PER_UNIT[match[2]]
            position = match.end()
    if position == 0 or position != len(text):
        raise ValueError(f"{text[:40]!r} is not a duration; write it like 250ms, 10s or 1m30s")
    milliseconds = total_ns / _NS_PER_MS
    if milliseconds != int(milliseconds):
        raise ValueError(f"{text!r} is finer than a millisecond")
    return int(milliseconds)


def format_duration_ms(value_ms: int) -> str:
    """Return the shortest Go-style spelling of a duration, such as `1m30s` or `250ms`."""
    if value_ms == 0:
        return "0s"
    parts = []
    for unit, size_ms in (("h", 3_600_000), ("m", 60_000)):
        count, value_ms = divmod(value_ms, size_ms)
        if count:
            parts.append(f"{count}{unit}")
    if value_ms % 1000 == 0:
        if value_ms:
            parts.append(f"{value_ms // 1000}s")
    elif value_ms < 1000:
        parts.append(f"{value_ms}ms")
    else:
        parts.append(f"{value_ms / 1000:.3f}".rstrip("0") + "s")
    return "".join(parts)


def parse_size_bytes(text: str) -> int:
    """Return a size in bytes. `kB MB GB` are powers of 1000, `KiB MiB GiB` of 1024.

    Raises:
        ValueError: the text is no size with a unit.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a size; write it like 16MB or 1MiB")
    return int(Decimal(match[1]) * _BYTES_PER_UNIT[match[2]])
