"""Ground truth about the document: which versions there are, made from which, and who has them.

In: durable records, as they become durable; word of a leader that a version is committed. Out: the
versions that an election may still find, and whether a version really is on a majority. A record
that a fault takes away later has been one: what was said by it was true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metako.model.document import NO_DOCUMENT, ClusterDocument, DocumentRef
from metako.model.durable import HardState
from metako.model.events import Event, EventName
from metako.model.ids import NodeId, RecordId, Term
from metako.model.orders import Order
from sim.standing import agree, decides, record_named
from sim.watch import Watcher

if TYPE_CHECKING:
    from sim.processes import Processes


class Versions(Watcher):
    """See the module's docstring. Whoever asks has to be told of the same event after this."""

    name = "versions"

    def __init__(self) -> None:
        self.known: dict[DocumentRef, ClusterDocument] = {}
        self.base: dict[DocumentRef, ClusterDocument] = {}  # what each of them was made from
        self.committed: ClusterDocument | None = None  # the newest that a leader has called so
        self._held: dict[tuple[NodeId, RecordId], DocumentRef] = {}  # newest that was durable
        self._votes: dict[tuple[Term, NodeId], set[RecordId]] = {}  # that were durable, by whom for
        self._live: tuple[ClusterDocument, ...] | None = None  # None: has to be found anew
        self._given_up: set[NodeId] = set()  # by operators' orders

    def ordered(self, node: Processes, order: Order) -> None:
        self._given_up.update(order.lost)

    # ------------------------------------------------------------ what there is

    def booted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        self._learn(node, before, hard)

    def persisted(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        self._learn(node, before, hard)

    def _learn(self, node: Processes, before: HardState | None, hard: HardState) -> None:
        if hard.voted_for is not None:
            self.voted(hard.record_id, hard.term, hard.voted_for)
        document = hard.document
        if document is None:
            return
        held = node.name, hard.record_id
        self._held[held] = max(document.ref, self._held.get(held, NO_DOCUMENT))
        if document.ref in self.known:
            return
        self.known[document.ref] = document
        self._live = None
        earlier = self.known.get(DocumentRef(document.term, document.version - 1))
        own = before.document if before is not None else None
        if earlier is not None:
            self.base[document.ref] = earlier
        elif own is not None and own.version == document.version - 1:
            self.base[document.ref] = (
                own  # the first one of a term: its leader has made it from this
            )

    def voted(self, record: RecordId, term: Term, candidate: NodeId) -> None:
        """Take note of a vote that is durable, or was: a later one may be in its place."""
        self._votes.setdefault((term, candidate), set()).add(record)

    def happened(self, node: Processes, events: Sequence[Event]) -> None:
        for event in events:
            if event.name is EventName.DOCUMENT_COMMITTED:
                found = self.named(str(dict(event.fields)["document"]))
                if found is not None and (self.committed is None or found.ref > self.committed.ref):
                    self.committed, self._live = found, None

    # ------------------------------------------------------------ questions

    def named(self, shown: str) -> ClusterDocument | None:
        """Return the version that events call so."""
        term, version = shown.split(".")
        return self.known.get(DocumentRef(Term(int(term)), int(version)))

    def live(self) -> tuple[ClusterDocument, ...]:
        """Return the versions by which somebody may be elected: the committed one, and newer ones.

        By an older one nobody is: whoever votes has the committed one, or is in no majority.
        """
        if self._live is None:
            oldest = self.committed.ref if self.committed is not None else NO_DOCUMENT
            self._live = tuple(d for ref, d in self.known.items() if ref >= oldest)
        return self._live

    def is_on_majority(self, document: ClusterDocument, voters: ClusterDocument) -> bool:
        """Return whether a version, or a later one, was durable at enough voters of another one.

        Only what is in the records counts by which they are voters.
        """
        having = []
        for name in voters.voters:
            # Also one that the version takes in by a new record: whoever counts by its former
            # record has lost that, and elects nobody.
            records = {record_named(voters, name), record_named(document, name)}
            held = [self._held.get((name, record), NO_DOCUMENT) for record in records]
            if max(held) >= document.ref:
                having.append(name)
        return agree(voters, having)

    def was_elected(self, node: NodeId, term: Term, voters: ClusterDocument) -> bool:
        """Return whether most voters of a document had durably voted for a node in a term.

        In a pair the one that decides needs its own vote alone, and the other one an operator who
        says that the first is off.
        """
        records = self._votes.get((term, node), set())
        voted = [name for name in voters.voters if record_named(voters, name) in records]
        if node in voted and decides(voters) is not None:
            others = {name for name in voters.voters if name != node}
            if node == decides(voters) or others <= self._given_up:
                return True
        return 2 * len(voted) > len(voters.voters)
