"""One JSON object a line, of bounded length: what all frames between agent and worker are made of.

Invariant: whatever a peer sends, the outcome is a value of the type that was asked for, or
`FrameError`. Its text has nothing of what the peer said: some frames carry secrets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

FRAME_BYTES_MAX = 65_536


class FrameError(Exception):
    """The peer sent no frame. Nothing changed; the connection is to be closed."""


def to_line(body: Mapping[str, object]) -> bytes:
    """Return the line of an object, newline included."""
    line = json.dumps(body, separators=(",", ":")).encode() + b"\n"
    assert len(line) <= FRAME_BYTES_MAX, len(line)
    return line


def from_line_untrusted(line: bytes) -> Mapping[str, object]:
    """Return the object of a line. Raises `FrameError`."""
    if len(line) > FRAME_BYTES_MAX:
        raise FrameError("frame too long")
    try:
        # RecursionError: nesting is bounded by the length of a frame, not by the parser.
        return mapping(json.loads(line))
    except (ValueError, RecursionError):
        raise FrameError("not JSON") from None  # the cause holds all that was said


def mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise FrameError("not an object")
    return value


def string(value: object) -> str:
    if not isinstance(value, str):
        raise FrameError("not a string")
    return value


def integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise FrameError("not a number")
    return value
