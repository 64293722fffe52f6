"""One log line as a value, and its two written forms.

Input: time, level, message and fields. Output: a JSON line for machines, or a coloured line for
people; and a JSON line read back. Invariant: one record is one line, whatever is in it, and the
value of a field that may hold a secret is replaced. Knows neither sinks nor clocks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

SECRET_WORDS = ("password", "passwd", "secret", "token", "credential")
SECRET_NAMES = ("key", "keys", "dsn")
REDACTED = "[redacted]"
TEXT_CHARACTERS_MAX = 8_000
"""A longer value is cut: a log line must not carry a whole file."""
NESTING_MAX = 4
_RESERVED = frozenset(("time", "level", "msg", "event"))
_URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s/@]+@")
_CONNINFO_PASSWORD = re.compile(r"(passw(?:ord|d)\s*=\s*)('[^']*'|\S+)", re.IGNORECASE)
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of the log."""

    time: datetime  # aware
    level: str
    message: str
    node: str = ""  # the node that wrote the line
    fields: Mapping[str, object] = field(default_factory=dict)


def is_secret(name: str) -> bool:
    """Return whether a field of this name may hold a secret."""
    lowered = name.lower()
    return (
        any(word in lowered for word in SECRET_WORDS)
        or lowered in SECRET_NAMES
        or lowered.endswith(("_key", "_keys", "_dsn"))
    )


def without_secrets(text: str) -> str:
    """Return the text with passwords in URLs and connection strings replaced."""
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1{REDACTED}@", text)
    if "passw" in text.lower():
        text = _CONNINFO_PASSWORD.sub(rf"\1{REDACTED}", text)
    return text


def plain(name: str, value: object, depth: int = 0) -> object:
    """Return a field's value as JSON knows it, secrets replaced, long texts cut."""
    if is_secret(name) and value is not None:
        return REDACTED
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        # JSON has neither NaN nor infinity; a reader that chokes on a line loses the line.
        return value if math.isfinite(value) else str(value)
    if depth < NESTING_MAX and isinstance(value, Mapping):
        return {str(key): plain(str(key), inner, depth + 1) for key, inner in value.items()}
    if depth < NESTING_MAX and isinstance(value, list | tuple | set | frozenset):
        return [plain(name, inner, depth + 1) for inner in value]
    text = without_secrets(str(value))
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[:TEXT_CHARACTERS_MAX] + "…"


def field_name(name: str) -> str:
    """Return the name under which a field is written beside the line's own keys.

    An event about another member says `node=`; in the line that name is the writer's.
    """
    if name == "node":
        return "member"
    return f"{name}_" if name in _RESERVED else name


def rfc3339(time: datetime) -> str:
    """Return a time in UTC with milliseconds: `2024-05-01T12:00:00.123Z`."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_line(record: LogRecord) -> str:
    """Return the record as one JSON object, without the line's end."""
    line: dict[str, object] = {
        "time": rfc3339(record.time),
        "level": record.level,
        "msg": plain("msg", record.message),
    }
    if record.node:
        line["node"] = record.node
    line.update((name, plain(name, value)) for name, value in record.fields.items())
    return json.dumps(line, ensure_ascii=False, separators=(", ", ": "), default=str)


def text_line(record: LogRecord, *, colour: bool = False, show_node: bool = False) -> str:
    """Return the record for people: local time of day, level, message, `key=value`."""
    time = record.time.astimezone().strftime("%H:%M:%S.") + f"{record.time.microsecond // 1000:03d}"
    level = f"{_printable(record.level):<7}"
    node = f"{_printable(record.node)} " if show_node and record.node else ""
    pairs = [
        _printable(f"{name}={_quoted(plain(name, value))}")
        for name, value in record.fields.items()
        if name not in ("event", "traceback")
    ]
    fields = f"  {' '.join(pairs)}" if pairs else ""
    message = _printable(str(plain("msg", record.message)))
    if colour:
        level = f"\x1b[{_COLOURS.get(record.level, '0')}m{level}\x1b[0m"
        time = f"\x1b[2m{time}\x1b[0m"
        fields = f"\x1b[2m{fields}\x1b[0m" if fields else ""
    line = f"{time} {level} {node}{message}{fields}"
    traceback = record.fields.get("traceback")
    if isinstance(traceback, str):
        line += "".join(f"\n    {_printable(part)}" for part in traceback.rstrip().splitlines())
    return line


def read_json_line_untrusted(line: bytes | str) -> LogRecord | None:
    """Return the record that a log file's line holds; None if the line is not one of ours."""
    try:
        values = json.loads(line)
        time = datetime.fromisoformat(values.pop("time"))
        if time.tzinfo is None:
            return None
        return LogRecord(
            time=time,
            level=str(values.pop("level", "")),
            message=str(values.pop("msg", "")),
            node=str(values.pop("node", "")),
            fields=values,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _printable(text: str) -> str:
    """Return a text that cannot steer a terminal or begin a line of its own."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted(value: object) -> str:
    if isinstance(value, str):
        plain_word = value and value.isprintable() and not any(c in ' ="' for c in value)
        return value if plain_word else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)
