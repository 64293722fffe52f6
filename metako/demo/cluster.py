"""Start, break and inspect a whole cluster on this machine.

`LocalCluster` owns a directory and the processes that run from it: the agents are its children,
the guards, workers and servers belong to the agents and are found through /proc. Faults are real
signals. Invariant: `stop` returns only when no process of any node is left, or raises. The object
holds no task and no loop, so it can be used from several `trio.run` one after the other.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import trio

from metako.demo.layout import (
    RECORD_NAME,
    Layout,
    NodeLayout,
    node_config_text,
    record_text,
)
from metako.demo.logs import last_lines
from metako.demo.processes import (
    Kind,
    Process,
    kill_all,
    kind_of,
    node_by_kind,
    node_processes,
    postmaster_pid,
    process_table,
    resume_all,
    stop_all,
)
from metako.demo.view import NodeView, active_primary, fetch_views, streaming_standbys
from metako.model.errors import (
    FencedError,
    MetakoError,
    UnreachableError,
)

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
POLL_INTERVAL_S = 0.1
LOG_LINES_SHOWN = 8

# The agents must not outlive us if we are killed. The kernel tells a child of its parent's death
# only if the child itself asks, so a tiny program asks and then becomes the agent.
_LAUNCHER = (
    "import ctypes,os,signal,sys;"
    "ctypes.CDLL(None,use_errno=True).prctl(1,signal.SIGTERM,0,0,0);"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1);"
    "os.execv(sys.argv[2],sys.argv[2:])"
)


class LocalCluster:
    """The nodes of one layout. Methods that wait are bounded and raise `MetakoError`s."""

    def __init__(self, layout: Layout, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.layout = layout
        self._say = say
        self._agents: dict[str, subprocess.Popen[bytes]] = {}  # the latest agent of each node

    @property
    def nodes(self) -> tuple[NodeLayout, ...]:
        return self.layout.nodes

    def node(self, name: str) -> NodeLayout:
        return self.layout.node(name)

    # Starting

    def write_files(self) -> None:
        """Create the directories and write the configuration files and the record."""
        uid, gid = os.geteuid(), os.getegid()
        if os.geteuid() == 0 and self.layout.os_user:
            entry = pwd.getpwnam(self.layout.os_user)
            uid, gid = entry.pw_uid, entry.pw_gid
        self.layout.directory.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            node.directory.mkdir(exist_ok=True)
            node.directory.chmod(0o755)
            node.data_parent.mkdir(mode=0o700, exist_ok=True)
            os.chown(node.data_parent, uid, gid)
            _write_private(node.config_path, node_config_text(self.layout, node))
        _write_private(self.layout.directory / RECORD_NAME, record_text(self.layout))

    def start_agent(self, name: str) -> None:
        """Start the node's agent. Call it from a thread that outlives the cluster: the main one."""
        node = self.node(name)
        previous = self._agents.get(name)
        if previous is not None and previous.poll() is None:
            raise MetakoError(f"the agent of {name} runs already (pid {previous.pid})")
        argv = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), sys.executable]
        argv += ["-m", "metako", "run", "-c", str(node.config_path)]
        argv = self.launch_argv(name, argv)
        with node.stderr_path.open("ab") as stderr:
            self._agents[name] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=node.directory,
                env=self.environment(name),
                start_new_session=True,  # Ctrl-C in the terminal is for us, not for the agents
            )

    def launch_argv(self, name: str, argv: list[str]) -> list[str]:
        """Return what starts the agent of a node; a cluster that is not all on one host adds to it.

        It must become the agent by exec: the pid is the agent's, and its parent is this process.
        """
        return argv

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a node's agent: ours, with this very program in its path."""
        environment = {k: v for k, v in os.environ.items() if k != "METAKO_GOSSIP_KEY"}
        package_parent = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(
            p for p in (package_parent, os.environ.get("PYTHONPATH")) if p
        )
        return environment

    async def start(self, *, timeout_s: float = START_TIMEOUT_S) -> NodeView:
        """Start every node; return the primary's view once all standbys stream.

        Raises:
            UnreachableError: it did not come up; the text ends with the last log lines.
        """
        self.write_files()
        for node in self.nodes:
            self.start_agent(node.name)
        return await self.wait_healthy(timeout_s=timeout_s)

    # Looking

    async def views(self) -> dict[str, NodeView]:
        return await fetch_views(self.nodes)

    def agent_exit(self, name: str) -> int | None:
        """Return the exit status of the node's latest agent; None while it runs or never ran."""
        agent = self._agents.get(name)
        return None if agent is None else agent.poll()

    def processes(self) -> dict[str, list[Process]]:
        """Return the processes of each node."""
        table = process_table()
        return {node.name: node_processes(node.directory, table) for node in self.nodes}

    def describe_processes(self) -> str:
        """Return one line a process, for a person."""
        table = process_table()
        return "\n".join(
            f"{node.name} {process.pid} {kind_of(process, table)} {process.state}"
            f" {' '.join(process.argv)[:120]}"
            for node in self.nodes
            for process in node_processes(node.directory, table)
        )

    def describe_logs(self, lines: int = LOG_LINES_SHOWN) -> str:
        """Return the end of each node's files, for a person who looks for the reason."""
        parts = []
        for node in self.nodes:
            for path in (node.stderr_path, node.log_path):
                tail = last_lines(path, lines)
                if tail:
                    parts.append("\n".join([f"--- {path}", *tail]))
        return "\n".join(parts)

    # Waiting

    async def wait_until(
        self,
        condition: Callable[[Mapping[str, NodeView]], NodeView | None],
        what: str,
        *,
        timeout_s: float,
    ) -> NodeView:
        """Poll every node's status until `condition` returns a view; return that.

        Raises:
            UnreachableError: not within the time, or an agent that must run has ended.
        """
        shown = ""
        views: dict[str, NodeView] = {}
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            self._check_agents()
            views = await self.views()
            found = condition(views)
            if found is not None:
                return found
            progress = _progress(views)
            if progress != shown:
                shown = progress
                self._say(f"waiting for {what}: {progress}")
            await trio.sleep(POLL_INTERVAL_S)
        raise UnreachableError(
            f"no {what} within {timeout_s:.0f} s ({_progress(views)})\n{self.describe_logs()}"
        )

    async def wait_healthy(self, *, timeout_s: float) -> NodeView:
        """Wait for an active primary that every other node streams from, with S not empty."""

        def healthy(views: Mapping[str, NodeView]) -> NodeView | None:
            primary = active_primary(views)
            if primary is None or len(views) < len(self.nodes):
                return None
            others = len(self.layout.data_nodes) - 1
            if len(streaming_standbys(primary)) < others or len(primary.sync) < others:
                return None
            return primary

        return await self.wait_until(
            healthy, "primary with every standby streaming", timeout_s=timeout_s
        )

    async def wait_primary(
        self, *, timeout_s: float, other_than: str | None = None, above_timeline: int = 0
    ) -> NodeView:
        """Wait for an active primary on a newer timeline than `above_timeline`.

        Every promotion reserves a new timeline, so that tells a new primary from the old one even
        if it is the same node.
        """

        def elected(views: Mapping[str, NodeView]) -> NodeView | None:
            primary = active_primary(views)
            if primary is None or primary.node == other_than:
                return None
            return primary if primary.timeline > above_timeline else None

        return await self.wait_until(elected, "new primary", timeout_s=timeout_s)

    async def wait_streaming(self, name: str, *, timeout_s: float) -> NodeView:
        """Wait until the node streams from the active primary and counts in S again."""

        def joined(views: Mapping[str, NodeView]) -> NodeView | None:
            primary = active_primary(views)
            if primary is None or name not in streaming_standbys(primary):
                return None
            return primary if name in primary.sync and name in views else None

        return await self.wait_until(joined, f"streaming {name}", timeout_s=timeout_s)

    def _check_agents(self) -> None:
        for name, agent in self._agents.items():
            # A negative status is a signal, and signals are what the faults are made of.
            if (status := agent.poll()) is not None and status > 0:
                if said := self._last_words(name):
                    raise UnreachableError(f"the agent of {name} did not start: {said}")
                raise UnreachableError(
                    f"the agent of {name} ended with status {status}\n{self.describe_logs()}"
                )

    def _last_words(self, name: str) -> str:
        """Return what an agent told its operator before it ended; "" if nothing."""
        mark = "metako: "
        lines = last_lines(self.node(name).stderr_path, 1)
        return lines[0].removeprefix(mark) if lines and lines[0].startswith(mark) else ""

    # Breaking

    def kill_postmaster(self, name: str) -> int:
        """SIGKILL the node's postmaster and return its pid."""
        pid = postmaster_pid(self.node(name))
        if pid is None:
            raise MetakoError(f"{name} has no running postmaster")
        os.kill(pid, signal.SIGKILL)
        return pid

    async def kill_host(self, name: str) -> None:
        """SIGKILL everything of the node, as a power cut would."""
        left = await kill_all([self.node(name).directory])
        self._reap([name])
        if left:
            raise FencedError(f"processes of {name} do not die: {[p.pid for p in left]}")

    def stop_agent(self, name: str) -> int:
        """SIGSTOP only the agent and return its pid; its guard, workers and server run on."""
        agents = node_by_kind(self.node(name)).get(Kind.AGENT, [])
        if not agents:
            raise MetakoError(f"{name} has no running agent")
        os.kill(agents[0].pid, signal.SIGSTOP)
        return agents[0].pid

    async def pause_host(self, name: str) -> list[Process]:
        """SIGSTOP everything of the node, as a frozen virtual machine would."""
        return await stop_all(self.node(name).directory)

    def resume(self, name: str) -> None:
        """SIGCONT everything of the node."""
        resume_all(self.node(name).directory)

    def dead_nodes(self) -> list[str]:
        """Return the nodes that were started and whose agent does not run."""
        return [name for name, agent in self._agents.items() if agent.poll() is not None]

    # Stopping

    async def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop every node in order, kill what does not stop, and verify that nothing is left.

        If cancelled while the agents stop, they are killed at once. In any case at most about
        four seconds more pass.

        Raises:
            FencedError: processes are left that SIGKILL did not end.
        """
        try:
            await self.terminate(timeout_s=timeout_s)
        finally:
            with trio.CancelScope(shield=True):
                left = await kill_all(node.directory for node in self.nodes)
                self._reap(list(self._agents))
        if left:
            raise FencedError(f"processes do not die: {[p.pid for p in left]}")

    async def terminate(self, *, timeout_s: float) -> bool:
        """SIGTERM every agent; return whether all processes of all nodes have ended in time."""
        for node in self.nodes:
            self.resume(node.name)
        for agent in self._agents.values():
            if agent.poll() is None:
                agent.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            agents_gone = all(agent.poll() is not None for agent in self._agents.values())
            # A node whose agent was killed keeps its guard for a while; nobody stops that one.
            if agents_gone and not any(self._left_by_stopped_agents()):
                return not any(self.processes().values())
            await trio.sleep(POLL_INTERVAL_S)
        return False

    def _left_by_stopped_agents(self) -> Iterable[Process]:
        table = process_table()
        for name, agent in self._agents.items():
            if (agent.poll() or 0) >= 0:
                yield from node_processes(self.node(name).directory, table)

    def _reap(self, names: Iterable[str]) -> None:
        for name in names:
            agent = self._agents.get(name)
            if agent is not None:
                with suppress(subprocess.TimeoutExpired):
                    agent.wait(timeout=2)

    def remove_directory(self) -> None:
        """Delete everything below the cluster's directory, and the directory."""
        shutil.rmtree(self.layout.directory, ignore_errors=True)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _progress(views: Mapping[str, NodeView]) -> str:
    if not views:
        return "no agent answers yet"
    parts = []
    for view in views.values():
        own = view.member(view.node)
        state = f"{own.role} {own.server_state}" if own else "no members"
        blocked = f", {view.blocked}" if view.blocked else ""
        parts.append(f"{view.node} {view.role} term {view.term} {state}{blocked}")
    return "; ".join(parts)
