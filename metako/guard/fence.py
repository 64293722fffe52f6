"""The rules of the fence: which deadline holds, and who may change it.

Input: `arm` and `disarm` requests with terms, and the time on CLOCK_BOOTTIME. Output: a refusal in
words, or the moment to end PostgreSQL. Invariant: once a term's deadline has passed, that term is
never armed again, and no lower term than the highest ever armed is; so a message that an agent sent
before it was frozen cannot bring back the right to be writable.

Pure: does not read the clock, does not know of processes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Fence:
    """The armed term and its deadline."""

    floor_term: int = 0  # highest term ever armed
    fenced_term: int = 0  # highest term whose deadline passed while it was armed
    deadline_boot_ns: int | None = None  # None: not armed

    @property
    def armed_term(self) -> int:
        """Return the armed term, 0 when not armed."""
        return self.floor_term if self.deadline_boot_ns is not None else 0

    def arm(self, term: int, deadline_boot_ns: int) -> str:
        """Set the deadline of `term`, later or earlier than before; return "" or the refusal.

        A deadline in the past is accepted here: it makes the fence due at once. A refused request
        changes nothing.
        """
        if refusal := self.refusal(term):
            return refusal
        self.floor_term = term
        self.deadline_boot_ns = deadline_boot_ns
        return ""

    def refusal(self, term: int) -> str:
        """Return why `term` cannot be armed, "" if it can."""
        if term <= 0:
            return f"term {term} is not a term"
        if term < self.floor_term:
            return f"term {term} is lower than term {self.floor_term}, which was armed before"
        if term <= self.fenced_term:
            return f"term {term} was fenced; only a higher term can be armed"
        return ""

    def prolongs(self, deadline_boot_ns: int) -> bool:
        """Return whether a deadline lets the server be writable for longer than now."""
        return self.deadline_boot_ns is None or deadline_boot_ns > self.deadline_boot_ns

    def disarm(self, term: int) -> str:
        """Withdraw the deadline of `term`; return "" or the refusal, which changes nothing.

        Disarming twice is no error, so a client may repeat a request whose reply it missed.
        """
        if self.deadline_boot_ns is None:
            return ""
        if term != self.floor_term:
            return f"term {self.floor_term} is armed, not term {term}"
        self.deadline_boot_ns = None
        return ""

    def is_due(self, now_boot_ns: int) -> bool:
        return self.deadline_boot_ns is not None and now_boot_ns >= self.deadline_boot_ns

    def fire(self) -> int:
        """Take note that the deadline passed; return the fenced term. Must be armed."""
        assert self.deadline_boot_ns is not None
        self.deadline_boot_ns = None
        self.fenced_term = self.floor_term
        return self.fenced_term
