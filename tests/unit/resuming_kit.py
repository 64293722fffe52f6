"""A leadership of `a` in term 4: its document, its record, its core; and one among five voters."""

from __future__ import annotations

import random
from dataclasses import replace

from metako.election.core import Core
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.election.wants import GuardDeadline
from metako.model.document import ClusterDocument, Durability, Phase, SyncMember, SyncSet
from metako.model.durable import HardState
from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.instant import Instant, seconds
from metako.model.lsn import Lsn, WalPosition
from metako.model.postgres import DataState, PostgresObserved, ProcessState, ReceiverState
from metako.model.timeline import HistoryStep, TimelineEntry

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
NOW = Instant(seconds(100), seconds(500))
ALIVE = GuardDeadline(Term(4), seconds(501))
DOCUMENT = ClusterDocument(
    cluster_id="c",
    cluster_name="test",
    system_id=1,
    term=Term(4),
    version=9,
    primary=A,
    primary_data_id=DataId("d"),
    phase=Phase.ACTIVE,
    voters=(A, B, C),
    learners=(),
    witnesses=(),
    sync=SyncSet(),
    durability=Durability.QUORUM,
    timelines=(TimelineEntry(Term(4), TimelineId(2), TimelineId(1), Lsn(0), A, "", True),),
    hold_ms=2000,
)
END = Lsn(1 << 24)
"""Where the WAL of a detached standby ends."""
HARD = HardState(A, 7, Term(4), A, Term(4), Term(0), 2000, DOCUMENT)


VOTERS = tuple(NodeId(name) for name in "abcde")
D, E = VOTERS[3:]
OF_FIVE = replace(
    DOCUMENT,
    primary_data_id=DataId("a"),
    voters=VOTERS,
    sync=SyncSet((SyncMember(B, DataId("b")), SyncMember(C, DataId("c"))), 1),
)


def core_of(hard: HardState) -> Core:
    cluster = ClusterSettings("test", A, (A, B, C))
    return Core(ElectionSettings(), cluster, A, hard, random.Random(1))


def detached_standby() -> PostgresObserved:
    """Return the picture of a standby of `a`'s data that has kept its promise."""
    return PostgresObserved(
        data=DataState.PRESENT,
        process=ProcessState.RUNNING,
        system_id=1,
        data_id=DataId("a"),
        in_recovery=True,
        timeline=TimelineId(2),
        history=(HistoryStep(TimelineId(2), Lsn(0)),),
        position=WalPosition(TimelineId(2), END),
        detached_for=Term(9),
    )


def standby_at(name: NodeId, lsn: int, term: int) -> PostgresObserved:
    """Return the picture of a standby that has detached for a term."""
    tli = TimelineId(2)
    return PostgresObserved(
        data=DataState.PRESENT,
        process=ProcessState.RUNNING,
        system_id=1,
        data_id=DataId(name),
        in_recovery=True,
        timeline=tli,
        history=(HistoryStep(tli, Lsn(0)),),
        max_tli=tli,
        lsn=Lsn(lsn),
        receiver=ReceiverState.GONE,
        position=WalPosition(tli, Lsn(lsn)),
        detached_for=Term(term),
    )
