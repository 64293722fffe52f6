"""What every node has in the end: all rows, a hash of them, and whether its files are sound.

In: a cluster at peace, past its proxies. Out: `final` lines in the record, and every row of every
node in a file beside it. The checksums of pages are verified once the servers are stopped.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import trio

from chaos.cluster import LabCluster
from chaos.lab import NAMESPACES
from chaos.node import RealNode
from chaos.recorder import Recorder
from metako.demo.layout import APP_USER, DATABASE
from metako.demo.view import active_primary, streaming_standbys

ROWS_TIMEOUT_S = 60.0
CATCH_UP_S = 30.0
RETRY_S = 0.5
CHECKSUMS_TIMEOUT_S = 120.0
_ROWS = "select key, value from chaos order by key, value"


@dataclass(slots=True)
class _Final:
    rows: int = 0
    hash: str = ""
    timeline: int = 0
    streaming: bool = False
    checksums: str = "skipped: the server was not stopped"
    values_file: str = ""


class Finals:
    """The end of one run."""

    def __init__(
        self,
        cluster: LabCluster,
        nodes: Sequence[RealNode],
        recorder: Recorder,
        directory: Path,
        programs: Path,
    ) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._recorder = recorder
        self._directory = directory
        self._programs = programs
        self._finals = {node.name: _Final() for node in nodes}

    async def take(self) -> None:
        """Read all rows of all nodes, once the standbys have had time to replay everything."""
        views = await self._cluster.views()
        primary = active_primary(views)
        streaming = set() if primary is None else {primary.node, *streaming_standbys(primary)}
        async with trio.open_nursery() as nursery:
            for node in self._nodes:
                self._finals[node.name].streaming = node.name in streaming
                if node.name in views:
                    self._finals[node.name].timeline = views[node.name].timeline
                nursery.start_soon(self._take, node)
        if primary is None:
            return
        wanted = self._finals[primary.node].hash
        deadline = time.monotonic() + CATCH_UP_S
        while time.monotonic() < deadline:
            behind = [node for node in self._nodes if self._finals[node.name].hash != wanted]
            if not behind:
                return
            await trio.sleep(RETRY_S)
            for node in behind:
                await self._take(node)

    async def _take(self, node: RealNode) -> None:
        namespace = NAMESPACES / self._cluster.lab.namespace(node.name)
        with trio.move_on_after(ROWS_TIMEOUT_S):
            try:
                await self._cluster.callers.call(namespace, partial(self._read, node))
            except psycopg.Error as error:
                self._finals[node.name].hash = f"cannot be read: {error}"

    def _read(self, node: RealNode) -> None:
        final = self._finals[node.name]
        path = self._directory / f"final-{node.name}.txt"
        digest, rows = hashlib.md5(usedforsecurity=False), 0
        with (
            psycopg.connect(
                host=node.layout.host,
                port=node.layout.postgres_port,
                user=APP_USER,
                password=self._cluster.layout.app_password,
                dbname=DATABASE,
                connect_timeout=5,
            ) as connection,
            path.open("w", encoding="utf-8") as out,
        ):
            for key, value in connection.execute(_ROWS):
                line = f"{key} {value}\n"
                digest.update(line.encode())
                out.write(line)
                rows += 1
        final.rows, final.hash, final.values_file = rows, digest.hexdigest(), path.name

    async def checksums(self) -> None:
        """Verify the pages of every data directory, and write down what every node has."""
        for node in self._nodes:
            final = self._finals[node.name]
            final.checksums = await trio.to_thread.run_sync(self._checksums, node)
            self._recorder.write(
                "final",
                n=node.name,
                rows=final.rows,
                hash=final.hash,
                timeline=final.timeline,
                streaming=final.streaming,
                checksums=final.checksums,
                values_file=final.values_file,
            )

    def _checksums(self, node: RealNode) -> str:
        if not node.layout.data_dir.is_dir():
            return "failed: there is no data directory"
        argv = [str(self._programs / "pg_checksums"), "--check", "-D", str(node.layout.data_dir)]
        user = self._cluster.layout.os_user
        try:
            done = subprocess.run(
                argv,
                user=user,
                group=user,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
                timeout=CHECKSUMS_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"skipped: {error}"
        if done.returncode == 0:
            return "ok"
        said = done.stderr.strip().splitlines()[-1:] or [str(done.returncode)]
        return f"{'skipped' if 'must be shut down' in done.stderr else 'failed'}: {said[0]}"
