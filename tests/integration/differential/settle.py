"""Wait until nothing changes any more in a cluster of real servers.

Quiet means: what was written is flushed; every standby either streams, has everything and has
applied it, or has failed to attach often enough since the command for it to be no coincidence;
commits that wait have been looked at by every standby that is attached; a promotion's checkpoint is
over. Wherever possible the server says so itself; time alone is the last resort and is counted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from differential.look import Look, SenderRow
from differential.programs import POLL_S, StoppedError
from differential.server import RealServer

SETTLE_S = 25.0
FAILED_TRIES = 4
"""Attempts of a standby to attach that must have failed before it counts as unable to."""
QUIET_LOOKS = 3
FEEDBACK_S = 0.5
"""After its start a receiver sends one hot standby feedback, whatever the settings, within this."""
STUCK_S = 2.5
"""A standby that neither streams nor logs failures is taken as settled after so long."""
SILENT_S = 0.5
"""A server that waits for WAL to become consistent is settled after so long."""
_HEADER_BYTES = 40  # an insert position may lie behind the header of a page that is not flushed

_FAILURE = re.compile(
    r"walreceiver: FATAL|replication terminated by primary|startup: LOG:  "
    r"(?:new timeline|invalid|incorrect|unexpected|record with|out-of-sequence|contrecord)"
)


class UnsettledError(AssertionError):
    """The servers went on changing: a fault of this test, or of PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The commits on one server that are not answered."""

    backends: frozenset[int] = frozenset()
    apply: bool = False  # one of them waits for replay


NOTHING_PENDING = Pending()


class Settler:
    """Knows what each server's log said when the command was carried out."""

    def __init__(self, servers: Mapping[str, RealServer], stopping: Callable[[], bool]) -> None:
        self._servers = servers
        self._stopping = stopping
        self._offsets: dict[str, int] = {}
        self._began = time.monotonic()
        self._wall = time.time()
        self._why = ""
        self.stuck = 0  # how often time alone decided
        self.slowest = (0.0, "")

    def mark(self) -> None:
        """A command was carried out now; what follows is its effect."""
        self._offsets = {name: s.log_size() for name, s in self._servers.items()}
        self._began, self._wall = time.monotonic(), time.time()

    def wait(
        self, pending: Callable[[], Mapping[str, Pending]], *, replies: bool
    ) -> dict[str, Look]:
        """Return what the servers that answer say once all is quiet.

        Args:
            pending: tells what is not answered yet, by server.
            replies: every standby must have reported since the command.

        Raises:
            UnsettledError: it did not become quiet.
            StoppedError: the run was asked to end.
        """
        before: object = None
        same = 0
        while True:
            if self._stopping():
                raise StoppedError
            looks = self._look()
            digest = {name: _digest(look) for name, look in looks.items()}
            if self._is_quiet(looks, pending(), replies):
                same = same + 1 if digest == before else 1
                before = digest
                if same >= QUIET_LOOKS:
                    return looks
            else:
                before, same = None, 0
                took = time.monotonic() - self._began
                self.slowest = max(self.slowest, (took, self._why))
                if took > SETTLE_S:
                    raise UnsettledError(f"not quiet after {SETTLE_S:g} s: {self._why}\n{looks}")
            time.sleep(POLL_S)

    def _look(self) -> dict[str, Look]:
        found = {name: server.look() for name, server in self._servers.items()}
        return {name: look for name, look in found.items() if look is not None}

    def _is_quiet(
        self, looks: Mapping[str, Look], pending: Mapping[str, Pending], replies: bool
    ) -> bool:
        for name, server in self._servers.items():
            look = looks.get(name)
            if not server.running or server.frozen == "server":
                continue
            if look is None:
                self._why = f"{name} does not answer"
                quiet = server.waits_for_wal() and time.monotonic() - self._began > SILENT_S
            elif look.in_recovery:
                quiet = self._standby_is_quiet(server, look, looks)
            else:
                here = pending.get(name, NOTHING_PENDING)
                quiet = self._primary_is_quiet(server, look, here)
                quiet = quiet and all(
                    self._sender_is_quiet(server, look, row, here, replies) for row in look.senders
                )
            if not quiet:
                return False
        return True

    def _primary_is_quiet(self, server: RealServer, look: Look, pending: Pending) -> bool:
        self._why = f"{server.name}: WAL is not flushed, or no checkpoint on its timeline yet"
        if look.inserted - look.flushed > _HEADER_BYTES or look.control_tli != look.tli:
            return False
        self._why = f"{server.name}: a commit is under way"
        return pending.backends <= look.sync_waiters

    def _sender_is_quiet(
        self, server: RealServer, look: Look, row: SenderRow, pending: Pending, replies: bool
    ) -> bool:
        standby = self._servers.get(row.name)
        if row.state != "streaming" or standby is None or standby.frozen or not standby.running:
            return True
        self._why = f"{server.name}: {row.name} has not reported: {row}"
        if (row.sync_state == "async") == (row.name in server.sync[0]):
            return False  # its WAL sender has not loaded the setting
        if pending.backends and row.flush < look.flushed:
            return False
        if pending.apply and row.replay < look.flushed and not standby.paused:
            return False
        # A feedback renews the time of the last reply as well, and releases nobody.
        return not replies or row.replied_at > max(self._wall, row.began_at + FEEDBACK_S)

    def _standby_is_quiet(self, server: RealServer, look: Look, looks: Mapping[str, Look]) -> bool:
        if server.frozen == "receiver":
            return True
        self._why = f"{server.name}: replays ({look.startup_waits or 'busy'})"
        if not look.startup_waits.startswith("Recovery"):
            return False
        applied = server.paused or look.replay >= (look.received or 0)
        row = streaming_row(server.name, look, looks)
        self._why = f"{server.name}: has not everything: {row}"
        if row is not None and row.flush >= row.sent and applied:
            return server.paused or row.upstream == getattr(server.upstream, "name", "")
        upstream = server.upstream
        if upstream is None:
            self._why = f"{server.name}: still has a WAL receiver"
            # One that has reached the end of a timeline and waits for orders is left alone.
            return row is None and look.receiver_status in ("", "waiting")
        if upstream.frozen == "server" or not upstream.running:
            return applied and (server.paused or look.received is not None)
        # While replay is paused nobody starts a receiver or points it elsewhere.
        return (row is None and server.paused) or self._cannot_attach(server)

    def _cannot_attach(self, server: RealServer) -> bool:
        log = server.log_since(self._offsets.get(server.name, 0))
        if len(_FAILURE.findall(log)) >= FAILED_TRIES:
            return True
        if time.monotonic() - self._began < STUCK_S:
            return False
        self.stuck += 1
        return True


def streaming_row(name: str, look: Look, looks: Mapping[str, Look]) -> SenderRow | None:
    """Return the row of the WAL sender that serves the standby `name`, if one does.

    It need not be that of the server in the settings: a paused standby does not read them.
    """
    if look.receiver_pid is None or look.receiver_status != "streaming":
        return None
    rows = [row for above in looks.values() for row in above.served() if row.name == name]
    return rows[-1] if rows else None


def _digest(look: Look) -> object:
    # Not the receiver: that of a standby that cannot attach comes and goes.
    return (look.in_recovery, look.replay, look.received, look.flushed, look.tli)
