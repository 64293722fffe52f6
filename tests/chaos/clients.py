"""The client processes of a run: who there is, where they live, and that they end.

In: the lab, the cluster's layout. Out: files with what each client saw. For every node there is one
client elsewhere that comes through its proxy, one on the node's own host that does so too, so that
the minority side of a partition has clients as well, and one there that goes past the proxy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import trio

from chaos.cluster import LabCluster
from chaos.inside import inside
from chaos.lab import CLIENT, NAMESPACES, Lab
from metako.demo.layout import APP_USER, DATABASE, Layout, NodeLayout

STOP_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 5.0
POLL_S = 0.05
CREATE_TIMEOUT_S = 20
TABLE = (
    "create table if not exists chaos (key int not null, value text not null,"
    " at timestamptz not null default clock_timestamp())"
)
_ROOT = Path(__file__).resolve().parents[2]


class Clients:
    """The clients of one run."""

    def __init__(
        self, lab: Lab, layout: Layout, directory: Path, start_s: float, rate: float
    ) -> None:
        self.parts: list[Path] = []  # the files that they write
        self._lab = lab
        self._layout = layout
        self._directory = directory
        self._start_s = start_s
        self._rate = rate
        self._password = directory / "password"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self, cluster: LabCluster) -> None:
        """Make the table and start every client."""
        primary = await cluster.wait_primary(timeout_s=CREATE_TIMEOUT_S)
        node = cluster.node(primary.node)
        namespace = NAMESPACES / self._lab.namespace(node.name)
        await trio.to_thread.run_sync(inside, namespace, lambda: self._create_table(node))
        self._password.touch(mode=0o600)
        self._password.write_text(self._layout.app_password)
        number = 0
        for node in self._layout.nodes:
            for home, via, program in (
                (CLIENT, "proxy", "client_asyncpg"),
                (node.name, "proxy", "client_psycopg"),
                (node.name, "direct", "client_asyncpg"),
            ):
                if via == "direct" and node.witness:
                    continue
                number += 1
                self._start_one(f"c{number}", node, home, via, program)

    def _create_table(self, node: NodeLayout) -> None:
        with psycopg.connect(
            host=node.host,
            port=node.postgres_port,
            user=APP_USER,
            password=self._layout.app_password,
            dbname=DATABASE,
            autocommit=True,
            connect_timeout=CREATE_TIMEOUT_S,
        ) as connection:
            connection.execute(TABLE)

    def _start_one(self, name: str, node: NodeLayout, home: str, via: str, program: str) -> None:
        out = self._directory / f"client-{name}.jsonl"
        port = node.proxy_port if via == "proxy" else node.postgres_port
        argv = [sys.executable, "-m", f"chaos.{program}", "--name", name]
        argv += ["--host", node.host, "--port", str(port), "--via", f"{via}:{node.name}"]
        argv += ["--start-mono", repr(self._start_s), "--out", str(out), "--rate", str(self._rate)]
        argv += ["--user", APP_USER, "--database", DATABASE]
        argv += ["--password-file", str(self._password), "--parent", str(os.getpid())]
        path = os.pathsep.join((str(_ROOT / "tests"), str(_ROOT)))
        with (self._directory / f"client-{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                self._lab.argv(home, argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        self.parts.append(out)

    def failures(self) -> list[str]:
        """Return the clients that have ended of their own accord, with their exit status."""
        return [
            f"{name} ended with status {process.returncode}"
            for name, process in self._processes.items()
            if process.poll() not in (None, 0)
        ]

    async def stop(self) -> None:
        """Let every client finish what it is at, and end."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_TIMEOUT_S):
            for process in self._processes.values():
                while process.poll() is None:  # noqa: ASYNC110 - a child of no trio process
                    await trio.sleep(POLL_S)

    async def kill(self) -> None:
        """Kill every client that is left."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(KILL_TIMEOUT_S)
