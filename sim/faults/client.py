"""Faults that come from applications: impatient, impulsive, or too many."""

from __future__ import annotations

from functools import partial

from sim.faults.arguments import Argument, Type
from sim.faults.fault import Fault
from sim.faults.kind import Family, FaultKind, Skipped, Undo, number, together
from sim.faults.site import Site


def _cancel_waiting(site: Site, _fault: Fault) -> Undo | Skipped | None:
    cancelled = [client.cancel_waiting() for client in site.world.clients]
    return None if any(cancelled) else Skipped("no commit is under way")


def _storm(site: Site, fault: Fault) -> Undo | Skipped | None:
    for client in site.world.clients:
        client.set_load(number(fault, "factor"))
    return together(partial(client.set_load, 1.0) for client in site.world.clients)


def _reconnect(site: Site, _fault: Fault) -> Undo | Skipped | None:
    for client in site.world.clients:
        client.reconnect()
    return None


KINDS: tuple[FaultKind, ...] = (
    FaultKind(
        "cancel_waiting",
        Family.CLIENT,
        "Cancel every commit that waits for standbys: each becomes visible, with a warning.",
        (),
        _cancel_waiting,
    ),
    FaultKind(
        "client_storm",
        Family.CLIENT,
        "Let every client work many times as fast.",
        (Argument("factor", Type.FACTOR, "times as fast", default=10, low=1, high=1000),),
        _storm,
        lasting=True,
    ),
    FaultKind(
        "reconnect",
        Family.CLIENT,
        "Let every client drop its connection and open a new one.",
        (),
        _reconnect,
    ),
)
