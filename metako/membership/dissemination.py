"""Rumours that still have to be told, and how many fit a message.

In: accepted updates. Out: the updates for the next message.
Invariant: at most `limit` rumours; about one member either one rumour, or only suspicions of the
same incarnation by different accusers (at most K + 1, as no more are passed on).
Deliberately unaware of who gets a message, and of the real encoding: sizes are upper bounds.

A rumour is *casual* if nobody waits for it: somebody's WAL has grown. It rides along on whatever is
sent, and is no reason to send anything.

Casual ones go last. Of the others the one that was sent least often goes first, the newest among
equals, so news overtakes what has nearly been told to everybody. Losses are covered by the count,
and by push/pull after that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from metako.model.ids import NodeId
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


def retransmit_limit(mult: int, members: int, *, casual: bool = False) -> int:
    """Return how often each member passes a rumour on: mult * ceil(log10(n + 1)).

    A casual one a good half as often: what is lost of it, a newer one makes good within a second.
    """
    sends = mult * math.ceil(math.log10(members + 1))
    return sends // 2 + 1 if casual else sends


def update_bytes(update: MemberUpdate) -> int:
    """Return an upper bound of the encoded size, in bytes."""
    size = _UPDATE_BYTES + _text(update.node)
    if update.address is not None:
        size += _ADDRESS_BYTES + _text(update.address.host)
    if update.accuser is not None:
        size += _text(update.accuser)
    if update.meta is not None:
        size += _meta(update.meta)
    return size


def _meta(meta: MemberMeta) -> int:
    size = _META_BYTES + _text(meta.data_id) + _text(meta.agent_version)
    for address in (meta.postgres_address, meta.api_address, meta.proxy_address):
        if address is not None:
            size += _ADDRESS_BYTES + _text(address.host)
    return size


def _text(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


@dataclass(slots=True)
class _Rumour:
    update: MemberUpdate
    level: _Level
    size: int  # bytes, upper bound
    known_to: list[NodeId]  # of a casual one: who has told it, or was told

    @property
    def casual(self) -> bool:
        return not self.level[0]

    def is_news_to(self, node: NodeId) -> bool:
        """Return whether it is worth telling to a member, and take it for told.

        Nobody needs to be told that it is alive itself; it counts as told, because in a pair there
        is nobody else to tell. A casual one is not told twice: if it is lost, a newer one follows.
        """
        update = self.update
        if update.node == node and update.state is MemberState.ALIVE:
            return False
        if not self.level[0]:
            if node in self.known_to:
                return False
            self.known_to.append(node)
        return True


_Level = tuple[bool, int]  # whether it presses, how often it is to be sent: the highest goes first
_Key = tuple[NodeId, NodeId | None]


class Rumours:
    """The queue of what this node has to tell."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._by_key: dict[_Key, _Rumour] = {}
        self._keys_of: dict[NodeId, set[_Key]] = {}
        # The same by their level, oldest first. A message then costs what it carries and
        # not what is queued, which after the start of a large cluster is the whole roster.
        self._levels: dict[_Level, dict[_Key, _Rumour]] = {}
        self._pressing = 0  # of them, those that are not casual
        self.dropped = 0  # rumours pushed out by the limit

    @property
    def pressing(self) -> bool:
        """Return whether there is a rumour that is worth a message of its own."""
        return self._pressing > 0

    def __len__(self) -> int:
        return len(self._by_key)

    def put(
        self,
        update: MemberUpdate,
        *,
        sends: int,
        casual: bool = False,
        source: NodeId | None = None,
    ) -> None:
        """Queue a rumour. Older ones about the member go, except fellow suspicions.

        A casual one that takes the place of one that is not tells its news as well: it presses as
        long as that would have.

        Args:
            update: the rumour.
            sends: how often it is to be told.
            casual: nobody waits for it.
            source: who told it to us; None if it is our own.
        """
        news_left = 0
        suspicion = update.state is MemberState.SUSPECT
        key = (update.node, update.accuser if suspicion else None)
        for other in tuple(self._keys_of.get(update.node, ())):
            told = self._by_key[other]
            if other == key or not (suspicion and _is_fellow(told.update, update)):
                pressing, left = told.level
                if pressing and left > news_left:
                    news_left = left
                self._drop(other)
        if casual and news_left:
            casual, sends = False, news_left
        if len(self._by_key) >= self._limit:
            lowest = self._levels[min(self._levels)]
            self._drop(next(iter(lowest)))
            self.dropped += 1
        known_to = [] if source is None else [source]
        rumour = _Rumour(update, (not casual, sends), update_bytes(update), known_to)
        self._by_key[key] = rumour
        self._pressing += not casual
        self._keys_of.setdefault(update.node, set()).add(key)
        self._enter_level(key, rumour)

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
            first: what this receiver must hear before anything else. Our own word in it counts as
                told; an accusation does not, it has others to reach.
        """
        chosen = list(first)
        covered = {update.node for update in first}
        room = bytes_max - sum(map(update_bytes, first))
        for key, rumour in self._next():
            update = rumour.update
            if update.node in covered or len(chosen) >= UPDATES_MAX:
                if update.state is MemberState.ALIVE and update in first:
                    self._count_sent(key, rumour)
                continue
            # A rumour that alone exceeds the room goes alone: the transport then takes a stream.
            if rumour.size > room and chosen:
                continue
            if rumour.is_news_to(to):
                room -= rumour.size
                chosen.append(update)
            self._count_sent(key, rumour)
        return tuple(chosen)

    def _next(self) -> list[tuple[_Key, _Rumour]]:
        """Return the rumours that were told least often, the newest first among equals."""
        levels = self._levels
        if len(levels) == 1:
            (only,) = levels.values()
            return list(itertools.islice(reversed(only.items()), UPDATES_MAX))
        found: list[tuple[_Key, _Rumour]] = []
        for level in sorted(levels, reverse=True):
            found += itertools.islice(reversed(levels[level].items()), UPDATES_MAX - len(found))
            if len(found) == UPDATES_MAX:
                break
        return found

    def _count_sent(self, key: _Key, rumour: _Rumour) -> None:
        pressing, left = rumour.level
        if left <= 1:
            self._drop(key)
            return
        self._leave_level(key, rumour.level)
        rumour.level = (pressing, left - 1)
        self._enter_level(key, rumour)

    def _drop(self, key: _Key) -> None:
        rumour = self._by_key.pop(key)
        self._pressing -= not rumour.casual
        self._leave_level(key, rumour.level)
        keys = self._keys_of[key[0]]
        keys.discard(key)
        if not keys:
            del self._keys_of[key[0]]

    def _enter_level(self, key: _Key, rumour: _Rumour) -> None:
        level = self._levels.get(rumour.level)
        if level is None:
            self._levels[rumour.level] = {key: rumour}
        else:
            level[key] = rumour

    def _leave_level(self, key: _Key, level: _Level) -> None:
        keys = self._levels[level]
        del keys[key]
        if not keys:
            del self._levels[level]


def _is_fellow(told: MemberUpdate, update: MemberUpdate) -> bool:
    """Return whether both suspect the same incarnation of a member."""
    return told.state is MemberState.SUSPECT and (
        (told.boot_epoch, told.incarnation) == (update.boot_epoch, update.incarnation)
    )
