"""What leaves a node rests on what is durable there, and on what its server really does.

Each message that says "I have made this durable" or "my server is detached, and this is the end of
its WAL" is compared with the disk and with the server at the moment at which it leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from metako.model.ids import DataId
from metako.model.lsn import format_lsn
from metako.model.postgres import ProcessState
from metako.wire.messages import (
    DocumentAck,
    Heartbeat,
    HeartbeatAck,
    Outbound,
    VoteReply,
    VoteRequest,
)
from sim.network import Fate
from sim.watch import ViolationError, Watcher

if TYPE_CHECKING:
    from sim.processes import Processes
    from sim.world import World


class Promises(Watcher):
    """See the module's docstring."""

    name = "promises"
    sent_kinds: ClassVar[frozenset[type] | None] = frozenset(
        {HeartbeatAck, DocumentAck, VoteReply, VoteRequest, Heartbeat}
    )

    def __init__(self, world: World) -> None:
        self._world = world

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        message = outbound.message
        kind = type(message)
        if node.lost and not node.taken_in_again:
            self._lost(node, message)
        if kind is HeartbeatAck or kind is DocumentAck:
            self._acknowledges(node, message)
        elif kind is VoteReply:
            self._votes(node, message, outbound)
        elif kind is VoteRequest:
            self._stands(node, message)
        elif kind is Heartbeat:
            self._leads(node, message)

    def _lost(self, node: Processes, message: object) -> None:
        counted = isinstance(message, HeartbeatAck | DocumentAck) or (
            isinstance(message, VoteReply) and message.granted
        )
        if counted:
            _fail(
                "promise_broken",
                node,
                f"sends {type(message).__name__}, although it lost its record and what it promised",
            )

    def _acknowledges(self, node: Processes, message: object) -> None:
        assert isinstance(message, HeartbeatAck | DocumentAck)
        hard = node.hard
        if hard is None or message.document_ref > hard.document_ref:
            _fail("not_durable", node, f"acknowledges document {message.document_ref}")
        elif message.term > hard.promised_term:
            _fail("not_durable", node, f"follows term {message.term} without a durable promise")
        elif message.term < hard.promised_term:
            _fail(
                "promise_broken",
                node,
                f"accepts term {message.term} after it promised {hard.promised_term}",
            )

    def _stands(self, node: Processes, message: object) -> None:
        assert isinstance(message, VoteRequest)
        hard = node.hard
        if hard is None or hard.term < message.term:
            _fail("not_durable", node, f"stands in term {message.term}")

    def _leads(self, node: Processes, message: object) -> None:
        assert isinstance(message, Heartbeat)
        hard = node.hard
        if hard is None or hard.promised_term < message.term:
            _fail("not_durable", node, f"leads term {message.term}")
        elif hard.released_term >= message.term:
            _fail("promise_broken", node, f"leads term {message.term}, which it had released")

    def _votes(self, node: Processes, message: object, outbound: Outbound) -> None:
        assert isinstance(message, VoteReply)
        if not message.granted:
            return
        hard = node.hard
        durable = (
            hard is not None
            and hard.promised_term >= message.term
            and hard.term >= message.term
            and (hard.term > message.term or hard.voted_for == outbound.to)
        )
        if not durable:
            _fail("not_durable", node, f"votes for {outbound.to} in term {message.term}")
        # A reply that was held up by the disk may leave when the leader of that very term is
        # followed already: it is the one to whom the promise was given.
        settled = hard is not None and hard.document_ref.term >= message.term
        if message.detached and not node.witness and not settled:
            self._detached(node, message)

    def _detached(self, node: Processes, message: VoteReply) -> None:
        server = node.server
        if server.process is not ProcessState.STOPPED and (
            server.in_recovery is False or server.receiving
        ):
            _fail(
                "promise_untrue",
                node,
                f"says that it is detached for term {message.term}, and its server "
                + ("is a primary" if server.in_recovery is False else "still receives WAL"),
            )
        position, data = message.position, server.data
        if position is None or data is None or message.data_id == DataId(""):
            return
        if message.data_id == data.data_id and position.lsn != data.end:
            _fail(
                "promise_untrue",
                node,
                f"says that its WAL ends at {format_lsn(position.lsn)}, and it ends at "
                f"{format_lsn(data.end)}",
            )


def _fail(check: str, node: Processes, text: str) -> None:
    raise ViolationError(check, f"{node.name} {text}", (node.name,))
