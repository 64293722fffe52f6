"""What of a session's state belongs to transactions: it comes with COMMIT and goes with ROLLBACK.

Settings, channels that are listened to, temporary objects and cursors WITH HOLD. A state is never
changed, only replaced, so a savepoint is nothing but the state that was there.

What came before the first change is not told of. A savepoint that is not known here was therefore
made before it: to roll back to it undoes every change of the transaction.

Deliberately unknown here: prepared statements and locks, which no ROLLBACK touches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from metako.proxy.changes import (
    Change,
    CloseCursor,
    Hold,
    Listen,
    Point,
    Reset,
    Savepoint,
    Set,
    Simple,
    Tie,
)
from metako.proxy.settings import AUTHORIZATION, KEPT_BY_RESET_ALL, ROLE, SEARCH_PATH

SETTINGS_MAX = 64  # that differ from the begin of the session
SETTING_BYTES_MAX = 8192  # of a statement that is to be repeated
NAMES_MAX = 64  # of channels, and of cursors
SAVEPOINTS_MAX = 256
STATEMENTS_OF_ONE_SETTING_MAX = 4

# A new value replaces only the part of the old one that it speaks of.
_COMPOSED = b"datestyle"

Settings = Mapping[bytes, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Scope:
    """The state at one moment."""

    # By name in lower case, in the order in which they were last set: the SQL to be repeated.
    settings: Settings = field(default_factory=lambda: MappingProxyType({}))
    channels: frozenset[bytes] = frozenset()
    holds: frozenset[bytes] = frozenset()  # cursors WITH HOLD
    ties: frozenset[Tie] = frozenset()  # TEMPORARY, and limits that were exceeded

    @property
    def tie(self) -> Tie | None:
        """What of this cannot be rebuilt."""
        if self.ties:
            return min(self.ties, key=list(Tie).index)
        if self.channels:
            return Tie.LISTENS
        return Tie.CURSORS if self.holds else None


class Layers:
    """The state as committed, and as it is in the transaction that is open.

    Args:
        committed: to begin with; None: as after a login.
    """

    __slots__ = ("_local", "_savepoints", "committed", "current")

    def __init__(self, committed: Scope | None = None) -> None:
        self.committed = committed or Scope()
        self.current = self.committed
        self._savepoints: list[tuple[bytes, Scope]] = []  # of the open transaction
        self._local = False  # whether it may have settings of its own

    @property
    def pending(self) -> bool:
        """Whether the open transaction has changed anything, or could have."""
        return self.current is not self.committed or bool(self._savepoints)

    @property
    def path(self) -> tuple[tuple[bytes, ...], bool]:
        """The SQL that has set search_path, and whether there may be another at the moment."""
        return self.current.settings.get(SEARCH_PATH, ()), self._local

    def end(self, *, failed: bool) -> None:
        """Commit, or roll back if it has failed."""
        if failed:
            self.roll_back()
        else:
            self.commit()

    def commit(self) -> None:
        self.committed = self.current
        self._savepoints.clear()
        self._local = False

    def roll_back(self) -> None:
        self._roll_back_to(self.committed)
        self._savepoints.clear()
        self._local = False

    def apply(self, change: Change) -> None:
        """Take account of a change that succeeded. Those of something else are ignored."""
        scope = self.current
        match change:
            case Set(statements):
                for name, sql in statements:
                    self.current = _with_setting(self.current, name, sql)
            case Reset(None):
                if self._local:
                    # It passes over what has the value of the begin just for this transaction.
                    scope = _tied(scope, Tie.UNCLEAR)
                self.current = _without_settings(scope, set(scope.settings) - KEPT_BY_RESET_ALL)
            case Reset(bytes(name)):
                gone = {name, ROLE} if name == AUTHORIZATION else {name}
                self.current = _without_settings(scope, gone)
            case Listen(channel, begins):
                self.current = _listening(scope, channel, begins=begins)
            case Hold(name):
                self.current = _holding(scope, scope.holds | {name})
            case CloseCursor(name):
                holds = scope.holds - {name} if name is not None else frozenset[bytes]()
                self.current = _holding(scope, holds)
            case Simple.LOCAL:
                self._local = True
            case Simple.TEMPORARY:
                self.current = _tied(scope, Tie.TEMPORARY)
            case Simple.DISCARD_TEMPORARY:
                self.current = replace(scope, ties=scope.ties - {Tie.TEMPORARY})
            case Simple.COMMIT:
                self.commit()
            case Simple.ROLLBACK:
                self.roll_back()
            case Savepoint(name, action):
                self._savepoint(name, action)
            case _:
                pass

    def _savepoint(self, name: bytes, action: Point) -> None:
        if action is Point.SET:
            if len(self._savepoints) < SAVEPOINTS_MAX:
                self._savepoints.append((name, self.current))
            else:
                self.current = _tied(self.current, Tie.UNCLEAR)
            return
        for index in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[index][0] == name:
                break
        else:
            index = -1
        if action is Point.RELEASE:
            del self._savepoints[max(index, 0) :]
        elif index >= 0:
            self._roll_back_to(self._savepoints[index][1])
            del self._savepoints[index + 1 :]
        else:
            self._roll_back_to(self.committed)
            self._savepoints.clear()

    def _roll_back_to(self, scope: Scope) -> None:
        now = self.current.settings
        if scope.settings.get(AUTHORIZATION) != now.get(AUTHORIZATION) and (
            ROLE in scope.settings or ROLE in now
        ):
            # SET SESSION AUTHORIZATION drops the role without regard to transactions.
            scope = _tied(scope, Tie.UNCLEAR)
            self.committed = _tied(self.committed, Tie.UNCLEAR)
        self.current = scope


def _tied(scope: Scope, tie: Tie) -> Scope:
    return replace(scope, ties=scope.ties | {tie})


def _with_setting(scope: Scope, name: bytes, sql: bytes) -> Scope:
    settings = dict(scope.settings)
    before = settings.pop(name, ())
    if name == AUTHORIZATION:
        settings.pop(ROLE, None)
    found: tuple[bytes, ...] = (sql,)
    if name == _COMPOSED:
        found = (*(other for other in before if other != sql), sql)
    if (
        len(settings) >= SETTINGS_MAX
        or len(sql) > SETTING_BYTES_MAX
        or len(found) > STATEMENTS_OF_ONE_SETTING_MAX
    ):
        return _tied(scope, Tie.SETTINGS)
    settings[name] = found
    return replace(scope, settings=MappingProxyType(settings))


def _without_settings(scope: Scope, gone: set[bytes]) -> Scope:
    kept = {other: sql for other, sql in scope.settings.items() if other not in gone}
    return replace(scope, settings=MappingProxyType(kept))


def _listening(scope: Scope, channel: bytes | None, *, begins: bool) -> Scope:
    if channel is None:
        return replace(scope, channels=frozenset[bytes]())
    if not begins:
        return replace(scope, channels=scope.channels - {channel})
    if len(scope.channels) >= NAMES_MAX:
        return _tied(scope, Tie.UNCLEAR)
    return replace(scope, channels=scope.channels | {channel})


def _holding(scope: Scope, holds: frozenset[bytes]) -> Scope:
    return replace(scope, holds=holds) if len(holds) <= NAMES_MAX else _tied(scope, Tie.UNCLEAR)
