"""The guard with a real PostgreSQL: whatever happens to agent or guard, no process is left.

Processes are watched from outside, by /proc; there is no event to wait for.
"""

# Blocking calls on /proc and on child processes are what these tests are made of.
# ruff: noqa: ASYNC110, ASYNC220, ASYNC240

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import trio

from metako.guard import packets
from metako.model.errors import DataDirectoryError
from metako.postgres.install import find_installation
from metako.postgres.osuser import make_dir, obstacle, resolve_os_user
from metako.postgres.process import (
    Exited,
    Fenced,
    Gone,
    GuardLost,
    GuardLostError,
    GuardRefusedError,
    ServerNotGoneError,
    kill_server_processes,
    open_guard,
    server_processes,
)
from metako.postgres.tools import run_tool

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
AGENT = Path(__file__).with_name("guard_agent.py")
ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
READY_S = 20.0
LATE_S = 0.15  # what a deadline may be missed by on a busy machine


def boottime_ns():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def in_ms(milliseconds):
    return boottime_ns() + round(milliseconds * 1e6)


class Server:
    """One data directory that every test starts again; the names contain spaces."""

    def __init__(self, base, user, installation):
        self.base, self.user, self.installation = base, user, installation
        self.data = base / "data directory"
        self.log = base / "log dir" / "server.log"
        self.argv = [
            str(installation.program("postgres")), "-D", str(self.data), "-k", str(base),
            "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB",
        ]  # fmt: skip

    def processes(self):
        return server_processes(self.data)

    async def wait_ready(self):
        """Wait until the postmaster says that it takes connections."""
        # Not seeing it says nothing: until its exec a new postmaster still looks like the guard.
        with trio.move_on_after(READY_S):
            while True:
                with contextlib.suppress(OSError, IndexError):
                    lines = (self.data / "postmaster.pid").read_text().split("\n")
                    if lines[7].strip() == "ready" and int(lines[0]) in self.processes():
                        return int(lines[0])
                await trio.sleep(0.01)
        raise AssertionError(self.log.read_text()[-1000:])

    async def wait_no_process(self, timeout_s=5.0):
        with trio.fail_after(timeout_s):
            while self.processes():
                await trio.sleep(0.002)

    async def start(self, guard, *, ready=True):
        pid = await guard.start(self.argv, ENV, self.log)
        if ready:
            assert await self.wait_ready() == pid
        return pid

    def busy_backend(self):
        """Start a query that never looks whether its postmaster still lives."""
        as_user = {"user": self.user.uid, "group": self.user.gid} if self.user.switch else {}
        return subprocess.Popen(
            [self.installation.program("psql"), "-h", self.base, "-d", "postgres", "-qAtc",
             "select count(*) from pg_class a, pg_class b, pg_class c, pg_class d"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **as_user,
        )  # fmt: skip


@pytest.fixture(scope="module")
def server():
    user = resolve_os_user(None)
    base = Path(tempfile.mkdtemp(prefix="metako-guard-", dir="/tmp"))
    base.chmod(0o755)
    installation = find_installation(None, user, base / "cache")
    server = Server(base, user, installation)
    for directory in (base / "sockets", server.data, server.log.parent):
        make_dir(directory, user)
    base.chmod(0o777)  # PostgreSQL makes its socket here
    argv = [installation.program("initdb"), "-D", server.data, "-A", "trust", "--no-sync"]

    async def initialize():
        return await run_tool(argv, user=user, timeout_s=60)

    result = trio.run(initialize)
    assert result.returncode == 0, result.stderr
    yield server
    left = server.processes()
    trio.run(lambda: kill_server_processes(server.data))
    shutil.rmtree(base)
    assert not left


@pytest.fixture
def opened(server):
    """Return a function that opens the guard of this test's own run directory."""
    run_dir = Path(tempfile.mkdtemp(prefix="run ", dir=server.base))

    def open_(orphan_timeout_s=30.0, data_dir=None, run_dir=run_dir):
        return open_guard(
            run_dir=run_dir,
            user=server.user,
            data_dir=data_dir or server.data,
            orphan_timeout_s=orphan_timeout_s,
        )

    open_.run_dir = run_dir
    return open_


async def wait_ended(pid, timeout_s=5.0):
    """Wait until a process that is not our child has ended; zombies count as ended."""
    with trio.fail_after(timeout_s):
        while True:
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                return
            if stat.rpartition(")")[2].split()[0] in "ZX":
                return
            await trio.sleep(0.005)


def title(pid):
    """Return what a process calls itself; PostgreSQL's says what it does."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class AgentProcess:
    """The small agent in a process of its own, which can be killed and stopped."""

    def __init__(self, process):
        self._process = process
        self.pid = process.pid
        self.status = None

    async def read(self):
        line = await trio.to_thread.run_sync(self._process.stdout.readline)
        assert line, "the agent has ended: " + self._process.stderr.read().decode()
        self.status = json.loads(line)
        return self.status

    async def ask(self, *words):
        self._process.stdin.write(("\t".join(map(str, words)) + "\n").encode())
        self._process.stdin.flush()
        return await self.read()

    def kill(self):
        self._process.kill()
        self._process.wait()


def python_for(user):
    """Return an interpreter that the user can read; the one that runs the tests may be private."""
    for python in (sys.executable, "/usr/bin/python3"):
        if Path(python).is_file() and obstacle(python, user) is None:
            code = "import sys; sys.exit(sys.version_info < (3, 11))"
            if subprocess.run([python, "-c", code], check=False).returncode == 0:
                return python
    return pytest.skip(f"no interpreter that {user.name} can read")


@contextlib.asynccontextmanager
async def agent_process(server, run_dir, *, orphan_timeout_s=30.0, as_user=False):
    options = {}
    python = python_for(server.user) if as_user else sys.executable
    if as_user:
        options = {"user": server.user.uid, "group": server.user.gid, "extra_groups": []}
    path = os.pathsep.join([str(ROOT), str(Path(trio.__file__).parents[1])])
    process = subprocess.Popen(
        [python, AGENT, run_dir, server.data, str(orphan_timeout_s)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**ENV, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, cwd="/", **options,
    )  # fmt: skip
    with process:
        agent = AgentProcess(process)
        try:
            with trio.fail_after(20):
                await agent.read()
                yield agent
        finally:
            process.kill()
            process.wait()


# ---------------------------------------------------------------- an agent that lives


async def test_fast_stop_is_followed_until_the_last_process_is_reaped(server, opened):
    async with opened() as guard:
        pid = await server.start(guard)
        assert not guard.status.gone
        with pytest.raises(ServerNotGoneError):
            await guard.wait_gone(0.01)
        await guard.signal(signal.SIGINT)
        await guard.wait_gone(10)
        assert server.processes() == []
        events = guard.events()
        exited = await events.receive()
        assert isinstance(exited, Exited)
        assert exited.pid == pid
        assert await events.receive() == Gone(pid)
        assert os.waitstatus_to_exitcode(guard.status.last_exit) == 0
        assert guard.status.last_stop_ms > 0
        await guard.shutdown()
    await wait_ended(guard.status.pid)


async def test_killed_postmaster_is_reported_and_busy_backends_die_with_it(server, opened):
    async with opened() as guard:
        pid = await server.start(guard)
        with server.busy_backend() as client:
            with trio.fail_after(5):
                while b"SELECT" not in b"".join(map(title, server.processes())):
                    await trio.sleep(0.01)
            events = guard.events()
            begin = trio.current_time()
            os.kill(pid, signal.SIGKILL)
            with trio.fail_after(2):
                exited = await events.receive()
                seen_s = trio.current_time() - begin
                assert await events.receive() == Gone(pid)
            assert exited.pid == pid
            assert seen_s < 0.1
            assert trio.current_time() - begin < 0.3
            assert server.processes() == []
            client.wait()
        await guard.shutdown()


async def test_exit_is_seen_while_the_guard_is_frozen(server, opened):
    async with opened() as guard:
        pid = await server.start(guard)
        os.kill(guard.status.pid, signal.SIGSTOP)
        try:
            await guard.signal(signal.SIGQUIT)
            with trio.fail_after(2):
                assert await guard.events().receive() == Exited(pid, None)
            assert not guard.status.gone
        finally:
            os.kill(guard.status.pid, signal.SIGCONT)
        await guard.wait_gone(5)
        await guard.shutdown()


async def test_deadline_ends_the_server_and_the_term_stays_fenced(server, opened):
    async with opened() as guard:
        pid = await server.start(guard)
        for _ in range(3):
            deadline_ns = in_ms(200)
            await guard.arm(7, deadline_ns)
            await trio.sleep(0.1)
        assert guard.status.armed_term == 7
        with trio.fail_after(2):
            received = [await guard.events().receive() for _ in range(3)]
        late_s = (boottime_ns() - deadline_ns) / 1e9
        assert [type(event) for event in received] == [Exited, Gone, Fenced]
        assert received[1:] == [Gone(pid), Fenced(7, received[2].reason)]
        assert 0 <= late_s < LATE_S
        assert server.processes() == []
        assert guard.status.last_fence_ms > 0
        assert (guard.status.armed_term, guard.status.fenced_term) == (0, 7)
        with pytest.raises(GuardRefusedError, match="fenced"):
            await guard.arm(7, in_ms(1000))
        await guard.arm(8, in_ms(1000))
        await guard.disarm(8)
        await guard.shutdown()


async def test_stopped_postmaster_is_killed_at_the_deadline(server, opened):
    async with opened() as guard:
        pid = await server.start(guard)
        os.kill(pid, signal.SIGSTOP)
        deadline_ns = in_ms(100)
        await guard.arm(1, deadline_ns)
        await guard.wait_gone(2)
        assert (boottime_ns() - deadline_ns) / 1e9 < LATE_S
        assert server.processes() == []
        await guard.shutdown()


async def test_deadline_in_the_past_fences_at_once(server, opened):
    async with opened() as guard:
        await server.start(guard)
        with pytest.raises(GuardRefusedError, match="passed"):
            await guard.arm(4, in_ms(-1))
        await guard.wait_gone(1)
        assert server.processes() == []
        await guard.shutdown()


async def test_fence_holds_for_a_start_under_way(server, opened):
    async with opened() as guard:
        await guard.arm(2, in_ms(60))
        await server.start(guard, ready=False)
        await guard.wait_gone(2)
        assert server.processes() == []
        assert guard.status.fenced_term == 2
        await guard.shutdown()


async def test_kill_all_and_refusals_leave_the_guard_as_it_was(server, opened):
    async with opened() as guard:
        with pytest.raises(GuardRefusedError, match="does not run"):
            await guard.signal(signal.SIGINT)
        with pytest.raises(GuardRefusedError, match="cannot run"):
            await guard.start(["/nonexistent/postgres"], ENV, server.log)
        await guard.wait_gone(1)
        with pytest.raises(GuardRefusedError, match="absolute"):
            await guard.start(["postgres"], ENV, server.log)
        with pytest.raises(GuardRefusedError, match="bytes"):
            await guard.start(["/x"], {"X": "x" * packets.PACKET_MAX}, server.log)
        await server.start(guard)
        with pytest.raises(GuardRefusedError, match="already"):
            await guard.start(server.argv, ENV, server.log)
        with pytest.raises(GuardRefusedError, match="not gone"):
            await guard.shutdown()
        await guard.arm(5, in_ms(60_000))
        with pytest.raises(GuardRefusedError, match="lower"):
            await guard.arm(4, in_ms(60_000))
        with pytest.raises(GuardRefusedError, match="term 5 is armed"):
            await guard.disarm(4)
        assert guard.status.armed_term == 5
        assert not guard.status.gone
        await guard.kill_all()
        assert server.processes() == []
        await guard.shutdown()


async def test_terminal_signals_do_not_reach_the_server(server, opened):
    async with opened() as guard:
        pid = await server.start(guard)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(guard.status.pid, number)
        await guard.refresh()
        assert os.getsid(guard.status.pid) != os.getsid(0)
        assert os.getsid(pid) not in (os.getsid(0), os.getsid(guard.status.pid))
        assert not guard.status.stopping
        await guard.kill_all()
        await guard.shutdown()


async def test_guard_and_server_hold_no_privileges_and_default_signals(server, opened):
    async with opened() as guard:
        pid = await server.start(guard)
        for process in (pid, guard.status.pid):
            status = Path(f"/proc/{process}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert set(map(int, fields["Uid"].split())) == {server.user.uid}
            assert set(map(int, fields["Gid"].split())) == {server.user.gid}
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent == guard.status.pid
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
        open_files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
        assert open_files == ["/dev/null", str(server.log), str(server.log)]
        await guard.kill_all()
        await guard.shutdown()


async def test_idle_guard_hardly_uses_the_processor(server, opened):
    def ticks(pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    async with opened() as guard:
        await server.start(guard)
        await guard.arm(1, in_ms(60_000))
        before = ticks(guard.status.pid)
        await trio.sleep(1)
        assert ticks(guard.status.pid) - before <= 2  # 1/100 s each
        await guard.disarm(1)
        await guard.kill_all()
        await guard.shutdown()


async def test_killed_guard_takes_the_server_with_it(server, opened):
    async with opened() as guard:
        await server.start(guard)
        os.kill(guard.status.pid, signal.SIGKILL)
        await server.wait_no_process()
        with trio.fail_after(2):
            while not isinstance(await guard.events().receive(), GuardLost):
                pass
        assert guard.lost
        with pytest.raises(GuardLostError):
            await guard.arm(1, in_ms(1000))
    async with opened() as guard:  # its socket and lock are no obstacle
        assert not guard.status.adopted
        await guard.shutdown()


async def test_sweep_kills_a_frozen_server_that_lost_its_guard(server, opened):
    async with opened() as guard:
        pid = await server.start(guard)
        os.kill(pid, signal.SIGSTOP)
        os.kill(guard.status.pid, signal.SIGKILL)
        await wait_ended(guard.status.pid)
        assert pid in server.processes()  # SIGQUIT is pending; its children go on
        assert await kill_server_processes(server.data) == []
        assert server.processes() == []


async def test_run_directory_with_a_path_longer_than_a_socket_address(server, opened):
    run_dir = opened.run_dir / ("x" * 100) / ("y" * 100)
    opened.run_dir.chmod(0o755)
    async with opened(run_dir=run_dir) as guard:
        assert (await guard.refresh()).gone
        await guard.shutdown()


async def test_guard_of_another_data_directory_is_not_adopted(server, opened):
    async with opened() as guard:
        await server.start(guard)
    with pytest.raises(DataDirectoryError):
        async with opened(data_dir=server.base / "other"):
            pass
    async with opened() as guard:
        await guard.kill_all()
        await guard.shutdown()


async def test_agent_may_leave_and_come_back_at_once_again_and_again(server, opened):
    async with opened() as guard:
        pid = await server.start(guard)
    for _ in range(30):
        async with opened() as guard:
            assert guard.status.adopted
            assert (await guard.refresh()).postmaster_pid == pid
    async with opened() as guard:
        await guard.kill_all()
        await guard.shutdown()


async def test_error_in_the_body_comes_out_unwrapped(opened):
    async def fail():
        async with opened() as guard:
            await guard.shutdown()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


# ---------------------------------------------------------------- an agent that does not


async def test_second_agent_is_refused_while_the_first_lives_and_adopts_afterwards(server, opened):
    async with agent_process(server, opened.run_dir) as agent:
        first = await agent.ask("start", server.log, *server.argv)
        assert first["error"] == ""
        pid = await server.wait_ready()
        await agent.ask("arm", 3, 5000)
        with pytest.raises(GuardRefusedError, match=f"pid {agent.pid} is connected and alive"):
            async with opened():
                pass
        agent.kill()
    async with opened() as guard:
        assert guard.status.adopted
        assert guard.status.postmaster_pid == pid == first["postmaster_pid"]
        assert guard.status.armed_term == 3
        assert 0 < guard.status.deadline_boot_ns - boottime_ns() < 5_000_000_000
        assert any("has gone" in note for note in guard.notes)
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(2):
            assert (await guard.events().receive()).pid == pid
            assert await guard.events().receive() == Gone(pid)
        await guard.disarm(3)
        await guard.shutdown()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_server_of_a_lost_agent_is_dead_at_the_deadline(server, opened, number):
    async with agent_process(server, opened.run_dir, orphan_timeout_s=0.3) as agent:
        await agent.ask("start", server.log, *server.argv)
        await server.wait_ready()
        status = await agent.ask("arm", 1, 500)
        os.kill(agent.pid, number)
        remaining_s = (status["deadline_boot_ns"] - boottime_ns()) / 1e9
        await trio.sleep(max(0, remaining_s - 0.1))
        assert server.processes() or boottime_ns() >= status["deadline_boot_ns"]
        await server.wait_no_process()
        assert (boottime_ns() - status["deadline_boot_ns"]) / 1e9 < LATE_S
        agent.kill()
        await wait_ended(status["pid"])


async def test_server_without_lease_is_stopped_when_no_agent_comes_back(server, opened):
    async with agent_process(server, opened.run_dir, orphan_timeout_s=0.4) as agent:
        await agent.ask("start", server.log, *server.argv)
        await server.wait_ready()
        size = server.log.stat().st_size
        agent.kill()
        await trio.sleep(0.2)
        assert server.processes() != []
        await server.wait_no_process()
        await wait_ended(agent.status["pid"])
    assert b"fast shutdown" in server.log.read_bytes()[size:]
    assert not (opened.run_dir / packets.SOCKET_NAME).exists()


async def test_guard_with_nothing_to_watch_ends(server, opened):
    async with opened(orphan_timeout_s=0.05) as guard:
        await trio.sleep(0.1)
        await guard.refresh()  # an agent that is connected keeps it
    await wait_ended(guard.status.pid)


@pytest.mark.skipif(os.getuid() != 0, reason="every other test runs as this user already")
async def test_everything_works_without_root(server, opened):
    make_dir(opened.run_dir, server.user)
    async with agent_process(server, opened.run_dir, as_user=True) as agent:
        assert (await agent.ask("start", server.log, *server.argv))["error"] == ""
        pid = await server.wait_ready()
        await agent.ask("arm", 1, 300)
        status = await agent.ask("status")
        with trio.fail_after(5):
            while not status["gone"]:
                await trio.sleep(0.01)
                status = await agent.ask("status")
        assert server.processes() == []
        assert status["fenced_term"] == 1
        assert status["last_pid"] == pid
        assert (await agent.ask("arm", 2, 5000))["error"] == ""
        assert (await agent.ask("start", server.log, *server.argv))["error"] == ""
        pid = await server.wait_ready()
        agent.kill()
    async with opened() as guard:  # root may take over
        assert guard.status.adopted
        assert guard.status.postmaster_pid == pid
        await guard.kill_all()
        await guard.shutdown()
