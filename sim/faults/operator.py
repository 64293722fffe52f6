"""What an operator orders: given to the agent of a node, which carries it to the leader.

No disturbance by itself. A refused order changes nothing, and nobody waits here for an answer.
"""

from __future__ import annotations

from metako.model.ids import NodeId
from metako.model.orders import OrderKind
from sim.faults.arguments import Argument, Type
from sim.faults.fault import Fault
from sim.faults.kind import Family, FaultKind, Skipped, Undo, names
from sim.faults.site import Site

ASKED = Argument("node", Type.NODE, "whose agent is given the order", required=True)
TARGET = Argument("to", Type.NODE, "who is to take over; the leader chooses if missing")
TIMEOUT = Argument(
    "timeout", Type.DURATION, "for what has to be waited for", default=10_000_000_000, low=1
)


def _switchover(site: Site, fault: Fault) -> Undo | Skipped | None:
    wanted = names(fault, "to") if fault.get("to") is not None else ()
    timeout = fault.get("timeout")
    assert isinstance(timeout, int)
    target = NodeId(wanted[0]) if wanted else None
    return _give(site, fault, OrderKind.SWITCHOVER, target, timeout // 1_000_000)


def _cancel(site: Site, fault: Fault) -> Undo | Skipped | None:
    return _give(site, fault, OrderKind.CANCEL_SWITCHOVER, None, 0)


def _give(
    site: Site, fault: Fault, kind: OrderKind, target: NodeId | None, timeout_ms: int
) -> Undo | Skipped | None:
    (asked,) = names(fault, "node")
    if not site.node(asked).order(kind, target, timeout_ms):
        return Skipped("no agent runs there")
    return None


KINDS: tuple[FaultKind, ...] = (
    FaultKind(
        "switchover",
        Family.OPERATOR,
        "Order a planned change of the primary.",
        (ASKED, TARGET, TIMEOUT),
        _switchover,
    ),
    FaultKind(
        "cancel_switchover",
        Family.OPERATOR,
        "Give up a planned change of the primary, as far as it can be.",
        (ASKED,),
        _cancel,
    ),
)
