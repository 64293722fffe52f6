"""What a failover to a node may lose, and whose vote it takes, in words for whoever decides on it.

In: what the node's agent shows, and the members that are said to be lost. Out: sentences. What an
agent of an earlier version does not show is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metako.cli.output import printable
from metako.cli.status_data import Data, names_at, object_at, objects_at, text_at
from metako.model.document import PairMode
from metako.model.lsn import Lsn, parse_lsn


@dataclass(frozen=True, slots=True)
class Pair:
    """Two voters without a witness, one of which can lead without the other one."""

    other: str  # than the node that is to lead
    mode: str
    heard: bool  # the other one is alive, as far as the node knows
    alone: bool  # the node can be elected by its own vote


@dataclass(frozen=True, slots=True)
class Cost:
    """What a failover to a node may lose, by what the node knows. Unknown is None."""

    node: str
    primary: str | None  # who led last
    primary_lsn: Lsn | None  # the end of its WAL when it was last heard
    lsn: Lsn | None  # of the node
    waited_for: tuple[str, ...]  # standbys of which some have every commit
    without: tuple[str, ...] = ()  # members whose votes it does without
    silent_ms: int | None = None  # since the primary was last heard; None also on itself
    pair: Pair | None = None  # None: a majority decides

    @property
    def lost_bytes(self) -> int | None:
        """Return how much WAL is lost at least; what was written later comes on top."""
        if self.primary_lsn is None or self.lsn is None:
            return None
        return max(0, self.primary_lsn - self.lsn)

    def words(self) -> str:
        """Return the cost for whoever has to accept it."""
        if self.primary == self.node:
            text = f"{self.node} led last, and loses what another node has written since, if any"
        else:
            text = self._behind()
        return text + self._gone_on() + self._without()

    def hint(self) -> str:
        """Return what is to be known before an order that would wait for a vote; "" if nothing."""
        pair = self.pair
        if pair is None or pair.heard or pair.other in self.without:
            return ""
        if pair.alone:
            return f"{self.node} needs no vote of {pair.other}, and leads by itself before long"
        return (
            f"{pair.other} is not heard, and its vote is needed. If the host of {pair.other} is "
            f"off, give --lost {pair.other}"
        )

    def gone(self) -> str:
        """Return what has to be off, for a question; "" if nothing has to be."""
        if self.pair is not None:
            return f"The host of {self.pair.other} is off" if self.without else ""
        named = dict.fromkeys((self.primary or "the old primary", *self.without))
        return f"Off for good: {', '.join(named)}"

    def _behind(self) -> str:
        who = self.primary or "the primary before"
        known = "nobody here knows how much that is"
        if self.lost_bytes is not None:
            ago = "" if self.silent_ms is None else f", {self.silent_ms / 1000:.0f} s ago,"
            known = f"by what was last heard of it{ago} that is {self.lost_bytes} bytes of WAL"
        text = f"{self.node} loses what {who} has written and {self.node} has not: {known}, "
        text += f"and all that {who} wrote later"
        if self.waited_for:
            text += f"; commits have waited for {', '.join(self.waited_for)}, which may have more"
        return text

    def _gone_on(self) -> str:
        """Return what the other one of a pair may have done that nobody here knows of."""
        pair = self.pair
        if pair is None or pair.heard or pair.alone:
            return ""
        if self.primary != self.node:
            return f"; {pair.other} may have gone on alone after that, without {self.node}"
        if pair.mode == PairMode.TAKEOVER:
            return f"; {pair.other} may have taken over after that, without {self.node}"
        return ""  # without this node's vote it may have led by an operator's order alone

    def _without(self) -> str:
        if not self.without:
            return ""
        if self.pair is not None and set(self.without) == {self.pair.other}:
            other = self.pair.other
            return (
                f". The host of {other} must be off now, or there may be two primaries. {other} "
                "stays a member, and follows by itself when it is switched on later"
            )
        return (
            f". Members no longer: {', '.join(self.without)}. They must be off, and stay so "
            "until they are added again, or there will be two clusters that take writes"
        )


def cost_of(status: Data, without: Sequence[str] = ()) -> Cost:
    """Return the cost of a failover to the node whose status it is.

    Args:
        status: the body of `GET /status`.
        without: members that are said to be lost.
    """
    document = object_at(status, "document") or {}
    rows = {text_at(row, "node"): row for row in objects_at(status, "members")}
    node = printable(text_at(status, "node"))
    primary = document.get("primary")
    name = printable(primary) if isinstance(primary, str) else None
    silent_ms = status.get("primary_silent_ms")
    return Cost(
        node=node,
        primary=name,
        primary_lsn=_lsn(rows.get(name or "", {})),
        lsn=_lsn(rows.get(node, {})),
        waited_for=tuple(
            n for n in names_at(object_at(document, "sync") or {}, "nodes") if n != node
        ),
        without=tuple(without),
        silent_ms=silent_ms if isinstance(silent_ms, int) else None,
        pair=_pair(document, rows, node, alone=status.get("can_lead_alone") is True),
    )


def _pair(document: Data, rows: dict[str, Data], node: str, *, alone: bool) -> Pair | None:
    mode = document.get("pair_mode")
    others = [voter for voter in names_at(document, "voters") if voter != node]
    if not isinstance(mode, str) or len(others) != 1:
        return None
    heard = rows.get(others[0], {}).get("state") == "alive"
    return Pair(others[0], mode, heard, alone)


def _lsn(row: Data) -> Lsn | None:
    text = row.get("lsn")
    try:
        return parse_lsn(text) if isinstance(text, str) else None
    except ValueError:
        return None
