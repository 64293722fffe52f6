"""The envelope around every message: who sent it, to whom, and that nobody else touched it.

    "mk" | version | mode | 3 lengths | cluster | sender | recipient | boot epoch | salt | sequence
    then the payload: ChaCha20-Poly1305 with all of the above as associated data, or, without a
    key, in the clear with a CRC-32 of everything.

Inputs and outputs: bytes. The salt is drawn by the driver and passed in.

Each sender encrypts under a key of its own, derived (HKDF-SHA256) from the cluster key and
(cluster, sender, boot epoch, salt); the nonce is the sequence number. A (key, nonce) pair would
repeat only if one sender drew the same 128-bit salt twice within one boot epoch.

Invariants: an envelope is opened at most once, only by the recipient that it names, and only if a
holder of a cluster key made it. State changes only after an envelope was authenticated. A sender
that was heard in a boot epoch is never again heard in an older one. Checks that cost little come
first.

What it cannot do: after its own restart an opener has no memory, and an envelope recorded before
could be replayed to it once. The messages themselves must bear that, and do: they carry terms,
rounds and nonces.

It deliberately does not know what a payload means.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from metako.model.ids import NodeId
from metako.wire.errors import EncodingError, SealError, SealReason
from metako.wire.limits import NAME_MAX_BYTES, STREAM_MAX_BYTES, TAG_BYTES

SEAL_VERSION = 1
KEY_BYTES = 32
SALT_BYTES = 16
KEYS_MAX = 3
"""Keys in the ring: the old one, the new one, and one to spare while rotations overlap."""

REPLAY_WINDOW = 8192
"""Sequence numbers behind the newest that may still arrive late. A receiver sees only those of the
sender's envelopes that were meant for it, so the window must span those to all the others."""

SALTS_MAX = 16
"""Salts of one sender in one boot epoch. One is normal, two are a duplicated name."""

SENDERS_MAX = 4096
"""Senders remembered by default; the one heard longest ago is forgotten first."""

SEQUENCE_MAX = (1 << 63) - 1

_MAGIC = b"mk"
_MODE_PLAIN = 0
_MODE_SEALED = 1
_HEAD = struct.Struct("!2sBBBBB")
_TAIL = struct.Struct("!Q16sQ")
_CRC = struct.Struct("!I")
_WINDOW_MASK = (1 << REPLAY_WINDOW) - 1


@dataclass(frozen=True, slots=True)
class Opened:
    """The content of an authentic envelope."""

    sender: NodeId
    boot_epoch: int  # the sender's
    payload: bytes


