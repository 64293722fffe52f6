"""The steps of servers, and of the agents that change them: promotion, WAL, sync sets.

Like `agreement`. What a server acknowledges is worked out after every step (`acknowledge`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from metako.election.reserve import confirm
from metako.election.syncset import Order, SyncChange, next_change
from metako.model.document import ClusterDocument, Durability, Phase, SyncMember, SyncSet
from sim.explorer.agreement import Steps, changed, ended, propose, standing
from sim.explorer.model import FIRST_TERM, Model
from sim.explorer.state import (
    CLOSED,
    NOBODY,
    OPEN,
    PRESENT,
    REPLACED,
    STANDBY,
    Acked,
    Branch,
    Node,
    Record,
    Setting,
    State,
    Step,
    data_after,
    history_of,
    shared,
)

AT_THE_END = -1
"""`Node.change` where the position that a barrier waits for is read at its end."""


def committed(model: Model, node: Node) -> bool:
    """Return whether a node leads and its document is on a majority, also of the voters before."""
    if not node.acks:
        return False
    if node.former != NOBODY and not model.agreed(node.former, node.acks):
        return False
    if node.former != NOBODY and not model.keeps("new-voters-too"):
        return True
    return model.agreed(node.document, node.acks)


def hear(model: Model, state: State) -> Steps:
    """Accept a heartbeat that calls one's newest document committed: by it one may decide alone."""
    for sender, leader in enumerate(state.nodes):
        if model.config.pair is None or not committed(model, leader):
            continue
        document = model.documents[leader.document]
        for number, node in enumerate(state.nodes):
            alike = node.document == leader.document and node.promised <= leader.promised
            if number == sender or not alike or node.sole or not model.decides(node):
                continue
            heard = node._replace(sole=document.term)
            yield ("hear", number, sender, leader.document), changed(state, number, heard)


def right_to_decide(model: Model, node: Node) -> int:
    """Return what follows of itself for the right of one of a pair to be elected alone."""
    term = model.ref(node.document).term
    if not model.decides(node):
        return 0
    if committed(model, node) or not model.keeps("right-by-committed"):
        return term
    return node.sole if node.sole == term else 0


def promote(model: Model, state: State) -> Steps:
    """Make the leader's server primary, on the timeline reserved for it."""
    for number, node in enumerate(state.nodes):
        if not node.acks or node.server != STANDBY or node.upstream != NOBODY:
            continue
        if not committed(model, node) and model.keeps("committed-first"):
            continue
        document = model.documents[node.document]
        if document.phase is not Phase.PROMOTING or document.term != node.promised:
            continue
        record = Record(document.timelines[-1].tli, document.term, number)
        wal = model.wals.number((*model.wals[node.wal], record))
        primary = node._replace(server=CLOSED, wal=wal, sync=model.listed(node.document), stale=())
        yield ("promote", number, record.tli), changed(state, number, primary)


def activate(model: Model, state: State) -> Steps:
    """Say in the document that the primary is there, once its marker is acknowledged."""
    for number, node in enumerate(state.nodes):
        if node.server == STANDBY or node.change or not committed(model, node):
            continue
        document = model.documents[node.document]
        records = model.wals[node.wal]
        if document.phase is not Phase.PROMOTING or records[-1][1:] not in dict(state.acked):
            continue
        active = replace(
            document,
            version=document.version + 1,
            phase=Phase.ACTIVE,
            timelines=confirm(document.timelines, history_of(records)),
        )
        leader = propose(model, node, active)
        yield ("activate", number, leader.document), changed(state, number, leader)


def write(model: Model, state: State) -> Steps:
    """Write a commit at a primary, one that was deposed included."""
    commits = model.config.commits
    for number, node in enumerate(state.nodes):
        if node.server == STANDBY:
            continue
        records = model.wals[node.wal]
        record = records[-1]
        written = sum(other == record for other in records) - 1
        if written >= commits[min(record.term - FIRST_TERM, len(commits) - 1)]:
            continue
        active = model.documents[node.document].phase is Phase.ACTIVE
        if node.server == CLOSED and not (active and committed(model, node)):
            continue
        wrote = node._replace(server=OPEN, wal=model.wals.number((*records, record)))
        yield ("write", number, len(records) + 1), changed(state, number, wrote)


def end_primary(model: Model, state: State) -> Steps:
    """Let a primary's server end, by a crash or on purpose; it comes back as a standby."""
    for number, node in enumerate(state.nodes):
        if node.server != STANDBY:
            yield ("end primary", number), changed(state, number, ended(node))


def receive(model: Model, state: State) -> Steps:
    """Take the next record from the primary that is followed."""
    for number, node in enumerate(state.nodes):
        if node.upstream < 0:
            continue
        upstream = state.nodes[node.upstream]
        mine, theirs = model.wals[node.wal], model.wals[upstream.wal]
        if upstream.server == STANDBY or len(mine) >= len(theirs):
            continue
        if shared(mine, theirs) < len(mine):
            continue
        got = model.wals.number((*mine, theirs[len(mine)]))
        yield (
            ("receive", number, node.upstream, len(mine) + 1),
            changed(state, number, node._replace(wal=got)),
        )


