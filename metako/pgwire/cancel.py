"""The cancel keys that clients of a proxy are given, good at every proxy of the cluster.

A client that wants a statement cancelled opens a new connection, which may reach another node or
process than the one that serves its session. So the key itself says where the session is, and
that we issued it:

    process id   31 bits   node (7) | worker (6) | session (18); never 0, as nodes count from 1
    secret key   3.0:  4 bytes   MAC of all the above, cut to 32 bits
                 3.2: 32 bytes   tag of the session (8) | MAC of all the above and the tag (24)

The MAC is HMAC-SHA-256 with a secret that all proxies of the cluster share.

What the short form is worth. It cannot be made longer: a client of protocol 3.0 keeps exactly
four bytes. One guess hits with a chance of 2^-32, as with the random key of a PostgreSQL server
itself, but here each guess may be tried at any node. And the key is a function of the place: a
session that gets a number which was used before gets the same key again, and the earlier owner,
who logged in then, can cancel its statements. So the numbers of a worker go round through all
2^18, from a random begin, and are not given out smallest first. A stolen or guessed key cancels
one statement and does nothing else. If the shared secret gets out, anybody can cancel anything.

The long form has neither weakness: its MAC has 192 bits, and the random tag is another for each
session, so its worker tells an old key from the present one. Its 32 bytes are as long as those of
PostgreSQL. Whoever serves the session compares the whole key with the one that was issued.

A request that belongs to another node goes there as a cancel request too, but in a form that only
the cluster can make, and with a count of its hops:

    secret key   version (1) | hops (1) | the client's secret key (4 or 32) | MAC (32)

so that two nodes that disagree about a third do not send it back and forth for ever. Neither form
names a time: who can record a request on its way can repeat it while the session lasts. The
client's own packet is no better, as it is usually sent in clear.

Deliberately unknown here: which nodes, workers and sessions exist, and how a request travels.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from metako.pgwire.messages import BackendKey
from metako.pgwire.startup import CancelRequest, cancel_packet

NODE_MAX = (1 << 7) - 1
WORKER_MAX = (1 << 6) - 1
SESSION_MAX = (1 << 18) - 1
TAG_BYTES = 8
SHORT_KEY_BYTES = 4
LONG_KEY_BYTES = 32
HOPS_MAX = 3  # one is enough where all nodes agree
SECRET_BYTES_MIN = 16

_VERSION = 1
_MAC_BYTES = 32
_FORWARD_HEAD = struct.Struct("!BB")
_FORWARD_BYTES = {
    _FORWARD_HEAD.size + length + _MAC_BYTES for length in (SHORT_KEY_BYTES, LONG_KEY_BYTES)
}
_PROCESS_ID = struct.Struct("!I")

# One secret, three uses: what is a MAC for one of them is none for the others.
_SHORT_LABEL = b"metako cancel key short\0"
_LONG_LABEL = b"metako cancel key long\0"
_FORWARD_LABEL = b"metako cancel forward\0"


@dataclass(frozen=True, slots=True)
class CancelPlace:
    """Where a session is served."""

    node: int  # 1..NODE_MAX
    worker: int  # 0..WORKER_MAX
    session: int  # 0..SESSION_MAX; see the module's docstring for how to give them out

    def __post_init__(self) -> None:
        if not (
            1 <= self.node <= NODE_MAX
            and 0 <= self.worker <= WORKER_MAX
            and 0 <= self.session <= SESSION_MAX
        ):
            raise ValueError(f"a cancel key cannot name {self}")


@dataclass(frozen=True, slots=True)
class OwnCancel:
    """A cancel request with a key that the cluster issued."""

    place: CancelPlace
    key: BackendKey  # as the client has it; to be compared with the session's own
    hops: int  # how often the request was passed on; 0 straight from a client


class CancelKeys:
    """Issues keys, and knows them again. Has no state besides the secret."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the secret has at least {SECRET_BYTES_MIN} bytes")
        self._secret = secret

    def __repr__(self) -> str:
        return "<CancelKeys>"

    def issue(self, place: CancelPlace, *, long_keys: bool, tag: bytes) -> BackendKey:
        """Return the key for a session.

        Args:
            long_keys: whether the client speaks protocol 3.2.
            tag: TAG_BYTES random bytes, drawn for this session; the short form has no room for it.
        """
        if len(tag) != TAG_BYTES:
            raise ValueError(f"a tag has {TAG_BYTES} bytes")
        process_id = place.node << 24 | place.worker << 18 | place.session
        if long_keys:
            return BackendKey(process_id, tag + self._long_mac(process_id, tag))
        return BackendKey(process_id, self._short_mac(process_id))

    def read_untrusted(self, request: CancelRequest) -> OwnCancel | None:
        """Return what a request is about, or None if its key was not issued by the cluster.

        Never raises. Where the session is served, `is_key_of` has to be asked too.
        """
        if len(request.secret_key) in _FORWARD_BYTES:
            return self._read_forwarded(request)
        return self._read_issued(BackendKey(request.process_id, request.secret_key), hops=0)

    def forward_packet(self, cancel: OwnCancel) -> bytes | None:
        """Return the packet for the next node, or None if the request has gone far enough."""
        hops = cancel.hops + 1
        if hops > HOPS_MAX:
            return None
        inner = _FORWARD_HEAD.pack(_VERSION, hops) + cancel.key.secret_key
        mac = self._mac(_FORWARD_LABEL, cancel.key.process_id, inner)
        return cancel_packet(cancel.key.process_id, inner + mac)

    def _read_forwarded(self, request: CancelRequest) -> OwnCancel | None:
        inner, mac = request.secret_key[:-_MAC_BYTES], request.secret_key[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(_FORWARD_LABEL, request.process_id, inner)):
            return None
        version, hops = _FORWARD_HEAD.unpack_from(inner)
        if version != _VERSION or not 1 <= hops <= HOPS_MAX:
            return None
        key = BackendKey(request.process_id, inner[_FORWARD_HEAD.size :])
        return self._read_issued(key, hops=hops)

    def _read_issued(self, key: BackendKey, *, hops: int) -> OwnCancel | None:
        given = key.secret_key
        if len(given) == SHORT_KEY_BYTES:
            expected = self._short_mac(key.process_id)
        elif len(given) == LONG_KEY_BYTES:
            tag = given[:TAG_BYTES]
            expected = tag + self._long_mac(key.process_id, tag)
        else:
            return None
        node = key.process_id >> 24
        if not hmac.compare_digest(given, expected) or not 1 <= node <= NODE_MAX:
            return None
        worker = key.process_id >> 18 & WORKER_MAX
        return OwnCancel(CancelPlace(node, worker, key.process_id & SESSION_MAX), key, hops)

    def _short_mac(self, process_id: int) -> bytes:
        return self._mac(_SHORT_LABEL, process_id, b"")[:SHORT_KEY_BYTES]

    def _long_mac(self, process_id: int, tag: bytes) -> bytes:
        return self._mac(_LONG_LABEL, process_id, tag)[: LONG_KEY_BYTES - TAG_BYTES]

    def _mac(self, label: bytes, process_id: int, rest: bytes) -> bytes:
        return hmac.digest(self._secret, label + _PROCESS_ID.pack(process_id) + rest, "sha256")


def is_key_of(cancel: OwnCancel, issued: BackendKey) -> bool:
    """Return whether a request has the very key that the session at its place was issued."""
    return cancel.key.process_id == issued.process_id and hmac.compare_digest(
        cancel.key.secret_key, issued.secret_key
    )
