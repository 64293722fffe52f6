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
    FORGOTTEN,
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
    return node._replace(acks=0, change=0, fresh=False, before=None, adds=NOBODY, former=NOBODY)


def standing(model: Model, node: Node) -> bool:
    """Return whether a node is a candidate: it voted for itself, and nobody leads that term."""
    own = node.vote == node.name and node.past != FORGOTTEN
    return own and model.ref(node.document).term < node.promised


def stand(model: Model, state: State) -> Steps:
    """Vote for oneself, durably, in a term above one's own promise."""
    highest = max(node.promised for node in state.nodes)
    for number, node in enumerate(state.nodes):
        if node.past == FORGOTTEN or not model.has_data(node):
            continue
        if not model.is_voter(node) or not model.counts(number, node):
            continue
        if node.server != STANDBY:
            again = model.config.stands_again and node.acks and not standing(model, node)
            # A leader stands again only when it has learned of a higher promise.
            if not again or highest <= node.promised:
                continue
            after = node
        else:
            after = led_nothing(node)
        for term in range(node.promised + 1, min(highest + 1, model.config.terms) + 1):
            stood = after._replace(promised=term, vote=node.name)
            yield ("stand", number, term), changed(state, number, stood)


def vote(model: Model, state: State) -> Steps:
    """Make a vote and its promise durable. A node whose server is primary refuses."""
    for asker, candidate in enumerate(state.nodes):
        if not standing(model, candidate):
            continue
        for number, node in enumerate(state.nodes):
            if node.name == candidate.name or node.promised >= candidate.promised:
                continue
            if node.past == FORGOTTEN or not model.counts(number, node):
                continue
            if not model.is_member(node, candidate.document):
                continue  # nobody asks it
            if node.server != STANDBY and model.keeps("primary-gone"):
                continue
            sole = 0 if model.keeps("vote-ends-right") else node.sole
            voted = led_nothing(node)._replace(
                promised=candidate.promised, vote=candidate.name, sole=sole
            )
            yield ("vote", number, asker, candidate.promised), changed(state, number, voted)


def detach(model: Model, state: State) -> Steps:
    """Stop the WAL receiver, because of a promise, and see that it is gone."""
    for number, node in enumerate(state.nodes):
        if node.upstream >= 0 and node.promised > model.ref(node.document).term:
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
        if node.vote in (NOBODY, node.name):
            continue
        for asker, candidate in enumerate(state.nodes):
            if candidate.name != node.vote or candidate.past == FORGOTTEN:
                continue
            mine, theirs = model.ref(node.document), model.ref(candidate.document)
            if mine > theirs:
                taken = adopted(candidate, node.document)
                yield ("copy", number, asker, node.document), changed(state, asker, taken)
            elif mine < theirs and node.past != FORGOTTEN:
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
            if node.name == leader.name or not model.is_member(node, leader.document):
                continue
            if node.promised > ref.term and model.keeps("reject-lower-terms"):
                continue
            heard = node
            if ref.term > node.promised:
                # The vote of this term is spent.
                heard = heard._replace(promised=ref.term, vote=NOBODY, sole=0)
            if ref > model.ref(node.document):
                heard = adopted(heard, leader.document)
            counts = model.counts(number, heard)
            known = leader._replace(acks=leader.acks | counts << node.name)
            if (heard, known) == (node, leader):
                continue
            after = changed(changed(state, number, heard), sender, known)
            yield ("accept", number, sender, leader.document), after


def propose(model: Model, node: Node, document: ClusterDocument) -> Node:
    """Return a leader that has made its next document durable, for now alone."""
    former = node.former if model.keeps("new-voters-too") else NOBODY
    before = model.documents[node.document]
    others_decide = before.term == document.term and before.decider != document.decider
    if former == NOBODY and (document.voters != before.voters or others_decide):
        former = node.document
    return node._replace(document=model.document(document), acks=1 << node.name, former=former)


