"""What an operator can ask of the cluster, and the answer.

An order is given to any node and carried to the one that leads, which answers whether it takes it.
What becomes of it is seen in the document, the events and the status of every node.

Pure values; this module does not know how an order travels or who may give one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from metako.model.ids import NodeId

TIMEOUT_MIN_S = 1
TIMEOUT_MAX_S = 3600
TIMEOUT_DEFAULT_S = 30
"""What a switchover may wait for its target, before anything is stopped."""
RESTART_TIMEOUT_DEFAULT_S = 60
"""What a restart may wait for each server to be back."""
SCHEDULE_MAX_S = 366 * 24 * 3600
"""How far ahead a switchover may be scheduled; more is a mistake in the date."""


class OrderKind(enum.StrEnum):
    """What is asked for."""

    SWITCHOVER = "switchover"  # another primary, without losing anything
    CANCEL_SWITCHOVER = "cancel-switchover"  # for as long as the primary still runs, or a later one
    FAILOVER = "failover"  # of the node where it is given: it leads, whatever it may lack
    ADD_MEMBER = "add-member"  # also one that is a member by another record, or without a vote
    REMOVE_MEMBER = "remove-member"
    PAUSE = "pause"  # nobody but the present primary leads, until an operator says so
    RESUME = "resume"
    RESTART = "restart"  # of PostgreSQL on some nodes or all, one after the other
    CANCEL_RESTART = "cancel-restart"  # of those that have not begun


@dataclass(frozen=True, slots=True)
class Order:
    """One wish of an operator. Whoever gets it twice does it once."""

    order_id: str  # unique; made where the order is given
    kind: OrderKind
    target: NodeId | None = None  # None: the leader chooses the next primary
    timeout_ms: int = TIMEOUT_DEFAULT_S * 1000  # for the target, before anything is stopped
    voter: bool = True  # of a member to be added: it gets a vote once it has caught up
    lost: tuple[NodeId, ...] = ()  # of a failover: members that are off for good, and leave
    at_ms: int = 0  # of a switchover: when, in milliseconds since 1970, UTC; 0: at once
    nodes: tuple[NodeId, ...] = ()  # of a restart: whose servers; none named: all of them


NOT_ACTIVE = "the primary is not active yet; try again in a moment"
"""Why whatever it is cannot be done now."""
REASON_MAX = 250
"""Bytes of a reason: more would not fit its field in a message."""


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """Whether the leader takes an order."""

    order_id: str
    accepted: bool
    reason: str  # for people: why not, or what happens now
    target: NodeId | None = None  # whom the leader has chosen, or was told


def refused(order: Order, why: str) -> OrderAnswer:
    """Return the refusal of an order, for a reason that is cut short if need be."""
    return OrderAnswer(order.order_id, False, why.encode()[:REASON_MAX].decode(errors="ignore"))
