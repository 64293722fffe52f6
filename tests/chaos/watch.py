"""What the rig sees of nodes and servers while it breaks them.

In: the cluster's files and ports, past proxies and past every fault of the network. Out: views for
whoever chooses nodes, events for whoever waits for them, and all of it in the record. A node that
does not answer is "unknown", one whose host was switched off "down".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import psycopg
import trio

from chaos.cluster import LabCluster
from chaos.lab import NAMESPACES
from chaos.node import RealNode
from chaos.recorder import Recorder
from metako.demo.layout import APP_USER, DATABASE
from metako.demo.logs import LogTail
from metako.demo.view import NodeView

VIEW_EVERY_S = 0.1
PROBE_EVERY_S = 0.1
LOG_EVERY_S = 0.02
PROBE_TIMEOUT_S = 1
_QUESTION = "select pg_is_in_recovery(), pg_postmaster_start_time()::text"
EVENTS_SHOWN = frozenset({"INFO", "WARNING", "ERROR", "CRITICAL"})


class Watch:
    """See the module's docstring."""

    def __init__(
        self,
        cluster: LabCluster,
        nodes: Sequence[RealNode],
        recorder: Recorder,
        on_event: Callable[[str, str], None],
    ) -> None:
        """Prepare to watch.

        Args:
            on_event: told the name and the node of every event in a log, in the order of the log.
        """
        self._cluster = cluster
        self._nodes = nodes
        self._recorder = recorder
        self._on_event = on_event
        self._shown: dict[str, dict[str, object]] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._views)
            nursery.start_soon(self._logs)
            for node in self._nodes:
                if not node.witness:
                    nursery.start_soon(self._probe, node)

    # ------------------------------------------------------------ agents

    async def _views(self) -> None:
        while True:
            views = await self._cluster.views()
            now = time.monotonic()
            for node in self._nodes:
                view = views.get(node.name)
                if view is not None:
                    node.view = (now, view)
                self._show(node, view)
            await trio.sleep(VIEW_EVERY_S)

    def _show(self, node: RealNode, view: NodeView | None) -> None:
        facts = _facts(node, view)
        if self._shown.get(node.name) != facts:
            self._shown[node.name] = facts
            self._recorder.write_all("node", {"n": node.name, **facts})

    async def _logs(self) -> None:
        tails = {node.name: LogTail(node.name, node.layout.log_path) for node in self._nodes}
        walls = {node.name: node.clock.wall for node in self._nodes}
        while True:
            now_s = time.time()
            for name, tail in tails.items():
                for event in tail.read_new():
                    if not event.name:
                        continue
                    self._on_event(event.name, name)
                    if event.level.upper() in EVENTS_SHOWN:
                        self._recorder.write(
                            "log",
                            at_s=self._recorder.at_s(walls[name].true_s(event.time_s, now_s)),
                            n=name,
                            name=event.name,
                            text=event.message,
                            fields=_plain(event.fields),
                        )
            await trio.sleep(LOG_EVERY_S)

    # ------------------------------------------------------------ servers

    async def _probe(self, node: RealNode) -> None:
        """Ask a server itself whether it is in recovery, for as long as the rig runs."""
        asker = _Asker(node, self._cluster.layout.app_password)
        namespace = NAMESPACES / self._cluster.lab.namespace(node.name)
        try:
            while True:
                asked = self._recorder.now_s()
                try:
                    answer = await self._cluster.callers.call(namespace, asker.ask)
                except OSError:
                    answer = None
                self._recorder.write(
                    "probe",
                    n=node.name,
                    asked=round(asked, 6),
                    answered=round(self._recorder.now_s(), 6),
                    in_recovery=None if answer is None else answer.in_recovery,
                    process="" if answer is None else answer.process,
                )
                await trio.sleep(PROBE_EVERY_S)
        finally:
            asker.close()


class _Answer(NamedTuple):
    """What a server says of itself."""

    in_recovery: bool
    process: str  # when its postmaster was started, which tells one life of a server from the next


class _Asker:
    """One connection to a server, made anew whenever it has ended. For one thread at a time."""

    def __init__(self, node: RealNode, password: str) -> None:
        self._connect = partial(
            psycopg.connect,
            host=node.layout.host,
            port=node.layout.postgres_port,
            user=APP_USER,
            password=password,
            dbname=DATABASE,
            connect_timeout=PROBE_TIMEOUT_S + 1,
            autocommit=True,
            options=f"-c statement_timeout={PROBE_TIMEOUT_S}s",
            tcp_user_timeout=PROBE_TIMEOUT_S * 1000,
        )
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def ask(self) -> _Answer | None:
        """Return what the server says of itself; None if it gives no answer."""
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            row = self._connection.execute(_QUESTION).fetchone()
        except psycopg.Error:
            self.close()
            return None
        return _Answer(bool(row[0]), str(row[1])) if row is not None else None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _facts(node: RealNode, view: NodeView | None) -> dict[str, object]:
    """Return what the record says of a node; without its view that is little."""
    if view is None:
        role = "unknown" if node.host_up else "down"
        return {"role": role, "state": "", "term": 0, "timeline": 0, "leader": ""}
    own = view.member(view.node)
    known = view.server_role in ("primary", "standby")
    return {
        "role": view.server_role if known else "unknown",
        "state": "witness" if node.witness else own.server_state if own is not None else "",
        "term": view.term,
        "timeline": view.timeline,
        "leader": view.leader,
    }


def _plain(fields: object) -> dict[str, object]:
    known = ("term", "reason", "timeline", "votes", "leader", "candidate", "data", "nodes")
    assert isinstance(fields, dict)
    return {key: fields[key] for key in known if key in fields}
