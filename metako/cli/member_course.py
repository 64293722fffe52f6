"""The course of one change of a member, judged from the status that a node shows again and again.

In: the decoded body of `GET /status`, and how long after the order it was asked for. Out: a line
for people whenever something new is seen, and the `Change` once its end is certain.

Invariant: a change counts as done only by a document that is newer than the one before the order,
unless that one, which may be old, has said the same for a while; text from elsewhere passes
`printable`.

Deliberately unaware of sockets, clocks and the terminal.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from metako.cli.status_data import Data, names_at, object_at, objects_at, text_at
from metako.cli.status_text import LOST_RECORD, doing, votes_of

UNSEEN_MAX_S = 10.0
"""After which an accepted change that no document shows is taken for given up. The document comes
with a heartbeat; only a node that is cut off waits longer."""
OLD_MAX_S = 1.0
"""After which a document that was there before the order, and says what is wanted, is believed to
be the newest: then there was nothing to change."""


class Wanted(enum.Enum):
    """What a node is to be."""

    VOTER = enum.auto()
    LEARNER = enum.auto()
    GONE = enum.auto()


@dataclass(frozen=True, slots=True)
class Change:
    """How a change ended, or why it was not begun. What is not known is None."""

    ok: bool
    node: str
    reason: str  # for people; "" if all went well and was watched to its end
    membership: str | None = None  # voter, witness or learner, as last seen; None: no member
    duration_ms: int | None = None  # since the order was given

    def as_json(self) -> dict[str, object]:
        """Return it in the keys of `metako members add --json`."""
        return {
            "ok": self.ok,
            "node": self.node,
            "membership": self.membership,
            "reason": self.reason or None,
            "duration_ms": self.duration_ms,
        }


class _Standing(NamedTuple):
    """What a node is by one status."""

    membership: str | None
    joining: bool
    leaving: bool
    lost: bool  # it is a member by another durable record than it has

    def words(self) -> str:
        if self.membership is None:
            return "no member"
        more = [
            word
            for word, so in (
                ("that gets a vote once it has caught up", self.joining),
                ("that is being removed", self.leaving),
                (f"with a {LOST_RECORD}", self.lost),
            )
            if so
        ]
        return " ".join((f"a {self.membership}", *more))


class MemberCourse:
    """What has been seen of one change since it was accepted."""

    def __init__(
        self, before: Data, node: str, wanted: Wanted, tell: Callable[[str], None]
    ) -> None:
        """Begin with the status from before the order was given."""
        self._node = node
        self._wanted = wanted
        self._tell = tell
        self._latest = before
        self._ref = _ref(before)
        self._seen = False  # a document has shown it under way
        self._told: set[str] = set()
        self._doing = ""  # as last told

    def see(self, data: Data, after_s: float) -> Change | None:
        """Take the newest status; return the change once it has come to an end."""
        self._latest = data
        now = self._standing()
        if self._is_wanted(now):
            if (object_at(data, "document") or {}).get("committed") is False:
                return None  # on its way to a majority: it may yet come to nothing
            newer = _ref(data) != self._ref
            return self.outcome(after_s) if newer or after_s >= OLD_MAX_S else None
        if self._under_way(now):
            self._seen = True
            self._tell_course(data)
            return None
        if self._seen or after_s > UNSEEN_MAX_S:
            return self.outcome(after_s, reason=self._given_up(now))
        return None

    def outcome(self, after_s: float, *, reason: str = "") -> Change:
        """Return the change with what was seen last; one without a reason went well."""
        return Change(
            ok=not reason,
            node=self._node,
            reason=reason,
            membership=self._standing().membership,
            duration_ms=round(after_s * 1000),
        )

    def done(self) -> str:
        """Return the line for a good end."""
        membership = self._standing().membership
        is_ = f"is a {membership}" if membership else "is no member any more"
        return f"{self._node} {is_}; {votes_of(self._latest)}"

    def why_not_done(self) -> str:
        """Return how far it is, for whoever waits no longer."""
        if not self._seen:
            return "no document shows it yet; see `metako members`"
        busy = "" if self._wanted is Wanted.GONE else doing(self._row())
        return (
            f"{self._node} is {self._standing().words()}{', ' if busy else ''}{busy}; the change "
            "goes on, and `metako members` shows it"
        )

    def _standing(self) -> _Standing:
        document = object_at(self._latest, "document") or {}
        node, membership = self._node, None
        if node in names_at(document, "voters"):
            membership = "witness" if node in names_at(document, "witnesses") else "voter"
        elif node in names_at(document, "learners"):
            membership = "learner"
        return _Standing(
            membership,
            joining=node in names_at(document, "joining"),
            leaving=node in names_at(document, "leaving"),
            lost=membership is not None and self._row().get("record") == "lost",
        )

    def _row(self) -> Data:
        rows = objects_at(self._latest, "members")
        return next((row for row in rows if row.get("node") == self._node), {})

    def _is_wanted(self, now: _Standing) -> bool:
        if self._wanted is Wanted.GONE:
            # Without a document nothing is known of anybody.
            return now.membership is None and object_at(self._latest, "document") is not None
        voter = now.membership in ("voter", "witness")
        settled = not (now.joining or now.leaving or now.lost)
        return settled and now.membership is not None and voter is (self._wanted is Wanted.VOTER)

    def _under_way(self, now: _Standing) -> bool:
        if self._wanted is Wanted.GONE:
            return now.leaving
        return self._wanted is Wanted.VOTER and now.joining

    def _given_up(self, now: _Standing) -> str:
        where = "the cluster's log says more (`metako logs` on each node)"
        if not self._seen:
            return f"given up, no document shows it: {self._node} is still {now.words()}; {where}"
        return (
            f"given up, {self._node} is {now.words()}: somebody ordered otherwise, or the primary "
            f"changed before it was certain; {where}"
        )

    def _tell_course(self, data: Data) -> None:
        node = self._node
        if self._wanted is Wanted.GONE:
            self._tell_once(f"{node} is being removed")
            if self._row().get("sync") is True:
                self._tell_once(f"{node} stays until no commit waits for it")
            return
        self._tell_once(f"{node} is {self._standing().words()}")
        busy = doing(self._row())
        # Its lag is news every time, and not worth a line.
        kind = busy.partition(",")[0]
        if busy and kind != self._doing:
            self._doing = kind
            self._tell(f"{node}: {busy}")

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(line)


def _ref(data: Data) -> str:
    return text_at(object_at(data, "document") or {}, "ref")
