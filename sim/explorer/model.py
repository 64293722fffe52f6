"""The model's tables, and the decisions that it takes from production.

In: bounds and the rules that are not kept. Out: the first state, and answers about documents and
WALs by their numbers. Every answer is remembered: most questions come up thousands of times.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import replace
from typing import Any

from metako.election.quorum import Promise, judge
from metako.model.document import (
    ClusterDocument,
    DocumentRef,
    Durability,
    MemberRecord,
    Phase,
    SyncMember,
    SyncSet,
)
from metako.model.ids import DataId, NodeId, RecordId, Term, TimelineId
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
        self.members_change = bool(config.orders)
        self.index = {name: number for number, name in enumerate(self.names)}
        self.servers = config.nodes - config.witnesses  # the nodes with data come first
        self.documents: Table[ClusterDocument] = Table()
        self.wals: Table[Wal] = Table()
        self._refs: list[DocumentRef] = []
        self._settings: list[Setting] = []
        self._ranks: dict[tuple[int, int], RankedPosition | None] = {}
        self._astray: dict[tuple[int, int], bool] = {}
        self._won: dict[tuple[int, int, bool, tuple[Promise, ...]], bool] = {}
        self._counting: dict[tuple[int, int, int], bool] = {}
        self._asked: dict[object, ClusterDocument | None] = {}

    def keeps(self, rule: str) -> bool:
        return rule not in self.without

    def asked(
        self,
        key: tuple[ClusterDocument, int, Hashable, Hashable],
        ask: Callable[[ClusterDocument, RecordId, Any, Any], ClusterDocument | None],
    ) -> ClusterDocument | None:
        """Return what production answers about members, asked once."""
        if key not in self._asked:
            document, number, heard, what = key
            self._asked[key] = ask(document, self.record_id(number), heard, what)
        return self._asked[key]

    # ------------------------------------------------------------ names and numbers

    def member(self, name: int, data: int) -> SyncMember:
        return SyncMember(self.names[name], self.data_id(data))

    def data_id(self, data: int) -> DataId:
        return DataId(f"data {data + 1}" if data != NOBODY else "")

    def data_of(self, data_id: DataId) -> int:
        """Return where data was first, by its identity."""
        return int(data_id.removeprefix("data ")) - 1

    def record_id(self, number: int) -> RecordId:
        return RecordId(f"record {number + 1}" if self.members_change else "")

    def record_of(self, record_id: RecordId) -> int:
        """Return which node has a record, by its identity."""
        return int(record_id.removeprefix("record ")) - 1

    def has_data(self, node: Node) -> bool:
        return node.data != NOBODY and node.name < self.servers

    def sync_set(self, setting: Setting) -> SyncSet:
        """Return the sync set of a setting, each standby with the data that it had first."""
        return SyncSet(tuple(self.member(name, name) for name in bits(setting[0])), setting[1])

    def setting(self, sync: SyncSet) -> Setting:
        return sum(1 << self.index[node] for node in sync.nodes()), sync.k

    def document(self, document: ClusterDocument) -> int:
        """Return the number of a document; the order of names in a list means nothing."""
        if self.members_change:
            document = replace(
                document,
                voters=tuple(sorted(document.voters)),
                learners=tuple(sorted(document.learners)),
                joining=tuple(sorted(document.joining)),
                leaving=tuple(sorted(document.leaving)),
            )
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
        outside = self.servers - config.outsiders
        outsiders = range(outside, self.servers)
        learners = self.names[outside - config.learners : outside]
        members = [name for name in self.names if self.index[name] not in outsiders]
        voters = tuple(name for name in members if name not in learners)
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
                voters=voters,
                learners=learners,
                witnesses=self.names[self.servers :],
                sync=self.sync_set((mask, config.acks)),
                durability=Durability.QUORUM,
                timelines=(
                    TimelineEntry(
                        Term(FIRST_TERM), TimelineId(1), TimelineId(0), Lsn(0), confirmed=True
                    ),
                ),
                hold_ms=0,
                pair=config.pair,
                records=tuple(
                    MemberRecord(name, self.record_id(self.index[name]))
                    for name in members
                    if self.members_change
                ),
            )
        )
        wal = self.wals.number((Record(1, FIRST_TERM, 0),))
        primary = Node(
            promised=FIRST_TERM,
            vote=NOBODY,
            document=document,
            acks=sum(1 << self.index[name] for name in members),
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
        alike = (primary, *standbys, *[witness] * config.witnesses)
        nodes = [node._replace(name=name, data=name) for name, node in enumerate(alike)]
        nodes = [node._replace(sole=FIRST_TERM * self.decides(node)) for node in nodes]
        for name in outsiders:
            nodes[name] = self.blank(name)
        return State(tuple(nodes), ())

    def blank(self, name: int) -> Node:
        """Return a node with neither a record nor data, whatever else has its name."""
        nothing = replace(
            self.documents[0],
            term=Term(0),
            version=0,
            voters=(),
            learners=(),
            witnesses=(),
            records=(),
            sync=SyncSet(),
            timelines=(),
        )
        return Node(
            promised=0,
            vote=NOBODY,
            document=self.document(nothing),
            acks=0,
            server=STANDBY,
            upstream=NOBODY,
            wal=self.wals.number(()),
            sync=NOTHING,
            stale=(),
            change=0,
            name=name,
            data=NOBODY,
        )

    # ------------------------------------------------------------ production's decisions

    def counts(self, number: int, node: Node) -> bool:
        """Return whether a node may vote and answer, as `election.core.Core.may_vote` says."""
        if not self.members_change:
            return True
        key = number, node.name, node.document
        if key not in self._counting:
            document = self.documents[node.document]
            counts = document.admits(self.names[node.name], self.record_id(number))
            if not self.keeps("lost-record-silent"):
                counts = counts or not document.version or self.is_member(node)
            self._counting[key] = counts
        return self._counting[key]

    def is_member(self, node: Node, document: int | None = None) -> bool:
        """Return whether a node is named by its own document, or by another one."""
        known = self.documents[node.document if document is None else document]
        return self.names[node.name] in known.members()

    def is_voter(self, node: Node) -> bool:
        return self.names[node.name] in self.documents[node.document].voters

    def has_majority(self, number: int, acks: int) -> bool:
        document = self.documents[number]
        return document.has_majority([self.names[node] for node in bits(acks)])

    def agreed(self, number: int, acks: int) -> bool:
        """Return whether a document is committed by what those nodes have acknowledged."""
        document = self.documents[number]
        if document.pair is not None and not self.keeps("decider-grants"):
            return True
        return document.grants([self.names[node] for node in bits(acks)])

    def decides(self, node: Node) -> bool:
        """Return whether a node, by its document, is the one of a pair that decides."""
        return self.documents[node.document].decider == self.names[node.name]

    def ranked(self, document: int, wal: int) -> RankedPosition | None:
        """Return a WAL's position as a node with this document ranks it; None if it must not count.

        The same answer as `election.core.Core.ranked` gives for a server that is detached.
        """
        key = document, wal
        if key not in self._ranks:
            known, records = self.documents[document], self.wals[wal]
            position = position_of(records)
            off = not known.version or known.off_history(history_of(records), position)
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

    def promise(self, node: Node, *, detached: bool) -> Promise:
        """Return what a node answers to a candidate."""
        name = self.names[node.name]
        if not self.has_data(node):
            return Promise(name, True, DataId(""), None, False, 0, TimelineId(0))
        position = self.ranked(node.document, node.wal) if detached else None
        return Promise(
            node=name,
            detached=detached,
            data_id=self.data_id(node.data),
            position=position,
            can_lead=position is not None and self.is_voter(node),
            priority=1,
            max_tli=TimelineId(max(record.tli for record in self.wals[node.wal])),
        )

    def won(self, node: Node, promises: tuple[Promise, ...]) -> bool:
        """Return whether a candidate may lead under its document with these promises."""
        key = node.document, node.name, bool(node.sole), promises
        if key not in self._won:
            document = self.documents[node.document]
            self._won[key] = self._judge(document, node.name, promises, alone=bool(node.sole))
        return self._won[key]

    def _judge(
        self,
        document: ClusterDocument,
        candidate: int,
        promises: tuple[Promise, ...],
        *,
        alone: bool,
    ) -> bool:
        sync = document.sync
        if not self.keeps("full-data-quorum") and sync.k < len(sync.members):
            # With k one higher the same servers make a read quorum that is one smaller.
            document = replace(document, sync=SyncSet(sync.members, sync.k + 1))
        by_name = {promise.node: promise for promise in promises}
        verdict = judge(document, self.names[candidate], by_name, alone=alone)
        if not self.keeps("data-quorum"):
            return verdict.control
        return verdict.won
