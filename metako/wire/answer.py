"""The short answer at the end of every stream: taken, or refused and why.

It travels in the clear, because whoever was refused may have no key that we could answer under.
So it proves nothing: it tells an operator what to look at, and no decision rests on it.

    4 bytes length, big-endian | msgpack {"ok", "reason", "cluster", "node", "skew_ms"}

The keys and their meaning never change, so that any two versions can tell each other that they
are different versions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from metako.wire.errors import SealReason, WireError
from metako.wire.limits import I63_MAX, NAME_MAX_BYTES
from metako.wire.packing import pack, unpack_untrusted

ANSWER_MAX_BYTES = 512


class AnswerReason(enum.StrEnum):
    """Why a stream was refused."""

    FORMAT = "format"  # not an envelope, or not a message
    VERSION = "version"  # another version of envelope or messages
    CLUSTER = "cluster"  # another cluster's name
    RECIPIENT = "recipient"  # meant for another node
    KEY = "key"  # no common key
    EPOCH = "epoch"  # a later start of the sender was heard already
    REPLAY = "replay"  # came before
    CLOCK = "clock"  # the wall clocks differ too much
    NAME = "name"  # another agent of the sender's name was heard a moment ago
    BUSY = "busy"  # the inbox is full
    UNKNOWN = "unknown"  # a reason of a later version


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """What the receiver of a stream says of it."""

    reason: AnswerReason | None  # None: taken
    cluster: str  # the answering node's
    node: str  # the answering node's
    skew_ms: int = 0  # the answering node's wall clock minus the sender's, for CLOCK

    @property
    def ok(self) -> bool:
        return self.reason is None


def reason_of(seal_reason: SealReason) -> AnswerReason:
    """Return how a refusal by the seal is called in an answer."""
    return AnswerReason(seal_reason.value)


def encode_answer(answer: StreamAnswer) -> bytes:
    """Return the encoding of an answer, without the length before it."""
    fields: dict[str, object] = {
        "ok": answer.ok,
        "cluster": answer.cluster,
        "node": answer.node,
    }
    if answer.reason is not None:
        fields["reason"] = answer.reason.value
    if answer.skew_ms:
        fields["skew_ms"] = answer.skew_ms
    return pack(fields)


def decode_answer_untrusted(data: bytes) -> StreamAnswer:
    """Return the answer that the bytes stand for.

    Raises:
        WireError: they are none; most likely no metako agent listens there.
    """
    raw = unpack_untrusted(data, ANSWER_MAX_BYTES)
    ok, reason, skew_ms = raw.get("ok"), raw.get("reason", ""), raw.get("skew_ms", 0)
    if type(ok) is not bool or type(reason) is not str or type(skew_ms) is not int:
        raise WireError("not an answer")
    if abs(skew_ms) > I63_MAX:
        raise WireError("not an answer")
    cluster, node = _shown(raw.get("cluster")), _shown(raw.get("node"))
    if ok:
        return StreamAnswer(None, cluster, node)
    try:
        known = AnswerReason(reason)
    except ValueError:
        known = AnswerReason.UNKNOWN
    return StreamAnswer(known, cluster, node, skew_ms)


def _shown(name: object) -> str:
    """Return a name if it may be shown to an operator, else "": it came unauthenticated."""
    if isinstance(name, str) and name.isprintable() and len(name.encode()) <= NAME_MAX_BYTES:
        return name
    return ""
