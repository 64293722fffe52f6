"""The one PostgreSQL that all contestants stand in front of: a metako cluster of one node.

So metako's proxy is measured as it is used, started and routed by its agent. The others are given
the port of the same server.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
import yaml

from benchmarks.proxy.configs import HOST
from benchmarks.proxy.pgbench import TABLES_SQL
from benchmarks.proxy.results import DIRECT_TLS, speaks_tls
from benchmarks.proxy.tls import Papers, TlsClient, make_papers
from metako.demo.client import PgClient
from metako.demo.cluster import LocalCluster
from metako.demo.layout import APP_USER, DATABASE, NodeLayout, node_config_text, plan_layout
from metako.demo.prepare import ensure_os_user, make_directory
from metako.demo.processes import Kind, node_by_kind, postmaster_pid
from metako.model.errors import MetakoError
from metako.model.sslmode import SslMode

TRUSTED_USER = "app_trust"
SHARED_BUFFERS = "256MB"  # more than the tables of scale 10
SESSIONS_SPARE = 40  # the agent's, ours, and the superuser's
INIT_TIMEOUT_S = 600.0
SQL_TIMEOUT_S = 30.0
RELOAD_LOOKS_MAX = 50
RELOAD_LOOK_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Size:
    """How much room the server and the proxy need."""

    sessions_max: int  # on PostgreSQL
    clients_max: int  # of a proxy, at a time
    connections_max: int  # of a proxy, with those that clients have just closed
    processes_max: int  # of a proxy that has one for each client from the start on
    workers: int  # of metako's proxy


@dataclass(frozen=True, slots=True)
class Tls:
    """Who offers TLS."""

    papers: Papers  # of everybody who does
    server: bool  # PostgreSQL too, to clients that come to it


def tls_for(contestants: Sequence[str]) -> Tls | None:
    """Return what has to be offered to the clients of all of these; None if it is nothing."""
    if not any(map(speaks_tls, contestants)):
        return None
    return Tls(make_papers(), server=DIRECT_TLS in contestants)


def config_text(
    text: str, size: Size, *, papers: tuple[Path, Path] | None = None, server_tls: bool = False
) -> str:
    """Return a node's configuration, changed for the benchmark; JSON, which is YAML.

    Args:
        papers: certificate and key that the proxy shows to clients; None: it offers no TLS.
        server_tls: whether PostgreSQL will speak TLS. The proxy would use it, and what it costs to
            reach PostgreSQL would depend on who else takes part.
    """
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
    if papers is not None:
        cert_file, key_file = (str(path) for path in papers)
        raw["tls"] = {"enabled": True, "cert_file": cert_file, "key_file": key_file}
    if server_tls:
        raw["proxy"]["server_tls"] = SslMode.DISABLE.value
    return json.dumps(raw, indent=1) + "\n"


class BenchCluster(LocalCluster):
    """A cluster of one node with room for many sessions."""

    def __init__(self, size: Size, *, bindir: str | None, tls: Tls | None = None) -> None:
        """Plan it in a new temporary directory. Raises `MetakoError` if there is no room for it."""
        layout = plan_layout(
            make_directory(), nodes=1, bindir=bindir, os_user=ensure_os_user(lambda _: None)
        )
        super().__init__(layout)
        self._size = size
        self.tls = tls

    @property
    def one(self) -> NodeLayout:
        return self.nodes[0]

    def write_files(self) -> None:
        super().write_files()
        papers = None
        if self.tls is not None:
            papers = self.tls.papers.write(self.layout.directory / "proxy")
        text = config_text(
            node_config_text(self.layout, self.one),
            self._size,
            papers=papers,
            server_tls=self.tls is not None and self.tls.server,
        )
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

    async def connect(
        self, port: int, *, user: str = APP_USER, timeout_s: float, tls: bool = False
    ) -> PgClient:
        """Return a session by way of `port`. Raises as `PgClient.connect`."""
        return await (TlsClient if tls else PgClient).connect(
            HOST,
            port,
            user=user,
            password=self.layout.app_password,
            database=DATABASE,
            timeout_s=timeout_s,
        )

    async def prepare(self) -> None:
        """Create the role without a password, and offer TLS if that is wanted of the server.

        Raises:
            MetakoError: PostgreSQL refuses.
        """
        await self.as_superuser(f"create role {TRUSTED_USER} login in role {APP_USER}")
        if self.tls is None or not self.tls.server or not await self.knows_tls():
            return
        uid, gid = -1, -1
        if self.layout.os_user is not None:
            entry = pwd.getpwnam(self.layout.os_user)
            uid, gid = entry.pw_uid, entry.pw_gid
        paths = self.tls.papers.write(self.one.data_parent / "server", uid=uid, gid=gid)
        # Whether it was built with TLS is known only now that it runs, and is no reason to fail.
        for name, path in zip(("ssl_cert_file", "ssl_key_file"), paths, strict=True):
            await self.as_superuser(f"alter system set {name} = '{path}'")
        await self.as_superuser("alter system set ssl = on")
        await self.as_superuser("select pg_reload_conf()")
        for _ in range(RELOAD_LOOKS_MAX):
            if (await self.as_superuser("show ssl")).strip() == "on":
                return
            await trio.sleep(RELOAD_LOOK_INTERVAL_S)
        raise MetakoError("PostgreSQL does not begin with TLS")

    async def knows_tls(self) -> bool:
        """Return whether PostgreSQL, and with it its client programs, was built with TLS."""
        return bool((await self.as_superuser("show ssl_library")).strip())

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

    def client_environment(self, *, tls: bool = False) -> dict[str, str]:
        """Return an environment in which libpq has the password and no other wishes of the user."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        own = {"PGPASSWORD": self.layout.app_password, "PGGSSENCMODE": "disable", "LC_ALL": "C"}
        if not tls:
            return {**kept, **own, "PGSSLMODE": "disable"}
        # What the user has in ~/.postgresql would be shown and looked at in each login.
        nowhere = str(self.layout.directory / "none")
        files = dict.fromkeys(("PGSSLROOTCERT", "PGSSLCRL", "PGSSLCERT", "PGSSLKEY"), nowhere)
        return {**kept, **own, **files, "PGSSLMODE": "require"}
