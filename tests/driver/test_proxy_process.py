"""Workers as processes: started, watched, adopted, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from proxy_kit import DEADLINE_S, Client, FakeServer, eventually, free_port, raw_session
from tls_kit import ANNA, as_client, encrypt, papers_in

import metako
from metako.model.errors import PortInUseError
from metako.model.ids import NodeId, Term
from metako.model.routing import RoutingTable
from metako.model.sslmode import SslMode
from metako.pgwire.startup import startup_packet
from metako.proxy.__main__ import parse_arguments
from metako.proxy.control import RoutingFeed, WorkerReport, serve_control
from metako.proxy.launcher import ProxyConfig, ProxyError, run_workers
from metako.proxy.limits import Limits, Timeouts
from metako.proxy.outside import EXIT_NO_GUARD, heir_path, lock_path, old_lock_path
from metako.proxy.process import find_running
from metako.proxy.starting import worker_command
from metako.proxy.tlsoptions import NO_TLS, TlsOptions
from metako.proxy.worker import boot_ns

pytestmark = pytest.mark.slow  # starting an interpreter takes a quarter of a second

START_S = 20.0  # several interpreters on a busy machine


@pytest.fixture
def guard():
    """A process that stands for the guard."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


class Node:
    """The agent's side, in this process."""

    def __init__(self, config: ProxyConfig) -> None:
        self.config = config
        self.feed = RoutingFeed()
        self.reports: list[WorkerReport] = []
        self.messages: list[str] = []
        self.keep = False
        self.port = 0

    @property
    def pids(self) -> set[int]:
        """The workers that are connected."""
        latest = {report.hello.pid: report.connected for report in self.reports}
        return {pid for pid, connected in latest.items() if connected}

    def route(self, term: int, server: FakeServer) -> None:
        until = boot_ns() + 60 * 10**9
        self.feed.publish(RoutingTable(Term(term), server.target(), (), until))


@contextlib.asynccontextmanager
async def node_running(config: ProxyConfig, node: Node | None = None):
    node = node or Node(config)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, config.control, node.feed, node.reports.append)
        async with trio.open_nursery() as workers:
            with trio.fail_after(START_S):
                node.port = await workers.start(_run_workers, node)
            yield node
            workers.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def _run_workers(node: Node, task_status) -> None:
    await run_workers(
        node.config,
        keep_running=lambda: node.keep,
        on_event=lambda event: node.messages.append(event.message),
        task_status=task_status,
    )


def config_for(tmp_path: Path, guard, **changes) -> ProxyConfig:
    values = {
        "control": tmp_path / "proxy.sock",
        "host": "127.0.0.1",
        "port": 0,
        "node": NodeId("n1"),
        "guard_pid": guard.pid,
        "queue_timeout_s": 5.0,
    }
    return ProxyConfig(**{**values, **changes})


def alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_workers_share_the_port_and_serve_sessions(tmp_path, guard, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with node_running(config_for(tmp_path, guard, workers=2)) as node:
        node.route(1, server)
        await eventually(lambda: len(node.pids) == 2)
        pids = node.pids
        assert {report.hello.port for report in node.reports} == {node.port}
        for _ in range(4):
            async with raw_session(node.port) as client:
                assert await client.query("select 1") == "a"
    assert not any(alive(pid) for pid in pids)


async def test_stop_ends_workers_in_bounded_time_also_when_frozen(tmp_path, guard) -> None:
    async with node_running(config_for(tmp_path, guard, workers=2)) as node:
        await eventually(lambda: len(node.pids) == 2)
        pids = node.pids
        os.kill(min(pids), signal.SIGSTOP)
        begin = trio.current_time()
    assert trio.current_time() - begin < 2.0
    assert not any(alive(pid) for pid in pids)


async def test_killed_worker_is_replaced_on_the_same_port(tmp_path, guard, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with node_running(config_for(tmp_path, guard)) as node:
        node.route(1, server)
        await eventually(lambda: len(node.pids) == 1)
        (first,) = node.pids
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: node.pids not in (set(), {first}))
        async with raw_session(node.port) as client:
            assert await client.query("select 1") == "a"


async def test_worker_exits_when_the_guard_dies(tmp_path, guard, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with node_running(config_for(tmp_path, guard)) as node:
        node.route(1, server)
        await eventually(lambda: len(node.pids) == 1)
        (pid,) = node.pids
        async with raw_session(node.port) as client:
            guard.kill()
            assert (await client.error())["C"] == "57P01"
        await eventually(lambda: not alive(pid))


async def test_worker_without_a_guard_does_not_start(tmp_path, guard) -> None:
    guard.kill()
    guard.wait()
    node = Node(config_for(tmp_path, guard))
    with pytest.raises(ProxyError, match=f"code {EXIT_NO_GUARD}"):
        await _run_workers(node, trio.TASK_STATUS_IGNORED)


async def test_port_of_a_stranger_is_refused_with_no_worker_left(tmp_path, guard) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as stranger:
        port = stranger.getsockname()[1]
        node = Node(config_for(tmp_path, guard, port=port))
        with pytest.raises(PortInUseError, match=str(port)):
            await _run_workers(node, trio.TASK_STATUS_IGNORED)
    assert node.messages == []


async def test_host_that_is_not_ours_is_refused(tmp_path, guard) -> None:
    node = Node(config_for(tmp_path, guard, host="192.0.2.1", port=free_port()))
    with pytest.raises(ProxyError, match=r"192\.0\.2\.1"):
        await _run_workers(node, trio.TASK_STATUS_IGNORED)


async def test_workers_have_the_certificates_of_the_node(tmp_path, guard, nursery) -> None:
    papers = papers_in(tmp_path)
    server = FakeServer("a")
    await nursery.start(server.run)
    config = config_for(tmp_path, guard, tls=papers.offered(required=True))
    async with node_running(config) as node:
        node.route(1, server)
        client = Client(await trio.open_tcp_stream("127.0.0.1", node.port))
        client = await encrypt(client, as_client(papers))
        await client.send(startup_packet(ANNA))
        await client.until_ready()
        assert await client.query("select 1") == "a"
        await trio.aclose_forcefully(client.stream)
    assert config.fingerprint != config_for(tmp_path, guard, tls=papers.offered()).fingerprint


async def test_certificates_that_cannot_be_used_are_refused_in_words(tmp_path, guard) -> None:
    missing = tmp_path / "none"
    tls = TlsOptions(cert_file=missing, key_file=missing)
    with pytest.raises(ProxyError, match="its TLS files cannot be used; `metako check` tells why"):
        await _run_workers(Node(config_for(tmp_path, guard, tls=tls)), trio.TASK_STATUS_IGNORED)


def test_what_a_worker_is_told_of_tls_arrives_as_it_was() -> None:
    for options in (NO_TLS, TlsOptions(Path("/a b"), Path("/'"), None, True, SslMode.REQUIRE)):
        assert TlsOptions.from_text(options.to_text()) == options


AGENT = """
import sys, trio
from pathlib import Path
from metako.model.ids import Address, NodeId, Term
from metako.model.routing import RouteTarget, RoutingTable
from metako.proxy.control import RoutingFeed, serve_control
from metako.proxy.launcher import ProxyConfig, run_workers
from metako.proxy.worker import boot_ns

async def main(control, guard_pid, server_port):
    feed = RoutingFeed()
    target = RouteTarget(NodeId("a"), Address("127.0.0.1", int(server_port)))
    feed.publish(RoutingTable(Term(1), target, (), boot_ns() + 60 * 10**9))
    config = ProxyConfig(control=Path(control), host="127.0.0.1", port=0, node=NodeId("n1"),
                         guard_pid=int(guard_pid), queue_timeout_s=5.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, config.control, feed, lambda report: None)
        print(await nursery.start(run_workers_of(config)), flush=True)

def run_workers_of(config):
    async def run(task_status):
        await run_workers(config, task_status=task_status)
    return run

trio.run(main, *sys.argv[1:])
"""


@contextlib.asynccontextmanager
async def other_agent(tmp_path: Path, guard, server: FakeServer):
    """Run an agent in a process of its own; give it and the proxy's port."""
    arguments = [str(tmp_path / "proxy.sock"), str(guard.pid), str(server.port)]
    environment = {**os.environ, "PYTHONPATH": str(Path(metako.__file__).parent.parent)}
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", AGENT, *arguments], stdout=subprocess.PIPE, env=environment
    )
    try:
        with trio.fail_after(START_S):
            port = int(await process.stdout.receive_some())
        yield process, port
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()


@contextlib.asynccontextmanager
async def left_alone(tmp_path: Path, guard, nursery):
    """Give a server, a client of it and the proxy's port, whose agent was killed since."""
    server = FakeServer("a")
    await nursery.start(server.run)
    async with (
        other_agent(tmp_path, guard, server) as (agent, port),
        raw_session(port) as client,
    ):
        agent.kill()
        await agent.wait()
        yield server, client, port


async def test_sessions_survive_a_killed_agent_and_the_next_adopts_the_worker(
    tmp_path, guard, nursery
) -> None:
    async with left_alone(tmp_path, guard, nursery) as (server, client, port):
        assert await client.query("select 1") == "a"
        async with raw_session(port) as second:
            assert await second.query("select 1") == "a"
        async with node_running(config_for(tmp_path, guard)) as node:
            assert node.port == port
            assert node.messages == ["a running proxy worker was adopted"]
            await eventually(lambda: len(node.pids) == 1)
            (pid,) = node.pids
            assert await client.query("select 1") == "a"
            node.route(2, server)
            assert (await client.error())["C"] == "57P01"
    assert not alive(pid)


async def test_worker_of_another_configuration_is_replaced(tmp_path, guard, nursery) -> None:
    async with left_alone(tmp_path, guard, nursery) as (server, client, port):
        node = Node(config_for(tmp_path, guard, workers=2))
        node.route(1, server)
        async with node_running(node.config, node=node):
            assert node.port == port
            assert node.messages[:2] == ["a proxy worker started", "a proxy worker is replaced"]
            await eventually(lambda: "a replaced proxy worker has ended" in node.messages)
            await eventually(lambda: len(node.pids) == 2)
            assert await client.query("select 1") == "a"
            async with raw_session(node.port) as newcomer:
                assert await newcomer.query("select 1") == "a"
    assert server.logins == 2


# The agent that leaves its workers to the next one would be a process of its own.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_worker_that_drains_is_found_and_ended_by_a_later_agent(
    tmp_path, guard, nursery
) -> None:
    async with left_alone(tmp_path, guard, nursery) as (server, client, _):
        await client.query("begin")
        path = tmp_path / "proxy.sock"
        elder, _ = await find_running(lock_path(path, 1))
        assert elder is not None
        elder.forget()
        node = Node(config_for(tmp_path, guard, workers=2))
        node.route(1, server)
        async with node_running(node.config, node=node):
            node.keep = True
            assert await client.query("begin") == "BEGIN"
        assert alive(elder.pid)
        assert old_lock_path(path, 1, elder.pid).exists()
        async with node_running(config_for(tmp_path, guard, workers=2)) as node:
            assert node.messages == ["a running proxy worker was adopted"] * 2
            assert alive(elder.pid)
        assert not alive(elder.pid)
        assert not old_lock_path(path, 1, elder.pid).exists()
        assert (await client.error())["C"] == "57P01"


