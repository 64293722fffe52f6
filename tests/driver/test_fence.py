"""The fence keeper under a virtual clock: what the guard is told, and what its loss does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
import trio

from metako.election.wants import GuardDeadline
from metako.model.ids import Term
from metako.postgres.guardlink import GuardLostError, GuardRefusedError, GuardUnresponsiveError
from metako.postgres.process import Guard
from metako.runtime.fence import LOST_GRACE_S, FenceKeeper

MARGIN_NS = 150


@dataclass
class FakeGuard:
    """Takes `round_trip_s` for every answer; refuses or is lost on demand."""

    round_trip_s: float = 0.0
    errors: list[Exception] = field(default_factory=list)
    told: list[tuple[float, str, int, int]] = field(default_factory=list)
    gone: trio.Event = field(default_factory=trio.Event)
    ended: int = 0  # times that it was killed

    async def wait_lost(self) -> None:
        await self.gone.wait()

    def end_guard(self) -> None:
        self.ended += 1
        self.gone.set()

    async def arm(self, term: int, deadline_boot_ns: int, lease_boot_ns: int) -> None:
        assert lease_boot_ns == deadline_boot_ns + MARGIN_NS
        await self._answer("arm", term, deadline_boot_ns)

    async def disarm(self, term: int) -> None:
        await self._answer("disarm", term, 0)

    async def _answer(self, verb: str, term: int, deadline: int) -> None:
        self.told.append((trio.current_time(), verb, term, deadline))
        await trio.sleep(self.round_trip_s)
        if self.errors:
            raise self.errors.pop(0)


def keeper_of(guard: FakeGuard) -> FenceKeeper:
    return FenceKeeper(cast("Guard", guard), MARGIN_NS)


def deadline(ns: int | None, term: int = 3) -> GuardDeadline:
    return GuardDeadline(Term(term), ns)


async def test_newest_deadline_wins_and_none_waits_behind_an_older_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    guard = FakeGuard(round_trip_s=1.0)
    keeper = keeper_of(guard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        keeper.set_deadline(deadline(100))
        await trio.sleep(0.1)  # the guard is busy with the first one
        for ns in (200, 300, 400):
            keeper.set_deadline(deadline(ns))
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert guard.told == [(0.0, "arm", 3, 100), (1.0, "arm", 3, 400)]


async def test_deadline_set_before_the_keeper_runs_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    guard = FakeGuard()
    keeper = keeper_of(guard)
    keeper.set_deadline(deadline(100))
    with trio.move_on_after(1):
        await keeper.run()
    assert guard.told == [(0.0, "arm", 3, 100)]


async def test_withdrawn_right_disarms(autojump_clock: trio.testing.MockClock) -> None:
    guard = FakeGuard()
    keeper = keeper_of(guard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        keeper.set_deadline(deadline(100))
        await trio.sleep(1)
        keeper.set_deadline(deadline(None))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [told[1:] for told in guard.told] == [("arm", 3, 100), ("disarm", 3, 0)]


async def test_refused_deadline_is_survived_and_the_next_one_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    guard = FakeGuard(errors=[GuardRefusedError("fenced")])
    keeper = keeper_of(guard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        keeper.set_deadline(deadline(100))
        await trio.sleep(1)
        keeper.set_deadline(deadline(500, term=4))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [told[1:] for told in guard.told] == [("arm", 3, 100), ("arm", 4, 500)]


async def test_lost_guard_ends_the_keeper_after_a_moment_for_the_engine(
    autojump_clock: trio.testing.MockClock,
) -> None:
    guard = FakeGuard(errors=[GuardLostError("gone")])
    keeper = keeper_of(guard)
    keeper.set_deadline(deadline(100))
    guard.gone.set()
    with trio.fail_after(LOST_GRACE_S + 0.1), pytest.RaisesGroup(GuardLostError):
        await keeper.run()
    assert trio.current_time() >= LOST_GRACE_S


async def test_loss_of_a_guard_that_nobody_asks_is_noticed_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    guard = FakeGuard()
    guard.gone.set()
    with trio.fail_after(LOST_GRACE_S + 0.1), pytest.RaisesGroup(GuardLostError):
        await keeper_of(guard).run()


async def test_guard_that_does_not_answer_is_ended_with_its_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    guard = FakeGuard(errors=[GuardUnresponsiveError("stopped")])
    keeper = keeper_of(guard)
    keeper.set_deadline(deadline(100))
    with trio.fail_after(LOST_GRACE_S + 0.1), pytest.RaisesGroup(GuardLostError):
        await keeper.run()
    assert guard.ended == 1


async def test_whoever_leaves_waits_for_the_next_renewal_and_for_none_that_cannot_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    keeper = keeper_of(FakeGuard())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await keeper.wait_renewed(5)  # nothing is armed: a standby
        assert trio.current_time() == 0
        keeper.set_deadline(deadline(100))
        await trio.sleep(1)

        async def renew() -> None:
            await trio.sleep(0.2)
            keeper.set_deadline(deadline(200))

        nursery.start_soon(renew)
        await keeper.wait_renewed(5)
        assert trio.current_time() == pytest.approx(1.2)
        await keeper.wait_renewed(5)  # no majority answers
        assert trio.current_time() == pytest.approx(6.2)
        keeper.set_deadline(deadline(None))
        await trio.sleep(1)
        await keeper.wait_renewed(5)
        assert trio.current_time() == pytest.approx(7.2)
        nursery.cancel_scope.cancel()
