"""The engine's driver under a virtual clock: order, waiting, ends."""

from __future__ import annotations

import random
from typing import cast

import pytest
import trio
from driver_kit import FakeEffects, FakeEngine, VirtualClock, driver_of

from metako.cluster.engine import Engine, NodeSettings, blank_hard_state, next_boot
from metako.cluster.ready import Input, ProxyLoad, Ready, StopRequested, Tick
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.election.wants import GuardDeadline
from metako.membership.config import MembershipConfig
from metako.model.durable import HardState
from metako.model.events import EventName, event
from metako.model.ids import Address, NodeId, Term
from metako.model.instant import NS_PER_MS, NS_PER_S
from metako.model.member import MemberMeta
from metako.model.postgres import (
    DataState,
    PostgresObserved,
    ProcessState,
    Untouched,
)
from metako.model.routing import RoutingTable
from metako.runtime.driver import INBOX_MAX, LATE_MS, LONGEST_SLEEP_S, EngineDriver
from metako.wire.messages import Inquiry, Outbound

A, B = NodeId("a"), NodeId("b")
HARD = HardState(A, 1, term=Term(3))
MESSAGE = Outbound(B, Address("b", 1), Inquiry(1))
DEADLINE = GuardDeadline(Term(3), 7)
TABLE = RoutingTable(Term(3), None, (), 0)
FACT = event(EventName.STATUS, "so it is")
EVERYTHING = Ready(HARD, (MESSAGE,), DEADLINE, Untouched(), TABLE, (FACT,))


def numbered(given: Input) -> Ready:
    """Persist and send the number that came in as a load."""
    if not isinstance(given, ProxyLoad):
        return Ready()
    number = given.sessions
    return Ready(
        persist=HardState(A, 1, term=Term(number)),
        messages=(Outbound(B, Address("b", 1), Inquiry(number)),),
    )


async def test_record_is_durable_before_a_message_of_the_same_step_leaves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    effects = FakeEffects(persist_s=0.5)
    driver = driver_of(FakeEngine(lambda _: EVERYTHING), effects)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 0.5
    assert effects.kinds() == [
        *("persist begins", "persist", "send"),
        # The guard before the target: whoever promotes looks first whether it is armed.
        *("guard", "target", "routing", "event"),
    ]


async def test_slow_disk_delays_and_never_reorders(autojump_clock: trio.testing.MockClock) -> None:
    engine, effects = FakeEngine(numbered), FakeEffects(persist_s=2.0)
    driver = driver_of(engine, effects)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        for number in range(1, 6):
            driver.inbox.send_nowait(ProxyLoad(number))
        await trio.sleep(5 * 2.0 + 0.1)
        nursery.cancel_scope.cancel()
    order = [(k, v) for k, v in effects.done if k in ("persist", "send")]
    assert [k for k, _ in order] == ["persist", "send"] * 5
    sent = [cast("Outbound", v).message for k, v in order if k == "send"]
    assert sent == [Inquiry(number) for number in range(1, 6)]
    # No step is begun before the one before it is carried out.
    assert [at for at, _ in engine.steps[1:6]] == [0.0, 2.0, 4.0, 6.0, 8.0]


async def test_record_that_cannot_be_written_keeps_everything_else_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    effects = FakeEffects(error=OSError("disk full"))
    driver = driver_of(FakeEngine(lambda _: EVERYTHING), effects)
    with pytest.raises(OSError, match="disk full"):
        await driver.run()
    assert effects.kinds() == ["persist begins"]


async def test_cancelled_while_persisting_finishes_the_record_and_sends_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    effects = FakeEffects(persist_s=1.0)
    driver = driver_of(FakeEngine(numbered), effects)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        driver.inbox.send_nowait(ProxyLoad(1))
        driver.inbox.send_nowait(ProxyLoad(2))
        await trio.sleep(0.4)
        nursery.cancel_scope.cancel()
    assert effects.done == [
        ("persist begins", HardState(A, 1, term=Term(1))),
        ("persist", HardState(A, 1, term=Term(1))),
    ]
    assert trio.current_time() == 1.0


async def test_full_inbox_takes_no_more_and_loses_nothing_that_it_took(
    autojump_clock: trio.testing.MockClock,
) -> None:
    engine = FakeEngine(lambda _: Ready())
    driver = driver_of(engine, FakeEffects())
    for number in range(INBOX_MAX):
        driver.inbox.send_nowait(ProxyLoad(number))
    with pytest.raises(trio.WouldBlock):
        driver.inbox.send_nowait(ProxyLoad(INBOX_MAX))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    taken = [given for _, given in engine.steps if isinstance(given, ProxyLoad)]
    assert taken == [ProxyLoad(number) for number in range(INBOX_MAX)]


