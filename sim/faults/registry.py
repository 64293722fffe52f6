"""Every kind of fault by name: the one table that everything else reads."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from metako.config.problems import nearest
from sim.faults import client, clock, disk, network, operator, postgres, process
from sim.faults.fault import Fault, FaultError
from sim.faults.kind import FaultKind

KINDS: Mapping[str, FaultKind] = MappingProxyType(
    {
        kind.name: kind
        for table in (network, clock, disk, process, postgres, client, operator)
        for kind in table.KINDS
    }
)


def kind_of(fault: Fault) -> FaultKind:
    """Return the kind of a fault.

    Raises:
        FaultError: there is no such kind.
    """
    kind = KINDS.get(fault.do)
    if kind is None:
        guess = nearest(fault.do, KINDS)
        hint = f"; did you mean '{guess}'?" if guess else ""
        raise FaultError(f"unknown kind of fault {fault.do!r}{hint}")
    return kind


def text_of(fault: Fault) -> str:
    """Return a fault in one short line, for people."""
    return kind_of(fault).text(fault)


def nodes_named(fault: Fault) -> tuple[str, ...]:
    """Return the nodes and clients that a fault names, in order."""
    return kind_of(fault).nodes(fault)


def checked(data: object) -> Fault:
    """Return the fault that a JSON value stands for, complete with defaults.

    Raises:
        FaultError: it is no fault of a known kind with the right arguments.
    """
    fault = Fault.from_json(data)
    return kind_of(fault).complete(fault)
