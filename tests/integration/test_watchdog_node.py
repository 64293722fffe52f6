"""A whole node with a watchdog that resets nothing: when it is armed, and when it must not be.

Agent, guard and PostgreSQL are real; the device is the fake of `fake_watchdog`.
"""

# Processes and files are watched from outside; there is no event to wait for.
# ruff: noqa: ASYNC110, ASYNC220

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trio
from start_kit import ROOT, Node

from fake_watchdog import Driver, boottime_ns, done, make_watchdog, resets, timer
from metako.postgres.process import server_processes

pytestmark = [pytest.mark.integration, pytest.mark.slow]

AGENT = Path(__file__).with_name("watchdog_agent.py")
UP_S = 40.0


class Watched:
    """A node that is a cluster by itself."""

    def __init__(self, directory, bindir, mode, driver):
        self.node = Node(directory, bindir)
        self.watchdog = make_watchdog(directory / "watchdog", driver)
        values = self.node.values
        del values["cluster"]["members"][1:]
        values["guard"] = {"watchdog": {"mode": mode, "device": self.watchdog}}

    def status(self):
        url = f"http://127.0.0.1:{self.node.place.api_port}/status"
        with urllib.request.urlopen(url, timeout=2) as answer:
            return json.loads(answer.read())

    async def until(self, said):
        """Wait until the node says something of itself; return its status."""
        with trio.fail_after(UP_S):
            while True:
                with contextlib.suppress(OSError, urllib.error.URLError):
                    status = await trio.to_thread.run_sync(self.status)
                    if said(status):
                        return status
                await trio.sleep(0.1)

    async def until_primary(self):
        return await self.until(
            lambda s: s["primary"] == "n1" and s["watchdog"]["state"] == "armed"
        )

    @contextlib.asynccontextmanager
    async def running(self):
        process = subprocess.Popen(
            [sys.executable, AGENT, "run", "-c", self.node.write()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(UP_S):
                while process.poll() is None:
                    await trio.sleep(0.05)
            process.kill()
            process.wait()


@pytest.fixture
def watched(short_directory, test_bindir):
    def make(mode, driver=None):
        return Watched(short_directory, test_bindir, mode, driver)

    return make


async def test_primary_is_watched_and_a_node_that_was_stopped_is_not_reset(watched):
    node = watched("required")
    async with node.running() as process:
        status = await node.until_primary()
        assert status["watchdog"] == {
            "state": "armed",
            "why": None,
            "timeout_s": 1,
            "identity": "Fake",
        }
        await trio.sleep(2)
        assert timer(node.watchdog).until_ns is not None
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert server_processes(node.node.data) == []
    assert done(node.watchdog)[-1] == "close"
    assert timer(node.watchdog, boottime_ns() + 10**11).resets == ()


async def test_killed_agent_is_fenced_without_a_reset_and_leads_again(watched):
    node = watched("required")
    async with node.running() as process:
        await node.until_primary()
        process.kill()
        deadline_s = time.monotonic() + 5
        while server_processes(node.node.data):
            assert time.monotonic() < deadline_s
            await trio.sleep(0.02)
    await trio.sleep(1.5)
    assert resets(node.watchdog) == ()
    async with node.running():
        await node.until_primary()
    assert timer(node.watchdog, boottime_ns() + 10**11).resets == ()


async def test_required_watchdog_that_cannot_be_had_leaves_the_cluster_without_a_primary(watched):
    node = watched("required", Driver(timeout_min_s=5))
    async with node.running():
        status = await node.until(lambda s: s["watchdog"]["state"] == "failed")
        assert "the lease allows 1 s at most" in status["watchdog"]["why"]
        await trio.sleep(3)
        status = await node.until(lambda s: s["blocked"])
        assert status["primary"] is None
        assert "watchdog is required and not armed" in status["blocked"]
    assert not (node.node.data / "PG_VERSION").exists()
    assert timer(node.watchdog).until_ns is None


async def test_automatic_watchdog_that_cannot_be_had_is_told_and_the_node_leads(watched):
    node = watched("automatic", Driver(nowayout=True))
    async with node.running():
        status = await node.until(lambda s: s["primary"] == "n1")
        assert status["watchdog"]["state"] == "failed"
        assert "nowayout=0" in status["watchdog"]["why"]
    assert done(node.watchdog) == []
