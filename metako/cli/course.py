"""The course of one switchover, judged from the status that a node shows again and again.

In: the decoded body of `GET /status`, and how long after the order it was asked for. Out: a line
for people whenever something new is seen, and the `Outcome` once it is certain.

Invariant: a switchover counts as done only when the node says both that the target takes writes
and that nothing is under way any more; text from elsewhere passes `printable`.

Deliberately unaware of sockets, clocks and the terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metako.cli.output import printable
from metako.cli.status_data import Data, object_at, objects_at
from metako.cli.status_text import lag_of

UNSEEN_MAX_S = 10.0
"""After which an accepted switchover that no document shows, while the old primary leads, is taken
for given up. The document comes with a heartbeat; only a node that is cut off waits longer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a switchover ended, or why it was not begun. What is not known is None."""

    ok: bool
    reason: str  # for people; "" if all went well
    source: str | None = None  # who was the primary
    target: str | None = None  # who was to be
    primary: str | None = None  # who is, as the node that was asked sees it
    term: int | None = None
    timeline: int | None = None
    duration_ms: int | None = None  # since the order was given

    def as_json(self) -> dict[str, object]:
        """Return it in the keys of `metako switchover --json`."""
        return {
            "ok": self.ok,
            "from": self.source,
            "to": self.target,
            "primary": self.primary,
            "term": self.term,
            "timeline": self.timeline,
            "duration_ms": self.duration_ms,
            "reason": self.reason or None,
        }


class Course:
    """What has been seen of one switchover since it was accepted."""

    def __init__(
        self,
        before: Data,
        *,
        order_id: str,
        target: str | None,
        tell: Callable[[str], None],
    ) -> None:
        """Begin with the status from before the order was given."""
        document = object_at(before, "document") or {}
        self.source = _name(before, "primary") or _name(document, "primary")
        self.target = target  # None until the document names it
        self.under_way = False  # as last seen
        self._latest = before
        self._order_id = order_id
        self._tell = tell
        self._seen = False  # a document has shown it under way
        self._waited = self._stopped = False  # these lines were told

    def see(self, data: Data, after_s: float) -> Outcome | None:
        """Take the newest status; return the outcome once there is one."""
        self._latest = data
        document = object_at(data, "document") or {}
        self.under_way = self._is_ours(object_at(document, "switchover"))
        self._seen = self._seen or self.under_way
        primary = _name(data, "primary")
        if primary is None:
            self._tell_stopped(after_s)
            return None
        if primary == self.source:
            if self.under_way:
                self._tell_waiting(data)
                return None
            if self._seen or after_s > UNSEEN_MAX_S:
                return self.outcome(after_s, reason=self._why_given_up(data))
            return None
        if self.under_way:
            return None  # an older document: that of the new primary has dropped it
        self.target = self.target or primary  # whoever was chosen, it was not told
        if primary == self.target:
            return self.outcome(after_s)
        return self.outcome(after_s, reason=f"it became a failover to {primary}")

    def outcome(self, after_s: float, *, reason: str = "") -> Outcome:
        """Return the outcome with what was seen last; one without a reason went well."""
        document = object_at(self._latest, "document") or {}
        return Outcome(
            ok=not reason,
            reason=reason,
            source=self.source,
            target=self.target,
            primary=_name(self._latest, "primary"),
            term=_number(self._latest, "term"),
            timeline=_number(document, "timeline"),
            duration_ms=round(after_s * 1000),
        )

    def _is_ours(self, switchover: Data | None) -> bool:
        if switchover is None:
            return False
        to = _name(switchover, "to")
        if switchover.get("order") != self._order_id and to != self.target:
            return False  # somebody has cancelled ours and ordered another one
        self.target = self.target or to
        return True

    def _why_given_up(self, data: Data) -> str:
        blocked = data.get("blocked")
        why = printable(blocked) if isinstance(blocked, str) and blocked else ""
        return f"given up, {self.source} is still the primary: " + (
            why or "the cluster's log says why (`metako logs` on each node)"
        )

    def _tell_waiting(self, data: Data) -> None:
        if self._waited:
            return
        self._waited = True
        row = next((m for m in objects_at(data, "members") if _name(m, "node") == self.target), {})
        self._tell(f"waiting for {self.target}, lag {lag_of(row)}")

    def _tell_stopped(self, after_s: float) -> None:
        if self._stopped or self.source is None:
            return
        self._stopped = True
        self._tell(f"no primary after {after_s:.1f} s: {self.source} takes no writes any more")


def _name(data: Data, key: str) -> str | None:
    value = data.get(key)
    return printable(value) if isinstance(value, str) and value else None


def _number(data: Data, key: str) -> int | None:
    value = data.get(key)
    return value if isinstance(value, int) else None
