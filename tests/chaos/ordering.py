"""Orders as requests to an agent's socket."""

from __future__ import annotations

from typing import assert_never

from metako.model.moment import format_moment
from metako.model.orders import Order, OrderKind


def request_of(order: Order, shown_s: float) -> tuple[str, object]:
    """Return the first words of the request that gives an order, and its body.

    Args:
        order: what it is to be begun at counts from now.
        shown_s: what the agent's wall clock shows now, in seconds since 1970.
    """
    timeout_s = max(1, order.timeout_ms // 1000)
    match order.kind:
        case OrderKind.SWITCHOVER:
            at = order.at_ms and format_moment(round(shown_s * 1000) + order.at_ms)
            later = {"at": at} if at else {}
            return "POST /switchover", {"to": order.target, "timeout_s": timeout_s, **later}
        case OrderKind.CANCEL_SWITCHOVER:
            return "DELETE /switchover", None
        case OrderKind.FAILOVER:
            return "POST /failover", {"accept_loss": True, "lost": order.lost}
        case OrderKind.ADD_MEMBER:
            return "POST /members", {"node": order.target, "learner": not order.voter}
        case OrderKind.REMOVE_MEMBER:
            return f"DELETE /members/{order.target}", None
        case OrderKind.PAUSE:
            return "POST /pause", None
        case OrderKind.RESUME:
            return "DELETE /pause", None
        case OrderKind.RESTART:
            return "POST /restart", {"nodes": order.nodes or None, "timeout_s": timeout_s}
        case OrderKind.CANCEL_RESTART:
            return "DELETE /restart", None
        case _:
            assert_never(order.kind)
