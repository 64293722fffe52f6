"""The course of a restart of servers, judged from the status that a node shows again and again.

In: the decoded body of `GET /status`, and how long after the order it was asked for. Out: a line
for people for every server that is back, and the `Restarted` once its end is certain.

The document lists who is left, the primary last. The leader takes a standby off once it is back,
and whoever leads after the primary's turn takes that one off; what goes wrong empties the list at
once. So who is missing from a list that still has others has had its turn. Of those that were on a
list that is empty now, a standby has had it that said it was stopped for this order and streams,
and the primary has if there is a later term, for no server goes on from one term to the next.

Invariant: text from elsewhere passes `printable`. Deliberately unaware of sockets and clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metako.cli.status_data import Data, names_at, object_at, objects_at, text_at

UNSEEN_MAX_S = 10.0
"""After which an accepted restart that no document shows is taken for ended. The document comes
with a heartbeat; only a node that is cut off waits longer."""
GRACE_S = 2.0
"""For what gossip tells of a member, which may come after the document."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """How it ended, or why it was not begun. What is not known is None."""

    ok: bool
    reason: str  # for people; "" if all went well
    restarted: tuple[str, ...] = ()  # in the order in which they were seen to be back
    left: tuple[str, ...] = ()  # those that were not, as far as was seen
    primary: str | None = None  # as last seen
    duration_ms: int | None = None  # since the order was given

    def as_json(self) -> dict[str, object]:
        """Return it in the keys of `metako restart --json`."""
        return {
            "ok": self.ok,
            "restarted": list(self.restarted),
            "left": list(self.left),
            "primary": self.primary,
            "duration_ms": self.duration_ms,
            "reason": self.reason or None,
        }


def turns_of(status: Data, nodes: Sequence[str]) -> tuple[str, ...]:
    """Return who is restarted, in the order of their turns, by what a node knows before.

    Args:
        status: of the node.
        nodes: those that were named; none: all that hold data.
    """
    document = object_at(status, "document") or {}
    primary = _primary(document)
    named = list(nodes)
    if not named:
        witnesses = names_at(document, "witnesses")
        members = (*names_at(document, "voters"), *names_at(document, "learners"))
        named = [node for node in members if node not in witnesses]
    return tuple(sorted(dict.fromkeys(named), key=lambda node: (node == primary, node)))


class RestartCourse:
    """What has been seen of one restart since it was accepted."""

    def __init__(
        self,
        before: Data,
        nodes: Sequence[str],
        *,
        order_id: str,
        timeout_s: float,
        tell: Callable[[str], None],
    ) -> None:
        """Begin with the status from before the order, and those that are to be restarted."""
        document = object_at(before, "document") or {}
        self._order_id = order_id
        self._timeout_s = timeout_s  # for each server to be back
        self._tell = tell
        self._latest = before
        self._seen = False  # a document has listed it
        self._left = tuple(nodes)  # who has not had its turn, in that order
        self._back: list[str] = []
        self._stopped: set[str] = set()  # who has said that it was stopped for this order
        self._returning: dict[str, float] = {}  # former primaries, and when their turns began
        self._primary, self._term = _primary(document), _term(document)  # while it is listed
        self._turn_s = 0.0  # when the turn of the first that is left began
        self._emptied_s: float | None = None  # when nobody was listed any more

    def see(self, data: Data, after_s: float) -> Restarted | None:
        """Take the newest status; return the ending once there is one."""
        self._latest = data
        document = object_at(data, "document") or {}
        for row in objects_at(data, "members"):
            if row.get("restarted") == self._order_id:
                self._stopped.add(text_at(row, "node"))
        listed = self._listed(document)
        if listed:
            self._see_list(document, listed, after_s)
        elif self._emptied_s is not None or self._is_empty(document, after_s):
            return self._see_empty(document, after_s)
        self._see_returned(after_s)
        return None

    def outcome(self, after_s: float, *, reason: str = "") -> Restarted:
        """Return the ending with what was seen last; one without a reason went well."""
        primary = self._latest.get("primary")
        return Restarted(
            ok=not reason,
            reason=reason,
            restarted=tuple(self._back),
            left=(*self._left, *self._returning),
            primary=text_at(self._latest, "primary") if isinstance(primary, str) else None,
            duration_ms=round(after_s * 1000),
        )

    # ------------------------------------------------------------ while they are listed

    def _listed(self, document: Data) -> tuple[str, ...]:
        restarts = objects_at(document, "restarts")
        return tuple(text_at(r, "node") for r in restarts if r.get("order") == self._order_id)

    def _see_list(self, document: Data, listed: tuple[str, ...], after_s: float) -> None:
        self._seen, self._emptied_s = True, None
        for node in self._left:
            if node not in listed:
                self._had_turn(node, after_s)
        if self._left[:1] != listed[:1]:
            self._turn_s = after_s
        self._left = listed
        self._primary, self._term = _primary(document), _term(document)

    def _had_turn(self, node: str, after_s: float) -> None:
        document = object_at(self._latest, "document") or {}
        if node == self._primary:
            # It was stopped for good; that it follows is another thing, which takes a while.
            self._returning[node] = self._turn_s
        elif node not in (*names_at(document, "voters"), *names_at(document, "learners")):
            self._tell(f"{node} is no member any more")
        else:
            self._is_back(node, self._turn_s, after_s)

    def _is_back(self, node: str, since_s: float, after_s: float) -> None:
        self._back.append(node)
        self._tell(f"{node} restarted after {after_s - since_s:.1f} s")

    def _see_returned(self, after_s: float) -> None:
        for node, since_s in tuple(self._returning.items()):
            if self._streams(node) or self._latest.get("primary") == node:
                del self._returning[node]
                self._is_back(node, since_s, after_s)

    # ------------------------------------------------------------ when nobody is listed any more

    def _is_empty(self, document: Data, after_s: float) -> bool:
        """Return whether it has ended, and not only begun too lately to be seen."""
        if document.get("committed") is False or "restarts" not in document:
            return False  # on its way to a majority: it may yet come to nothing
        return self._seen or _term(document) > self._term or after_s > UNSEEN_MAX_S

    def _see_empty(self, document: Data, after_s: float) -> Restarted | None:
        if self._emptied_s is None:
            self._emptied_s = after_s
        later = _term(document) > self._term
        for node in self._left:
            had = later if node == self._primary else node in self._stopped and self._streams(node)
            if had:
                self._left = tuple(other for other in self._left if other != node)
                self._had_turn(node, after_s)
        self._see_returned(after_s)
        waited_s = after_s - self._emptied_s
        if self._left:
            return self.outcome(after_s, reason=self._why_left()) if waited_s > GRACE_S else None
        if self._returning:
            late = waited_s > self._timeout_s
            return self.outcome(after_s, reason=self._why_away()) if late else None
        return self.outcome(after_s) if isinstance(self._latest.get("primary"), str) else None

    def _streams(self, node: str) -> bool:
        rows = objects_at(self._latest, "members")
        row = next((row for row in rows if row.get("node") == node), {})
        return row.get("state") == "alive" and row.get("server_state") == "streaming"

    def _why_left(self) -> str:
        names = ", ".join(self._left)
        began = "the restart has ended before its time" if self._seen else "no document shows it"
        return f"{began}, not restarted: {names}; `metako logs` on each node says why"

    def _why_away(self) -> str:
        names = ", ".join(self._returning)
        return (
            f"{names} handed over, and does not stream after {self._timeout_s:g} s: `metako logs` "
            "there says why"
        )


def _primary(document: Data) -> str | None:
    return text_at(document, "primary") if isinstance(document.get("primary"), str) else None


def _term(document: Data) -> int:
    term = document.get("term")
    return term if isinstance(term, int) else 0