async def test_wakeups_are_kept_to_the_nanosecond(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(lambda _: Ready())
    wanted = [300 * NS_PER_MS, 1100 * NS_PER_MS, 1101 * NS_PER_MS]
    engine.wake_at = lambda now: next((w for w in wanted if w > now.mono_ns), 3600 * NS_PER_S)
    driver = driver_of(engine, FakeEffects())
    with trio.move_on_after(2):
        await driver.run()
    assert engine.steps == [(0.0, Tick())] + [(w / NS_PER_S, Tick()) for w in wanted]
    assert driver.counters.late == 0


async def test_sleep_without_a_deadline_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(lambda _: Ready())
    engine.wake_at = lambda _: 2**63 - 1
    with trio.move_on_after(LONGEST_SLEEP_S * 2.5):
        await driver_of(engine, FakeEffects()).run()
    assert [at for at, _ in engine.steps] == [0.0, LONGEST_SLEEP_S, 2 * LONGEST_SLEEP_S]


async def test_input_wakes_before_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(lambda _: Ready())
    driver = driver_of(engine, FakeEffects())
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.sleep(0.2)
        driver.inbox.send_nowait(ProxyLoad(1))
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    assert engine.steps == [(0.0, Tick()), (0.2, ProxyLoad(1))]


async def test_overdue_engine_still_hears_its_inbox(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that is always past must not keep the inputs out, nor the other tasks."""
    engine = FakeEngine(lambda _: Ready())
    engine.wake_at = lambda _: 0
    driver = driver_of(engine, FakeEffects())
    for number in range(3):
        driver.inbox.send_nowait(ProxyLoad(number))
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        while len(engine.steps) < 10:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert [given for _, given in engine.steps[1:4]] == [ProxyLoad(n) for n in range(3)]


async def test_late_steps_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    effects = FakeEffects()
    engine = FakeEngine(lambda _: Ready(persist=HARD) if len(engine.steps) == 1 else Ready())
    due = (LATE_MS + 300) * NS_PER_MS
    engine.wake_at = lambda now: due if now.mono_ns < due else 3600 * NS_PER_S
    effects.persist_s = (due + (LATE_MS + 100) * NS_PER_MS) / NS_PER_S
    driver = driver_of(engine, effects)
    with trio.move_on_after(2):
        await driver.run()
    assert driver.counters.late == 1
    assert driver.counters.latest_ms == LATE_MS + 100
    shown = {sample.name: sample.value for sample in driver.counters.samples()}
    assert shown["metako_engine_late_steps_total"] == 1
    assert shown["metako_engine_lateness_max_seconds"] == (LATE_MS + 100) / 1000
    assert shown["metako_engine_steps_total"] == driver.counters.steps == 2


async def test_a_late_step_counts_also_if_an_input_has_come_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As after a pause of the process, when datagrams have piled up."""
    engine = FakeEngine(lambda _: Ready(persist=HARD) if len(engine.steps) == 1 else Ready())
    engine.wake_at = lambda now: NS_PER_S if now.mono_ns < NS_PER_S else 3600 * NS_PER_S
    driver = driver_of(engine, FakeEffects(persist_s=3.0))
    driver.inbox.send_nowait(ProxyLoad(1))
    with trio.move_on_after(5):
        await driver.run()
    assert (driver.counters.late, driver.counters.latest_ms) == (1, 2000)


async def test_run_ends_when_the_engine_says_that_it_has_stopped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def answer(given: Input) -> Ready:
        stop = isinstance(given, StopRequested)
        return Ready(messages=(MESSAGE,) if stop else (), stopped=stop)

    effects = FakeEffects()
    engine = FakeEngine(answer)
    driver = driver_of(engine, effects)
    driver.inbox.send_nowait(StopRequested())
    driver.inbox.send_nowait(ProxyLoad(1))
    await driver.run()
    assert driver.stopped.is_set()
    assert effects.done == [("send", MESSAGE)]  # the good-bye of the last step has left
    assert [given for _, given in engine.steps] == [Tick(), StopRequested()]


async def test_real_engine_bootstraps_its_cluster_and_stops(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = NodeSettings(
        election=ElectionSettings(),
        cluster=ClusterSettings(name="one", bootstrap_node=A, voters=(A,)),
        membership=MembershipConfig(),
        address=Address("a", 1),
        peers=(),
        meta=MemberMeta(),
    )
    hard, rng = next_boot(blank_hard_state(A, 0)), random.Random(1)
    now = VirtualClock().now()
    engine = Engine(settings=settings, hard=hard, rng=rng, now=now)
    effects = FakeEffects(persist_s=0.01)
    driver = EngineDriver(engine, effects, VirtualClock())
    from_supervisor = PostgresObserved(data=DataState.EMPTY, process=ProcessState.STOPPED)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        driver.inbox.send_nowait(from_supervisor)
        await trio.sleep(3)
        driver.inbox.send_nowait(StopRequested())
        await driver.stopped.wait()
    records = [cast("HardState", record) for kind, record in effects.done if kind == "persist"]
    assert records[-1].document is not None
    assert records[-1].document.primary == A
    assert "target" in effects.kinds()
