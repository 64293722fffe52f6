"""Who gets which connection to a server, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from metako.model.ids import Address, NodeId, Term
from metako.proxy.limits import Limits
from metako.proxy.pool import Key, Place, Pool
from metako.proxy.routes import Route

OLD = Route(Term(1), NodeId("n1"), Address("127.0.0.1", 1))
NEW = Route(Term(2), NodeId("n2"), Address("127.0.0.1", 2))
A = Key("anna", "app", ())
A_UTC = Key("anna", "app", (("timezone", "UTC"),))
B = Key("bert", "app", ())
C = Key("bert", "other", ())


@dataclass(eq=False)
class Leg:
    key: Key
    route: Route = OLD
    opened_ns: int = 0
    closed: int = field(default=0)

    def close(self) -> None:
        self.closed += 1


class Rig:
    def __init__(self, **limits: int) -> None:
        self.now_ns = 1
        self.pool = Pool(Limits(**limits), lambda: self.now_ns)
        self.pool.receive_route(OLD)

    def take(self, key: Key) -> Leg | Place:
        """Return what is to be had at once."""
        got = self.pool._take(key)
        assert got is not None
        return got

    def used(self, key: Key = A) -> Leg:
        """Return a leg that was opened on a place."""
        assert self.take(key) == Place(key)
        return Leg(key, opened_ns=self.now_ns)

    def idle(self, key: Key = A) -> Leg:
        leg = self.used(key)
        self.now_ns += 1
        self.pool.give_back(leg.key, leg)
        return leg

    def row(self, key: Key) -> tuple[int, int, int]:
        """Return how many are lent, idle, waited for."""
        return next((row[1:] for row in self.pool.rows() if row[0] == key), (0, 0, 0))


class Waiting:
    """Those who wait in a nursery, and what they got, in this order."""

    def __init__(self, pool: Pool, nursery: trio.Nursery) -> None:
        self.pool = pool
        self.nursery = nursery
        self.got: list[tuple[str, Leg | Place]] = []

    async def add(self, name: str, key: Key) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                self.got.append((name, await self.pool.acquire(key)))

        self.nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        return scope

    async def names(self) -> str:
        await trio.testing.wait_all_tasks_blocked()
        return "".join(name for name, _ in self.got)


async def test_a_leg_that_came_back_is_lent_before_another_is_opened() -> None:
    rig = Rig()
    first, other = rig.idle(), rig.used(A_UTC)
    assert (rig.pool.total, rig.pool.idle) == (2, 1)
    assert await rig.pool.acquire(A) is first
    assert await rig.pool.acquire(A) == Place(A)
    assert rig.row(A) == (2, 0, 0)
    assert (rig.pool.total, rig.pool.idle) == (3, 0)
    assert (first.closed, other.closed) == (0, 0)


async def test_the_one_that_came_back_last_is_lent_first() -> None:
    rig = Rig()
    legs = [rig.used(), rig.used()]
    for leg in legs:
        rig.pool.give_back(leg.key, leg)
    assert [rig.take(A), rig.take(A)] == legs[::-1]


async def test_nobody_gets_a_leg_of_another_user_database_or_setting() -> None:
    rig = Rig()
    rig.idle(A)
    for key in (B, C, A_UTC):
        assert rig.take(key) == Place(key)


async def test_those_who_want_the_same_are_served_in_the_order_in_which_they_came() -> None:
    rig = Rig(key=1)
    leg = rig.used()
    async with trio.open_nursery() as nursery:
        waiting = Waiting(rig.pool, nursery)
        for name in "abc":
            await waiting.add(name, A)
        assert await waiting.names() == ""
        assert rig.row(A) == (1, 0, 3)
        rig.pool.give_back(leg.key, leg)
        assert await waiting.names() == "a"
        assert waiting.got[0][1] is leg
        rig.pool.give_up(A)  # it broke: its place goes to the next
        assert await waiting.names() == "ab"
        assert waiting.got[1][1] == Place(A)
        rig.pool.give_up(A)
        assert await waiting.names() == "abc"


async def test_who_comes_later_does_not_overtake_with_a_leg_that_came_back() -> None:
    rig = Rig(key=1)
    leg = rig.used()
    async with trio.open_nursery() as nursery:
        waiting = Waiting(rig.pool, nursery)
        await waiting.add("a", A)
        rig.pool.give_back(leg.key, leg)
        # It is handed to "a", though "a" has not run yet.
        assert rig.pool.idle == 0
        await waiting.add("b", A)
        assert await waiting.names() == "a"
        nursery.cancel_scope.cancel()
    assert rig.pool.waiting == 0


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    rig = Rig(key=1)
    leg = rig.used()
    async with trio.open_nursery() as nursery:
        waiting = Waiting(rig.pool, nursery)
        scope = await waiting.add("a", A)
        await waiting.add("b", A)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert rig.row(A) == (1, 0, 1)
        rig.pool.give_back(leg.key, leg)
        assert await waiting.names() == "b"


@pytest.mark.parametrize("back", [True, False])
async def test_what_was_handed_over_in_the_moment_of_giving_up_goes_to_the_next(back) -> None:
    rig = Rig(key=1)
    leg = rig.used()
    async with trio.open_nursery() as nursery:
        waiting = Waiting(rig.pool, nursery)
        scope = await waiting.add("a", A)
        await waiting.add("b", A)
        if back:
            rig.pool.give_back(leg.key, leg)
        else:
            rig.pool.give_up(A)
        scope.cancel()
        assert await waiting.names() in ("b", "a")  # trio may have run "a" before
        if await waiting.names() == "a":
            rig.pool.give_up(A)
        assert (await waiting.names())[-1] == "b"
        assert rig.row(A) == (1, 0, 0)


@pytest.mark.parametrize(
    ("limits", "taken", "wanted", "served"),
    [
        ({"server": 2}, (A, B), C, A),
        ({"user": 1}, (B,), C, B),
        ({"database": 1}, (A,), B, A),
        ({"database": 2, "user": 1}, (A, B), A_UTC, A),
    ],
)
async def test_a_limit_is_waited_for_and_idle_legs_are_closed_for_it(
    limits, taken, wanted, served
) -> None:
    rig = Rig(**limits)
    legs = {key: rig.used(key) for key in taken}
    async with trio.open_nursery() as nursery:
        waiting = Waiting(rig.pool, nursery)
        await waiting.add("w", wanted)
        assert await waiting.names() == ""
        rig.pool.give_back(legs[served].key, legs[served])
        assert await waiting.names() == "w"
    assert waiting.got[0][1] == Place(wanted)
    assert legs[served].closed == 1
    assert rig.row(served) == (0, 0, 0)


async def test_the_limit_of_one_user_does_not_keep_another_waiting() -> None:
    rig = Rig(user=1, server=3)
    rig.used(A)
    async with trio.open_nursery() as nursery:
        waiting = Waiting(rig.pool, nursery)
        await waiting.add("a", A_UTC)
        await waiting.add("b", B)
        assert await waiting.names() == "b"
        nursery.cancel_scope.cancel()


async def test_no_idle_leg_is_closed_in_vain() -> None:
    rig = Rig(user=1, server=2)
    kept, _ = rig.idle(B), rig.used(A)
    async with trio.open_nursery() as nursery:
        waiting = Waiting(rig.pool, nursery)
        await waiting.add("a", A_UTC)  # the server's limit is in the way, and the user's too
        assert await waiting.names() == ""
        assert kept.closed == 0
        nursery.cancel_scope.cancel()


async def test_the_leg_that_was_idle_for_longest_makes_room() -> None:
    rig = Rig(server=2)
    old, young = rig.used(A), rig.used(B)
    for leg in (old, young):
        rig.now_ns += 1
        rig.pool.give_back(leg.key, leg)
    assert rig.take(C) == Place(C)
    assert (old.closed, young.closed) == (1, 0)


async def test_another_primary_closes_idle_legs_at_once_and_takes_back_none_of_the_old() -> None:
    rig = Rig()
    lent, idle = rig.used(), rig.used()
    rig.pool.give_back(idle.key, idle)
    rig.pool.receive_route(NEW)
    assert (idle.closed, lent.closed) == (1, 0)
    rig.pool.give_back(lent.key, lent)
    assert lent.closed == 1
    assert rig.pool.total == 0
    fresh = Leg(A, NEW)
    assert rig.take(A) == Place(A)
    rig.pool.give_back(fresh.key, fresh)
    assert rig.take(A) is fresh


async def test_while_there_is_no_server_everybody_waits() -> None:
    rig = Rig()
    idle = rig.idle()
    rig.pool.receive_route(None)
    assert idle.closed == 1
    async with trio.open_nursery() as nursery:
        waiting = Waiting(rig.pool, nursery)
        await waiting.add("a", A)
        await waiting.add("b", B)
        assert await waiting.names() == ""
        rig.pool.receive_route(NEW)
        assert sorted(await waiting.names()) == ["a", "b"]


async def test_idle_and_old_legs_go() -> None:
    rig = Rig(idle_ns=100, life_ns=1000)
    first, second = rig.used(), rig.used()
    rig.pool.give_back(first.key, first)
    rig.now_ns += 60
    rig.pool.give_back(second.key, second)
    assert rig.pool.close_old() == 0
    rig.now_ns += 60
    assert rig.pool.close_old() == 1
    assert (first.closed, second.closed) == (1, 0)
    assert rig.take(A) is second
    rig.now_ns += 1000
    rig.pool.give_back(second.key, second)
    assert second.closed == 1
    assert rig.pool.total == 0


async def test_lower_limits_are_kept_by_closing_what_comes_back() -> None:
    rig = Rig()
    legs = [rig.used() for _ in range(3)]
    rig.pool.set_limits(replace(rig.pool.limits, key=1))
    for leg in legs:
        rig.pool.give_back(leg.key, leg)
    assert [leg.closed for leg in legs] == [1, 1, 0]
    rig.pool.set_limits(Limits(key=5))
    assert rig.take(A) is legs[2]


async def test_a_leg_that_notices_its_end_is_not_lent() -> None:
    rig = Rig(key=1)
    idle = rig.idle()
    assert rig.pool.lost(idle.key, idle)
    assert not rig.pool.lost(idle.key, idle)
    assert idle.closed == 1
    lent = rig.used()
    assert not rig.pool.lost(lent.key, lent)
    assert (rig.pool.total, lent.closed) == (1, 0)


KINDS = ("acquire", "acquire", "acquire", "back", "up", "leave", "route", "old", "limits", "lost")
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 7)), min_size=20, max_size=80
)


@given(OPERATIONS)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_limits_hold_nobody_waits_in_vain_and_no_leg_has_two_users(steps) -> None:
    trio.run(_live, steps)


async def _live(steps) -> None:
    rig = Rig(server=4, user=3, database=3, key=2, idle_ns=50, life_ns=200)
    pool, keys, routes = rig.pool, (A, A_UTC, B, C), [OLD, NEW, None]
    lent: list[Leg] = []
    legs: list[Leg] = []
    scopes: list[trio.CancelScope] = []
    route: Route | None = OLD

    async def use(key: Key, scope: trio.CancelScope) -> None:
        with scope:
            got = await pool.acquire(key)
            if isinstance(got, Place):
                got = Leg(key, route or OLD, rig.now_ns)
                legs.append(got)
            assert got not in lent
            assert got.closed == 0
            lent.append(got)

    async with trio.open_nursery() as nursery:
        for step, which in steps:
            rig.now_ns += 7
            match step:
                case "acquire":
                    scopes.append(trio.CancelScope())
                    nursery.start_soon(use, keys[which % 4], scopes[-1])
                case "back" if lent:
                    back = lent.pop(which % len(lent))
                    pool.give_back(back.key, back)
                case "up" if lent:
                    pool.give_up(lent.pop(which % len(lent)).key)
                case "leave" if scopes:
                    scopes.pop(which % len(scopes)).cancel()
                case "route":
                    route = routes[which % 3]
                    pool.receive_route(route)
                case "old":
                    rig.now_ns += 20 * which
                    pool.close_old()
                case "limits":
                    pool.set_limits(replace(pool.limits, server=1 + which, key=1 + which % 3))
                case "lost" if legs:
                    pool.lost(legs[which % len(legs)].key, legs[which % len(legs)])
            await trio.testing.wait_all_tasks_blocked()
            _check(pool, lent, route)
        nursery.cancel_scope.cancel()
    for leg in lent:
        pool.give_back(leg.key, leg)
    assert pool.waiting == 0
    assert pool.total == pool.idle
    pool.close_idle()
    assert (pool.total, pool.rows()) == (0, [])


def _check(pool: Pool, lent: list[Leg], route: Route | None) -> None:
    rows = pool.rows()
    assert sum(row[1] for row in rows) == len(lent)
    assert pool.total == len(lent) + pool.idle
    for key, _, idle, waiting in rows:
        assert not (idle and waiting), "a leg is idle though somebody waits for it"
        assert not waiting or route is None or not pool._make_room(key), "a place is free"
