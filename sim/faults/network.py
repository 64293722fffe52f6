"""Faults of the network: cuts of every shape, clogs, and links that lose, delay or damage.

A cut is directed. Each shape below comes down to directions between hosts, which the network cuts
for as long as the fault lasts, whatever else befalls them. `blackhole` drops what is sent, so that
it is missed only after a timeout; `refuse` answers with a reset, as a firewall that rejects does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from sim.faults.arguments import EVERYONE, Argument, ArgumentError, Open, Type
from sim.faults.fault import Fault, Value
from sim.faults.kind import (
    NODES,
    Family,
    FaultKind,
    Skipped,
    Undo,
    choice,
    names,
    nodes_of,
    number,
    text,
    together,
    whole,
)
from sim.faults.site import Pair, Site
from sim.heap import NS_PER_MS
from sim.links import Traffic
from sim.paths import Properties
from sim.shapes import bridge, majorities_ring

TRAFFIC: Mapping[str, tuple[Traffic | None, ...]] = {
    "all": (None,),
    "agents": (Traffic.GOSSIP, Traffic.STREAM),
    "gossip": (Traffic.GOSSIP,),
    "stream": (Traffic.STREAM,),
    "replication": (Traffic.REPLICATION,),
    "client": (Traffic.CLIENT, Traffic.PROXY),
}
"""The words of scenarios, and what the network calls it; None is everything."""

RING_NODES_MIN = 3

_TRAFFIC = choice("traffic", "what does not get through", *TRAFFIC)
_HOW = choice("kind", "how it is missed: after a timeout, or at once", "blackhole", "refuse")
_DIRECTION = choice(
    "direction", "both; out: nothing leaves; in: nothing arrives", "both", "out", "in"
)
_CLIENTS = Argument("clients", Type.FLAG, "cut off from clients as well", default=False)


def _cut(site: Site, fault: Fault, pairs: Iterable[Pair]) -> Undo | Skipped | None:
    paths = frozenset(pair for pair in pairs if pair[0] != pair[1])
    if not paths:
        return Skipped("there is no path to cut")

    def meant(src: str, dst: str) -> bool:
        return (src, dst) in paths

    refuse = text(fault, "kind") == "refuse"
    network = site.world.network
    return together(
        network.cut_pairs(meant, traffic=traffic, refuse=refuse).undo
        for traffic in TRAFFIC[text(fault, "traffic")]
    )


def _between(left: Iterable[str], right: Sequence[str], direction: str) -> list[Pair]:
    """Return the paths from one side to the other (out), back (in), or both."""
    out = [(a, b) for a in left for b in right]
    back = [(b, a) for a, b in out]
    return {"both": out + back, "out": out, "in": back}[direction]


def _partition(site: Site, fault: Fault) -> Undo | Skipped | None:
    groups = [names_of(group) for group in _groups(fault)]
    direction = text(fault, "direction")
    pairs: list[Pair] = []
    for index, group in enumerate(groups):
        for other in groups[index + 1 :]:
            pairs += _between(group, other, direction)
    return _cut(site, fault, pairs)


def _groups(fault: Fault) -> Sequence[Value]:
    groups = fault.get("groups")
    assert isinstance(groups, tuple), fault
    return groups


def names_of(group: Value) -> tuple[str, ...]:
    assert isinstance(group, tuple), group
    return tuple(str(name) for name in group)


def _partition_relation(arguments: Mapping[str, Open]) -> None:
    groups = arguments.get("groups")
    if isinstance(groups, tuple):
        if len(groups) < 2:
            raise ArgumentError("needs two groups or more", "write it like [[n1], [n2, n3]]")
        flat = [name for group in groups for name in names_of(group)]
        twice = next((name for name in flat if flat.count(name) > 1), None)
        if twice is not None and not twice.startswith("$"):
            raise ArgumentError(f"{twice} is in two groups")


def _isolate(site: Site, fault: Fault) -> Undo | Skipped | None:
    inside = nodes_of(fault)
    others = site.places if fault.get("clients") else site.world.names
    outside = [name for name in others if name not in inside]
    pairs = _between(inside, outside, text(fault, "direction"))
    for index, name in enumerate(inside):
        pairs += _between((name,), inside[index + 1 :], "both")
    return _cut(site, fault, pairs)


def _one_way(site: Site, fault: Fault) -> Undo | Skipped | None:
    targets = _places(site, fault, "to")
    return _cut(site, fault, [(a, b) for a in _places(site, fault, "from") for b in targets])


def _places(site: Site, fault: Fault, name: str) -> tuple[str, ...]:
    return site.places if fault.get(name) == EVERYONE else names(fault, name)


def _bridge(site: Site, fault: Fault) -> Undo | Skipped | None:
    (over,) = nodes_of(fault)
    refuse = text(fault, "kind") == "refuse"
    return bridge(site.world.network, site.world.names, over, refuse=refuse).undo


def _ring(site: Site, fault: Fault) -> Undo | Skipped | None:
    ring = nodes_of(fault)
    if len(ring) < RING_NODES_MIN:
        return Skipped("fewer than three nodes make no ring")
    return majorities_ring(site.world.network, ring, refuse=text(fault, "kind") == "refuse").undo


def _link(site: Site, fault: Fault) -> Undo | Skipped | None:
    pairs = _pairs(site, fault)
    if fault.get("both_ways"):
        pairs = list(dict.fromkeys([*pairs, *((b, a) for a, b in pairs)]))
    properties = _properties(fault)
    network = site.world.network
    change = network.set_base if fault.get("base") else network.set_link
    return together(change(a, b, **properties).undo for a, b in pairs)


def _properties(fault: Fault) -> Properties:
    properties: Properties = {}
    if fault.get("loss") is not None:
        properties["loss"] = number(fault, "loss")
    if fault.get("duplicate") is not None:
        properties["duplicate"] = number(fault, "duplicate")
    if fault.get("reorder") is not None:
        properties["reorder"] = number(fault, "reorder")
    if fault.get("corrupt") is not None:
        properties["corrupt"] = number(fault, "corrupt")
    if fault.get("delay") is not None:
        low_ms = whole(fault, "delay") / NS_PER_MS
        jitter = fault.get("jitter")
        extra_ms = jitter / NS_PER_MS if isinstance(jitter, int) else 0.0
        properties["delay_ms"] = (low_ms, low_ms + extra_ms)
    return properties


def _pairs(site: Site, fault: Fault) -> list[Pair]:
    """Return the directions from `from` to `to`; all of them stay one, for a shorter list."""
    sources, targets = fault.get("from"), fault.get("to")
    if sources == EVERYONE and targets == EVERYONE:
        return [(EVERYONE, EVERYONE)]
    places = _places(site, fault, "to")
    return [(a, b) for a in _places(site, fault, "from") for b in places if a != b]


def _link_relation(arguments: Mapping[str, Open]) -> None:
    qualities = ("loss", "duplicate", "reorder", "corrupt", "delay")
    if not any(name in arguments for name in qualities):
        raise ArgumentError("says nothing about the link", f"set one of {', '.join(qualities)}")
    if "jitter" in arguments and "delay" not in arguments:
        raise ArgumentError("jitter comes on top of delay, which is not set")


def _clog(site: Site, fault: Fault) -> Undo | Skipped | None:
    pairs = _pairs(site, fault)
    if not pairs:
        return Skipped("there is no path to clog")
    return together(site.world.network.clog(a, b).undo for a, b in pairs)


def _nothing(_site: Site, _fault: Fault) -> Undo | Skipped | None:
    """A cure does all it has to do by ending other faults."""
    return None


def _places_argument(name: str, doc: str, default: Value = None) -> Argument:
    return Argument(name, Type.PLACES, doc, default=default, required=default is None)


_FROM = _places_argument("from", "senders, or *")
_TO = _places_argument("to", "receivers, or *")
_FROM_ANY = _places_argument("from", "senders, or *", EVERYONE)
_TO_ANY = _places_argument("to", "receivers, or *", EVERYONE)


def _share(name: str, doc: str) -> Argument:
    return Argument(name, Type.SHARE, doc, low=0, high=1)


Shape = Callable[[Site, Fault], "Undo | Skipped | None"]


def _kind(
    name: str,
    doc: str,
    effect: Shape,
    *arguments: Argument,
    relation: Callable[[Mapping[str, Open]], None] | None = None,
) -> FaultKind:
    return FaultKind(name, Family.NETWORK, doc, arguments, effect, lasting=True, relation=relation)


_LASTING: tuple[FaultKind, ...] = (
    _kind(
        "partition",
        "Cut every path between different groups; who is in no group sees everybody.",
        _partition,
        Argument("groups", Type.GROUPS, "lists of nodes and clients", required=True),
        _DIRECTION,
        _TRAFFIC,
        _HOW,
        relation=_partition_relation,
    ),
    _kind(
        "isolate",
        "Cut nodes off from every other node.",
        _isolate,
        NODES,
        _DIRECTION,
        _TRAFFIC,
        _HOW,
        _CLIENTS,
    ),
    _kind("cut", "Cut the paths in one direction.", _one_way, _FROM, _TO, _TRAFFIC, _HOW),
    _kind(
        "bridge",
        "Cut the cluster in two halves which only the named node sees both of.",
        _bridge,
        Argument("node", Type.NODE, "the node that sees everybody", required=True),
        _HOW,
    ),
    _kind(
        "majority_ring",
        "Let each node see a majority, and no two nodes the same one.",
        _ring,
        Argument("node", Type.NODES, "the nodes in the order of the ring", required=True),
        _HOW,
    ),
    _kind(
        "link",
        "Let links lose, delay, duplicate, reorder or damage what they carry.",
        _link,
        _FROM_ANY,
        _TO_ANY,
        Argument("both_ways", Type.FLAG, "the way back as well", default=False),
        _share("loss", "datagrams that are lost; connections retransmit"),
        _share("duplicate", "datagrams that arrive twice"),
        _share("reorder", "datagrams that are overtaken"),
        _share("corrupt", "datagrams that arrive damaged"),
        Argument("delay", Type.DURATION, "one-way delay", low=0),
        Argument("jitter", Type.DURATION, "random delay on top", low=0),
        Argument("base", Type.FLAG, "part of how this network is: heal leaves it", default=False),
        relation=_link_relation,
    ),
    _kind("clog", "Hold back what is sent, and let it out in one burst.", _clog, _FROM, _TO),
)

KINDS: tuple[FaultKind, ...] = (
    *_LASTING,
    FaultKind(
        "unclog",
        Family.NETWORK,
        "End every clog, or those that touch the named nodes.",
        (Argument("node", Type.NODES, "one node, or a list of them"),),
        _nothing,
        cures=("clog",),
    ),
    FaultKind(
        "heal",
        Family.NETWORK,
        "End every fault of the network, or those that touch the named nodes.",
        (Argument("node", Type.NODES, "one node, or a list of them"),),
        _nothing,
        cures=tuple(kind.name for kind in _LASTING),
    ),
)
