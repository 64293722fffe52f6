"""The agent's side of the guard: start PostgreSQL, arm the fence, know when it is gone.

Input: calls of the supervisor. Output: `GuardStatus`, replaced with every packet, and a bounded
channel of events. Invariants: the exit of the postmaster is seen by this process's own pidfd, so a
frozen guard cannot hide it; `status.gone` is the guard's word after waitpid found no child left.
Leaving the context only closes the connection: guard and server stay for the next agent.

Does not know terms beyond passing them on, nor SQL, nor what the server is for.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from metako.guard import packets
from metako.guard.packets import GuardStatus
from metako.guard.watchdog import Wish
from metako.model.errors import DataDirectoryError
from metako.model.watchdog import WatchdogSeen
from metako.postgres import guardlink
from metako.postgres.guardevents import Exited, Fenced, Gone, GuardEvent, GuardLost
from metako.postgres.guardlink import GuardLostError, GuardRefusedError, GuardUnresponsiveError
from metako.postgres.osuser import OsUser
from metako.postgres.sweep import ServerNotGoneError, kill_server_processes, server_processes
from metako.postgres.watchdog import watchdog_seen

__all__ = [
    "Exited",
    "Fenced",
    "Gone",
    "Guard",
    "GuardEvent",
    "GuardLost",
    "GuardLostError",
    "GuardRefusedError",
    "GuardStatus",
    "GuardUnresponsiveError",
    "ServerNotGoneError",
    "kill_server_processes",
    "open_guard",
    "server_processes",
]

EVENTS_MAX = 64
REQUEST_TIMEOUT_S = 2.0
START_TIMEOUT_S = 10.0  # the forked child opens its log on a disk that may be slow
KILL_TIMEOUT_S = 5.0


class Guard:
    """One connection to the guard process. Methods raise GuardLostError when it is gone."""

    def __init__(self, link: guardlink.Link, wish: Wish | None = None) -> None:
        self.status = packets.status_from_json(link.greeting.get("status"), adopted=link.adopted)
        self.notes: tuple[str, ...] = tuple(map(str, link.greeting.get("notes", ())))
        """What the guard did while no agent was there, oldest first, for the log."""
        self.events_dropped = 0  # because nobody read them
        self._link = link
        self._wish = wish
        self._lost = False  # no more answers come: the guard ended, or the connection did
        self._guard_ended = trio.Event()
        self._numbers = itertools.count(1)
        self._replies: dict[int, guardlink.Reply] = {}
        self._changed = trio.Event()  # set and replaced with every status
        self._sender, self._receiver = trio.open_memory_channel[GuardEvent](EVENTS_MAX)
        self._nursery: trio.Nursery | None = None
        self._postmaster: tuple[int, int] | None = None  # pid and pidfd of the one being watched
        self._last_pid = self.status.last_pid  # whose events are passed on

    # ------------------------------------------------------------ what the supervisor calls

    @property
    def lost(self) -> bool:
        """Return whether the guard is gone for this connection."""
        return self._lost

    @property
    def watchdog(self) -> WatchdogSeen:
        """Return how the watchdog is, as of the guard's newest packet."""
        return watchdog_seen(self.status, self._wish, lost=self._lost)

    def events(self) -> trio.MemoryReceiveChannel[GuardEvent]:
        """Return the one channel of events. When EVENTS_MAX wait in it, later ones are dropped."""
        return self._receiver

    async def start(self, argv: Sequence[str], env: Mapping[str, str], log_path: Path) -> int:
        """Start the postmaster; return its pid once the program runs.

        Args:
            argv: `argv[0]` is the absolute path of `postgres`.
            env: the whole environment.
            log_path: appended to with stdout and stderr, made with mode 0600.

        If cancelled, the server may run nevertheless: `status` tells.

        Raises:
            GuardRefusedError: a server is there, the lease has ended, or the program cannot run.
        """
        reply = await self._request(
            "start",
            timeout_s=START_TIMEOUT_S,
            argv=[os.fspath(word) for word in argv],
            env=dict(env),
            log=os.path.abspath(log_path),  # noqa: ASYNC240 - looks at no disk
        )
        return int(reply["pid"])

    async def signal(self, sig: int) -> None:
        """Send a signal to the postmaster, at once and also if the guard is frozen.

        Raises:
            GuardRefusedError: there is no postmaster.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._postmaster is None:
            self._raise_if_lost()
            raise GuardRefusedError("PostgreSQL does not run")
        try:
            signal.pidfd_send_signal(self._postmaster[1], sig)
        except ProcessLookupError:
            raise GuardRefusedError("PostgreSQL does not run any more") from None
        if not self._lost:
            # Only so that the guard can measure how long it takes; nobody waits for the answer.
            with contextlib.suppress(OSError, packets.PacketError):
                await self._send({"id": 0, "do": "note_signal", "signal": int(sig)})

    async def kill_all(self) -> None:
        """SIGKILL every process of the server; return when all are reaped.

        If cancelled, the guard goes on killing.

        Raises:
            ServerNotGoneError: some were left after KILL_TIMEOUT_S. The guard goes on.
        """
        await self._request("kill_all")
        await self.wait_gone(KILL_TIMEOUT_S)

    async def arm(self, term: int, deadline_boot_ns: int, lease_boot_ns: int | None = None) -> None:
        """Set or move the deadline (CLOCK_BOOTTIME) at which the guard ends the server.

        A watchdog resets the machine by `lease_boot_ns`, by default the deadline. Returns when the
        guard has confirmed. If cancelled, the deadline may be set or not.

        Raises:
            GuardRefusedError: a lower term than one armed before, a fenced term, a watchdog that
                is required and not armed, or a deadline in the past, in which case the server is
                being fenced now.
        """
        lease_ns = deadline_boot_ns if lease_boot_ns is None else lease_boot_ns
        await self._request(
            "arm", term=term, deadline_boot_ns=deadline_boot_ns, lease_boot_ns=lease_ns
        )

    async def disarm(self, term: int) -> None:
        """Withdraw the deadline. Nothing then ends a server that is writable.

        Raises:
            GuardRefusedError: another term is armed.
        """
        await self._request("disarm", term=int(term))

    async def wait_gone(self, timeout_s: float) -> None:
        """Wait until every process of the server is reaped.

        Raises:
            ServerNotGoneError: it took longer. Nothing was done about it.
        """
        with trio.move_on_after(timeout_s):
            while not self.status.gone:
                self._raise_if_lost()
                await self._changed.wait()
            return
        raise ServerNotGoneError(
            f"PostgreSQL's processes are not all gone after {timeout_s:g} s "
            f"({self.status.children} left, postmaster {self.status.postmaster_pid or 'gone'})"
        )

    def end_guard(self) -> None:
        """SIGKILL the guard, also one that is stopped: the kernel then tells PostgreSQL to quit."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._link.guard_pidfd, signal.SIGKILL)

    async def wait_lost(self) -> None:
        """Wait until the guard is gone. PostgreSQL was then told to quit by the kernel."""
        while not self._lost:
            await self._changed.wait()

    async def refresh(self) -> GuardStatus:
        """Ask for the status, which is otherwise as of the last packet; return it."""
        await self._request("status")
        return self.status

    async def shutdown(self) -> None:
        """Have the guard exit and wait until it has.

        Raises:
            GuardRefusedError: PostgreSQL is not gone.
        """
        await self._request("shutdown")
        with trio.move_on_after(REQUEST_TIMEOUT_S):
            await self._guard_ended.wait()
            return
        raise GuardUnresponsiveError(f"the guard (pid {self.status.pid}) does not exit")

    # ------------------------------------------------------------ requests and packets

    def _raise_if_lost(self) -> None:
        if self._lost:
            raise GuardLostError(f"the guard (pid {self.status.pid}) is gone")

    async def _send(self, packet: dict[str, Any]) -> None:
        await self._link.connection.send(packets.encode(packet))

    async def _request(
        self, what: str, *, timeout_s: float = REQUEST_TIMEOUT_S, **fields: object
    ) -> dict[str, Any]:
        self._raise_if_lost()
        number = next(self._numbers)
        reply = self._replies[number] = guardlink.Reply()
        try:
            with trio.move_on_after(timeout_s):
                try:
                    await self._send({"id": number, "do": what, **fields})
                except OSError:
                    self._lose()
                except packets.PacketError as error:
                    raise GuardRefusedError(
                        f"the guard cannot be asked to {what}: {error}"
                    ) from None
                await reply.arrived.wait()
        finally:
            del self._replies[number]
        if reply.packet is None:
            self._raise_if_lost()
            raise GuardUnresponsiveError(
                f"the guard (pid {self.status.pid}) did not answer {what!r} within {timeout_s:g} s"
            )
        if not reply.packet.get("ok"):
            raise GuardRefusedError(f"the guard refused to {what}: {reply.packet.get('error')}")
        return reply.packet

    async def _read(self) -> None:
        """Receive packets until the guard is gone."""
        while True:
            try:
                data, descriptors = await guardlink.receive(self._link.connection)
                packet = packets.decode_untrusted(data) if data else None
            except (OSError, packets.PacketError):
                packet, descriptors = None, []
            if packet is None:
                self._lose()
                return
            self._receive(packet, descriptors)

    def _receive(self, packet: dict[str, Any], descriptors: list[int]) -> None:
        self.status = packets.status_from_json(packet["status"], adopted=self._link.adopted)
        if descriptors:
            assert self.status.postmaster_pid is not None
            self._last_pid = packet["pid"] = self.status.postmaster_pid
            self._watch_postmaster(self.status.postmaster_pid, descriptors[0])
        match packet.get("event"):
            case "exited" if packet["pid"] == self._last_pid:
                self._postmaster_exited(packet["pid"], packet["wait_status"])
            case "gone" if packet["pid"] == self._last_pid:
                self._emit(Gone(packet["pid"]))
            case "fenced":
                self._emit(Fenced(packet["term"], packet["reason"]))
        reply = self._replies.get(packet.get("re", 0))
        if reply is not None:
            reply.packet = packet
            reply.arrived.set()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _lose(self) -> None:
        if self._lost:
            return
        self._lost = True
        for reply in self._replies.values():
            reply.arrived.set()
        self._notify()
        self._emit(GuardLost())

    def _emit(self, event: GuardEvent) -> None:
        try:
            self._sender.send_nowait(event)
        except trio.WouldBlock:
            self.events_dropped += 1

    # ------------------------------------------------------------ watching by pidfd

    def _watch_postmaster(self, pid: int, pidfd: int) -> None:
        self._close_postmaster()
        self._postmaster = (pid, pidfd)
        assert self._nursery is not None
        self._nursery.start_soon(self._wait_postmaster, pid, pidfd)

    async def _wait_postmaster(self, pid: int, pidfd: int) -> None:
        with contextlib.suppress(trio.ClosedResourceError):  # the guard's word came first
            await trio.lowlevel.wait_readable(pidfd)
            self._postmaster_exited(pid, None)

    def _postmaster_exited(self, pid: int, status: int | None) -> None:
        if self._postmaster is not None and self._postmaster[0] == pid:
            self._close_postmaster()
            self._emit(Exited(pid, status))

    def _close_postmaster(self) -> None:
        if self._postmaster is not None:
            trio.lowlevel.notify_closing(self._postmaster[1])
            os.close(self._postmaster[1])
            self._postmaster = None

    async def _watch_guard(self) -> None:
        await trio.lowlevel.wait_readable(self._link.guard_pidfd)
        guardlink.reap(self.status.pid)
        self._guard_ended.set()
        self._lose()

    def _begin(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        nursery.start_soon(self._read)
        nursery.start_soon(self._watch_guard)
        if self.status.postmaster_pid is not None and self._link.postmaster_pidfd is not None:
            self._watch_postmaster(self.status.postmaster_pid, self._link.postmaster_pidfd)

    def _end(self) -> None:
        self._lost = True
        self._close_postmaster()
        self._sender.close()
        self._link.connection.close()
        os.close(self._link.guard_pidfd)


@asynccontextmanager
async def open_guard(
    *,
    run_dir: Path,
    user: OsUser,
    data_dir: Path,
    orphan_timeout_s: float,
    watchdog: Wish | None = None,
) -> AsyncIterator[Guard]:
    """Connect to the guard that listens in `run_dir`, or start one.

    Leaving the context, also by cancellation, closes the connection only; the guard stays as long
    as it has a server to watch. `Guard.shutdown` has it exit.

    Args:
        run_dir: made if missing; for the socket, the lock and the guard's log.
        user: who PostgreSQL and, once started, the guard run as.
        data_dir: the server's; the postmaster is started in it.
        orphan_timeout_s: how long a server without lease runs on when no agent comes back.
        watchdog: what resets the machine when the guard fails; None: nothing does.

    Raises:
        DataDirectoryError: the running guard watches another data directory.
        GuardRefusedError: another agent has the guard, or it runs as another user.
        GuardLostError: it could not be started, or does not answer.
    """
    link = await guardlink.connect_or_start(
        run_dir=run_dir,
        user=user,
        data_dir=data_dir,
        orphan_timeout_s=orphan_timeout_s,
        watchdog=watchdog,
    )
    guard = Guard(link, watchdog)
    failure: Exception | None = None
    try:
        wanted = os.path.abspath(data_dir)  # noqa: ASYNC240 - looks at no disk
        if guard.status.data_dir != wanted:
            raise DataDirectoryError(
                f"the guard in {run_dir} watches {guard.status.data_dir}, not {data_dir}: give "
                "every node a state directory of its own"
            )
        async with trio.open_nursery() as nursery:
            guard._begin(nursery)
            try:
                yield guard
            except Exception as error:  # noqa: BLE001 - raised again below, not in a group
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        guard._end()
    if failure is not None:
        raise failure
