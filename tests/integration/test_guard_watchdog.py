"""The real guard with a real PostgreSQL and a watchdog that resets nothing.

The device is a regular file and Linux's part of it a fake (see `fake_watchdog`): everything else is
the guard as it runs in production, in a process of its own that has dropped its privileges. When
the machine would have been reset is read from the record of what the guard did.
"""

# Blocking calls on /proc and on files are what these tests are made of.

import os
import signal
import tempfile
from pathlib import Path

import pytest
import trio
from test_guard import in_ms, server, wait_ended

from fake_watchdog import Driver, boottime_ns, done, make_watchdog, resets, timer
from metako.guard.watchdog import Wish
from metako.model.watchdog import WatchdogState
from metako.postgres import guardlink
from metako.postgres.process import GuardRefusedError, open_guard

pytestmark = pytest.mark.integration

__all__ = ["server"]  # the fixture: one data directory for all tests

MARGIN_MS = 150
LEASE_MS = 1960


class Rig:
    """The guard of one test and its watchdog."""

    def __init__(self, server, path, run_dir, driver):
        self.server, self.run_dir = server, run_dir
        self.watchdog = make_watchdog(path, driver)
        for file in (path, path.with_suffix(".driver")):
            file.chmod(0o644)

    def open(self, *, required=False, timeout_s=1, orphan_timeout_s=30.0):
        return open_guard(
            run_dir=self.run_dir,
            user=self.server.user,
            data_dir=self.server.data,
            orphan_timeout_s=orphan_timeout_s,
            watchdog=Wish(self.watchdog, timeout_s, required=required) if timeout_s else None,
        )

    @staticmethod
    async def arm(guard, term=1, lease_ms=LEASE_MS):
        """Renew; return when the lease ends."""
        deadline_ns = in_ms(lease_ms - MARGIN_MS)
        lease_ns = deadline_ns + MARGIN_MS * 1_000_000
        await guard.arm(term, deadline_ns, lease_ns)
        return lease_ns

    def resets(self):
        return resets(self.watchdog)

    @property
    def counts(self):
        return timer(self.watchdog).until_ns is not None

    @property
    def breaker(self):
        return Path(self.watchdog).with_suffix(".broken")


@pytest.fixture
def rig(server, monkeypatch):
    program = Path(__file__).with_name("watchdog_guard")
    monkeypatch.setattr(guardlink, "GUARD_PROGRAM", str(program))
    base = Path(tempfile.mkdtemp(prefix="watchdog ", dir=server.base))
    base.chmod(0o755)

    def make(driver=None):
        return Rig(server, base / "watchdog", base / "run", driver)

    return make


async def test_renewed_lease_keeps_it_alive_and_disarming_stops_it(server, rig):
    rig = rig()
    async with rig.open(required=True) as guard:
        assert guard.watchdog.state is WatchdogState.IDLE
        assert not rig.counts
        await server.start(guard)
        for _ in range(10):
            await rig.arm(guard)
            assert guard.watchdog.state is WatchdogState.ARMED
            assert guard.watchdog.timeout_s == 1
            await trio.sleep(0.25)
        assert rig.counts
        await guard.disarm(1)
        assert guard.watchdog.state is WatchdogState.IDLE
        assert not rig.counts
        await guard.kill_all()
        await guard.shutdown()
    assert done(rig.watchdog)[-1] == "close"
    assert rig.resets() == ()


async def test_fence_is_done_before_the_watchdog_and_stops_it(server, rig):
    rig = rig()
    async with rig.open() as guard:
        await server.start(guard)
        lease_ns = await rig.arm(guard)
        await guard.wait_gone(4)
        assert guard.status.fenced_term == 1
        assert server.processes() == []
        assert boottime_ns() < lease_ns
        assert guard.watchdog.state is WatchdogState.IDLE
        await trio.sleep(1.5)
        assert rig.resets() == ()
        await guard.shutdown()


