"""The failover of a cluster that has had two hundred: every message of it fits a datagram.

Three engines with a network between them that seals, measures, opens and loses nothing. Their
servers do at once whatever is wanted of them. `a`, the primary, is gone before the first step.
"""

import random
from dataclasses import replace

from metako.cluster.engine import Engine, NodeSettings
from metako.cluster.ready import Tick
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.membership.config import MembershipConfig
from metako.model.document import (
    ClusterDocument,
    Durability,
    MemberRecord,
    Phase,
    SyncMember,
    SyncSet,
)
from metako.model.durable import HardState
from metako.model.ids import Address, DataId, NodeId, RecordId, Term, TimelineId
from metako.model.instant import Instant, milliseconds
from metako.model.lsn import Lsn, WalPosition
from metako.model.member import MemberMeta
from metako.model.postgres import (
    DataState,
    Detached,
    Leading,
    PostgresObserved,
    ProcessState,
    ReceiverState,
)
from metako.model.timeline import HistoryStep, TimelineEntry, trimmed
from metako.wire.codec import decode_untrusted, encode, encode_document
from metako.wire.limits import DATAGRAM_MAX_BYTES
from metako.wire.messages import DocumentAck, DocumentCopy, DocumentOffer, DocumentWanted, Received
from metako.wire.messages import ShortDocument as Short
from metako.wire.seal import SALT_BYTES, Sealer

A, B, C = VOTERS = tuple(NodeId(f"db-node-{name}") for name in "abc")
MANY = 200
KEY = bytes(32)


def end_of(count):
    """Return where the WAL of the timeline of that number ends."""
    return Lsn((count + 1) << 24)


def entry(number):
    """Return a timeline whose promotion is confirmed."""
    tli, parent = TimelineId(number), TimelineId(number - 1)
    return TimelineEntry(Term(number), tli, parent, Lsn(number << 24), A, "election", True)


def after(failovers):
    """Return the document that the cluster has then."""
    ids = {node: RecordId(f"{ord(node[-1]):032x}") for node in VOTERS}
    data = {node: DataId(f"{ord(node[-1]) + 7:032x}") for node in VOTERS}
    return ClusterDocument(
        cluster_id="0123456789abcdef",
        cluster_name="production",
        system_id=7412345678901234567,
        term=Term(failovers),
        version=3 * failovers,
        primary=A,
        primary_data_id=data[A],
        phase=Phase.ACTIVE,
        voters=VOTERS,
        learners=(),
        witnesses=(),
        sync=SyncSet((SyncMember(B, data[B]), SyncMember(C, data[C])), 1),
        durability=Durability.QUORUM,
        timelines=trimmed([entry(number) for number in range(1, failovers + 1)]),
        hold_ms=2000,
        records=tuple(MemberRecord(node, ids[node]) for node in VOTERS),
    )


DOCUMENT = after(MANY)


def standby(node, count, **changes):
    """Return the picture of a standby that has all the WAL of so many timelines."""
    history = tuple(HistoryStep(TimelineId(n), Lsn(n << 24)) for n in range(1, count + 1))
    picture = PostgresObserved(
        data=DataState.PRESENT,
        process=ProcessState.RUNNING,
        system_id=DOCUMENT.system_id,
        data_id=DataId(f"{ord(node[-1]) + 7:032x}"),
        in_recovery=True,
        timeline=TimelineId(count),
        history=history,
        max_tli=TimelineId(count),
        lsn=end_of(count),
        replay_lsn=end_of(count),
        receiver=ReceiverState.GONE,
    )
    return replace(picture, **changes)


def pictured(node, count, target):
    """Return the picture of a server of which everything that is wanted is done."""
    match target:
        case Detached(promise=promise):
            position = WalPosition(TimelineId(count), end_of(count))
            return standby(node, count, position=position, detached_for=promise)
        case Leading():
            history = (*standby(node, count).history, HistoryStep(target.tli, end_of(count)))
            return standby(
                node,
                count,
                in_recovery=False,
                timeline=target.tli,
                history=history,
                max_tli=target.tli,
                marker_term=target.term,
                sync_applied=target.sync,
                admitting=target.admit,
            )
        case _:
            return standby(node, count)


