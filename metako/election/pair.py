"""Two voters without a witness: when one of them may be elected by its own vote.

A majority of two is both, and both may be long in coming. So the document can say that one of
them *decides* (`ClusterDocument.decider`): leases and documents need the decider, so that nothing
is ever agreed on without it, and it may therefore be elected alone. The other one never is.

That rests on the decider knowing all that was agreed on, which an operator can undo: by an order
the other one leads without it, while it is off. So who comes back does not trust its disk. The
*sole right* is never durable: it takes a version of this very term that this node has known to be
committed since its agent started, and it ends with the first sign that somebody else may lead.

In: what becomes known of documents, votes and promises. Out: whether the right is held. It does not
know how an election is judged. Source: DESIGN §4.6.
"""

from __future__ import annotations

from dataclasses import replace

from metako.model.document import ClusterDocument, Durability, PairMode
from metako.model.ids import NodeId, Term


class SoleRight:
    """Of one node, in one life of its agent."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._term = Term(0)  # of the leadership whose document was known committed; 0: no right

    def committed(self, document: ClusterDocument) -> None:
        """Take note that a version is committed, and was while this agent ran.

        For the standby that is to decide it takes a heartbeat which says so: it was sent after
        every round by which the primary, alone, may still have renewed its lease, and is held for.
        """
        if document.decider == self._node:
            self._term = document.term

    def adopted(self, document: ClusterDocument) -> None:
        """Take note of a newer version: by one that lets another decide the right is over."""
        if document.decider != self._node:
            self._term = Term(0)

    def withdraw(self) -> None:
        """End the right: somebody else may lead, by a vote of this node or without it."""
        self._term = Term(0)

    def held(self, document: ClusterDocument | None) -> bool:
        """Return whether the right is held by the newest document."""
        if document is None or document.decider != self._node:
            return False
        return self._term == document.term


def pair_due(document: ClusterDocument, wanted: PairMode | None) -> PairMode | None:
    """Return the rule that the next version should have to get to what is configured.

    From one rule to the other it goes by way of none: a leader whose agent is started again amid
    that knows the newer version alone. With `takeover` commits have to wait for a standby, and go
    on without one: with any other durability the primary decides.
    """
    if wanted is PairMode.TAKEOVER and document.durability is not Durability.QUORUM:
        wanted = PairMode.MANUAL
    rule = wanted if document.is_pair else None
    return rule if document.pair in (None, rule) else None


def electorate(
    committed: ClusterDocument | None, newest: ClusterDocument | None, *, resumed: bool
) -> ClusterDocument:
    """Return the document whose voters grant a leader its lease: the newest that is agreed on.

    Args:
        committed: the newest version that this leader has counted; None if it has counted none.
        newest: the newest one that it has sent.
        resumed: it goes on after a restart of its agent. The version before is forgotten then, and
            by that the standby of a pair may have decided, so both are asked.
    """
    if committed is not None:
        return committed
    assert newest is not None
    takes_over = newest.pair is PairMode.TAKEOVER
    return replace(newest, pair=None) if resumed and takes_over else newest


def describe(mode: PairMode | None) -> str:
    """Return in words what holds for a pair, for people."""
    match mode:
        case None:
            return "a majority decides"
        case PairMode.MANUAL:
            return "pair_mode manual: the primary goes on without the other one"
        case PairMode.TAKEOVER:
            return "pair_mode takeover: the synchronous standby takes over without the primary"
