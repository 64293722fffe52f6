"""What an operator orders: given to the agent of a node, which carries it to the leader.

No disturbance by itself. A refused order changes nothing, and nobody waits here for an answer.
"""

from __future__ import annotations

from metako.model.ids import NodeId
from metako.model.orders import Order, OrderKind
from sim.faults.arguments import Argument, Type
from sim.faults.fault import Fault
from sim.faults.kind import Family, FaultKind, Skipped, Undo, names
from sim.faults.site import Site

ASKED = Argument("node", Type.NODE, "whose agent is given the order", required=True)
TARGET = Argument("to", Type.NODE, "who is to take over; the leader chooses if missing")
TIMEOUT = Argument(
    "timeout", Type.DURATION, "for what has to be waited for", default=10_000_000_000, low=1
)

LOST = Argument("lost", Type.NODES, "members that are off for good: it does without their votes")
DELAY = Argument("delay", Type.DURATION, "how much later it is to begin, by the clock", low=1)
WHOSE = Argument("servers", Type.NODES, "whose servers; all, if missing")
MEMBER = Argument("member", Type.NODE, "whom it is about", required=True)


def _switchover(site: Site, fault: Fault) -> Undo | Skipped | None:
    wanted = names(fault, "to") if fault.get("to") is not None else ()
    timeout = fault.get("timeout")
    assert isinstance(timeout, int)
    target = NodeId(wanted[0]) if wanted else None
    delay = fault.get("delay")
    at_ms = delay // 1_000_000 if isinstance(delay, int) else 0
    order = Order("", OrderKind.SWITCHOVER, target, timeout // 1_000_000, at_ms=at_ms)
    return _give(site, fault, order)


def _cancel(site: Site, fault: Fault) -> Undo | Skipped | None:
    return _give(site, fault, Order("", OrderKind.CANCEL_SWITCHOVER))


def _fail_over(site: Site, fault: Fault) -> Undo | Skipped | None:
    lost = names(fault, "lost") if fault.get("lost") is not None else ()
    return _give(site, fault, Order("", OrderKind.FAILOVER, lost=tuple(map(NodeId, lost))))


def _add(site: Site, fault: Fault) -> Undo | Skipped | None:
    (member,) = names(fault, "member")
    voter = fault.get("learner") is not True
    order = Order("", OrderKind.ADD_MEMBER, NodeId(member), voter=voter)
    skipped = _give(site, fault, order)
    if skipped is None:
        # From now on it may count by the record that it has, if it has lost another one.
        site.node(member).invited = True
    return skipped


def _remove(site: Site, fault: Fault) -> Undo | Skipped | None:
    (member,) = names(fault, "member")
    return _give(site, fault, Order("", OrderKind.REMOVE_MEMBER, NodeId(member)))


def _pause(site: Site, fault: Fault) -> Undo | Skipped | None:
    return _give(site, fault, Order("", OrderKind.PAUSE))


def _resume(site: Site, fault: Fault) -> Undo | Skipped | None:
    return _give(site, fault, Order("", OrderKind.RESUME))


def _restart(site: Site, fault: Fault) -> Undo | Skipped | None:
    nodes = names(fault, "servers") if fault.get("servers") is not None else ()
    timeout = fault.get("timeout")
    assert isinstance(timeout, int)
    order = Order(
        "",
        OrderKind.RESTART,
        timeout_ms=timeout // 1_000_000,
        nodes=tuple(map(NodeId, nodes)),
    )
    return _give(site, fault, order)


def _cancel_restart(site: Site, fault: Fault) -> Undo | Skipped | None:
    return _give(site, fault, Order("", OrderKind.CANCEL_RESTART))


def _give(site: Site, fault: Fault, order: Order) -> Skipped | None:
    """Give an order to whom a fault names; the node gives it an id."""
    (asked,) = names(fault, "node")
    return None if site.node(asked).order(order) else Skipped("no agent runs there")


KINDS: tuple[FaultKind, ...] = (
    FaultKind(
        "switchover",
        Family.OPERATOR,
        "Order a planned change of the primary, now or later.",
        (ASKED, TARGET, TIMEOUT, DELAY),
        _switchover,
    ),
    FaultKind(
        "cancel_switchover",
        Family.OPERATOR,
        "Give up a planned change of the primary, as far as it can be.",
        (ASKED,),
        _cancel,
    ),
    FaultKind(
        "failover",
        Family.OPERATOR,
        "Order a node to lead, whatever it may lack: acknowledged commits may be lost.",
        (ASKED, LOST),
        _fail_over,
    ),
    FaultKind(
        "add_member",
        Family.OPERATOR,
        "Order that a node be taken in, also one that has lost its record, or be given a vote.",
        (
            ASKED,
            MEMBER,
            Argument("learner", Type.FLAG, "without a vote, or no longer with one", default=False),
        ),
        _add,
    ),
    FaultKind(
        "remove_member",
        Family.OPERATOR,
        "Order that a member be removed.",
        (ASKED, MEMBER),
        _remove,
    ),
    FaultKind(
        "pause_cluster",
        Family.OPERATOR,
        "Order that nobody take over from the present primary.",
        (ASKED,),
        _pause,
    ),
    FaultKind(
        "resume_cluster",
        Family.OPERATOR,
        "Order that another node take over again if need be.",
        (ASKED,),
        _resume,
    ),
    FaultKind(
        "restart_servers",
        Family.OPERATOR,
        "Order that servers be restarted, one by one.",
        (ASKED, WHOSE, TIMEOUT),
        _restart,
    ),
    FaultKind(
        "cancel_restart",
        Family.OPERATOR,
        "Give up the restarts that have not begun.",
        (ASKED,),
        _cancel_restart,
    ),
)
