"""The steps of agents: standing, voting, copying documents, winning, and committing documents.

Each function yields the possible steps of one kind with the states that they lead to. A step whose
effect would be that of another, or nothing, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from metako.election.quorum import Promise, successor_sync_set
from metako.election.reserve import reserve
from metako.model.document import ClusterDocument, Phase, SyncSet
from metako.model.ids import Term
from metako.model.lsn import Lsn
from metako.model.postgres import PostgresObserved
from sim.explorer.model import Model
from sim.explorer.state import (
    NOBODY,
    NOTHING,
    STANDBY,
    Node,
    State,
    Step,
    history_of,
    position_of,
)

Steps = Iterator[tuple[Step, State]]


def changed(state: State, number: int, node: Node) -> State:
    """Return the state with one node replaced."""
    nodes = state.nodes
    return state._replace(nodes=(*nodes[:number], node, *nodes[number + 1 :]))


def led_nothing(node: Node) -> Node:
    """Return a node that leads no more; what it had begun with its sync set is forgotten."""
    return node._replace(acks=0, change=0, fresh=False, before=None)


def standing(model: Model, node: Node, number: int) -> bool:
    """Return whether a node is a candidate: it voted for itself, and nobody leads that term."""
    return node.vote == number and model.ref(node.document).term < node.promised


def stand(model: Model, state: State) -> Steps:
    """Vote for oneself, durably, in a term above one's own promise."""
    highest = max(node.promised for node in state.nodes)
    for number, node in enumerate(state.nodes[: model.servers]):
        if node.server != STANDBY:
            again = model.config.stands_again and node.acks and not standing(model, node, number)
            # A leader stands again only when it has learned of a higher promise.
            if not again or highest <= node.promised:
                continue
            after = node
        else:
            after = led_nothing(node)
        for term in range(node.promised + 1, min(highest + 1, model.config.terms) + 1):
            stood = after._replace(promised=term, vote=number)
            yield ("stand", number, term), changed(state, number, stood)


def vote(model: Model, state: State) -> Steps:
    """Make a vote and its promise durable. A node whose server is primary refuses."""
    for asker, candidate in enumerate(state.nodes):
        if not standing(model, candidate, asker):
            continue
        for number, node in enumerate(state.nodes):
            if number == asker or node.promised >= candidate.promised:
                continue
            if node.server != STANDBY and model.keeps("primary-gone"):
                continue
            voted = led_nothing(node)._replace(promised=candidate.promised, vote=asker)
            yield ("vote", number, asker, candidate.promised), changed(state, number, voted)


def detach(model: Model, state: State) -> Steps:
    """Stop the WAL receiver, because of a promise, and see that it is gone."""
    for number, node in enumerate(state.nodes):
        if node.upstream != NOBODY and node.promised > model.ref(node.document).term:
            yield ("detach", number), changed(state, number, node._replace(upstream=NOBODY))


def forget(model: Model, state: State) -> Steps:
    """Restart an agent whose vote and promise were not durable."""
    if model.keeps("durable-vote"):
        return
    for number, node in enumerate(state.nodes):
        term = model.ref(node.document).term
        if node.promised > term:
            forgot = led_nothing(node)._replace(promised=term, vote=NOBODY)
            yield ("forget", number), changed(state, number, forgot)


def copy(model: Model, state: State) -> Steps:
    """Give a newer document to a candidate with a vote, or to its voter. It promises nothing."""
    for number, node in enumerate(state.nodes):
        if node.vote in (NOBODY, number):
            continue
        asker = node.vote
        candidate = state.nodes[asker]
        mine, theirs = model.ref(node.document), model.ref(candidate.document)
        if mine > theirs:
            taken = adopted(candidate, node.document)
            yield ("copy", number, asker, node.document), changed(state, asker, taken)
        elif mine < theirs:
            taken = adopted(node, candidate.document)
            yield ("copy", asker, number, candidate.document), changed(state, number, taken)


def hand_on(model: Model, state: State) -> Steps:
    """Give a newer document to somebody who asked for a pre-vote, and may never stand."""
    if not model.config.copies:
        return
    for giver, holder in enumerate(state.nodes):
        for number, node in enumerate(state.nodes):
            if model.ref(holder.document) > model.ref(node.document):
                taken = adopted(node, holder.document)
                yield ("copy", giver, number, holder.document), changed(state, number, taken)


def adopted(node: Node, document: int) -> Node:
    """Return a node with another's newer document, by which that one leads and not this one."""
    return led_nothing(node)._replace(document=document)


