"""Carry out a sequence of commands on three real PostgreSQL servers, and see what there is to see.

The servers are copies of the template in a directory of their own; see `begin`.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from differential import vocabulary as do
from differential.look import Look
from differential.programs import POLL_S, Programs
from differential.rebuild import clone, rewind
from differential.server import KEEP_NOTHING, STOP_S, RealServer
from differential.settle import Pending, Settler, streaming_row
from differential.vocabulary import NAMES, Command, Seen, ServerView, SlotView
from differential.wire import Connection, ConnectionLostError, StatementError

START_S = 10.0
PROMOTE_S = 10.0
PAUSE_S = 5.0
BLOCKED_S = 1.5
"""A fast shutdown that a frozen standby may block is given so long."""
SEGMENT_BYTES = 1 << 20
BASE_PORT = 5501  # names of sockets in a directory of our own, no TCP ports
_ANYWHERE = (
    *(do.Commit, do.CancelCommit, do.Stop, do.Start, do.Rewind, do.Clone, do.Thaw, do.Settle),
)
"""Commands that need no server which answers."""
_RECOVERY_TLI = """
select greatest((select timeline_id from pg_control_checkpoint()),
  (select min_recovery_end_timeline from pg_control_recovery()),
  (select received_tli from pg_stat_wal_receiver))
