"""Rumours that still have to be told, and how many fit a message.

In: accepted updates. Out: the updates for the next message.
Invariant: at most `limit` rumours; about one member either one rumour, or only suspicions of the
same incarnation by different accusers (at most K + 1, as no more are passed on).
Deliberately unaware of who gets a message, and of the real encoding: sizes are upper bounds.

A rumour that was sent least often goes first, the newest among equals, so news overtakes what has
nearly been told to everybody. Losses are covered by the count, and by push/pull after that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from metako.model.ids import Address, NodeId
from metako.model.member import MemberMeta, MemberState
from metako.wire.messages import (
    Ack,
    Gossip,
    MemberUpdate,
    Message,
    Ping,
    PingRequest,
    PushPull,
)

UPDATES_MAX = 16
"""Updates in one datagram, however small they are."""

# Keys, headers and every integer at its widest; names and hosts are added by their length.
_UPDATE_BYTES = 48
_META_BYTES = 160
_ADDRESS_BYTES = 12


def updates_of(message: Message) -> tuple[MemberUpdate, ...]:
    """Return the rumours that ride on a message; none on those of agreement."""
    match message:
        case Ping() | PingRequest() | Ack() | Gossip() | PushPull():
            return message.updates
        case _:
            return ()


def retransmit_limit(mult: int, members: int) -> int:
    """Return how often each member passes a rumour on: mult * ceil(log10(n + 1))."""
    return mult * math.ceil(math.log10(members + 1))


def update_bytes(update: MemberUpdate) -> int:
    """Return an upper bound of the encoded size, in bytes."""
    size = _UPDATE_BYTES + _text(update.node) + _address(update.address)
    if update.accuser is not None:
        size += _text(update.accuser)
    if update.meta is not None:
        size += _meta(update.meta)
    return size


def _meta(meta: MemberMeta) -> int:
    addresses = (meta.postgres_address, meta.api_address, meta.proxy_address)
    texts = (meta.data_id, meta.agent_version)
    return _META_BYTES + sum(map(_address, addresses)) + sum(map(_text, texts))


def _address(address: Address | None) -> int:
    return 0 if address is None else _ADDRESS_BYTES + _text(address.host)


def _text(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


@dataclass(slots=True)
class _Rumour:
    update: MemberUpdate
    sends_left: int
    order: int  # grows with every rumour; makes the order total
    size: int  # bytes, upper bound


_Key = tuple[NodeId, NodeId | None]


class Rumours:
    """The queue of what this node has to tell."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._by_key: dict[_Key, _Rumour] = {}
        self._keys_of: dict[NodeId, set[_Key]] = {}
        self._order = 0
        self.dropped = 0  # rumours pushed out by the limit

    def __len__(self) -> int:
        return len(self._by_key)

    def has(self, node: NodeId) -> bool:
        return node in self._keys_of

    def put(self, update: MemberUpdate, *, sends: int) -> None:
        """Queue a rumour. Older ones about the member go, except fellow suspicions."""
        suspicion = update.state is MemberState.SUSPECT
        for key in tuple(self._keys_of.get(update.node, ())):
            told = self._by_key[key].update
            fellow = (
                suspicion
                and told.state is MemberState.SUSPECT
                and (told.boot_epoch, told.incarnation) == (update.boot_epoch, update.incarnation)
            )
            if not fellow:
                self._drop(key)
        key = (update.node, update.accuser if suspicion else None)
        if key not in self._by_key and len(self._by_key) >= self._limit:
            worst = min(self._by_key, key=lambda k: self._rank(self._by_key[k]))
            self._drop(worst)
            self.dropped += 1
        self._order += 1
        self._by_key[key] = _Rumour(update, sends, self._order, update_bytes(update))
        self._keys_of.setdefault(update.node, set()).add(key)

    def discard(self, node: NodeId) -> None:
        """Forget every rumour about the member."""
        for key in tuple(self._keys_of.get(node, ())):
            self._drop(key)

    def take(
        self, to: NodeId, *, bytes_max: int, first: Sequence[MemberUpdate] = ()
    ) -> tuple[MemberUpdate, ...]:
        """Return the updates for one message to `to`, and count them as sent.

        Args:
            to: the receiver; it is not told that it is alive.
            bytes_max: room for updates; `first` is sent even if it alone is larger.
            first: what this receiver must hear before anything else, not counted as sent.
        """
        chosen = list(first)
        covered = {update.node for update in first}
        room = bytes_max - sum(map(update_bytes, first))
        for rumour in heapq.nlargest(UPDATES_MAX, self._by_key.values(), key=self._rank):
            update = rumour.update
            if update.node in covered or len(chosen) >= UPDATES_MAX:
                continue
            # A rumour that alone exceeds the room goes alone: the transport then takes a stream.
            if rumour.size > room and chosen:
                continue
            # Nobody needs to be told that it is alive itself; it counts as told, because in a
            # pair there is nobody else to tell.
            if update.node != to or update.state is not MemberState.ALIVE:
                room -= rumour.size
                chosen.append(update)
            rumour.sends_left -= 1
            if rumour.sends_left <= 0:
                self._drop((update.node, self._accuser(update)))
        return tuple(chosen)

    @staticmethod
    def _rank(rumour: _Rumour) -> tuple[int, int]:
        return rumour.sends_left, rumour.order

    @staticmethod
    def _accuser(update: MemberUpdate) -> NodeId | None:
        return update.accuser if update.state is MemberState.SUSPECT else None

    def _drop(self, key: _Key) -> None:
        del self._by_key[key]
        keys = self._keys_of[key[0]]
        keys.discard(key)
        if not keys:
            del self._keys_of[key[0]]