def win(model: Model, state: State) -> Steps:
    """Lead: both quorums are there under the newest document of those who answered."""
    for number, node in enumerate(state.nodes):
        if not standing(model, node) or not model.is_voter(node):
            continue
        if not model.counts(number, node) and model.keeps("stranger-stands-down"):
            continue
        if node.acks:
            yield from _win_again(model, state, number, node)
        elif node.server == STANDBY and (node.upstream == NOBODY or not model.keeps("detach")):
            yield from _win_new(model, state, number, node)


def _voted(model: Model, state: State, node: Node) -> Iterator[Node]:
    """Yield those whose votes for a candidate count by the document that it has."""
    for number, other in enumerate(state.nodes):
        if other.name == node.name or (other.vote, other.promised) != (node.name, node.promised):
            continue
        if not model.counts(number, other) and model.keeps("lost-vote-untold"):
            continue
        # Where members stay what they are, an answer by an older document counts here: it may.
        if model.members_change:
            held, document = model.ref(other.document), model.documents[node.document]
            if held.term < document.term and model.keeps("votes-of-this-term"):
                continue
            fresh = document.counts(model.names[other.name], held)
            if not fresh and model.keeps("fresh-answers"):
                continue
        yield other


def _answers(model: Model, state: State, node: Node) -> list[list[Promise | None]]:
    """Return for every other node what the candidate may have heard from it.

    Nothing, which is None; its vote alone; or that with the position, if the server is detached.
    One that was judged by an older document counts here, which production does not allow.
    """
    found: list[list[Promise | None]] = []
    for other in _voted(model, state, node):
        newer = model.ref(other.document) > model.ref(node.document)
        if newer and model.keeps("newest-document"):
            continue
        gone = other.server == STANDBY or not model.keeps("primary-gone")
        detached = gone and (other.upstream == NOBODY or not model.keeps("detach"))
        answer = model.promise(other, detached=detached)
        alone = model.promise(other, detached=False)
        found.append([None, alone] if answer == alone else [None, alone, answer])
    return found


def _win_new(model: Model, state: State, number: int, node: Node) -> Steps:
    own = model.promise(node, detached=True)
    base = model.documents[node.document]
    seen = set()
    for heard in product(*_answers(model, state, node)):
        promises = (own, *[promise for promise in heard if promise is not None])
        if not model.won(node, promises):
            continue
        document = _first_document(model, base, node, promises)
        if document not in seen:
            seen.add(document)
            leader = propose(model, node, document)
            step: Step = ("win", number, node.promised, leader.document)
            yield step, changed(state, number, leader)


def _first_document(
    model: Model, base: ClusterDocument, node: Node, promises: tuple[Promise, ...]
) -> ClusterDocument:
    """Return what `election.leader.Leader.take_office` writes."""
    records = model.wals[node.wal]
    position, history = position_of(records), history_of(records)
    highest: int = max(promise.max_tli for promise in promises)
    entries = base.timelines
    name = model.names[node.name]
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
        primary_data_id=model.data_id(node.data),
        phase=Phase.PROMOTING,
        sync=sync,
        timelines=(*base.timelines, reserved[-1]),
    )


def _win_again(model: Model, state: State, number: int, node: Node) -> Steps:
    """Lead a higher term with the server as it is: only votes are needed."""
    ref = model.ref(node.document)
    granted = 1 << node.name
    for other in _voted(model, state, node):
        if model.ref(other.document) <= ref:
            granted |= 1 << other.name
    if not model.has_majority(node.document, granted):
        return
    base = model.documents[node.document]
    document = replace(base, term=Term(node.promised), version=base.version + 1)
    change = node.change if model.keeps("keep-change") else 0
    leader = propose(model, node._replace(change=change, fresh=True), document)
    yield ("win again", number, node.promised, leader.document), changed(state, number, leader)


def ended(node: Node) -> Node:
    """Return a node whose primary's server has ended: a standby that follows nobody."""
    return led_nothing(node)._replace(server=STANDBY, upstream=NOBODY, sync=NOTHING, stale=())