def check_keys(keys: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the key ring, checked.

    Raises:
        ValueError: more than KEYS_MAX keys, one that is not KEY_BYTES long, or one twice.
    """
    if len(keys) > KEYS_MAX:
        raise ValueError(f"at most {KEYS_MAX} keys, not {len(keys)}")
    if any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    if len(set(keys)) != len(keys):
        raise ValueError("the same key twice")
    return tuple(keys)


def check_name(name: str, what: str) -> bytes:
    """Return the name of a node or a cluster in UTF-8.

    Raises:
        ValueError: it is empty, too long or not valid Unicode.
    """
    raw = name.encode()
    if not 1 <= len(raw) <= NAME_MAX_BYTES:
        raise ValueError(f"{what}: {name!r} must have 1 to {NAME_MAX_BYTES} bytes")
    return raw


def _derive(key: bytes, cluster: bytes, sender: bytes, epoch_salt: bytes) -> ChaCha20Poly1305:
    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    names = bytes((len(cluster), len(sender))) + cluster + sender
    derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"metako seal 1" + names + epoch_salt)
    return ChaCha20Poly1305(derived.derive(key))


def _nonce(sequence: int) -> bytes:
    return sequence.to_bytes(12, "big")


class Sealer:
    """Puts payloads of one node into envelopes.

    Args:
        cluster: name of the cluster.
        node: name of this node.
        boot_epoch: number of this start of the agent.
        salt: 128 bits, drawn anew for each Sealer.
        keys: the ring; the first one seals. Empty: no encryption, only a checksum, which is for
            loopback only; that the caller sees to.
    """

    def __init__(
        self, cluster: str, node: NodeId, boot_epoch: int, salt: bytes, keys: Sequence[bytes]
    ) -> None:
        if len(salt) != SALT_BYTES:
            raise ValueError(f"a salt has {SALT_BYTES} bytes")
        if not 0 <= boot_epoch < 1 << 64:
            raise ValueError("the boot epoch must fit 64 bits")
        self.cluster = cluster
        self.node = node
        self.boot_epoch = boot_epoch
        self._cluster_raw = check_name(cluster, "cluster")
        self._node_raw = check_name(node, "node")
        self._salt = salt
        self._sequence = 0  # of the last envelope made
        self._cipher: ChaCha20Poly1305 | None = None  # None: no key
        self.replace_keys(keys)

    def replace_keys(self, keys: Sequence[bytes]) -> None:
        """Seal with the first of `keys` from now on. Sequence numbers go on, so none repeats."""
        ring = check_keys(keys)
        epoch_salt = self.boot_epoch.to_bytes(8, "big") + self._salt
        self._cipher = (
            _derive(ring[0], self._cluster_raw, self._node_raw, epoch_salt) if ring else None
        )

    def seal(self, recipient: NodeId, payload: bytes) -> bytes:
        """Return a new envelope for `recipient`.

        Raises:
            EncodingError: the payload is too large, or the recipient's name is not one.
        """
        try:
            recipient_raw = check_name(recipient, "recipient")
        except ValueError as error:
            raise EncodingError(str(error)) from None
        assert self._sequence < SEQUENCE_MAX
        self._sequence += 1
        header = b"".join(
            (
                _HEAD.pack(
                    _MAGIC,
                    SEAL_VERSION,
                    _MODE_PLAIN if self._cipher is None else _MODE_SEALED,
                    len(self._cluster_raw),
                    len(self._node_raw),
                    len(recipient_raw),
                ),
                self._cluster_raw,
                self._node_raw,
                recipient_raw,
                _TAIL.pack(self.boot_epoch, self._salt, self._sequence),
            )
        )
        if len(header) + len(payload) + TAG_BYTES > STREAM_MAX_BYTES:
            raise EncodingError(f"{len(payload)} bytes are too many for an envelope")
        if self._cipher is None:
            body = header + payload
            return body + _CRC.pack(zlib.crc32(body))
        return header + self._cipher.encrypt(_nonce(self._sequence), payload, header)


@dataclass(slots=True)
class _Session:
    """What is remembered of one (sender, boot epoch, salt)."""

    cipher: ChaCha20Poly1305 | None  # the one that opened the last envelope; None: no key
    newest: int = 0  # highest sequence number opened; 0: none yet
    seen: int = 0  # bit i: number `newest - i` was opened

    def is_replay(self, sequence: int) -> bool:
        behind = self.newest - sequence
        return behind >= 0 and (behind >= REPLAY_WINDOW or bool(self.seen >> behind & 1))

    def record(self, sequence: int) -> None:
        ahead = sequence - self.newest
        if ahead <= 0:
            self.seen |= 1 << -ahead
            return
        # A jump beyond the window leaves nothing; shifting by it would first build a huge number.
        kept = self.seen << ahead & _WINDOW_MASK if ahead < REPLAY_WINDOW else 0
        self.seen = kept | 1
        self.newest = sequence


@dataclass(slots=True)
class _Sender:
    """What is remembered of one sender: its highest boot epoch, and the sessions of that."""

    boot_epoch: int
    sessions: dict[bytes, _Session] = field(default_factory=dict)  # by salt


@dataclass(frozen=True, slots=True)
class _Header:
    """The parsed header of an envelope; nothing in it is authentic yet."""

    sealed: bool
    sender: bytes
    boot_epoch: int
    salt: bytes
    sequence: int
    size: int  # bytes of the header


class Opener:
    """Opens envelopes that are meant for one node.

    Args:
        cluster: name of the cluster.
        node: name of this node, the only recipient accepted.
        keys: the ring; any of them opens. Empty: only envelopes without encryption are accepted.
        senders_max: senders remembered.
    """

    def __init__(
        self,
        cluster: str,
        node: NodeId,
        keys: Sequence[bytes],
        *,
        senders_max: int = SENDERS_MAX,
    ) -> None:
        assert senders_max > 0
        self.cluster = cluster
        self.node = node
        self._cluster_raw = check_name(cluster, "cluster")
        self._node_raw = check_name(node, "node")
        self._keys = check_keys(keys)
        self._senders_max = senders_max
        self._senders: OrderedDict[bytes, _Sender] = OrderedDict()  # last heard at the end

    def replace_keys(self, keys: Sequence[bytes]) -> None:
        """Open with `keys` from now on. What was seen stays seen."""
        self._keys = check_keys(keys)
        for sender in self._senders.values():
            for session in sender.sessions.values():
                session.cipher = None

    def examine_untrusted(self, data: bytes) -> Opened:
        """Return the content of an envelope and remember nothing: it can be opened again.

        For greetings: one by a node that then does not start must not make this node deaf to
        another one of its name that runs.

        Raises:
            SealError: as `open_untrusted`.
        """
        header = self._parse(data)
        session = self._refuse_old(self._senders.get(header.sender), header)
        _, payload = self._authenticate(data, header, session)
        return Opened(NodeId(header.sender.decode()), header.boot_epoch, payload)

    def open_untrusted(self, data: bytes) -> Opened:
        """Return the content of an envelope, once.

        Raises:
            SealError: it is malformed, foreign, not authentic, old or was opened before; `reason`
                says which. Nothing is remembered of it.
        """
        header = self._parse(data)
        sender = self._senders.get(header.sender)
        session = self._refuse_old(sender, header)
        cipher, payload = self._authenticate(data, header, session)
        self._remember(sender, header, cipher)
        return Opened(NodeId(header.sender.decode()), header.boot_epoch, payload)

    def _parse(self, data: bytes) -> _Header:
        if len(data) < _HEAD.size + _TAIL.size + _CRC.size or len(data) > STREAM_MAX_BYTES:
            raise SealError(SealReason.FORMAT, "length")
        magic, version, mode, cluster_len, sender_len, recipient_len = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise SealError(SealReason.FORMAT, "no envelope")
        if version != SEAL_VERSION:
            raise SealError(SealReason.VERSION, f"{version}, here {SEAL_VERSION}")
        if mode not in (_MODE_PLAIN, _MODE_SEALED):
            raise SealError(SealReason.FORMAT, "mode")
        sender_at = _HEAD.size + cluster_len
        recipient_at = sender_at + sender_len
        tail_at = recipient_at + recipient_len
        size = tail_at + _TAIL.size
        overhead = TAG_BYTES if mode == _MODE_SEALED else _CRC.size
        if not 1 <= sender_len <= NAME_MAX_BYTES or len(data) < size + overhead:
            raise SealError(SealReason.FORMAT, "length")
        if data[_HEAD.size : sender_at] != self._cluster_raw:
            raise SealError(SealReason.CLUSTER)
        if data[recipient_at:tail_at] != self._node_raw:
            raise SealError(SealReason.RECIPIENT)
        boot_epoch, salt, sequence = _TAIL.unpack_from(data, tail_at)
        if not 1 <= sequence <= SEQUENCE_MAX:
            raise SealError(SealReason.FORMAT, "sequence")
        # Without this an attacker off the cluster could strip the protection of a keyed node.
        if (mode == _MODE_SEALED) != bool(self._keys):
            raise SealError(SealReason.KEY, "one side has a key, the other has none")
        sender = data[sender_at:recipient_at]
        try:
            sender.decode()
        except UnicodeDecodeError:
            raise SealError(SealReason.FORMAT, "sender") from None
        return _Header(mode == _MODE_SEALED, sender, boot_epoch, salt, sequence, size)

    def _refuse_old(self, sender: _Sender | None, header: _Header) -> _Session | None:
        """Return the session of an envelope, None if it begins one; refuse what was seen."""
        if sender is None or header.boot_epoch > sender.boot_epoch:
            return None
        if header.boot_epoch < sender.boot_epoch:
            raise SealError(SealReason.EPOCH, f"{header.boot_epoch} after {sender.boot_epoch}")
        session = sender.sessions.get(header.salt)
        if session is not None and session.is_replay(header.sequence):
            raise SealError(SealReason.REPLAY)
        if session is None and len(sender.sessions) >= SALTS_MAX:
            # To forget one of them would open its envelopes to replay.
            raise SealError(SealReason.REPLAY, "too many salts in one boot epoch")
        return session

    def _authenticate(
        self, data: bytes, header: _Header, session: _Session | None
    ) -> tuple[ChaCha20Poly1305 | None, bytes]:
        if not header.sealed:
            end = len(data) - _CRC.size
            if zlib.crc32(data[:end]) != _CRC.unpack_from(data, end)[0]:
                raise SealError(SealReason.KEY, "checksum")
            return None, data[header.size : end]
        nonce = _nonce(header.sequence)
        associated, body = data[: header.size], data[header.size :]
        if session is not None and session.cipher is not None:
            try:
                return session.cipher, session.cipher.decrypt(nonce, body, associated)
            except InvalidTag:
                pass  # its sender may have moved on to another key of the ring
        epoch_salt = header.boot_epoch.to_bytes(8, "big") + header.salt
        for key in self._keys:
            cipher = _derive(key, self._cluster_raw, header.sender, epoch_salt)
            try:
                return cipher, cipher.decrypt(nonce, body, associated)
            except InvalidTag:
                continue
        raise SealError(SealReason.KEY)

    def _remember(
        self, sender: _Sender | None, header: _Header, cipher: ChaCha20Poly1305 | None
    ) -> None:
        if sender is None or header.boot_epoch > sender.boot_epoch:
            sender = _Sender(header.boot_epoch)
            self._senders[header.sender] = sender
        self._senders.move_to_end(header.sender)
        if len(self._senders) > self._senders_max:
            self._senders.popitem(last=False)
        session = sender.sessions.setdefault(header.salt, _Session(cipher))
        session.cipher = cipher
        session.record(header.sequence)
