"""The usual shapes in which a network breaks, each one disturbance with one handle.

In: the network and names of hosts. Out: the disturbance, undone by its `undo` or by
`Network.heal`. Which hosts to take is the caller's choice, and so is whether clients are among
them: who is not named sees all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sim.links import Traffic
from sim.network import Disturbance, Network
from sim.paths import ANY


def isolate(
    network: Network,
    host: str,
    others: Iterable[str] | None = None,
    *,
    traffic: Traffic | None = None,
    refuse: bool = False,
) -> Disturbance:
    """Cut a host off from the others, both ways; None: from all, clients included."""
    if others is not None:
        rest = [other for other in others if other != host]
        return network.partition([host], rest, traffic=traffic, refuse=refuse)
    return network.cut_pairs(lambda src, dst: host in (src, dst), traffic=traffic, refuse=refuse)


def halves(network: Network, hosts: Sequence[str], *, refuse: bool = False) -> Disturbance:
    """Cut the hosts into a first and a second half; the second is the larger one if they differ."""
    middle = len(hosts) // 2
    return network.partition(hosts[:middle], hosts[middle:], refuse=refuse)


def bridge(
    network: Network, hosts: Sequence[str], over: str, *, refuse: bool = False
) -> Disturbance:
    """Cut the hosts into halves that only one of them sees, which sees both."""
    assert over in hosts, over
    return halves(network, [host for host in hosts if host != over], refuse=refuse)


def majorities_ring(network: Network, hosts: Sequence[str], *, refuse: bool = False) -> Disturbance:
    """Let every host hear a majority, and no two of them the same one.

    Each hears those next to it on a ring in the order given. With 3 hosts, and with an even
    majority in general, that is one-way: a hears b without being heard by it.
    """
    count = len(hosts)
    majority = count // 2 + 1
    position = {host: index for index, host in enumerate(hosts)}

    def unheard(src: str, dst: str) -> bool:
        if src not in position or dst not in position:
            return False
        ahead = (position[src] - position[dst] + majority // 2) % count
        return ahead >= majority

    return network.cut_pairs(unheard, refuse=refuse)


def one_way(
    network: Network,
    src: str,
    dst: str = ANY,
    *,
    traffic: Traffic | None = None,
    refuse: bool = False,
) -> Disturbance:
    """Cut one direction: `dst` does not hear `src`. "*" stands for every other host."""
    return network.cut(src, dst, traffic, refuse)


def gray(
    network: Network,
    host: str,
    *,
    loss: float = 0.3,
    delay_ms: tuple[float, float] | None = None,
) -> Disturbance:
    """Make all links of a host bad, but not so bad that they are dead."""

    def touches(src: str, dst: str) -> bool:
        return host in (src, dst)

    if delay_ms is None:
        return network.set_pairs(touches, loss=loss)
    return network.set_pairs(touches, loss=loss, delay_ms=delay_ms)


def gray_link(
    network: Network,
    a: str,
    b: str,
    *,
    loss: float = 0.3,
    delay_ms: tuple[float, float] | None = None,
) -> Disturbance:
    """Make the link between two hosts bad both ways, but not so bad that it is dead."""

    def meant(src: str, dst: str) -> bool:
        return (src, dst) in ((a, b), (b, a))

    if delay_ms is None:
        return network.set_pairs(meant, loss=loss)
    return network.set_pairs(meant, loss=loss, delay_ms=delay_ms)
