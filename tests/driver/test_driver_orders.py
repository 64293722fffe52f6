"""Orders through the engine's driver: each caller gets its own answer, or is told why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from driver_kit import FakeEffects, FakeEngine, driver_of

from metako.cluster.ready import Input, ProxyLoad, Ready, StopRequested
from metako.model.errors import OrderNotGivenError, OrderUnansweredError, UnreachableError
from metako.model.ids import NodeId
from metako.model.orders import Order, OrderAnswer, OrderKind
from metako.runtime.driver import INBOX_MAX, EngineDriver
from metako.runtime.orders import ORDER_TIMEOUT_S, ORDERS_MAX

Clock = trio.testing.MockClock


def order(order_id: str = "one") -> Order:
    return Order(order_id, OrderKind.SWITCHOVER, NodeId("b"))


def taken(order_id: str) -> OrderAnswer:
    return OrderAnswer(order_id, True, f"{order_id} is taken", NodeId("b"))


def accept(given: Input) -> Ready:
    """Take every order at once."""
    return Ready(answers=(taken(given.order_id),)) if isinstance(given, Order) else Ready()


def mute(_given: Input) -> Ready:
    return Ready()


def running(nursery: trio.Nursery, answer: Callable[[Input], Ready]) -> EngineDriver:
    driver = driver_of(FakeEngine(answer), FakeEffects())
    nursery.start_soon(driver.run)
    return driver


async def test_the_answer_of_the_same_step_comes_back(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        driver = running(nursery, accept)
        assert await driver.order(order()) == taken("one")
        assert trio.current_time() == 0
        nursery.cancel_scope.cancel()


async def test_answers_of_later_steps_reach_those_whose_orders_they_are_about(
    autojump_clock: Clock,
) -> None:
    got: dict[str, OrderAnswer] = {}

    def both(given: Input) -> Ready:
        if not isinstance(given, ProxyLoad):
            return Ready()
        return Ready(answers=(taken("two"), taken("of nobody"), taken("one")))

    async def give(driver: EngineDriver, order_id: str) -> None:
        got[order_id] = await driver.order(order(order_id))

    async with trio.open_nursery() as nursery:
        driver = running(nursery, both)
        async with trio.open_nursery() as callers:
            callers.start_soon(give, driver, "one")
            callers.start_soon(give, driver, "two")
            await trio.sleep(6)
            assert got == {}
            driver.inbox.send_nowait(ProxyLoad(1))
        nursery.cancel_scope.cancel()
    assert got == {"one": taken("one"), "two": taken("two")}


async def test_no_answer_in_time_says_that_the_order_may_have_been_taken(
    autojump_clock: Clock,
) -> None:
    async with trio.open_nursery() as nursery:
        driver = running(nursery, mute)
        with pytest.raises(OrderUnansweredError, match="metako status"):
            await driver.order(order())
        assert trio.current_time() == ORDER_TIMEOUT_S
        # The same id may be given again: nobody waits under it any more.
        with pytest.raises(UnreachableError, match="no answer within 10 s"):
            await driver.order(order())
        nursery.cancel_scope.cancel()


async def test_an_order_that_finds_no_room_in_the_inbox_was_not_given(
    autojump_clock: Clock,
) -> None:
    engine = FakeEngine(accept)
    driver = driver_of(engine, FakeEffects())  # does not run
    for number in range(INBOX_MAX):
        driver.inbox.send_nowait(ProxyLoad(number))
    with pytest.raises(OrderNotGivenError, match="too busy"):
        await driver.order(order())
    assert driver.inbox.statistics().tasks_waiting_send == 0


async def test_a_cancelled_caller_leaves_the_table_and_its_late_answer_is_dropped(
    autojump_clock: Clock,
) -> None:
    def late(given: Input) -> Ready:
        return Ready(answers=(taken("one"),)) if isinstance(given, ProxyLoad) else Ready()

    async with trio.open_nursery() as nursery:
        driver = running(nursery, late)
        with trio.move_on_after(1) as scope:
            await driver.order(order())
        assert scope.cancelled_caught
        driver.inbox.send_nowait(ProxyLoad(1))
        await trio.sleep(1)
        assert not driver.stopped.is_set()
        with pytest.raises(OrderUnansweredError):
            await driver.order(order())  # the late answer was not kept for it
        nursery.cancel_scope.cancel()


async def test_callers_beyond_the_limit_are_refused_and_the_others_wait_on(
    autojump_clock: Clock,
) -> None:
    got: list[OrderAnswer] = []

    def all_at_once(given: Input) -> Ready:
        answers = tuple(taken(str(number)) for number in range(ORDERS_MAX))
        return Ready(answers=answers) if isinstance(given, ProxyLoad) else Ready()

    async def give(driver: EngineDriver, number: int) -> None:
        got.append(await driver.order(order(str(number))))

    async with trio.open_nursery() as nursery:
        driver = running(nursery, all_at_once)
        async with trio.open_nursery() as callers:
            for number in range(ORDERS_MAX):
                callers.start_soon(give, driver, number)
            await trio.sleep(1)
            with pytest.raises(OrderNotGivenError, match="try again"):
                await driver.order(order("one too many"))
            driver.inbox.send_nowait(ProxyLoad(1))
        nursery.cancel_scope.cancel()
    assert sorted(answer.order_id for answer in got) == sorted(map(str, range(ORDERS_MAX)))


async def test_an_order_that_comes_while_the_node_stops_is_refused(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        driver = running(nursery, accept)
        driver.inbox.send_nowait(StopRequested())
        await trio.sleep(1)
        with pytest.raises(OrderNotGivenError, match="another node"):
            await driver.order(order())
        nursery.cancel_scope.cancel()


async def test_whoever_still_waits_when_the_node_has_stopped_is_told_at_once(
    autojump_clock: Clock,
) -> None:
    errors: list[Exception] = []

    async def give(driver: EngineDriver) -> None:
        try:
            await driver.order(order())
        except UnreachableError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        driver = running(nursery, lambda given: Ready(stopped=isinstance(given, StopRequested)))
        nursery.start_soon(give, driver)
        await trio.sleep(1)
        driver.inbox.send_nowait(StopRequested())
    assert trio.current_time() == 1
    assert [type(error) for error in errors] == [OrderUnansweredError]
    assert "has stopped" in str(errors[0])