def accept(model: Model, state: State) -> Steps:
    """Make a leader's document durable and acknowledge it, unless a higher term is promised."""
    for sender, leader in enumerate(state.nodes):
        if not leader.acks:
            continue
        ref = model.ref(leader.document)
        for number, node in enumerate(state.nodes):
            if leader.acks >> number & 1:
                continue
            if node.promised > ref.term and model.keeps("reject-lower-terms"):
                continue
            heard = node
            if ref.term > node.promised:
                # The vote of this term is spent.
                heard = heard._replace(promised=ref.term, vote=NOBODY)
            if ref > model.ref(node.document):
                heard = adopted(heard, leader.document)
            known = leader._replace(acks=leader.acks | 1 << number)
            after = changed(changed(state, number, heard), sender, known)
            yield ("accept", number, sender, leader.document), after


def propose(model: Model, node: Node, number: int, document: ClusterDocument) -> Node:
    """Return a leader that has made its next document durable, for now alone."""
    return node._replace(document=model.document(document), acks=1 << number)


def win(model: Model, state: State) -> Steps:
    """Lead: both quorums are there under the newest document of those who answered."""
    for number, node in enumerate(state.nodes):
        if not standing(model, node, number):
            continue
        if node.acks:
            yield from _win_again(model, state, number, node)
        elif node.server == STANDBY and (node.upstream == NOBODY or not model.keeps("detach")):
            yield from _win_new(model, state, number, node)


def _answers(model: Model, state: State, asker: int, node: Node) -> list[list[Promise | None]]:
    """Return for every other node what the candidate may have heard from it.

    Nothing, which is None; its vote alone; or that with the position, if the server is detached.
    One that was judged by an older document counts here, which production does not allow.
    """
    found: list[list[Promise | None]] = []
    for number, other in enumerate(state.nodes):
        if number == asker or (other.vote, other.promised) != (asker, node.promised):
            continue
        newer = model.ref(other.document) > model.ref(node.document)
        if newer and model.keeps("newest-document"):
            continue
        gone = other.server == STANDBY or not model.keeps("primary-gone")
        detached = gone and (other.upstream == NOBODY or not model.keeps("detach"))
        answer = model.promise(number, other.document, other.wal, detached=detached)
        alone = model.promise(number, other.document, other.wal, detached=False)
        found.append([None, alone] if answer == alone else [None, alone, answer])
    return found


def _win_new(model: Model, state: State, number: int, node: Node) -> Steps:
    own = model.promise(number, node.document, node.wal, detached=True)
    base = model.documents[node.document]
    seen = set()
    for heard in product(*_answers(model, state, number, node)):
        promises = (own, *[promise for promise in heard if promise is not None])
        if not model.won(node.document, number, promises):
            continue
        document = _first_document(model, base, number, node, promises)
        if document not in seen:
            seen.add(document)
            leader = propose(model, node, number, document)
            step: Step = ("win", number, node.promised, leader.document)
            yield step, changed(state, number, leader)


def _first_document(
    model: Model, base: ClusterDocument, number: int, node: Node, promises: tuple[Promise, ...]
) -> ClusterDocument:
    """Return what `election.leader.Leader.take_office` writes."""
    records = model.wals[node.wal]
    position, history = position_of(records), history_of(records)
    highest: int = max(promise.max_tli for promise in promises)
    entries = base.timelines
    name = model.names[number]
    if not model.keeps("new-timeline"):
        highest, entries = promises[0].max_tli, ()
    reserved = reserve(
        entries,
        highest=highest,
        term=Term(node.promised),
        node=name,
        observed=PostgresObserved(
            position=position, timeline=position.timeline, history=history, lsn=Lsn(len(records))
        ),
        reason="",
    )
    sync = successor_sync_set(base, name, primary_data_id=base.primary_data_id)
    if not model.keeps("old-primary-in-sync-set"):
        kept = tuple(member for member in base.sync.members if member.node != name)
        sync = SyncSet(kept, min(base.sync.k, len(kept)))
    return replace(
        base,
        term=Term(node.promised),
        version=base.version + 1,
        primary=name,
        primary_data_id=model.data_id(number),
        phase=Phase.PROMOTING,
        sync=sync,
        timelines=(*base.timelines, reserved[-1]),
    )


def _win_again(model: Model, state: State, number: int, node: Node) -> Steps:
    """Lead a higher term with the server as it is: only votes are needed."""
    ref = model.ref(node.document)
    granted = 1 << number
    for other_number, other in enumerate(state.nodes):
        voted = (other.vote, other.promised) == (number, node.promised)
        if voted and model.ref(other.document) <= ref:
            granted |= 1 << other_number
    if not model.has_majority(node.document, granted):
        return
    base = model.documents[node.document]
    document = replace(base, term=Term(node.promised), version=base.version + 1)
    change = node.change if model.keeps("keep-change") else 0
    leader = propose(model, node._replace(change=change, fresh=True), number, document)
    yield ("win again", number, node.promised, leader.document), changed(state, number, leader)


def ended(node: Node) -> Node:
    """Return a node whose primary's server has ended: a standby that follows nobody."""
    return led_nothing(node)._replace(server=STANDBY, upstream=NOBODY, sync=NOTHING, stale=())