def attach(model: Model, state: State) -> Steps:
    """Follow the primary of one's document; WAL that is not in its history goes first."""
    for number, node in enumerate(state.nodes):
        twin = node.past == REPLACED and not model.keeps("one-server-a-name")
        if node.past != PRESENT and not twin:
            continue
        if node.name >= model.servers or not model.counts(number, node):
            continue
        document = model.documents[node.document]
        if node.promised != document.term or node.server != STANDBY or node.acks:
            continue
        for target, leader in enumerate(state.nodes):
            if model.names[leader.name] != document.primary or target in (number, node.upstream):
                continue
            if leader.server == STANDBY or not leader.acks:
                continue
            if model.ref(leader.document).term != document.term:
                continue
            if leader.fresh and model.keeps("follow-in-office"):
                continue
            yield _following(model, state, number, target)


def catch_up(model: Model, state: State) -> Steps:
    """Get the next record, as a candidate that is behind; its receiver is gone again at once.

    Production asks who has promised and cannot lead. Here it is whoever has more of the same
    history, the old primary too: an address may lead anywhere.
    """
    if not model.config.catches_up:
        return
    for number, node in enumerate(state.nodes):
        if node.server != STANDBY or node.upstream != NOBODY or not standing(model, node):
            continue
        mine = model.wals[node.wal]
        for source, other in enumerate(state.nodes):
            theirs = model.wals[other.wal]
            if other.past != PRESENT or theirs[: len(mine)] != mine or theirs == mine:
                continue
            if model.keeps("catch-up-uncounted"):
                got = node._replace(wal=model.wals.number((*mine, theirs[len(mine)])))
                yield ("catch up", number, source, len(mine) + 1), changed(state, number, got)
            elif other.server != STANDBY:
                following = node._replace(upstream=source)
                yield ("catch up as itself", number, source), changed(state, number, following)


def _following(model: Model, state: State, number: int, target: int) -> tuple[Step, State]:
    """Follow a primary, with a copy of its data if there are none, or without what is astray."""
    node, leader = state.nodes[number], state.nodes[target]
    name, data, wal = "attach", node.data, node.wal
    if data == NOBODY:
        name, data, wal = "clone", number, leader.wal
    elif model.astray(node.document, wal) and model.keeps("rewind"):
        mine = model.wals[wal]
        wal = model.wals.number(mine[: shared(mine, model.wals[leader.wal])])
        if wal != node.wal:
            name, data = "rewind", data_after(data, number) if model.members_change else data
    following = node._replace(upstream=target, data=data, wal=wal)
    return (name, number, target), changed(state, number, following)


# -------------------------------------------------------------------- changes of the sync set


def change_sync_set(model: Model, state: State) -> Steps:
    """Begin a change of the sync set, or go on with one, or give it up."""
    for number, node in enumerate(state.nodes):
        if node.fresh and node.before not in (None, node.sync):
            yield ("set", number, *node.before), changed(state, number, _reset(node, node.before))
        if node.server == STANDBY or not committed(model, node):
            continue
        document = model.documents[node.document]
        if node.change:
            yield from _finish(model, state, number, node)
        elif node.sync != model.listed(node.document):
            setting = model.listed(node.document)
            yield ("set", number, *setting), changed(state, number, _reset(node, setting))
        elif model.config.changes and document.version < versions_max(model, document):
            yield from _begin(model, state, number, node, document)


def versions_max(model: Model, document: ClusterDocument) -> int:
    """Return the version up to which a document may change, if each election took two."""
    return 1 + model.config.changes + 2 * (len(document.timelines) - 1)


def _reset(node: Node, setting: Setting) -> Node:
    """Return a primary with another setting; some WAL sender may go by the one before."""
    stale = tuple(sorted({*node.stale, node.sync} - {setting}))
    return node._replace(sync=setting, stale=stale)


def _begin(model: Model, state: State, number: int, node: Node, document: ClusterDocument) -> Steps:
    for change in _changes(model, state, number, document):
        new = model.setting(change.new)
        if _first(model, document, change) is Order.DOCUMENT_FIRST:
            leader = _relist(model, node, change.new)
            step: Step = ("list", number, leader.document)
        else:
            waits_for = len(model.wals[node.wal])
            late = model.keeps("barrier-position-last")
            adds = model.data_of(change.new.members[0].data_id) if not document.sync.k else NOBODY
            change_at = AT_THE_END if late else waits_for
            leader = _reset(node, new)._replace(change=change_at, adds=adds)
            step = ("set", number, *new)
        yield step, changed(state, number, leader)


def _relist(model: Model, node: Node, sync: SyncSet) -> Node:
    """Return a leader that has proposed another sync set."""
    document = model.documents[node.document]
    before = None if model.keeps("keep-change") else model.listed(node.document)
    proposed = replace(document, version=document.version + 1, sync=sync)
    return propose(model, node, proposed)._replace(before=before)


