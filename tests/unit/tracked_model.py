"""A server that is small enough to be believed, and what a session of it consists of.

It knows settings, prepared statements, channels and savepoints, and keeps a copy of everything
wherever PostgreSQL could go back to.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from follow_kit import BOUND, CLOSED, PARSED, done, error, ready


@dataclass
class State:
    """What comes and goes with transactions."""

    settings: dict[str, str] = field(default_factory=dict)  # name → SQL
    channels: set[str] = field(default_factory=set)


class Failed(Exception):
    """A statement fails."""


class ModelServer:
    """See the module's docstring. It executes texts, and returns the bytes of its answers."""

    def __init__(self) -> None:
        self.state = State()
        self.prepared: dict[str, str] = {}  # by SQL or by the protocol
        self.status = "I"
        self._unnamed = ""  # the text of the unnamed statement
        # Whether the client may take the unnamed statement for another than the server has.
        self.skipped_unnamed = False
        self._before = State()  # what a ROLLBACK goes back to
        self._savepoints: list[tuple[str, State]] = []

    # -- protocol ---------------------------------------------------------------------------

    def query(self, statements: list[str]) -> bytes:
        self._unnamed = ""
        found = b""
        try:
            for sql in statements:
                found += done(self._execute(sql))
        except Failed:
            found += self._fail()
        return found + self._end()

    def extended(self, messages: list[tuple[str, str, str]]) -> bytes:
        """Execute (what, name, sql): parse, run or close; then a Sync."""
        found = b""
        left = list(messages)
        try:
            while left:
                what, name, sql = left.pop(0)
                if what == "parse":
                    self._parse(name, sql)
                    found += PARSED
                elif what == "close":
                    self.prepared.pop(name, None)
                    found += CLOSED
                else:
                    text = self.prepared.get(name) if name else self._unnamed
                    if not text:
                        raise Failed
                    found += BOUND
                    found += done(self._execute(text))
        except Failed:
            found += self._fail()
            skipped = [name for what, name, _ in left if what == "parse"]
            self.skipped_unnamed = self.skipped_unnamed or "" in skipped
        return found + self._end()

    def _parse(self, name: str, sql: str) -> None:
        if not name:
            self._unnamed = ""
        if self.status == "E" and sql.split()[0] not in ("rollback", "commit"):
            raise Failed
        if name in self.prepared or sql == "fail":
            raise Failed
        if name:
            self.prepared[name] = sql
        else:
            self._unnamed = sql

    def _fail(self) -> bytes:
        if self.status == "I":
            self._go_back(self._before)
        else:
            self.status = "E"
        return error("42601")

    def _end(self) -> bytes:
        if self.status == "I":
            self._keep()
        return ready(self.status)

    # -- statements -------------------------------------------------------------------------

    def _execute(self, sql: str) -> str:
        words = sql.split()
        verb = (
            " ".join(words[:2]) if words[:2] in (["rollback", "to"], ["set", "local"]) else words[0]
        )
        if self.status == "E" and verb not in ("rollback", "commit", "rollback to"):
            raise Failed
        if verb == "fail":
            raise Failed
        return getattr(self, "_" + verb.replace(" ", "_"))(words, sql)

    def _select(self, words: list[str], sql: str) -> str:
        return "SELECT 1"

    def _begin(self, words: list[str], sql: str) -> str:
        self.status = "T"
        return "BEGIN"

    def _commit(self, words: list[str], sql: str) -> str:
        if self.status == "E":
            self._rollback(words, sql)
            return "ROLLBACK"
        self._keep()
        self.status = "I"
        return "COMMIT"

    def _rollback(self, words: list[str], sql: str) -> str:
        self._go_back(self._before)
        self._savepoints.clear()
        self.status = "I"
        return "ROLLBACK"

    def _savepoint(self, words: list[str], sql: str) -> str:
        self._in_transaction()
        self._savepoints.append((words[1], copy.deepcopy(self.state)))
        return "SAVEPOINT"

    def _release(self, words: list[str], sql: str) -> str:
        self._in_transaction()
        del self._savepoints[self._find(words[1]) :]
        return "RELEASE"

    def _rollback_to(self, words: list[str], sql: str) -> str:
        self._in_transaction()
        index = self._find(words[2])
        self._go_back(self._savepoints[index][1])
        del self._savepoints[index + 1 :]
        self.status = "T"
        return "ROLLBACK"

    def _set(self, words: list[str], sql: str) -> str:
        self.state.settings.pop(words[1], None)
        self.state.settings[words[1]] = sql
        return "SET"

    def _set_local(self, words: list[str], sql: str) -> str:
        return "SET"

    def _reset(self, words: list[str], sql: str) -> str:
        if words[1] == "all":
            self.state.settings.clear()
        self.state.settings.pop(words[1], None)
        return "RESET"

    def _listen(self, words: list[str], sql: str) -> str:
        self.state.channels.add(words[1])
        return "LISTEN"

    def _unlisten(self, words: list[str], sql: str) -> str:
        self.state.channels.clear()
        return "UNLISTEN"

    def _prepare(self, words: list[str], sql: str) -> str:
        if words[1] in self.prepared:
            raise Failed
        self.prepared[words[1]] = sql
        return "PREPARE"

    def _deallocate(self, words: list[str], sql: str) -> str:
        if words[1] == "all":
            self.prepared.clear()
            return "DEALLOCATE ALL"
        if self.prepared.pop(words[1], None) is None:
            raise Failed
        return "DEALLOCATE"

    def _in_transaction(self) -> None:
        if self.status == "I":
            raise Failed

    def _find(self, name: str) -> int:
        for index in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[index][0] == name:
                return index
        raise Failed

    def _keep(self) -> None:
        self._before = copy.deepcopy(self.state)
        self._savepoints.clear()

    def _go_back(self, state: State) -> None:
        self.state = copy.deepcopy(state)