"""


@dataclass(slots=True)
class _Commit:
    """A commit that was begun, and how it went so far."""

    server: str
    level: str
    connection: Connection | None
    outcome: str = "waiting"

    def look(self) -> None:
        if self.outcome != "waiting" or self.connection is None:
            return
        answer = self.connection.poll()
        if answer is None:
            return
        if answer.lost:
            self.outcome = "lost"
        elif answer.error is not None:
            self.outcome = f"refused {answer.error.sqlstate}"
        else:
            cancelled = any("synchronous replication" in text for text in answer.warnings)
            self.outcome = "warned" if cancelled else "ok"
        self.connection.close()


class Real:
    """Three servers of one sequence."""

    def __init__(self, programs: Programs, base: Path) -> None:
        self.programs = programs
        self.base = base
        self.servers = {
            name: RealServer(programs, name, base, BASE_PORT + i) for i, name in enumerate(NAMES)
        }
        self.settler = Settler(self.servers, programs.stopping.is_set)
        self.notes: list[str] = []  # what programs said when they failed
        self._commits: dict[str, _Commit] = {}
        self._first_segment = 0  # in which the sequence began

    def begin(self) -> Seen:
        """Start the servers as every sequence begins; return what is seen then."""
        first = self.servers["a"]
        for name, server in self.servers.items():
            server.prepare()
            self.programs.copy_template(name, server.data)
            server.upstream = None if server is first else first
            server.standby_signal(server is not first)
            server.launch()
        for server in self.servers.values():
            assert server.wait_up(START_S), server.log_tail()
        first.standby_signal()
        self.settler.mark()
        seen = self._see("ok", replies=False)
        look = first.look()
        assert look is not None, first.log_tail()
        self._first_segment = look.flushed // SEGMENT_BYTES
        return seen

    def run(self, command: Command) -> Seen:
        """Carry out one command, wait until all is quiet, and look."""
        try:
            outcome = self._execute(command) if self._is_possible(command) else "not running"
        except ConnectionLostError:
            outcome = "not running"
        except StatementError as error:
            outcome = f"refused {error.sqlstate}"
        self.settler.mark()
        reports = isinstance(command, do.SetSync | do.Thaw | do.Settle)
        seen = self._see(outcome, replies=reports)
        if isinstance(command, do.Commit) and command.level == "on":
            ended = dict(seen.commits)[command.value]
            acknowledged = {"ok": "acknowledged", "waiting": "not acknowledged"}
            return replace(seen, outcome=acknowledged.get(ended, outcome))
        return seen

    def close(self) -> None:
        """End everything."""
        with contextlib.ExitStack() as stack:
            for server in self.servers.values():
                stack.callback(server.discard)
            for commit in self._commits.values():
                if commit.connection is not None:
                    commit.connection.close()

    def logs(self) -> str:
        logs = (f"--- {name}\n{server.log_tail()}" for name, server in self.servers.items())
        return "\n".join((*self.notes, *logs))

    # ---------------------------------------------------------------- commands

    def _is_possible(self, command: Command) -> bool:
        """Return whether the server of a command that needs one takes connections."""
        if isinstance(command, _ANYWHERE):
            return True
        return self.servers[command.server].look() is not None

    def _execute(self, command: Command) -> str:
        match command:
            case do.Commit():
                self._commit(command)
            case do.CancelCommit(value=value, how=how):
                return self._cancel(value, how)
            case do.SetSync(server=name, names=names, k=k):
                self.servers[name].sync = (names, k)
                self.servers[name].reload()
                return self._loaded(self.servers[name])
            case do.Stop(server=name, how=how):
                return self._stop(self.servers[name], how)
            case do.Start(server=name, upstream=upstream):
                return self._start(self.servers[name], upstream)
            case do.Promote(server=name, tli=tli):
                return self._promote(self.servers[name], tli)
            case do.Rewind(server=name, source=source):
                verdict, out = rewind(self.programs, self.servers[name], self.servers[source])
                self.notes.append(out)
                return verdict
            case do.Clone(server=name, source=source):
                verdict, out = clone(self.programs, self.servers[name], self.servers[source])
                self.notes.append(out)
                return verdict
            case do.Settle():
                pass
            case do.Read(server=name, key=key):
                return str(dict(self.servers[name].rows()).get(key, ()))
            case _:
                return self._change(command)
        return "ok"

    def _change(self, command: Command) -> str:
        """Carry out the commands that change one running server in passing."""
        match command:
            case do.PauseReplay(server=name):
                return self._pause(self.servers[name])
            case do.ResumeReplay(server=name):
                self.servers[name].query("select pg_wal_replay_resume()")
                self.servers[name].paused = False
            case do.Detach(server=name):
                return self._attach(self.servers[name], "")
            case do.Attach(server=name, upstream=upstream):
                return self._attach(self.servers[name], upstream)
            case do.KillReceiver(server=name):
                self.servers[name].kill_receiver()
            case do.Freeze(server=name, what=what):
                return "ok" if self.servers[name].freeze(what) else "nothing to freeze"
            case do.Thaw(server=name):
                self.servers[name].thaw()
            case do.Checkpoint(server=name):
                self.servers[name].query("checkpoint")
            case do.RemoveWal(server=name):
                self._remove_wal(self.servers[name])
            case do.SwitchWal(server=name):
                self._switch_wal(self.servers[name])
            case do.CreateSlot(server=name, name=slot, reserve=reserve):
                create = f"pg_create_physical_replication_slot('{slot}', {reserve})"
                self.servers[name].query(f"select {create}")
            case do.DropSlot(server=name, name=slot):
                self.servers[name].query(f"select pg_drop_replication_slot('{slot}')")
            case do.UseSlot(server=name, name=slot):
                self.servers[name].slot = slot
                self.servers[name].reload()
                return self._loaded(self.servers[name])
            case do.LimitSlots(server=name, segments=segments):
                self.servers[name].slot_limit = segments
                self.servers[name].reload()
                return self._loaded(self.servers[name])
            case _:
                raise AssertionError(command)
        return "ok"

    def _commit(self, command: do.Commit) -> None:
        begun = _Commit(command.server, command.level, None)
        self._commits[command.value] = begun
        try:
            begun.connection = self.servers[command.server].connect()
            begun.connection.query(f"set synchronous_commit = {command.level}")
            begun.connection.send(f"insert into kv values ('{command.key}', '{command.value}')")
        except (ConnectionLostError, StatementError):
            # It does not run, or takes no connections yet: all the same to a client
            begun.outcome = "refused"

    def _cancel(self, value: str, how: str) -> str:
        commit = self._commits.get(value)
        if commit is None or commit.connection is None:
            return "nothing to cancel"
        commit.look()
        if commit.outcome != "waiting":
            return "nothing to cancel"
        pid = commit.connection.backend_pid
        self.servers[commit.server].query(f"select pg_{how}_backend({pid})")
        deadline = time.monotonic() + START_S
        while commit.outcome == "waiting" and time.monotonic() < deadline:
            time.sleep(POLL_S)
            commit.look()
        return "ok"

    def _loaded(self, server: RealServer) -> str:
        """Wait until the postmaster, and what a commit asks, have loaded the settings."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            fresh = server.connect()
            with contextlib.closing(fresh):
                shown = fresh.query("show test.generation")[0][0]
            if shown == str(server.generation):
                server.wait_checkpointer_idle()
                return "ok"
            time.sleep(POLL_S)
        raise AssertionError(f"{server.name} does not load its settings\n{server.log_tail()}")

    def _attach(self, server: RealServer, upstream: str) -> str:
        server.upstream = self.servers[upstream] if upstream else None
        server.reload()
        return self._loaded(server)

    def _stop(self, server: RealServer, how: str) -> str:
        below = [s for s in self.servers.values() if s.upstream is server]
        patience_s = BLOCKED_S if any(s.frozen for s in below) else STOP_S
        in_time = server.stop(how, patience_s=patience_s)
        server.slot_limit = None  # also for what a rewind starts
        return "ok" if in_time else "blocked"

    def _remove_wal(self, server: RealServer) -> None:
        server.extra_conf = KEEP_NOTHING
        server.reload()
        self._loaded(server)
        for _ in range(2):
            self._switch_wal(server)
        self._wait_sent(server)
        server.query("checkpoint")
        server.extra_conf = ""
        server.reload()
        self._loaded(server)

    def _switch_wal(self, server: RealServer) -> None:
        """Go on in the next segment, and not at its very begin."""
        message = "select pg_logical_emit_message(false, '', 'x')"
        for statement in (message, "select pg_switch_wal()", message):
            server.query(statement)

    def _wait_sent(self, server: RealServer) -> None:
        """Wait until every standby that streams has received everything."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            look = server.look()
            rows = [row for row in look.senders if row.state == "streaming"] if look else []
            if look is not None and all(row.flush >= look.flushed for row in rows):
                return
            time.sleep(POLL_S)
        raise AssertionError(f"{server.name}: its standbys do not receive\n{server.log_tail()}")

    def _start(self, server: RealServer, upstream: str) -> str:
        server.upstream = self.servers[upstream] if upstream else None
        server.standby_signal()
        server.launch()
        if server.wait_up(START_S):
            return "ok"
        return "starting" if server.running else "failed"

    def _pause(self, server: RealServer) -> str:
        server.query("select pg_wal_replay_pause()")
        deadline = time.monotonic() + PAUSE_S
        while time.monotonic() < deadline:
            if server.query("select pg_get_wal_replay_pause_state()")[0][0] == "paused":
                server.paused = True
                return "ok"
            time.sleep(POLL_S)
        raise AssertionError(f"{server.name} does not pause\n{server.log_tail()}")

    def _promote(self, server: RealServer, tli: int) -> str:
        current = int(server.query(_RECOVERY_TLI)[0][0] or 0)
        if tli:
            server.write_placeholders(current + 1, tli - 1)
        if server.query(f"select pg_promote(true, {PROMOTE_S:g})")[0][0] != "t":
            return "failed"
        server.paused = False
        server.standby_signal()  # as metako does: the next start is one as a standby
        look = server.look()
        assert look is not None, server.log_tail()
        return "reserved" if look.tli == tli else "ok" if not tli else f"took {look.tli}"

    # ---------------------------------------------------------------- what is seen

    def _pending(self) -> dict[str, Pending]:
        found: dict[str, Pending] = {}
        for commit in self._commits.values():
            commit.look()
            if commit.outcome == "waiting" and commit.connection is not None:
                before = found.get(commit.server, Pending())
                pids = before.backends | {commit.connection.backend_pid}
                apply = before.apply or commit.level == "remote_apply"
                found[commit.server] = Pending(pids, apply)
        return found

    def _see(self, outcome: str, *, replies: bool) -> Seen:
        # Replies are worth waiting for only where a commit waits for them.
        looks = self.settler.wait(self._pending, replies=replies and bool(self._pending()))
        views = tuple((name, self._view(s, looks)) for name, s in self.servers.items())
        commits = tuple(sorted((value, c.outcome) for value, c in self._commits.items()))
        return Seen(outcome, commits, views)

    def _view(self, server: RealServer, looks: dict[str, Look]) -> ServerView:
        if not server.running:
            return ServerView("stopped")
        if server.frozen == "server":
            return ServerView("frozen")
        look = looks.get(server.name)
        if look is None:
            return ServerView("starting")
        sync = tuple((row.name, row.sync_state) for row in look.served())
        if not look.in_recovery:
            return ServerView(
                "primary", look.tli, sync=sync, rows=server.rows(), slots=self._slots(look)
            )
        row = streaming_row(server.name, look, looks)
        received = "position" if (look.received or 0) % SEGMENT_BYTES else "segment"
        return ServerView(
            "standby",
            look.received_tli if row is not None else 0,
            streams_from=row.upstream if row is not None else "",
            received="null" if look.received is None else received,
            rows=server.rows(),
            slots=self._slots(look),
        )

    def _slots(self, look: Look) -> tuple[SlotView, ...]:
        users = {row.pid: row for row in look.served()}
        found = []
        for slot in look.slots:
            user = users.get(slot.active_pid)
            where = f"segment {slot.restart // SEGMENT_BYTES - self._first_segment}"
            if not slot.restart:
                where = "null"
            elif user is not None and not self.servers[user.name].frozen:
                where = "end" if slot.restart == look.flushed else where
            found.append((slot.name, user is not None, where, slot.status))
        return tuple(sorted(found))
