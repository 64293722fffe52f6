"""A node for the supervisor's tests: a real server with its guard, driven by scripted targets."""

# Scripted nodes poll what they see, and may block while they set up and clean up.
# ruff: noqa: ASYNC110, ASYNC221, ASYNC240

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from metako.model.ids import Address, NodeId
from metako.model.postgres import PostgresObserved, ProcessState, Stopped
from metako.postgres.install import find_installation
from metako.postgres.osuser import make_dir, resolve_os_user
from metako.postgres.process import kill_server_processes, open_guard
from metako.postgres.settings import Bootstrap, ServerSettings
from metako.postgres.steps import StepFailed, StepFinished
from metako.postgres.supervisor import PostgresSupervisor

WAIT_S = 30.0
SECRET = b"a secret of the tests"
HBA = ("local all all scram-sha-256", "host all all all scram-sha-256")
PARAMETERS = (("shared_buffers", "16MB"), ("max_connections", "40"), ("wal_keep_size", "64MB"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """One supervisor with its server; `node.observed` is its newest observation."""

    def __init__(self, name, base, installation, user, *, parameters=()):
        self.name = NodeId(name)
        self.user, self.installation = user, installation
        self.base = base / name
        self.port = free_port()
        self.address = Address("127.0.0.1", self.port)
        self.settings = ServerSettings(
            node=self.name,
            data_dir=self.base / "data",
            state_dir=self.base / "state",
            socket_dir=base / f"s{name}",
            listen="127.0.0.1",
            port=self.port,
            secret=SECRET,
            parameters=(*PARAMETERS, *parameters),
            hba=HBA,
            bootstrap=Bootstrap(user="app", password="it's a secret", database="app"),
        )
        self.guard = None
        self.supervisor = None
        self.reports = []

    @property
    def observed(self) -> PostgresObserved:
        return self.supervisor.observed

    @property
    def failures(self):
        return [report for report in self.reports if isinstance(report, StepFailed)]

    @property
    def steps(self):
        return [report.step for report in self.reports if isinstance(report, StepFinished)]

    def duration_ms(self, step):
        found = [r.duration_ms for r in self.reports if getattr(r, "step", "") == step]
        return found[-1]

    async def serve(self, *, task_status=trio.TASK_STATUS_IGNORED):
        """Run guard and supervisor until cancelled."""
        make_dir(self.base, self.user, mode=0o755)
        async with open_guard(
            run_dir=self.base / "run",
            user=self.user,
            data_dir=self.base / "data",
            orphan_timeout_s=60.0,
        ) as guard:
            self.guard = guard
            self.supervisor = PostgresSupervisor(
                settings=self.settings,
                installation=self.installation,
                user=self.user,
                guard=guard,
                poll_interval_s=0.1,
            )
            self.supervisor.set_members([NodeId("a"), NodeId("b"), NodeId("c")])
            async with trio.open_nursery() as nursery:
                await nursery.start(self.supervisor.run)
                nursery.start_soon(self._collect)
                task_status.started()

    async def _collect(self):
        async for report in self.supervisor.observations:
            if not isinstance(report, PostgresObserved):
                self.reports.append(report)

    async def arm(self, term, seconds=120.0):
        deadline = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + round(seconds * 1e9)
        await self.guard.arm(term, deadline)

    async def until(self, condition, what="", seconds=WAIT_S):
        """Wait until `condition(observed)`; fail with what was seen and what failed."""
        with trio.move_on_after(seconds):
            while not condition(self.observed):
                await trio.sleep(0.005)  # there is no event for "the picture changed"
            return self.observed
        tail = self.log()[-3000:]
        raise AssertionError(
            f"{self.name}: not {what}: {self.observed}\n{self.reports[-12:]}\n"
            f"{self.supervisor._facts}\n{tail}"
        )

    def log(self):
        """Return what the server has logged so far."""
        path = Path(self.supervisor.log_path)
        return path.read_text(errors="replace") if path.exists() else ""

    async def target(self, target, condition, what="", seconds=WAIT_S):
        self.supervisor.set_target(target)
        return await self.until(condition, what or str(target), seconds)

    async def stop(self):
        """Stop the server whatever its state, then the guard."""
        with trio.move_on_after(20, shield=True):
            await self.target(
                Stopped(fast=False), lambda o: o.process is ProcessState.STOPPED, seconds=15
            )
            await self.guard.shutdown()

    def kill_postmaster(self):
        os.kill(self.guard.status.postmaster_pid, signal.SIGKILL)

    async def psql(self, statement):
        """Run SQL as the superuser; return what it printed."""
        program = shutil.which("psql") or str(self.installation.program("psql"))
        argv = [program, "-XAtq", "-h", str(self.settings.socket_dir), "-p", str(self.port)]
        argv += ["-U", "postgres", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", statement]
        done = await trio.run_process(argv, capture_stdout=True, capture_stderr=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    async def can_log_in(self):
        """Return whether an application gets in by its password."""
        program = shutil.which("psql") or str(self.installation.program("psql"))
        argv = [program, "-XAtq", "-d", f"host=127.0.0.1 port={self.port} user=app dbname=app"]
        argv += ["-c", "select 1"]
        done = await trio.run_process(
            argv,
            env={**os.environ, "PGPASSWORD": "it's a secret"},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        return done.returncode == 0


@asynccontextmanager
async def nodes(names, *, bindir=None, parameters=()):
    """Run nodes in a directory of their own; leave no process and no file behind."""
    user = resolve_os_user(None)
    base = Path(tempfile.mkdtemp(prefix="mk", dir="/tmp"))
    base.chmod(0o755)
    installation = find_installation(bindir, user, base / "cache")
    made = [Node(name, base, installation, user, parameters=parameters) for name in names]
    failed = None
    try:
        async with trio.open_nursery() as nursery:
            for node in made:
                await nursery.start(node.serve)
            try:
                yield made
            except BaseException as error:  # noqa: BLE001 - raised again, outside the group
                failed = error
            for node in made:
                await node.stop()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            for node in made:
                await kill_server_processes(node.settings.data_dir)
        if os.environ.get("METAKO_TEST_KEEP"):
            subprocess.run(["ls", "-la", str(base)], check=False)
        else:
            shutil.rmtree(base, ignore_errors=True)
    if failed is not None:
        raise failed
