"""The steps that change who is a member, and those by which a durable record is lost.

Like `agreement`. What an order comes to is production's word (`office`). Everybody is alive by
gossip, which tells of each name the record that it has now; whose votes the others cannot do
without, and whether the voters have renewed the lease, is a matter of time and hinders nobody here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from metako.election.pair import electorate
from metako.model.document import ClusterDocument, Phase
from metako.model.orders import OrderKind
from sim.explorer import office
from sim.explorer.agreement import Steps, adopted, changed, led_nothing, propose
from sim.explorer.model import Model
from sim.explorer.servers import committed, versions_max
from sim.explorer.state import (
    FORGOTTEN,
    NOBODY,
    NOTHING,
    REPLACED,
    STANDBY,
    UNTOLD,
    Node,
    State,
)

ORDERS = {
    "voter": (OrderKind.ADD_MEMBER, True),
    "learner": (OrderKind.ADD_MEMBER, False),
    "remove": (OrderKind.REMOVE_MEMBER, False),
}
"""What an operator may ask, by its name in `Config.orders`."""


def lose(model: Model, state: State) -> Steps:
    """Lose a durable record, alone or with its host; an agent of the same name begins blank."""
    config = model.config
    if len(state.nodes) - config.nodes >= config.losses:
        return
    for number, node in enumerate(state.nodes):
        if node.past or node.name not in config.losers or not model.is_member(node):
            continue
        fresh = len(state.nodes)
        for kind in config.loses:
            after = (
                _forgotten(model, state, number)
                if kind == "record"
                else _replaced(model, state, number)
            )
            step = "lose record" if kind == "record" else "replace"
            yield (step, number, fresh), after


def _forgotten(model: Model, state: State, number: int) -> State:
    """Lose the record alone: the server goes on as it is, beside an agent with a blank one."""
    node, fresh = state.nodes[number], len(state.nodes)
    left = node.server == STANDBY and node.upstream == NOBODY
    past = led_nothing(node)._replace(
        past=FORGOTTEN,
        server=STANDBY,
        upstream=NOBODY if left else UNTOLD,
        sync=NOTHING,
        stale=(),
    )
    anew = model.blank(node.name)._replace(
        server=node.server,
        upstream=node.upstream,
        wal=node.wal,
        data=node.data,
        sync=node.sync,
        stale=node.stale,
    )
    followers = [n._replace(upstream=fresh) if n.upstream == number else n for n in state.nodes]
    followers[number] = past
    return state._replace(nodes=(*followers, anew))


def _replaced(model: Model, state: State, number: int) -> State:
    """Put a blank host in the place of another, which goes on, cut off from its primary."""
    past = state.nodes[number]._replace(past=REPLACED, upstream=NOBODY)
    after = changed(state, number, past)
    return after._replace(nodes=(*after.nodes, model.blank(past.name)))


def tell(model: Model, state: State) -> Steps:
    """Give a leader's document to those whom it does not count; it promises nothing."""
    if not model.members_change:
        return
    for giver, leader in enumerate(state.nodes):
        if not committed(model, leader):
            continue
        for number, node in enumerate(state.nodes):
            if node.past == FORGOTTEN or model.ref(node.document) >= model.ref(leader.document):
                continue
            if model.counts(number, node) and model.is_member(node, leader.document):
                continue
            taken = adopted(node, leader.document)
            yield ("tell", giver, number, leader.document), changed(state, number, taken)


def restart(model: Model, state: State) -> Steps:
    """Restart a leader's agent, which forgets whose majority its newest version still lacks."""
    for number, node in enumerate(state.nodes):
        asked = _asked_after_a_restart(model, node)
        if node.former != asked and (node.former != NOBODY or not committed(model, node)):
            yield ("restart", number), changed(state, number, node._replace(former=asked))


def _asked_after_a_restart(model: Model, node: Node) -> int:
    """Return the document whose voters are asked besides those of the newest, as a number."""
    newest = model.documents[node.document]
    asked = electorate(None, newest, resumed=model.keeps("resumed-asks-both"))
    return model.document(asked) if asked is not newest and node.acks else NOBODY


def order(model: Model, state: State) -> Steps:
    """Let an operator ask a leader for a change of any member."""
    for number, node, document in _in_office(model, state):
        seen = set()
        heard = _heard(model, state, number, node)
        for kind in model.config.orders:
            for each in heard:
                proposed = _ordered(model, document, number, heard, kind, each)
                if proposed is not None and proposed not in seen:
                    seen.add(proposed)
                    leader = propose(model, node, proposed)
                    yield ("member", number, leader.document), changed(state, number, leader)


def _ordered(
    model: Model,
    document: ClusterDocument,
    number: int,
    heard: tuple[office.Heard, ...],
    name: str,
    about: office.Heard,
) -> ClusterDocument | None:
    kind, voter = ORDERS[name]
    asked = office.order_of(kind, about.node, voter=voter)
    base = document
    if not model.keeps("readmit-unlisted") and kind is OrderKind.ADD_MEMBER:
        base = office.unlisted(document, about.node)
    proposed = model.asked((base, number, heard, asked), office.judged)
    return replace(proposed, sync=document.sync) if proposed is not None else None


def advance(model: Model, state: State) -> Steps:
    """Go on with a change of a member that was ordered before."""
    for number, node, document in _in_office(model, state):
        for proposed in dict.fromkeys(_due(model, state, number, node, document)):
            leader = propose(model, node, proposed)
            yield ("advance", number, leader.document), changed(state, number, leader)


def _due(
    model: Model, state: State, number: int, node: Node, document: ClusterDocument
) -> Iterator[ClusterDocument]:
    heard = _heard(model, state, number, node)
    under_way = (*document.joining, *document.leaving)
    together = document
    for name in under_way:
        listed = name in document.leaving and name in document.sync.nodes()
        if listed and not model.keeps("unlisted-first"):
            yield replace(document.without((name,)), version=document.version + 1)
        proposed = model.asked((document, number, heard, name), office.advanced)
        if proposed is not None:
            yield proposed
        also = model.asked((together, number, heard, name), office.advanced)
        together = also or together
    if not model.keeps("one-vote-at-a-time") and together is not document:
        yield replace(together, version=document.version + 1)


def _in_office(model: Model, state: State) -> Iterator[tuple[int, Node, ClusterDocument]]:
    """Yield the leaders that serve and may propose another version, with that before it."""
    if not model.members_change:
        return
    for number, node in enumerate(state.nodes):
        if not node.acks or node.server == STANDBY:
            continue
        document = model.documents[node.document]
        if document.phase is not Phase.ACTIVE or document.version >= versions_max(model, document):
            continue
        if committed(model, node) or not model.keeps("one-version-at-a-time"):
            yield number, node, document


def _heard(model: Model, state: State, number: int, node: Node) -> tuple[office.Heard, ...]:
    """Return what a leader knows of the other names."""
    return tuple(
        office.Heard(
            node=model.names[other.name],
            record_id=model.record_id(at),
            data_id=model.data_id(other.data if model.has_data(other) else NOBODY),
            streams=other.upstream == number,
            acknowledged=bool(node.acks >> other.name & 1),
        )
        for at, other in enumerate(state.nodes)
        if not other.past and other.name != node.name
    )
