"""The model's tables, and the decisions that it takes from production.

In: bounds and the rules that are not kept. Out: the first state, and answers about documents and
WALs by their numbers. Every answer is remembered: most questions come up thousands of times.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from metako.election.quorum import Promise, judge
from metako.model.document import (
    ClusterDocument,
    DocumentRef,
    Durability,
    Phase,
    SyncMember,
    SyncSet,
    majority_of,
)
from metako.model.ids import DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn, RankedPosition
from metako.model.timeline import TimelineEntry, is_diverged, rank
from sim.explorer.config import Config
from sim.explorer.state import (
    NOBODY,
    NOTHING,
    OPEN,
    STANDBY,
    Node,
    Record,
    Setting,
    State,
    Table,
    Wal,
    bits,
    history_of,
    position_of,
)

FIRST_TERM = 1


class Model:
    """One configuration, without the rules named."""

    def __init__(self, config: Config, without: Collection[str] = ()) -> None:
        self.config = config
        self.without = frozenset(without)
        self.names = tuple(NodeId(f"n{number + 1}") for number in range(config.nodes))
        self.index = {name: number for number, name in enumerate(self.names)}
        self.servers = config.nodes - config.witnesses  # the nodes with data come first
        self.majority = majority_of(config.nodes)
        self.documents: Table[ClusterDocument] = Table()
        self.wals: Table[Wal] = Table()
        self._refs: list[DocumentRef] = []
        self._settings: list[Setting] = []
        self._ranks: dict[tuple[int, int], RankedPosition | None] = {}
        self._astray: dict[tuple[int, int], bool] = {}
        self._won: dict[tuple[int, int, tuple[Promise, ...]], bool] = {}

    def keeps(self, rule: str) -> bool:
        return rule not in self.without

    # ------------------------------------------------------------ names and numbers

    def member(self, node: int) -> SyncMember:
        return SyncMember(self.names[node], self.data_id(node))

    def data_id(self, node: int) -> DataId:
        return DataId(f"data of {self.names[node]}")

    def sync_set(self, setting: Setting) -> SyncSet:
        return SyncSet(tuple(self.member(node) for node in bits(setting[0])), setting[1])

    def setting(self, sync: SyncSet) -> Setting:
        return sum(1 << self.index[node] for node in sync.nodes()), sync.k

    def document(self, document: ClusterDocument) -> int:
        """Return the number of a document."""
        number = self.documents.number(document)
        if number == len(self._refs):
            self._refs.append(document.ref)
            self._settings.append(self.setting(document.sync))
        return number

    def ref(self, number: int) -> DocumentRef:
        self._learn(number)
        return self._refs[number]

    def listed(self, number: int) -> Setting:
        """Return the sync set of a document as PostgreSQL's setting."""
        self._learn(number)
        return self._settings[number]

    def _learn(self, number: int) -> None:
        # Those that came by renaming of nodes are not known yet.
        while len(self._refs) <= number:
            self.document(self.documents[len(self._refs)])

    # ------------------------------------------------------------ the beginning

    def first_state(self) -> State:
        """Return a healthy cluster: the first node is primary, and everybody follows it."""
        config = self.config
        everybody = (1 << config.nodes) - 1
        mask = sum(1 << node for node in range(1, 1 + config.listed))
        document = self.document(
            ClusterDocument(
                cluster_id="explored",
                cluster_name="explored",
                system_id=1,
                term=Term(FIRST_TERM),
                version=1,
                primary=self.names[0],
                primary_data_id=self.data_id(0),
                phase=Phase.ACTIVE,
                voters=self.names,
                learners=(),
                witnesses=self.names[self.servers :],
                sync=self.sync_set((mask, config.acks)),
                durability=Durability.QUORUM,
                timelines=(
                    TimelineEntry(
                        Term(FIRST_TERM), TimelineId(1), TimelineId(0), Lsn(0), confirmed=True
                    ),
                ),
                hold_ms=0,
            )
        )
        wal = self.wals.number((Record(1, FIRST_TERM, 0),))
        primary = Node(
            promised=FIRST_TERM,
            vote=NOBODY,
            document=document,
            acks=everybody,
            server=OPEN,
            upstream=NOBODY,
            wal=wal,
            sync=self.listed(document),
            stale=(),
            change=0,
        )
        standby = primary._replace(acks=0, server=STANDBY, upstream=0, sync=NOTHING)
        witness = standby._replace(upstream=NOBODY)
        standbys = [standby] * (self.servers - 1)
        nodes = (primary, *standbys, *[witness] * config.witnesses)
        return State(nodes, ())

    # ------------------------------------------------------------ production's decisions

    def has_majority(self, number: int, acks: int) -> bool:
        document = self.documents[number]
        return document.has_majority([self.names[node] for node in bits(acks)])

    def ranked(self, document: int, wal: int) -> RankedPosition | None:
        """Return a WAL's position as a node with this document ranks it; None if it must not count.

        The same answer as `election.core.Core.ranked` gives for a server that is detached.
        """
        key = document, wal
        if key not in self._ranks:
            known, records = self.documents[document], self.wals[wal]
            position = position_of(records)
            off = known.off_history(history_of(records), position)
            self._ranks[key] = None if off else rank(known.timelines, position)
        return self._ranks[key]

    def astray(self, document: int, wal: int) -> bool:
        """Return whether a WAL is off the history of a document's primary, as the planner asks."""
        key = document, wal
        if key not in self._astray:
            entries, records = self.documents[document].timelines, self.wals[wal]
            self._astray[key] = is_diverged(
                entries, entries[-1].tli, history_of(records), position_of(records)
            )
        return self._astray[key]

    def promise(self, node: int, document: int, wal: int, *, detached: bool) -> Promise:
        """Return what a node answers to a candidate."""
        if node >= self.servers:
            name = self.names[node]
            return Promise(name, True, DataId(""), None, False, 0, TimelineId(0))
        position = self.ranked(document, wal) if detached else None
        return Promise(
            node=self.names[node],
            detached=detached,
            data_id=self.data_id(node),
            position=position,
            can_lead=position is not None,
            priority=1,
            max_tli=TimelineId(max(record.tli for record in self.wals[wal])),
        )

    def won(self, number: int, candidate: int, promises: tuple[Promise, ...]) -> bool:
        """Return whether a candidate may lead under a document with these promises."""
        key = number, candidate, promises
        if key not in self._won:
            self._won[key] = self._judge(self.documents[number], candidate, promises)
        return self._won[key]

    def _judge(
        self, document: ClusterDocument, candidate: int, promises: tuple[Promise, ...]
    ) -> bool:
        sync = document.sync
        if not self.keeps("full-data-quorum") and sync.k < len(sync.members):
            # With k one higher the same servers make a read quorum that is one smaller.
            document = replace(document, sync=SyncSet(sync.members, sync.k + 1))
        by_name = {promise.node: promise for promise in promises}
        verdict = judge(document, self.names[candidate], by_name)
        if not self.keeps("data-quorum"):
            return verdict.control
        return verdict.won
