"""pg_basebackup and pg_rewind: programs of the agent that read a whole server over the network.

In: a source and, for each part of the work, how long it takes. Out: at the end of each part what
the source holds, or why there is nothing. A program goes on while its agent is paused and ends with
an agent that is killed. It breaks when the source ends, and when the path stays cut for longer than
TCP waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from metako.model.ids import NodeId
from sim.heap import NS_PER_MS, NS_PER_S, Entry, Heap
from sim.network import Connection, Dial, Traffic

if TYPE_CHECKING:
    from sim.postgres.server import SimServer

LOGIN_NS = 3 * NS_PER_S
CUT_NS = 5 * NS_PER_S
"""`tcp_user_timeout`."""
LOOK_NS = 200 * NS_PER_MS

Part = tuple[int, "Callable[[SimServer], None]"]
"""Nanoseconds that a part of the work takes, and what takes a look at the source at its end."""


class Program:
    """One run of a program."""

    __slots__ = (
        *("_conn", "_cut_ns", "_dial", "_entry", "_parts", "_server", "_source", "error", "over"),
    )

    def __init__(self, server: SimServer, source: NodeId, parts: Sequence[Part]) -> None:
        self._server = server
        self._source = source
        self._parts = list(parts)  # that are not done
        self._conn: Connection | None = None
        self._dial: Dial | None = None
        self._cut_ns = 0  # since when the path is cut; 0: it is open
        self._entry: Entry | None = None
        self.over = False
        self.error = ""
        heap = server.heap
        if source == server.node:
            self._entry = heap.after(NS_PER_MS, self._fail, "the source is this server itself")
            return
        self._entry = heap.after(LOGIN_NS, self._fail, "the source does not answer")
        self._dial = server.env.network.connect(
            server.node, source, Traffic.REPLICATION, self._connected
        )

    def _connected(self, conn: Connection | None, why: str) -> None:
        self._dial = None
        if self.over:
            if conn is not None:
                conn.close(self._server.node)
        elif conn is None:
            self._fail(f"connection to {self._source}: {why}")
        else:
            self._conn = conn
            conn.on_closed[self._server.node] = partial(self._fail, "the source went away")
            conn.send(self._server.node, self._ask)

    def _ask(self) -> None:
        """The request is at the source."""
        source = self._server.env.server(self._source)
        conn = self._conn
        if source is None or conn is None or source.silent:
            return
        if not source.is_up:
            conn.close(self._source)
            return
        conn.send(self._source, self._accepted)

    def _accepted(self) -> None:
        if not self.over:
            Heap.cancel(self._entry)
            self._go_on()

    def _go_on(self) -> None:
        """Begin the next part."""
        duration_ns, _ = self._parts[0]
        self._entry = self._server.heap.after(duration_ns, self._finish)

    def _finish(self) -> None:
        """A part of the work is done, if nothing stands still."""
        server = self._server
        source, network = server.env.server(self._source), server.env.network
        now, kind = server.heap.now_ns, Traffic.REPLICATION
        cut = not (
            network.is_open(server.node, self._source, kind)
            and network.is_open(self._source, server.node, kind)
            and network.listening(self._source, kind) is not None
        )
        if not cut:
            self._cut_ns = 0
        elif not self._cut_ns:
            self._cut_ns = now
        if cut and now - self._cut_ns >= CUT_NS:
            self._fail("the connection timed out")
        elif cut or source is None or source.silent:
            self._entry = server.heap.after(LOOK_NS, self._finish)
        elif self._conn is None or not self._conn.open:
            self._fail("the source went away")
        else:
            _, read = self._parts.pop(0)
            read(source)
            if self._parts:
                self._go_on()
            else:
                self.end()

    def _fail(self, why: str) -> None:
        if not self.over:
            self.error = why
            self.end()

    def end(self) -> None:
        """End the program; also when it is killed."""
        self.over = True
        Heap.cancel(self._entry)
        if self._dial is not None:
            self._dial.cancel()
        if self._conn is not None:
            self._conn.close(self._server.node)