class Cluster:
    """The nodes that live; see the module's docstring."""

    def __init__(self, held):
        """Start them with the documents that they hold, by name."""
        self.ms = 100_000
        self.sent = []  # (from, to, message, bytes of the datagram that it would be)
        self.hard, self.documents = {}, {}  # by name, and all that were made durable by their ref
        self.deaf_to = ()  # kinds of messages that a node of the former version does not know
        self.engines, self.sealers = {}, {}
        for node, document in held.items():
            record_id = RecordId(f"{ord(node[-1]):032x}")
            term = document.term
            hard = HardState(
                *(node, 7, term, None, term, Term(0), 0, document),
                asked=True,
                record_id=record_id,
            )
            self.hard[node] = hard
            self.engines[node] = Engine(
                settings=NodeSettings(
                    election=ElectionSettings(),
                    cluster=ClusterSettings("production", A, VOTERS),
                    membership=MembershipConfig(),
                    address=Address(node, 1),
                    peers=tuple((n, Address(n, 1)) for n in VOTERS if n != node),
                    meta=MemberMeta(),
                ),
                hard=hard,
                rng=random.Random(node),
                now=self.now,
            )
            self.sealers[node] = Sealer("production", node, 7, bytes(SALT_BYTES), [KEY])
        self.counts = {node: len(document.timelines) for node, document in held.items()}
        for node, count in self.counts.items():
            self.step(node, standby(node, count))

    @property
    def now(self):
        return Instant(milliseconds(self.ms), milliseconds(self.ms))

    def step(self, node, event):
        ready = self.engines[node].step(self.now, event)
        if ready.persist is not None:
            document = ready.persist.document
            self.hard[node], self.documents[document.ref] = ready.persist, document
        for outbound in ready.messages:
            data = encode(outbound.message)
            size = len(self.sealers[node].seal(outbound.to, data))
            self.sent.append((node, outbound.to, outbound.message, size))
            known = not isinstance(outbound.message, self.deaf_to)
            if outbound.to in self.engines and known:
                self.step(outbound.to, Received(node, 7, decode_untrusted(data)))
        if ready.target is not None:
            picture = pictured(node, self.counts[node], ready.target)
            self.step(node, replace(picture, under=ready.target))

    def run_until(self, condition, *, limit_ms=3000):
        end = self.ms + limit_ms
        while not condition():
            assert self.ms < end, "it never came to that"
            self.ms += 5
            for node in self.engines:
                self.step(node, Tick())

    def primary(self):
        """Return who serves by a document that all who live hold."""
        first, *others = [hard.document for hard in self.hard.values()]
        serves = first.phase is Phase.ACTIVE and first.primary != A
        return first.primary if serves and all(first == other for other in others) else None

    def fails_over(self):
        self.run_until(lambda: self.primary() is not None)
        return [message for _, _, message, _ in self.sent]

    def of(self, kind):
        return [(to, message) for _, to, message, _ in self.sent if isinstance(message, kind)]


def test_the_document_itself_would_fit_no_datagram():
    assert len(encode_document(DOCUMENT)) > 3 * DATAGRAM_MAX_BYTES


def test_every_message_of_a_failover_fits_a_datagram():
    cluster = Cluster({B: DOCUMENT, C: DOCUMENT})
    said = cluster.fails_over()
    assert {type(message) for message in said} >= {Short, DocumentAck}
    assert max(size for *_, size in cluster.sent) <= DATAGRAM_MAX_BYTES
    # One message a version for each node that lives: nothing was repeated, and nobody asked.
    survivor = C if cluster.primary() == B else B
    assert [m.document.version for to, m in cluster.of(Short) if to == survivor] == [601, 602]
    made = cluster.hard[B].document
    assert encode_document(made) == encode_document(cluster.hard[C].document)
    assert made.timelines[:-1] == trimmed((*DOCUMENT.timelines, made.timelines[-1]))[:-1]
    assert (made.timelines[-1].tli, made.timelines[-1].confirmed) == (MANY + 1, True)


def test_a_voter_that_has_missed_many_failovers_asks_and_gets_all():
    cluster = Cluster({B: DOCUMENT, C: after(MANY - 20)})
    cluster.fails_over()
    assert cluster.primary() == B
    assert [to for to, _ in cluster.of(DocumentWanted)] == [B]
    assert [to for to, _ in cluster.of(DocumentCopy | DocumentOffer) if to != A] == [C]
    large = {type(message) for *_, message, size in cluster.sent if size > DATAGRAM_MAX_BYTES}
    assert large <= {DocumentCopy, DocumentOffer}


def test_a_node_that_knows_no_short_document_gets_all_at_the_first_repeat():
    cluster = Cluster({B: DOCUMENT, C: DOCUMENT})
    cluster.deaf_to = (Short,)
    cluster.fails_over()
    survivor = C if cluster.primary() == B else B
    offers = [(to, type(m)) for to, m in cluster.of(Short | DocumentOffer) if to == survivor]
    assert offers == [(survivor, Short), (survivor, DocumentOffer)] * 2


def test_of_a_short_document_that_was_tampered_with_nothing_is_held():
    cluster = Cluster({B: DOCUMENT, C: DOCUMENT})
    cluster.run_until(lambda: bool(cluster.of(Short)))
    (to, short), *_ = [each for each in cluster.of(Short) if each[0] != A]
    sender = B if to == C else C
    fresh = Cluster({B: DOCUMENT, C: DOCUMENT})
    digest = short.digest[:-1] + ("0" if short.digest[-1] != "0" else "1")
    for wrong in (replace(short, digest=digest), replace(short, left_out=short.left_out - 1)):
        fresh.sent.clear()
        fresh.step(to, Received(sender, 7, wrong))
        assert fresh.hard[to].document is DOCUMENT
        assert fresh.of(DocumentAck) == []
        assert (sender, DocumentWanted(short.document.ref)) in fresh.of(DocumentWanted)
    fresh.step(to, Received(sender, 7, short))
    assert fresh.hard[to].document == cluster.documents[short.document.ref]
    assert fresh.of(DocumentAck) == [(sender, DocumentAck(short.term, short.document.ref))]
