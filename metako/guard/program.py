"""The guard's loop. Theory of operation:

The guard is single-threaded and waits in one poll() for: its listening socket, the agent's
connection, the agent's pidfd, SIGCHLD, and the outcome of an exec. Then it takes a *turn*: reap,
fence if the deadline has passed, sweep, watchdog, orphan rules. While armed it wakes at least every
`TICK_ARMED_MS` and compares CLOCK_BOOTTIME itself, because poll() counts CLOCK_MONOTONIC and sleeps
through a suspend. At rest it wakes every `TICK_IDLE_MS` only.

Requests that have arrived are read before the deadline is looked at: a renewal that waited in the
socket is true whenever it is read, since deadlines are absolute.

Once it listens the guard touches no disk (the forked child opens the log, messages are kept in
memory for the next agent), allocates little and imports nothing, so neither a stalled disk nor
dropped privileges can delay the fence. Should it fail in an unforeseen way it kills the server
first.

One agent at a time. The agent's going away changes nothing by itself: an armed guard fences at the
deadline as always, an unarmed one stops the server after `orphan_timeout_s`, and with nothing left
to watch it exits.

Does not know what a term stands for, or what PostgreSQL says.
"""

from __future__ import annotations

import array  # noqa: F401 - socket.send_fds imports it when it is called
import contextlib
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

from metako.guard import linux, packets, spawn
from metako.guard.agent import Agent, agent_of, peer_of
from metako.guard.fence import Fence
from metako.guard.keeper import Keeper
from metako.guard.orphan import Due, Orphan
from metako.guard.server import Exited, Gone, Server

NS_PER_MS = 1_000_000
TICK_ARMED_MS = 50
TICK_IDLE_MS = 10_000
PACKETS_PER_TURN_MAX = 64
NOTES_MAX = 50
BACKLOG = 8


@dataclass(frozen=True, slots=True)
class Options:
    """How the guard was started."""

    data_dir: str
    agent_uid: int  # may connect, as root and the guard's own user may
    orphan_timeout_s: float
    nice: int  # priority for PostgreSQL
    memory_locked: bool
    watchdog_required: bool = False  # what the watchdog does not guard is not armed either


