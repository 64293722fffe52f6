"""One exchange over a stream, as the side that connects, and the greeting made of it.

A greeting is said before a node starts, to every configured peer that answers: it finds a wrong
key, a wrong cluster name or a wrong clock while a person is still watching. A peer that does not
answer is no obstacle: it may simply not run yet.

The answer is not authenticated (see `metako.wire.answer`), so it only ever stops a start.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import trio

from metako.model.ids import Address, NodeId
from metako.runtime.framing import (
    FrameTooLongError,
    StreamEndedError,
    receive_frame,
    send_frame,
)
from metako.runtime.resolver import Resolver
from metako.wire.answer import (
    ANSWER_MAX_BYTES,
    AnswerReason,
    StreamAnswer,
    decode_answer_untrusted,
)
from metako.wire.codec import encode
from metako.wire.errors import WireError
from metako.wire.limits import PROTOCOL_VERSION
from metako.wire.messages import Hello
from metako.wire.seal import Sealer

STREAM_DEADLINE_S = 2.0
"""From the connection to the answer, on either side."""


class StreamFailedError(Exception):
    """There was no answer. Whether the peer took the message is unknown."""


@dataclass(frozen=True, slots=True)
class HelloOk:
    """The peer opened our envelope and finds nothing wrong with us."""

    node: str  # as the peer calls itself


@dataclass(frozen=True, slots=True)
class HelloUnreachable:
    """Nobody answered in time."""

    detail: str


@dataclass(frozen=True, slots=True)
class HelloMismatch:
    """The peer answered that we do not fit together; `detail` is a sentence for an operator."""

    reason: AnswerReason
    detail: str


HelloResult = HelloOk | HelloUnreachable | HelloMismatch


async def exchange(host: str, port: int, family: socket.AddressFamily, data: bytes) -> StreamAnswer:
    """Send one envelope over a new connection and return what the peer answers.

    Sets no deadline. If cancelled, the connection is closed.

    Args:
        host: an address of the given family, not a name.
        port: the peer's gossip port.
        family: AF_INET or AF_INET6.
        data: the sealed envelope.

    Raises:
        StreamFailedError: no connection, or it ended before an answer.
        WireError: what came back is no answer.
    """
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect((host, port))
    except OSError as error:
        sock.close()
        raise StreamFailedError(error.strerror or type(error).__name__) from error
    except BaseException:
        sock.close()
        raise
    async with trio.SocketStream(sock) as stream:
        try:
            await send_frame(stream, data)
            answer = await receive_frame(stream, ANSWER_MAX_BYTES)
        except trio.BrokenResourceError as error:
            raise StreamFailedError("the connection broke") from error
        except StreamEndedError as error:
            raise StreamFailedError("the connection was closed without an answer") from error
        except FrameTooLongError as error:
            raise WireError("not an answer") from error
    return decode_answer_untrusted(answer)


async def hello(
    address: Address,
    node: NodeId,
    *,
    sealer: Sealer,
    resolver: Resolver,
    family: socket.AddressFamily,
    agent_version: str,
    wall_ms: Callable[[], int],
    timeout_s: float = STREAM_DEADLINE_S,
) -> HelloResult:
    """Greet the agent of `node` at `address` and return what it thinks of us.

    Takes at most `timeout_s`. If cancelled, the connection is closed.
    """
    with trio.move_on_after(timeout_s):
        host = await resolver.resolve(address.host)
        if host is None:
            return HelloUnreachable(f"{node}: the host {address.host!r} has no address")
        message = Hello(
            protocol=PROTOCOL_VERSION,
            cluster_name=sealer.cluster,
            agent_version=agent_version,
            wall_ms=wall_ms(),
            boot_epoch=sealer.boot_epoch,
        )
        data = sealer.seal(node, encode(message))
        try:
            answer = await exchange(host, address.port, family, data)
        except StreamFailedError as error:
            return HelloUnreachable(f"{node} at {address}: {error}")
        except WireError:
            detail = f"what listens at {address} is no metako agent"
            return HelloMismatch(AnswerReason.FORMAT, detail)
        if answer.reason is None:
            return HelloOk(answer.node)
        return HelloMismatch(answer.reason, explain(answer.reason, answer, address, node, sealer))
    return HelloUnreachable(f"{node} at {address}: no answer within {timeout_s:g} s")


def explain(
    reason: AnswerReason, answer: StreamAnswer, address: Address, node: NodeId, sealer: Sealer
) -> str:
    """Return one sentence for an operator: what does not fit, and what to do."""
    peer = f"{answer.node or node} at {address}"
    match reason:
        case AnswerReason.KEY:
            return f"{peer} uses another gossip key; give every node the same one"
        case AnswerReason.CLUSTER:
            return f"{peer} belongs to cluster {answer.cluster!r}, this node to {sealer.cluster!r}"
        case AnswerReason.CLOCK:
            side = "ahead of" if answer.skew_ms > 0 else "behind"
            skew_s = abs(answer.skew_ms) / 1000
            return f"the clock of {peer} is {skew_s:.1f} s {side} this one; synchronise both"
        case AnswerReason.RECIPIENT:
            return f"{address} is node {answer.node!r}, not {node!r}; correct the member's address"
        case AnswerReason.VERSION:
            return f"{peer} speaks another version of the protocol; upgrade the older agent"
        case AnswerReason.EPOCH:
            return (
                f"{peer} has heard a later start of {sealer.node!r} than number "
                f"{sealer.boot_epoch}: is the name used twice, or was the state directory lost?"
            )
        case AnswerReason.REPLAY:
            return f"{peer} has heard this start of {sealer.node!r} before: is the name used twice?"
        case AnswerReason.NAME:
            return (
                f"the name {sealer.node!r} is used twice: {peer} hears another agent of that name; "
                "give this node a name of its own (node.name)"
            )
        case AnswerReason.FORMAT:
            return f"{peer} does not understand this agent; upgrade the older one"
        case AnswerReason.BUSY:
            return f"{peer} is overloaded"
        case AnswerReason.UNKNOWN:
            return f"{peer} refuses this agent and is of a later version; upgrade this one"
        case _:
            assert_never(reason)