async def test_frozen_guard_is_a_reset_before_the_lease_ends(server, rig):
    rig = rig()
    async with rig.open() as guard:
        await server.start(guard)
        lease_ns = await rig.arm(guard)
        os.kill(guard.status.pid, signal.SIGSTOP)
        try:
            await trio.sleep(LEASE_MS / 1000)
            assert server.processes() != []  # nobody has fenced
            (reset_ns,) = rig.resets()
            assert reset_ns <= lease_ns
        finally:
            os.kill(guard.status.pid, signal.SIGCONT)
        await guard.wait_gone(5)
        await guard.shutdown()


async def test_killed_guard_leaves_it_armed_and_the_next_one_stops_it(server, rig):
    rig = rig()
    async with rig.open() as guard:
        await server.start(guard)
        await rig.arm(guard)
        os.kill(guard.status.pid, signal.SIGKILL)
        await guard.wait_lost()
        assert guard.watchdog.state is WatchdogState.FAILED
        assert rig.counts
        await server.wait_no_process()
    async with rig.open() as guard:
        assert not rig.counts
        assert guard.watchdog.state is WatchdogState.IDLE
        await guard.shutdown()
    assert rig.resets() == ()


async def test_next_guard_does_not_stop_it_while_a_server_is_left(server, rig):
    rig = rig()
    async with rig.open() as guard:
        pid = await server.start(guard)
        await rig.arm(guard)
        os.kill(pid, signal.SIGSTOP)
        os.kill(guard.status.pid, signal.SIGKILL)
        await guard.wait_lost()
    try:
        async with rig.open() as guard:
            assert rig.counts
            assert "no guard watches" in guard.watchdog.why
            await guard.shutdown()
    finally:
        # It has been told to quit when its guard was killed, and cleans up after itself.
        os.kill(pid, signal.SIGCONT)
        await server.wait_no_process()


async def test_required_watchdog_that_cannot_be_had_refuses_to_arm(server, rig):
    rig = rig(Driver(timeout_min_s=5))
    async with rig.open(required=True) as guard:
        assert guard.watchdog.state is WatchdogState.FAILED
        with pytest.raises(GuardRefusedError, match=r"required and not armed.*60 s.*1 s at most"):
            await rig.arm(guard)
        assert guard.status.armed_term == 0
        await guard.shutdown()
    assert not rig.counts


async def test_automatic_watchdog_that_cannot_be_had_says_so_and_arms(server, rig):
    rig = rig(Driver(nowayout=True))
    async with rig.open() as guard:
        await rig.arm(guard)
        assert guard.status.armed_term == 1
        assert guard.watchdog.state is WatchdogState.FAILED
        assert "nowayout=0" in guard.watchdog.why
        await guard.disarm(1)
        await guard.shutdown()
    assert done(rig.watchdog) == []


async def test_required_watchdog_that_breaks_ends_the_leadership(server, rig):
    rig = rig()
    async with rig.open(required=True) as guard:
        await server.start(guard)
        await rig.arm(guard)
        rig.breaker.write_text("")
        await trio.sleep(0.3)
        with pytest.raises(GuardRefusedError, match="broken"):
            await rig.arm(guard)
        await rig.arm(guard, lease_ms=MARGIN_MS + 50)  # a shorter lease is never refused
        await guard.wait_gone(3)
        assert guard.status.fenced_term == 1
        rig.breaker.unlink()
        await guard.shutdown()


async def test_agent_that_goes_leaves_it_armed_and_the_fence_stops_it(server, rig):
    rig = rig()
    async with rig.open(orphan_timeout_s=0.3) as guard:
        await server.start(guard)
        await rig.arm(guard)
    assert rig.counts
    await wait_ended(guard.status.pid)
    assert server.processes() == []
    assert not rig.counts
    assert rig.resets() == ()


async def test_guard_that_was_started_without_it_is_no_guard_with_it(server, rig):
    rig = rig()
    async with rig.open(timeout_s=0) as guard:
        assert guard.watchdog.state is WatchdogState.OFF
        await server.start(guard)
    async with rig.open(required=True) as guard:
        assert guard.status.adopted
        assert guard.watchdog.state is WatchdogState.FAILED
        assert "stop this node, then start it" in guard.watchdog.why
        await guard.kill_all()
        await guard.shutdown()
    assert done(rig.watchdog) == []