def _changes(
    model: Model, state: State, number: int, document: ClusterDocument
) -> Iterator[SyncChange]:
    """Return every change that production would make, whoever it thinks should be listed."""
    able = _able(model, state, number, document)
    # Where the members change, only they change the sync set: who can be listed is.
    choices: tuple[bool, ...] = (True,) if model.members_change else (False, True)
    seen = set()
    for chosen in product(choices, repeat=len(able)):
        streaming: list[SyncMember] = []
        awaited: list[SyncMember] = []
        for (member, streams), take in zip(able, chosen, strict=True):
            if take:
                (streaming if streams else awaited).append(member)
        wanted = streaming + awaited
        for k in range(1, model.config.acks_wanted + 1):
            change = next_change(
                document.sync, wanted, streaming=streaming, k=k, durability=Durability.QUORUM
            )
            if change is not None and change not in seen:
                seen.add(change)
                yield change


def _able(
    model: Model, state: State, number: int, document: ClusterDocument
) -> list[tuple[SyncMember, bool]]:
    """Return the standbys that may be listed, and whether they stream.

    Who does not may be awaited, with the data that it is listed with.
    """
    found = []
    for other, node in enumerate(state.nodes):
        name = model.names[node.name]
        if other == number or node.past or name not in document.data_members():
            continue
        if name in document.leaving:
            continue
        if not document.admits(name, model.record_id(other)):
            continue
        listed = document.sync.data_id_of(name)
        if listed is None and model.members_change and not model.config.grows:
            continue
        if node.upstream == number:
            found.append((model.member(node.name, node.data), True))
        elif listed is not None:
            found.append((SyncMember(name, listed), False))
    return found


def _first(model: Model, document: ClusterDocument, change: SyncChange) -> Order:
    """Return which side changes first; the other one where that rule is not kept."""
    old, new = document.sync, change.new
    if not new.members:
        rule = ""  # no name for it: nothing that waits for nobody comes too early
    elif new.k != old.k:
        rule = "raise-postgres-first" if new.k > old.k else "lower-document-first"
    else:
        grows = len(new.members) > len(old.members)
        rule = "add-document-first" if grows else "remove-postgres-first"
    if model.keeps(rule):
        return change.order
    first = change.order is Order.DOCUMENT_FIRST
    return Order.POSTGRES_FIRST if first else Order.DOCUMENT_FIRST


def _finish(model: Model, state: State, number: int, node: Node) -> Steps:
    back = _reset(node, model.listed(node.document))._replace(change=0, adds=NOBODY)
    yield ("give up", number), changed(state, number, back)
    barrier = model.keeps("barrier")
    lsn = node.change if node.change != AT_THE_END else len(model.wals[node.wal])
    if barrier and released(model, state, number, node.sync) < lsn:
        return
    after = node._replace(change=0, adds=NOBODY, stale=() if barrier else node.stale)
    leader = _relist(model, after, _as_listed(model, node))
    step: Step = ("barrier" if barrier else "list", number, leader.document)
    yield step, changed(state, number, leader)


def _as_listed(model: Model, node: Node) -> SyncSet:
    """Return a primary's setting as a sync set, each standby with the data of the decision."""
    document, (mask, k) = model.documents[node.document], node.sync
    if node.adds != NOBODY:
        return SyncSet((model.member(mask.bit_length() - 1, node.adds),), k)
    kept = [m for m in document.sync.members if mask >> model.index[m.node] & 1]
    return SyncSet(tuple(kept), k)


# -------------------------------------------------------------------- acknowledgements


def released(model: Model, state: State, number: int, setting: Setting) -> int:
    """Return up to which LSN commits of a primary return by a setting."""
    node = state.nodes[number]
    end = len(model.wals[node.wal])
    mask, k = setting
    if not k:
        return end
    flushed = sorted(
        (
            min(end, len(model.wals[other.wal]))
            for other in state.nodes
            if other.upstream == number and mask >> other.name & 1
        ),
        reverse=True,
    )
    return flushed[k - 1] if len(flushed) >= k else 0


def acknowledge(model: Model, state: State) -> State:
    """Return the state once every primary has acknowledged all that it can."""
    acked = state.acked
    for number, node in enumerate(state.nodes):
        if node.server == STANDBY:
            continue
        lsn = max(released(model, state, number, each) for each in (node.sync, *node.stale))
        record = model.wals[node.wal][-1]
        if lsn and model.wals[node.wal][lsn - 1] == record:
            acked = _with(acked, (record.term, record.node), lsn)
    return state if acked is state.acked else state._replace(acked=acked)


def _with(acked: Acked, branch: Branch, lsn: int) -> Acked:
    known = dict(acked)
    if known.get(branch, 0) >= lsn:
        return acked
    return tuple(sorted({**known, branch: lsn}.items()))
