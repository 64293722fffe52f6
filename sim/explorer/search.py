"""The search: breadth first, each state once, up to renaming of the standbys.

The standbys of the beginning are alike, so a state and the same one with their names exchanged lead
to the same; the least of them stands for all. The path to a broken promise is found again from the
beginning, with the names that the steps really have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import permutations

from metako.model.document import ClusterDocument, MemberRecord, SyncMember, SyncSet
from metako.model.ids import DataId, NodeId
from sim.explorer import agreement, members, servers
from sim.explorer.agreement import standing
from sim.explorer.config import Config
from sim.explorer.invariants import broken, nothing_goes_back
from sim.explorer.model import Model
from sim.explorer.narrate import narrate
from sim.explorer.state import (
    FORGOTTEN,
    NOBODY,
    REWOUND,
    STANDBY,
    Acked,
    Node,
    Record,
    Renamed,
    Setting,
    State,
    Step,
    Table,
    Wal,
)

STATES_MAX = 20_000_000
TELL_EVERY = 2_000
FORGET = "forget"

ACTIONS = (
    agreement.stand,
    agreement.vote,
    agreement.detach,
    agreement.forget,
    agreement.copy,
    agreement.hand_on,
    agreement.accept,
    agreement.win,
    servers.hear,
    servers.promote,
    servers.activate,
    servers.write,
    servers.receive,
    servers.attach,
    servers.catch_up,
    servers.end_primary,
    servers.change_sync_set,
    members.lose,
    members.tell,
    members.restart,
    members.order,
    members.advance,
)

Key = tuple[int, ...]
"""A state as the numbers of its nodes and of what was acknowledged."""


@dataclass(frozen=True, slots=True)
class Found:
    """A broken promise, and the shortest way to it."""

    check: str
    text: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explored:
    """What an exploration came to."""

    config: str
    without: tuple[str, ...]
    states: int
    transitions: int
    depth: int  # steps from the beginning to the farthest state
    complete: bool  # every state within the bounds was seen
    taken: dict[str, int]  # how often which action was: one that never is was never tested
    found: Found | None

    @property
    def ok(self) -> bool:
        return self.complete and self.found is None


Tell = Callable[[int, int, int], None]
"""Told now and then: how many states were explored, how many are known, and the depth."""


def successors(model: Model, state: State) -> Iterator[tuple[Step, State]]:
    """Yield every step that is possible in a state, with the state that it leads to."""
    for action in ACTIONS:
        for step, after in action(model, state):
            yield step, settled(model, after)


def opened(model: Model) -> list[tuple[Step, State]]:
    """Return the steps of the opening with their states, after the one with which all begins."""
    path: list[tuple[Step, State]] = [(("begin",), settled(model, model.first_state()))]
    for step in model.config.opening:
        after = dict(successors(model, tidy(model, path[-1][1])))
        path.append((step, after[step]))
    return path


def settled(model: Model, state: State) -> State:
    """Return a state with all that follows of itself, and without what can matter no more."""
    nodes = list(state.nodes)
    for number, node in enumerate(nodes):
        if node.upstream >= 0 and nodes[node.upstream].server == STANDBY:
            nodes[number] = node._replace(upstream=NOBODY)
        elif (node.fresh or node.before or node.former != NOBODY) and servers.committed(
            model, node
        ):
            former = NOBODY if model.keeps("new-voters-too") else node.former
            nodes[number] = node._replace(fresh=False, before=None, former=former)
    if model.config.pair is not None:
        nodes = [n._replace(sole=servers.right_to_decide(model, n)) for n in nodes]
    return servers.acknowledge(model, state._replace(nodes=tuple(nodes)))


def tidy(model: Model, state: State) -> State:
    """Return a state without votes for candidacies that are over: nobody asks for them."""
    nodes = state.nodes
    over = [
        number
        for number, node in enumerate(nodes)
        if node.vote != NOBODY and not _may_stand(model, nodes, node.vote, node.promised)
    ]
    if not over:
        return state
    kept = [n._replace(vote=NOBODY) if i in over else n for i, n in enumerate(nodes)]
    return state._replace(nodes=tuple(kept))


def _may_stand(model: Model, nodes: tuple[Node, ...], name: int, term: int) -> bool:
    """Return whether somebody of that name stands in a term, or, with a new record, may come to."""
    return any(
        node.name == name
        and node.past != FORGOTTEN
        and (node.promised < term if node.promised != term else standing(model, node))
        for node in nodes
    )


class Search:
    """One exploration."""

    def __init__(self, config: Config, without: Collection[str] = ()) -> None:
        self.model = Model(config, without)
        self._nodes: Table[Node] = Table()
        self._acked: Table[Acked] = Table()
        witnesses = tuple(range(self.model.servers, config.nodes))
        others = permutations(range(1, self.model.servers))
        orders = [(0, *order, *witnesses) for order in others]
        losers = set(config.losers)
        alike = [each for each in orders if {each[name] for name in losers} == losers]
        self._renamings = [_Renaming(self, order) for order in alike]
        self._parents: dict[Key, Key | None] = {}
        self._taken: Counter[str] = Counter()

    def key(self, state: State) -> Key:
        """Return what stands for a state and for all that differ from it in names only."""
        numbers = [self._nodes.number(node) for node in state.nodes]
        acked = self._acked.number(state.acked)
        return min(renaming.key(numbers, acked) for renaming in self._renamings)

    def state(self, key: Key) -> State:
        nodes = tuple([self._nodes[number] for number in key[:-1]])
        return State(nodes, self._acked[key[-1]])

    def run(self, tell: Tell | None = None, *, states_max: int = STATES_MAX) -> Explored:
        """Explore until every state is known, one is broken, or there are too many."""
        model = self.model
        first = opened(model)[-1][1]
        start = self.key(tidy(model, first))
        self._parents[start] = None
        wrong = broken(model, first)
        if wrong:
            return self._ended(0, Found(*wrong, ()))
        level, depth, explored = [start], 0, 0
        while level:
            reached: list[Key] = []
            for key in level:
                state = self.state(key)
                explored += 1
                for step, full in successors(model, state):
                    self._taken[str(step[0])] += 1
                    problem = self._take(key, state, step, full, reached)
                    if problem:
                        return self._ended(depth + 1, problem)
                if tell and explored % TELL_EVERY == 0:
                    tell(explored, len(self._parents), depth)
                if len(self._parents) > states_max:
                    return self._ended(depth, None, complete=False)
            level = reached
            depth += bool(level)
        return self._ended(depth, None)

    def _take(
        self, key: Key, state: State, step: Step, full: State, reached: list[Key]
    ) -> Found | None:
        model = self.model
        # What an agent forgets because it was never durable is no record that goes back.
        forgot = step[0] == FORGET
        backwards = None if forgot else nothing_goes_back(model, state, full)
        after = self.key(tidy(model, full))
        if backwards:
            told, _ = self._retrace((*self._path(key), after))
            return Found("nothing_goes_back", backwards, told)
        if after in self._parents:
            return None
        self._parents[after] = key
        reached.append(after)
        problem = broken(model, full)
        if problem is None:
            return None
        told, last = self._retrace(self._path(after))
        return Found(*(broken(model, last) or problem), told)

    def _ended(self, depth: int, found: Found | None, *, complete: bool = True) -> Explored:
        return Explored(
            config=self.model.config.name,
            without=tuple(sorted(self.model.without)),
            states=len(self._parents),
            transitions=self._taken.total(),
            depth=depth,
            complete=complete and found is None,
            taken=dict(sorted(self._taken.items())),
            found=found,
        )

    def _path(self, key: Key) -> tuple[Key, ...]:
        found: list[Key] = []
        current: Key | None = key
        while current is not None:
            found.append(current)
            current = self._parents[current]
        return tuple(reversed(found))

    def _retrace(self, keys: tuple[Key, ...]) -> tuple[tuple[str, ...], State]:
        """Return the steps of a path in words, and its end, with the names that they have."""
        begin, *opening = opened(self.model)
        told, state = [], begin[1]
        for step, full in opening:
            told.append(narrate(self.model, step, state, full))
            state = tidy(self.model, full)
        for key in keys[1:]:
            step, full = next(
                (step, full)
                for step, full in successors(self.model, state)
                if self.key(tidy(self.model, full)) == key
            )
            told.append(narrate(self.model, step, state, full))
            state = tidy(self.model, full)
        return tuple(told), state


class _Renaming:
    """One way to exchange the names of the standbys, applied to numbers."""

    def __init__(self, search: Search, order: tuple[int, ...]) -> None:
        self._model = search.model
        self._order = order
        self._same = order == tuple(range(len(order)))
        # Where the node of each place comes from; records made anew come last, as they were made.
        self._sources = [order.index(place) for place in range(len(order))]
        self._documents = Renamed(search.model.documents, self._document)
        self._wals = Renamed(search.model.wals, self._wal)
        self._nodes = Renamed(search._nodes, self._node)
        self._acked = Renamed(search._acked, self._acknowledged)

    def key(self, nodes: list[int], acked: int) -> Key:
        if self._same:
            return (*nodes, acked)
        number = self._nodes.number
        renamed = [number(nodes[source]) for source in self._sources]
        renamed += [number(node) for node in nodes[len(renamed) :]]
        return (*renamed, self._acked.number(acked))

    def _name(self, node: int) -> int:
        return self._order[node] if 0 <= node < len(self._order) else node

    def _data(self, data: int) -> int:
        return self._name(data % REWOUND) + data // REWOUND * REWOUND if data >= 0 else data

    def _mask(self, mask: int) -> int:
        return sum(1 << to for node, to in enumerate(self._order) if mask >> node & 1)

    def _setting(self, setting: Setting) -> Setting:
        return self._mask(setting[0]), setting[1]

    def _node(self, node: Node) -> Node:
        return Node(
            promised=node.promised,
            vote=self._name(node.vote),
            document=self._documents.number(node.document),
            acks=self._mask(node.acks),
            server=node.server,
            upstream=self._name(node.upstream),
            wal=self._wals.number(node.wal),
            sync=self._setting(node.sync),
            stale=tuple(sorted(map(self._setting, node.stale))),
            change=node.change,
            fresh=node.fresh,
            before=self._setting(node.before) if node.before else None,
            name=self._name(node.name),
            data=self._data(node.data),
            adds=self._data(node.adds),
            past=node.past,
            former=self._documents.number(node.former) if node.former != NOBODY else NOBODY,
        )

    def _wal(self, wal: Wal) -> Wal:
        return tuple(Record(r.tli, r.term, self._name(r.node)) for r in wal)

    def _acknowledged(self, acked: Acked) -> Acked:
        return tuple(sorted(((term, self._name(node)), lsn) for (term, node), lsn in acked))

    def _document(self, document: ClusterDocument) -> ClusterDocument:
        model = self._model

        def name(node: NodeId) -> NodeId:
            return model.names[self._name(model.index[node])]

        def data(data_id: DataId) -> DataId:
            return model.data_id(self._data(model.data_of(data_id)))

        def names(nodes: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
            return tuple(sorted(map(name, nodes)))

        def record(known: MemberRecord) -> MemberRecord:
            record_id = model.record_id(self._name(model.record_of(known.record_id)))
            return known._replace(node=name(known.node), record_id=record_id)

        renamed = [SyncMember(name(m.node), data(m.data_id)) for m in document.sync.members]
        if model.members_change:
            document = replace(
                document,
                voters=names(document.voters),
                learners=names(document.learners),
                joining=names(document.joining),
                leaving=names(document.leaving),
                records=tuple(sorted(map(record, document.records))),
            )
        return replace(
            document,
            primary=name(document.primary),
            primary_data_id=data(document.primary_data_id),
            sync=SyncSet(tuple(sorted(renamed)), document.sync.k),
            timelines=tuple(
                replace(entry, node=name(entry.node)) if entry.node else entry
                for entry in document.timelines
            ),
        )
