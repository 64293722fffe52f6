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


class OrderKind(enum.StrEnum):
    """What is asked for."""

    SWITCHOVER = "switchover"  # another primary, without losing anything
    CANCEL_SWITCHOVER = "cancel-switchover"  # for as long as the primary still runs


@dataclass(frozen=True, slots=True)
class Order:
    """One wish of an operator. Whoever gets it twice does it once."""

    order_id: str  # unique; made where the order is given
    kind: OrderKind
    target: NodeId | None = None  # None: the leader chooses
    timeout_ms: int = TIMEOUT_DEFAULT_S * 1000  # for the target, before anything is stopped


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """Whether the leader takes an order."""

    order_id: str
    accepted: bool
    reason: str  # for people: why not, or what happens now
    target: NodeId | None = None  # whom the leader has chosen, or was told