class Program:
    """The guard. `run` returns when it has nothing left to do."""

    def __init__(
        self, listener: socket.socket, options: Options, keeper: Keeper | None = None
    ) -> None:
        self._listener = listener
        self._options = options
        self._fence = Fence()
        self._server = Server()
        self._keeper = keeper or Keeper()
        self._agent: Agent | None = None
        self._orphan = Orphan(options.orphan_timeout_s, time.monotonic_ns())
        self._fencing: int | None = None  # term whose fence is under way
        self._starting: tuple[int, int] | None = None  # request id, descriptor of the outcome
        self._notes: deque[str] = deque(maxlen=NOTES_MAX)  # for the next agent, oldest first
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._unwatched = False  # a descriptor was closed since the last poll
        self._exit = False
        self._signals, self._signals_in = os.pipe()

    # ------------------------------------------------------------ the loop

    def run(self) -> list[str]:
        """Watch until there is nothing to watch; return notes that no agent has read."""
        os.set_blocking(self._signals, False)
        os.set_blocking(self._signals_in, False)
        signal.set_wakeup_fd(self._signals_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler makes the wake-up happen
        self._listener.setblocking(False)
        self._watch(self._listener.fileno(), self._accept)
        self._watch(self._signals, self._drain_signals)
        try:
            while not self._exit:
                self._unwatched = False
                for descriptor, _ in self._poll.poll(self._timeout_ms()):
                    self._handlers[descriptor]()
                    # A closed descriptor's number may be another's by now. What is left of this
                    # list is told again by the next poll.
                    if self._unwatched:
                        break
                self._turn()
        finally:
            self._server.kill()
            self._keeper.close(in_good_order=self._server.gone)
        return list(self._notes)

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        del self._handlers[descriptor]
        self._poll.unregister(descriptor)
        self._unwatched = True

    def _timeout_ms(self) -> float:
        now_ns, now_boot_ns = time.monotonic_ns(), linux.boottime_ns()
        limits = [float(TICK_IDLE_MS)]
        if self._fence.deadline_boot_ns is not None:
            limits.append(TICK_ARMED_MS)
        limits += [
            (moment_ns - now_boot_ns) / NS_PER_MS
            for moment_ns in (
                self._fence.deadline_boot_ns,
                self._keeper.wakeup_boot_ns(now_boot_ns),
            )
            if moment_ns is not None
        ]
        limits += [
            (moment_ns - now_ns) / NS_PER_MS
            for moment_ns in (self._server.wakeup_ns(), self._orphan.wakeup_ns(**self._state()))
            if moment_ns is not None
        ]
        return max(0.0, min(limits))  # poll rounds up, so it never wakes too early and spins

    def _state(self) -> dict[str, bool]:
        """Return what the rules of an orphan go by."""
        return {
            "armed": bool(self._fence.armed_term),
            "gone": self._server.gone,
            "ending": self._server.wakeup_ns() is not None,
        }

    def _drain_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._signals, 4096)

    def _turn(self) -> None:
        if self._fence.is_due(linux.boottime_ns()):
            self._fencing = self._fence.fire()
            self._orphan.fenced = self._agent is None
            # First the deed, then the words.
            self._server.end()
            self._note(f"term {self._fencing}: the lease has ended")
        self._server.turn()
        self._watchdog_turn()  # before anything is sent: every packet says how it is
        for notice in self._server.take_notices():
            match notice:
                case Exited(pid, status):
                    self._note(f"postmaster {pid} ended with wait status {status}")
                    self._send({"event": "exited", "pid": pid, "wait_status": status})
                case Gone(pid):
                    self._send({"event": "gone", "pid": pid})
                case _:
                    assert_never(notice)
        if self._fencing is not None and self._server.gone:
            took_ms = self._server.last_fence_ms
            term, self._fencing = self._fencing, None
            reason = f"lease ended; the server was gone after {took_ms or 0:.1f} ms"
            self._note(f"term {term}: {reason}")
            self._send({"event": "fenced", "term": term, "reason": reason})
        self._orphan_turn()

    def _watchdog_turn(self) -> None:
        ending = self._fencing is not None and not self._server.gone
        armed = self._fence.deadline_boot_ns is not None
        self._keeper.turn(linux.boottime_ns(), protecting=armed or ending)
        for note in self._keeper.take_notes():
            self._note(note)

    def _orphan_turn(self) -> None:
        match self._orphan.due(time.monotonic_ns(), **self._state()):
            case Due.EXIT:
                self._exit = True
            case Due.STOP:
                self._note("no agent came back: stopping PostgreSQL")
                self._server.signal(signal.SIGINT)
            case Due.END:
                self._note("PostgreSQL did not stop in time: ending it")
                self._server.end()

    # ------------------------------------------------------------ the agent

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the peer has gone again
        # The former connection may have been closed just before this one was made.
        self._receive()
        connection.setblocking(False)
        pid, uid = peer_of(connection)
        refusal = ""
        if uid not in (0, os.getuid(), self._options.agent_uid):
            refusal = f"user {uid} may not use this guard"
        elif self._agent is not None and self._agent.is_alive:
            refusal = f"the agent with pid {self._agent.pid} is connected and alive"
        if refusal:
            with contextlib.suppress(OSError):
                connection.send(packets.encode({"refused": refusal}))
            connection.close()
            return
        self._disconnect()
        agent = self._agent = agent_of(connection, pid)
        self._orphan.adopted()
        self._watch(connection.fileno(), self._receive)
        if agent.pidfd is not None:
            self._watch(agent.pidfd, self._disconnect)
        self._greet()

    def _greet(self) -> None:
        own = os.pidfd_open(os.getpid())
        descriptors = [own] + ([] if self._server.pidfd is None else [self._server.pidfd])
        notes = list(self._notes)
        self._notes.clear()
        self._send({"protocol": packets.PROTOCOL, "notes": notes}, descriptors)
        os.close(own)

    def _disconnect(self) -> None:
        if self._agent is None:
            return
        agent, self._agent = self._agent, None
        self._unwatch(agent.connection.fileno())
        agent.connection.close()
        if agent.pidfd is not None:
            self._unwatch(agent.pidfd)
            os.close(agent.pidfd)
        self._orphan.since_ns = time.monotonic_ns()
        self._note(f"agent {agent.pid} has gone")

    def _send(self, packet: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Send with the whole status. An agent that does not read is disconnected."""
        if self._agent is None:
            return
        packet["status"] = packets.status_to_json(self._status())
        try:
            socket.send_fds(self._agent.connection, [packets.encode(packet)], descriptors or [])
        except OSError:
            self._disconnect()

    def _status(self) -> packets.GuardStatus:
        server = self._server
        return packets.GuardStatus(
            pid=os.getpid(),
            data_dir=self._options.data_dir,
            postmaster_pid=server.pid,
            children=0 if server.gone else len(linux.children_of(os.getpid())),
            gone=server.gone,
            stopping=server.is_ending,
            armed_term=self._fence.armed_term,
            deadline_boot_ns=self._fence.deadline_boot_ns,
            floor_term=self._fence.floor_term,
            fenced_term=self._fence.fenced_term,
            last_pid=server.last_pid,
            last_exit=server.last_exit,
            last_fence_ms=server.last_fence_ms,
            last_stop_ms=server.last_stop_ms,
            memory_locked=self._options.memory_locked,
            watchdog=self._keeper.state,
            watchdog_why=self._keeper.why,
            watchdog_timeout_s=self._keeper.timeout_s,
            watchdog_identity=self._keeper.identity,
        )

    def _note(self, text: str) -> None:
        self._notes.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}")

    # ------------------------------------------------------------ requests

    def _receive(self) -> None:
        for _ in range(PACKETS_PER_TURN_MAX):
            if self._agent is None:
                return
            try:
                data = self._agent.connection.recv(packets.PACKET_MAX + 1)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._disconnect()
                return
            self._handle(data)

    def _handle(self, data: bytes) -> None:
        request_id = 0
        try:
            packet = packets.decode_untrusted(data)
            request_id = packets.integer(packet, "id")
            refusal = self._do(packet, request_id)
        except packets.PacketError as error:
            refusal = str(error)
        except OSError as error:
            refusal = f"{error.strerror}: {error.filename or 'system call'}"
        if refusal is not None:
            self._reply(request_id, refusal)

    def _reply(self, request_id: int, refusal: str, descriptors: list[int] | None = None) -> None:
        self._send({"re": request_id, "ok": not refusal, "error": refusal}, descriptors)

    def _do(self, packet: dict[str, Any], request_id: int) -> str | None:
        """Carry out a request; return "", the refusal, or None if the reply comes later."""
        what = packets.text(packet, "do")
        match what:
            case "arm":
                return self._arm(packet)
            case "disarm":
                refusal = self._fence.disarm(packets.integer(packet, "term"))
                self._watchdog_turn()  # before the answer, which says how it is
                return refusal
            case "start":
                return self._start(packet, request_id)
            case "note_signal":
                self._server.note_signal(packets.integer(packet, "signal"))
                return ""
            case "kill_all":
                self._server.kill()
                return ""
            case "shutdown":
                if not self._server.gone:
                    return "PostgreSQL is not gone"
                self._exit = True
                return ""
            case "status":
                return ""
        return f"unknown request {what!r}"

    def _arm(self, packet: dict[str, Any]) -> str:
        term = packets.integer(packet, "term")
        deadline_ns = packets.integer(packet, "deadline_boot_ns")
        lease_ns = deadline_ns  # of an agent that does not say when the lease itself ends
        if "lease_boot_ns" in packet:
            lease_ns = packets.integer(packet, "lease_boot_ns")
        if self._fence.refusal(term) == "" and deadline_ns > linux.boottime_ns():
            why = self._keeper.renew(linux.boottime_ns(), lease_ns)
            # What takes away from the right to be writable is never refused.
            if why and self._options.watchdog_required and self._fence.prolongs(deadline_ns):
                return f"guard.watchdog is required and not armed: {why}"
        refusal = self._fence.arm(term, deadline_ns)
        if not refusal and self._fence.is_due(linux.boottime_ns()):
            refusal = f"the deadline of term {term} has passed: fenced"
            self._turn()
        return refusal

    def _start(self, packet: dict[str, Any], request_id: int) -> str | None:
        argv = packets.texts(packet, "argv")
        command = spawn.Command(
            argv=tuple(argv),
            env=packets.mapping(packet, "env"),
            log_path=packets.text(packet, "log"),
            cwd=self._options.data_dir,
        )
        if not argv or not os.path.isabs(argv[0]):
            return "the program must be an absolute path"
        if not self._server.gone:
            return f"a server is there already, postmaster {self._server.pid or 'gone'}"
        if self._starting is not None:
            return "another start is under way"
        if self._fence.is_due(linux.boottime_ns()):
            return "the lease has ended"
        outcome = self._server.start(command, nice=self._options.nice)
        self._starting = (request_id, outcome)
        self._watch(outcome, self._started)
        return None

    def _started(self) -> None:
        assert self._starting is not None
        request_id, outcome = self._starting
        failure = spawn.read_outcome(outcome)
        if failure is None:
            return
        self._starting = None
        self._unwatch(outcome)
        os.close(outcome)
        if not failure and self._server.pidfd is None:
            failure = "the program ended at once"
        self._reply(request_id, failure, [] if failure else [self._server.pidfd or 0])
