"""What production's leader makes of an order about a member, and of those that were taken.

A leader of production is made for each question, in office and with its last version committed; the
version that it proposes is the answer. In: the document, who has acknowledged it, which record each
name has and whose server streams. Out: the next version, or None.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

from metako.election.core import Core
from metako.election.leader import Leader
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.model.document import ClusterDocument, SyncSet
from metako.model.durable import HardState
from metako.model.ids import Address, DataId, NodeId, RecordId
from metako.model.instant import Instant
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberMeta, MemberState, ServerState
from metako.model.orders import Order, OrderKind
from metako.model.postgres import PostgresObserved, ProcessState, StandbySeen

NOW = Instant(1, 1)
NOWHERE = Address("explored", 1)
END = Lsn(1)
"""Of the leader's WAL: who streams has caught up, for 16 MiB are more than the model writes."""


class Heard(NamedTuple):
    """What a leader knows of one name by gossip, by its server and by answers."""

    node: NodeId
    record_id: RecordId
    data_id: DataId
    streams: bool
    acknowledged: bool  # the newest version


class _Proposing(Leader):
    """Keeps what it would propose, and tells nobody."""

    proposed: ClusterDocument | None = None

    def propose(self, now: Instant, document: ClusterDocument) -> None:
        self.proposed = self.proposal = document


def judged(
    document: ClusterDocument, record_id: RecordId, heard: tuple[Heard, ...], order: Order
) -> ClusterDocument | None:
    """Return the version that an order leads to at once; None if it is refused or is so already."""
    leader = _leader(document, record_id, heard)
    leader.decisions.members.judge(NOW, order, leader)
    return leader.proposed


def advanced(
    document: ClusterDocument, record_id: RecordId, heard: tuple[Heard, ...], node: NodeId
) -> ClusterDocument | None:
    """Return the version that is due by what was ordered before, if that of one member is first."""
    alone = replace(
        document,
        joining=tuple(n for n in document.joining if n == node),
        leaving=tuple(n for n in document.leaving if n == node),
    )
    leader = _leader(alone, record_id, heard)
    leader.decisions.members.advance(NOW, leader, alone)
    proposed = leader.proposed
    if proposed is None:
        return None
    return replace(
        proposed,
        joining=tuple(n for n in document.joining if n != node or n in proposed.joining),
        leaving=tuple(n for n in document.leaving if n != node or n in proposed.leaving),
    )


def order_of(kind: OrderKind, node: NodeId, *, voter: bool) -> Order:
    return Order("explored", kind, node, voter=voter)


def unlisted(document: ClusterDocument, node: NodeId) -> ClusterDocument:
    """Return a document as if commits did not wait for a node."""
    rest = tuple(member for member in document.sync.members if member.node != node)
    return replace(document, sync=SyncSet(rest, min(document.sync.k, len(rest))))


def _leader(document: ClusterDocument, record_id: RecordId, heard: tuple[Heard, ...]) -> _Proposing:
    core = Core(
        settings=ElectionSettings(),
        cluster=ClusterSettings("explored", document.primary, document.voters, pair_mode=None),
        node=document.primary,
        hard=HardState(
            document.primary,
            1,
            promised_term=document.term,
            document=document,
            record_id=record_id,
        ),
        rng=random.Random(0),  # noqa: S311 - nothing here is drawn from it
        observed=PostgresObserved(
            process=ProcessState.RUNNING,
            in_recovery=False,
            lsn=END,
            standbys=tuple(
                StandbySeen(each.node, True, END, END, True) for each in heard if each.streams
            ),
        ),
        members={each.node: _member(document, each) for each in heard},
    )
    leader = _Proposing(core, NOW, document.term)
    leader.committed, leader.attachable, leader.active = document, True, True
    leader.refs = {each.node: document.ref for each in heard if each.acknowledged}
    leader.handover.heirs.looked(core.observed)
    round_ = leader.lease.begin_round(NOW)
    for node in document.voters:
        leader.lease.answer(node, round_)
    leader.lease.renew(document, core.settings.hold_ms)
    return leader


def _member(document: ClusterDocument, heard: Heard) -> Member:
    meta = MemberMeta(
        state=ServerState.STREAMING if heard.streams else ServerState.STOPPED,
        data_id=heard.data_id,
        system_id=document.system_id if heard.data_id else 0,
        witness=heard.node in document.witnesses,
        record_id=heard.record_id,
    )
    return Member(heard.node, 1, 0, MemberState.ALIVE, NOWHERE, meta)
