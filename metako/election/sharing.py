"""In which form the document is sent: short at first, whole to whoever may lack what is left out.

In: the document that is to be told to a node. Out: the message for it, or several of them. The
newest document is sent short to each node once; the same again, an older one, and one to a node
that holds none, are whole. So a node that cannot make it whole, or does not know the message at
all, has the whole after one repeat; one that says so has it at once.

It is only a matter of speed and never of what is agreed on: whoever gets a short document acts on
the whole or on nothing. Source: docs/adr/0009.
"""

from __future__ import annotations

from metako.model.document import NO_DOCUMENT, ClusterDocument, DocumentRef
from metako.model.ids import NodeId, Term
from metako.wire.messages import DocumentCopy, DocumentOffer, ShortDocument
from metako.wire.short import shorten


class Sharing:
    """What one node has told of its newest document."""

    def __init__(self, timelines_kept: int) -> None:
        self._timelines_kept = timelines_kept  # in a short document
        self._newest: ClusterDocument | None = None  # that was to be sent; None before the first
        self._short: ShortDocument | None = None  # the same; None if it has few timelines
        self._told: set[NodeId] = set()  # who was sent `_short`; members, so there are few

    def offer(
        self, to: NodeId, document: ClusterDocument, term: Term
    ) -> DocumentOffer | ShortDocument:
        """Return a leader's offer of its document for a member."""
        short = self._short_for(to, document)
        if short is None:
            return DocumentOffer(term, document)
        return ShortDocument(short.document, short.left_out, short.digest, term)

    def copy(
        self, to: NodeId, document: ClusterDocument, held: DocumentRef
    ) -> DocumentCopy | ShortDocument:
        """Return a copy of the document for a node that holds an older one, or none."""
        short = self._short_for(to, document) if held != NO_DOCUMENT else None
        return short or DocumentCopy(document)

    def _short_for(self, to: NodeId, document: ClusterDocument) -> ShortDocument | None:
        newest = self._newest
        if newest is None or newest.ref < document.ref:
            self._newest, self._short = document, shorten(document, self._timelines_kept)
            self._told.clear()
        elif newest is not document:
            return None
        if to in self._told:
            return None
        self._told.add(to)
        return self._short
