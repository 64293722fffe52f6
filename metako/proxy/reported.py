"""What servers report of a session of their own accord, by ParameterStatus."""

from __future__ import annotations

import sys

from metako.pgwire.messages import parse_parameter_status_untrusted
from metako.pgwire.startup import PgWireError

REPORTED_MAX = 64  # settings; PostgreSQL 18 reports 15

# Encodings of clients in which the second byte of a character can be a backslash.
_DOUBTFUL_ENCODINGS = frozenset(
    ("SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004", "MSKANJI", "SHIFTJIS")
)


class Reported:
    """The last value of each setting that is reported."""

    __slots__ = ("doubtful", "values")

    def __init__(self) -> None:
        self.values: dict[str, str] = {}  # by name
        # Whether a backslash in a plain string may ever have escaped what is behind it. For good:
        # a text that is under way during the change may be read either way.
        self.doubtful = False

    def receive(self, body: bytes) -> None:
        """Take the body of a ParameterStatus; one that is too long or malformed is ignored."""
        try:
            name, value = parse_parameter_status_untrusted(body)
        except PgWireError:
            return
        if name in self.values or len(self.values) < REPORTED_MAX:
            # Most sessions of a server report the same.
            self.values[sys.intern(name)] = sys.intern(value)
        if (name == "standard_conforming_strings" and value != "on") or (
            name == "client_encoding" and value.upper() in _DOUBTFUL_ENCODINGS
        ):
            self.doubtful = True