async def test_a_worker_that_hands_nothing_over_is_ended(tmp_path, guard, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with other_agent(tmp_path, guard, server) as (agent, _):
        agent.kill()
        await agent.wait()
        path = heir_path(tmp_path / "proxy.sock", 1)
        await eventually(path.exists)
        path.unlink()
        async with node_running(config_for(tmp_path, guard, workers=2)) as node:
            assert node.messages == [
                "an outdated proxy worker is ended: it exited with code 14",
                *["a proxy worker started"] * 2,
            ]
            node.route(1, server)
            async with raw_session(node.port) as client:
                assert await client.query("select 1") == "a"


async def test_workers_that_are_kept_outlive_their_launcher(tmp_path, guard, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    async with other_agent(tmp_path, guard, server) as (agent, _):
        agent.kill()
        await agent.wait()
        async with node_running(config_for(tmp_path, guard)) as node:
            await eventually(lambda: len(node.pids) == 1)
            (pid,) = node.pids
            node.keep = True
        assert alive(pid)
        async with node_running(config_for(tmp_path, guard)) as node:
            await eventually(lambda: node.pids == {pid})
    assert not alive(pid)


async def test_control_socket_works_below_a_very_long_path(tmp_path, guard, nursery) -> None:
    server = FakeServer("a")
    await nursery.start(server.run)
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with node_running(config_for(deep, guard)) as node:
        node.route(1, server)
        assert (deep / "proxy.sock").stat().st_mode & 0o777 == 0o600
        async with raw_session(node.port) as client:
            assert await client.query("select 1") == "a"


def test_share_of_the_connections_is_rounded_up(tmp_path, guard) -> None:
    config = config_for(tmp_path, guard, workers=3, connections_max=100)
    assert "--max-connections=34" in worker_command(config, 1, 0, 9, inherits=False)


def test_fingerprint_changes_with_the_guard(tmp_path, guard) -> None:
    one, other = config_for(tmp_path, guard), config_for(tmp_path, guard, guard_pid=1)
    assert one.fingerprint == config_for(tmp_path, guard).fingerprint != other.fingerprint


def test_what_a_worker_can_be_given_anew_is_no_part_of_its_fingerprint(tmp_path, guard) -> None:
    config = config_for(tmp_path, guard)
    changes: dict[str, object] = {
        "queue_timeout_s": 6.0,
        "connections_max": 7,
        "limits": Limits(user=1),
        "timeouts": Timeouts(read_s=1.5),
        "admins": ("a, b", 'c"'),
    }
    changed = config_for(tmp_path, guard, **changes)
    assert changed.fingerprint == config.fingerprint
    command = worker_command(changed, 1, 0, 9, inherits=False)
    found = parse_arguments(command[4:])
    assert (found.timeouts, found.admins) == (changes["timeouts"], changes["admins"])
    assert (found.limits, found.sessions_max, found.queue_timeout_s) == (Limits(user=1), 7, 6.0)


def test_command_line_errors_are_reported_with_a_usage_line(tmp_path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(metako.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "metako.proxy", "--port", "x"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: metako.proxy")
