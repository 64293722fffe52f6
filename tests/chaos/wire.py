"""What the simulator's network says is disturbed, done to the frames of a lab.

In: a `sim.network.Network`, to which the simulator's own kinds of faults are applied and which here
carries nothing: it only describes. Out: an nftables script for the switch's namespace, and the
shapes of the directions that a relay has to delay (`chaos.delay`).

Each host's port of the switch has a chain at its ingress, where the port says who sent a frame: a
host is cut off by where it is plugged in, whatever address it claims. For a direction that is
disturbed there is a chain of rules, reached by the destination's address: refused, cut, lost, led
to the relay, in this order. An undisturbed frame meets one lookup, or nothing at all. The rules
hold no state, so they are as good against connections that are open as against new ones.

The family is netdev because the bridge family of this kernel has no `reject`, and at its hook no
way to another device. Only IPv4 is judged; there is nothing else in a lab, not even ARP.

What a firewall knows of a packet is its ports. So the classes of traffic are told apart like this:

    gossip                UDP 7400
    stream                TCP 7400
    replication, proxy    TCP 5432 between two nodes: a cut of either cuts both
    client                TCP 6432; with the client host at an end, TCP 5432 too

The client of a node that asks another node's server past all proxies counts as a proxy. Any other
port, that of the API for one, is cut where all five classes are.

Loss is that of frames, as long as the kernel leaves them: a TCP segment of 64 KiB is one frame
here. An open connection so loses less often than it would on a cable, and more at a time.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from types import TracebackType
from typing import Self, assert_never

from chaos.delay import DEVICE, Delays
from chaos.lab import CLIENT, SWITCH, Lab
from chaos.relay import Shape
from chaos.tools import run, tool
from sim.faults import Fault
from sim.heap import NS_PER_S, Heap
from sim.links import ALL_TRAFFIC, LinkProperties, LinkState, Traffic
from sim.network import Network

AGENT_PORT = 7400
POSTGRES_PORT = 5432
PROXY_PORT = 6432

TABLE = "netdev metako"
LOSS_PARTS = 10_000
DELAY_MAX_S = 60
"""A longer delay is a cut for every timeout there is, and the relay would have to keep it all."""

_REFUSE_TCP = "reject with tcp reset"
_REFUSE_OTHER = "reject with icmp type port-unreachable"
_DROP = "drop"
# A table that is not there cannot be deleted; one that is there is not made again.
_NOTHING = f"table {TABLE} {{}}\ndelete table {TABLE}\n"

Match = tuple[str, int]
"""Protocol and port, which may be that of either end."""


def new_network(seed: int) -> Network:
    """Return a network that describes a lab in which nothing is disturbed."""

    def rng(name: str) -> random.Random:
        return random.Random(f"{seed}/{name}")

    # The cables of a lab have their own delay, of some microseconds.
    return Network(Heap(), rng, base=LinkProperties(delay_ms=(0.0, 0.0)))


def ruleset(
    network: Network, hosts: Mapping[str, str], *, clients: Collection[str] = (CLIENT,)
) -> str:
    """Return the script that makes the switch disturb what the network says, and nothing else.

    It replaces in one transaction whatever an earlier one did. Equal states give equal texts.

    Args:
        network: what is disturbed.
        hosts: address of every host by its name.
        clients: those of the hosts that are no nodes.
    """
    chains: list[str] = []
    for src in hosts:
        disturbed = []
        for dst, address in hosts.items():
            if src == dst:
                continue
            node_pair = src not in clients and dst not in clients
            rules = list(_rules(network.link(src, dst).state, node_pair))
            if rules:
                name = f"{src}_to_{dst}"
                chains += _chain(name, rules)
                disturbed.append(f"{address} : jump {name}")
        if disturbed:
            hook = f'type filter hook ingress device "p-{src}" priority 0; policy accept;'
            lookup = f"ip daddr vmap {{ {', '.join(disturbed)} }}"
            chains += _chain(f"from_{src}", [hook, lookup])
    if not chains:
        return _NOTHING
    return _NOTHING + "\n".join((f"table {TABLE} {{", *chains, "}")) + "\n"


def shapes(network: Network, hosts: Collection[str]) -> dict[tuple[str, str], Shape]:
    """Return what the relay has to do, by sender and receiver; most directions have nothing."""
    found = {}
    for src in hosts:
        for dst in hosts:
            shape = _shape(network.link(src, dst).state) if src != dst else Shape()
            if shape != Shape():
                found[src, dst] = shape
    return found


def unsupported(fault: Fault) -> str | None:
    """Return why a fault cannot be done to a lab's network, or None if it can, or is of no network.

    Clogs, duplicates, reordering and damage are the relay's: they can be done. Damage reaches the
    program in datagrams; in a connection TCP's checksum makes it loss.
    """
    if fault.do != "link":
        return None
    total_ns = sum(
        value for name in ("delay", "jitter") if isinstance(value := fault.get(name), int)
    )
    if total_ns > DELAY_MAX_S * NS_PER_S:
        return f"a delay of more than {DELAY_MAX_S} s would need more memory than the relay has"
    return None


def caveat(fault: Fault) -> str | None:
    """Return what a fault does here beyond what the simulator does, or None."""
    match fault.get("traffic"):
        case "replication":
            return "proxies reach other nodes' servers by the same port: that is cut as well"
        case "client":
            return "replication between nodes uses the port of proxies' servers: it is cut as well"
        case _:
            return None


def apply(lab: Lab, text: str) -> None:
    """Make the switch of a lab follow a script, wholly and from one frame to the next.

    Raises:
        LabError: nft refuses it; what held before still holds.
    """
    run(lab.argv(SWITCH, [tool("nft"), "-f", "-"]), text)


class Wire:
    """Keeps a lab's wires as a network describes them."""

    def __init__(self, lab: Lab, network: Network) -> None:
        """Connect the two; nothing is disturbed before `show`."""
        self.network = network
        self._lab = lab
        self._hosts = lab.addresses
        self._delays = Delays(lab)
        self._text = ""  # the script that is in force; "" when nothing was applied yet

    def __enter__(self) -> Self:
        """Start the relay, in the main thread; see `Delays.start`."""
        self._delays.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Let everything pass, and end the relay; what waits in it is lost."""
        try:
            apply(self._lab, _NOTHING)
            self._text = ""
        finally:
            self._delays.close()

    @property
    def delays(self) -> Delays:
        """Return the relay."""
        return self._delays

    def show(self) -> bool:
        """Do what the network says now; return whether that changed anything.

        Call it after every change of the network, from any thread, one at a time.

        Raises:
            LabError: nft or the relay fails; the wires are in an unknown state.
        """
        wanted = shapes(self.network, self._hosts)
        text = ruleset(self.network, self._hosts)
        if wanted == self._delays.shapes and text == self._text:
            return False
        # The relay first: it passes on at once what it has no shape for, so nothing is lost
        # between the two, and what it holds of a clog goes ahead of what comes after it.
        if wanted != self._delays.shapes:
            self._delays.set(wanted)
        if text != self._text:
            apply(self._lab, text)
            self._text = text
        return True


def _chain(name: str, lines: list[str]) -> list[str]:
    return [f"\tchain {name} {{", *(f"\t\t{line}" for line in lines), "\t}"]


def _rules(state: LinkState, node_pair: bool) -> Iterator[str]:
    """Return what a direction does to a frame, in order; nothing if it passes unharmed."""
    if state.cut == ALL_TRAFFIC and state.refused in (ALL_TRAFFIC, frozenset()):
        if state.refused:
            yield f"ip protocol tcp {_REFUSE_TCP}"
            yield _REFUSE_OTHER
        else:
            yield _DROP
        return
    yield from _partly(state, node_pair)
    if state.cut == ALL_TRAFFIC:
        yield _DROP
        return
    loss = round(state.properties.loss * LOSS_PARTS)
    if loss >= LOSS_PARTS:
        yield _DROP
    elif loss:
        yield f"numgen random mod {LOSS_PARTS} < {loss} {_DROP}"
    if loss < LOSS_PARTS and _shape(state) != Shape():
        yield f'fwd to "{DEVICE}"'


def _partly(state: LinkState, node_pair: bool) -> Iterator[str]:
    """Return the rules of the classes that are cut."""
    verdicts: dict[Match, str] = {}
    for traffic in Traffic:
        if traffic not in state.cut:
            continue
        for match in _matches(traffic, node_pair):
            refusal = _REFUSE_TCP if match[0] == "tcp" else _REFUSE_OTHER
            # Of two classes with one port the one that is refused is answered.
            if traffic in state.refused:
                verdicts[match] = refusal
            else:
                verdicts.setdefault(match, _DROP)
    for (protocol, port), verdict in verdicts.items():
        # The answers of a server leave from the port that was asked.
        yield f"{protocol} dport {port} {verdict}"
        yield f"{protocol} sport {port} {verdict}"


def _matches(traffic: Traffic, node_pair: bool) -> tuple[Match, ...]:
    match traffic:
        case Traffic.GOSSIP:
            return (("udp", AGENT_PORT),)
        case Traffic.STREAM:
            return (("tcp", AGENT_PORT),)
        case Traffic.REPLICATION | Traffic.PROXY:
            return (("tcp", POSTGRES_PORT),) if node_pair else ()
        case Traffic.CLIENT:
            both = (("tcp", PROXY_PORT), ("tcp", POSTGRES_PORT))
            return both[:1] if node_pair else both
        case _ as never:
            assert_never(never)


def _shape(state: LinkState) -> Shape:
    """Return what of a direction is the relay's. Cuts and loss are not."""
    p = state.properties
    return Shape(
        low_ms=p.delay_ms[0],
        high_ms=p.delay_ms[1],
        tail=p.tail,
        tail_ms=p.tail_ms if p.tail else 0.0,
        reorder=p.reorder,
        reorder_ms=p.reorder_ms if p.reorder else 0.0,
        duplicate=p.duplicate,
        corrupt=p.corrupt,
        held=state.clogged,
    )
