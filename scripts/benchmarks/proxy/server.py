"""The one PostgreSQL that all contestants stand in front of: a metako cluster of one node.

So metako's proxy is measured as it is used, started and routed by its agent. The others are given
the port of the same server.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import trio
import yaml

from benchmarks.proxy.configs import HOST
from benchmarks.proxy.pgbench import TABLES_SQL
from metako.demo.client import PgClient
from metako.demo.cluster import LocalCluster
from metako.demo.layout import APP_USER, DATABASE, NodeLayout, node_config_text, plan_layout
from metako.demo.prepare import ensure_os_user, make_directory
from metako.demo.processes import Kind, node_by_kind, postmaster_pid
from metako.model.errors import MetakoError

TRUSTED_USER = "app_trust"
SHARED_BUFFERS = "256MB"  # more than the tables of scale 10
SESSIONS_SPARE = 40  # the agent's, ours, and the superuser's
INIT_TIMEOUT_S = 600.0
SQL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much room the server and the proxy need."""

    sessions_max: int  # on PostgreSQL
    clients_max: int  # of a proxy, at a time
    connections_max: int  # of a proxy, with those that clients have just closed
    processes_max: int  # of a proxy that has one for each client from the start on
    workers: int  # of metako's proxy


def config_text(text: str, size: Size) -> str:
    """Return a node's configuration, changed for the benchmark; JSON, which is YAML."""
    raw = yaml.safe_load(text)
    raw["postgresql"]["parameters"] = {
        "shared_buffers": SHARED_BUFFERS,
        "max_connections": size.sessions_max + SESSIONS_SPARE,
    }
    raw["postgresql"]["hba"] = [
        f"host {DATABASE} {TRUSTED_USER} {HOST}/32 trust",
        f"host {DATABASE} all {HOST}/32 scram-sha-256",
    ]
    raw["proxy"]["workers"] = size.workers
    raw["proxy"]["max_connections"] = size.connections_max
    return json.dumps(raw, indent=1) + "\n"


class BenchCluster(LocalCluster):
    """A cluster of one node with room for many sessions."""

    def __init__(self, size: Size, *, bindir: str | None) -> None:
        """Plan it in a new temporary directory. Raises `MetakoError` if there is no room for it."""
        layout = plan_layout(
            make_directory(), nodes=1, bindir=bindir, os_user=ensure_os_user(lambda _: None)
        )
        super().__init__(layout)
        self._size = size

    @property
    def one(self) -> NodeLayout:
        return self.nodes[0]

    def write_files(self) -> None:
        super().write_files()
        text = config_text(node_config_text(self.layout, self.one), self._size)
        self.one.config_path.write_text(text, encoding="utf-8")

    # Its processes

    def pids(self, kind: Kind) -> list[int]:
        return [process.pid for process in node_by_kind(self.one).get(kind, ())]

    def postmaster(self) -> int:
        """Return the postmaster's pid. Raises `MetakoError` if it does not run."""
        pid = postmaster_pid(self.one)
        if pid is None:
            raise MetakoError("PostgreSQL does not run")
        return pid

    def program(self, name: str) -> Path:
        """Return a program of the installation that the running server is of.

        Raises:
            MetakoError: it is not in that installation.
        """
        path = Path(os.readlink(f"/proc/{self.postmaster()}/exe")).with_name(name)
        if not path.exists():
            raise MetakoError(f"{path} is missing: install PostgreSQL's client programs")
        return path

    # Its data

    async def connect(self, port: int, *, user: str = APP_USER, timeout_s: float) -> PgClient:
        """Return a session by way of `port`. Raises as `PgClient.connect`."""
        return await PgClient.connect(
            HOST,
            port,
            user=user,
            password=self.layout.app_password,
            database=DATABASE,
            timeout_s=timeout_s,
        )

    async def prepare(self) -> None:
        """Create the role without a password; raises `MetakoError`."""
        await self.as_superuser(f"create role {TRUSTED_USER} login in role {APP_USER}")

    async def fill(self, scale: int) -> None:
        """Create all tables; raises `MetakoError`."""
        argv = [str(self.program("pgbench")), "-i", "-q", "-s", str(scale), "-h", HOST]
        argv += ["-p", str(self.one.postgres_port), "-U", APP_USER, DATABASE]
        await self.run(argv)
        client = await self.connect(self.one.postgres_port, timeout_s=SQL_TIMEOUT_S)
        with client:
            for statement in (*TABLES_SQL, "vacuum analyze bench_rows, bench_huge"):
                await client.query(statement, timeout_s=SQL_TIMEOUT_S)
        await self.as_superuser("checkpoint")

    async def verifier(self) -> str:
        """Return what PostgreSQL keeps of the application's password."""
        sql = f"select rolpassword from pg_authid where rolname = '{APP_USER}'"  # noqa: S608
        return (await self.as_superuser(sql)).strip()

    async def as_superuser(self, sql: str) -> str:
        """Run a statement by the server's own socket; return what psql prints.

        Raises:
            MetakoError: it failed.
        """
        # The fifth line of the postmaster's file is the directory of its socket.
        lines = (self.one.data_dir / "postmaster.pid").read_text(encoding="utf-8").split("\n")
        argv = [str(self.program("psql")), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
        argv += ["-h", lines[4], "-p", str(self.one.postgres_port), "-U", "postgres"]
        return await self.run([*argv, "-d", "postgres", "-c", sql])

    async def run(self, argv: list[str]) -> str:
        """Run a client program and return its output. If cancelled, it is ended.

        Raises:
            MetakoError: it failed, or took too long.
        """
        try:
            with trio.fail_after(INIT_TIMEOUT_S):
                result = await trio.run_process(
                    argv,
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in the terminal is for us
                    env=self.client_environment(),
                )
        except trio.TooSlowError:
            raise MetakoError(f"{argv[0]} takes longer than {INIT_TIMEOUT_S:g} s") from None
        if result.returncode != 0:
            text = result.stderr.decode(errors="replace").strip()
            raise MetakoError(f"{Path(argv[0]).name} failed: {text[-500:]}")
        return result.stdout.decode(errors="replace")

    def client_environment(self) -> dict[str, str]:
        """Return an environment in which libpq has the password and no other wishes of the user."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        own = {"PGPASSWORD": self.layout.app_password, "PGGSSENCMODE": "disable"}
        # Nobody speaks TLS here. A contestant that does brings its own wish: see `Contestant`.
        return {**kept, **own, "PGSSLMODE": "disable", "LC_ALL": "C"}
