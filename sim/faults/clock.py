"""Faults of clocks: a rate that is off, a step of wall time, a machine that is suspended.

Leases are counted on rates alone, with ρ = 1 % allowed for: a rate within it must never make two
servers writable, a rate beyond it may, and must still lose nothing that was acknowledged.
"""

from __future__ import annotations

from sim.faults.arguments import Argument, Type
from sim.faults.fault import Fault
from sim.faults.kind import NODES, Family, FaultKind, Skipped, Undo, nodes_of, whole
from sim.faults.process import each
from sim.faults.site import Site
from sim.heap import NS_PER_S

RATE_PPM_MAX = 100_000
WITHIN_RHO_PPM = 10_000
"""ρ of the election's settings, in ppm."""


def _rate(site: Site, fault: Fault) -> Undo | Skipped | None:
    ppm = whole(fault, "rate")
    before = {name: site.node(name).clock.rate_ppm for name in nodes_of(fault)}
    for name in before:
        site.node(name).set_clock_rate(ppm)

    def undo() -> None:
        for name, was in before.items():
            # Another change of the rate may have come since: that one is then in force.
            if site.node(name).clock.rate_ppm == ppm:
                site.node(name).set_clock_rate(was)

    return undo


def _jump(site: Site, fault: Fault) -> Undo | Skipped | None:
    for name in nodes_of(fault):
        site.node(name).clock.jump_wall(whole(fault, "by") / NS_PER_S)
    return None


def _suspend(site: Site, fault: Fault) -> Undo | Skipped | None:
    hidden = fault.get("hidden") is True
    return each(
        site,
        fault,
        lambda node: node.suspend(hidden=hidden),
        lambda node: node.wake(),
        "the host is off, or suspended",
    )


def _wake(site: Site, fault: Fault) -> Undo | Skipped | None:
    return each(site, fault, lambda node: node.wake(), None, "nothing is suspended there")


KINDS: tuple[FaultKind, ...] = (
    FaultKind(
        "clock_rate",
        Family.CLOCK,
        "Let a host's clocks run fast, or slow if the rate is negative.",
        (
            NODES,
            Argument(
                "rate",
                Type.RATE,
                "deviation; the design allows for ±10000ppm (1%)",
                required=True,
                low=-RATE_PPM_MAX,
                high=RATE_PPM_MAX,
            ),
        ),
        _rate,
        lasting=True,
    ),
    FaultKind(
        "clock_jump",
        Family.CLOCK,
        "Set a host's wall clock forward, or back.",
        (NODES, Argument("by", Type.SECONDS, "how far", required=True)),
        _jump,
    ),
    FaultKind(
        "suspend",
        Family.CLOCK,
        "Suspend a machine: everything on it stands still, and MONOTONIC with it.",
        (
            NODES,
            Argument(
                "hidden",
                Type.FLAG,
                "a virtual machine paused by its host: BOOTTIME stands still as well",
                default=False,
            ),
        ),
        _suspend,
        lasting=True,
    ),
    FaultKind(
        "wake",
        Family.CLOCK,
        "Wake a suspended machine.",
        (NODES,),
        _wake,
        cures=("suspend",),
    ),
)
