"""A node that requires a watchdog does not lead while it cannot be armed; and what is told."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from resuming_kit import END, HARD, A, B, C, core_of, detached_standby

from metako.api.view import status_view
from metako.cli.status_text import picture
from metako.cluster.engine import blank_hard_state
from metako.cluster.narrate import server_events
from metako.cluster.projection import project
from metako.election.bootstrap import Bootstrap
from metako.election.candidate import Candidate
from metako.election.core import Core
from metako.election.settings import ClusterSettings, ElectionSettings
from metako.guard.packets import GuardStatus
from metako.guard.watchdog import Wish
from metako.model.events import Severity
from metako.model.ids import NodeId, RecordId, Term
from metako.model.instant import Instant
from metako.model.member import MemberMeta
from metako.model.postgres import DataState, PostgresObserved, ProcessState
from metako.model.watchdog import NO_WATCHDOG, WatchdogSeen, WatchdogState
from metako.observability.metrics import render_metrics
from metako.observability.status_line import status_line
from metako.postgres.watchdog import watchdog_seen
from sim.settled import Stage, document, primary, settled, status, until, wait_primary

IDLE = WatchdogSeen(WatchdogState.IDLE, "", 1, "Fake")
ARMED = WatchdogSeen(WatchdogState.ARMED, "", 1, "Fake")
FAILED = WatchdogSeen(WatchdogState.FAILED, "/dev/watchdog does not exist")
DETACHED = replace(detached_standby(), lsn=END)


def core_with(watchdog: WatchdogSeen, *, required: bool) -> Core:
    core = core_of(HARD)
    core.cluster = replace(core.cluster, watchdog_required=required)
    core.observed = replace(DETACHED, watchdog=watchdog)
    return core


@pytest.mark.parametrize(
    ("watchdog", "required", "leads"),
    [
        (NO_WATCHDOG, False, True),
        (FAILED, False, True),
        (IDLE, True, True),
        (ARMED, True, True),
        (FAILED, True, False),
        (NO_WATCHDOG, True, False),  # not looked at yet
    ],
)
def test_only_a_required_watchdog_that_fails_keeps_a_node_from_leading(
    watchdog: WatchdogSeen, required: bool, leads: bool
) -> None:
    core = core_with(watchdog, required=required)
    assert Candidate(core).may_stand() is leads
    assert core.can_lead(Term(9)) is leads
    assert core.own_promise(Term(9)).can_lead is leads
    assert bool(core.unwatched) is not leads


def test_it_does_not_create_the_cluster_either_and_says_why() -> None:
    cluster = ClusterSettings("test", A, (A,), watchdog_required=True)
    hard = blank_hard_state(A, 1, RecordId("r"))
    empty = PostgresObserved(data=DataState.EMPTY, process=ProcessState.STOPPED, watchdog=FAILED)
    core = Core(ElectionSettings(), cluster, A, hard, random.Random(1), observed=empty)
    bootstrap = Bootstrap(core)
    assert bootstrap.wanted()
    assert not bootstrap.tick(Instant(0, 0))
    assert bootstrap.why_not().endswith("/dev/watchdog does not exist")
    core.observed = replace(empty, watchdog=IDLE)
    assert bootstrap.tick(Instant(0, 0))


def test_others_see_it_as_a_node_that_never_stands() -> None:
    meta = MemberMeta(priority=70)
    assert project(DETACHED, meta, None, 0).priority == 70
    assert project(DETACHED, meta, None, 0, unwatched=True).priority == 0


def require(world: Stage, node: NodeId) -> None:
    """Have the agent of a node require a watchdog, which no simulated machine has."""
    agent = world.nodes[node].agent
    assert agent is not None
    core = agent.engine._election.core
    core.cluster = replace(core.cluster, watchdog_required=True)


def test_cluster_fails_over_to_the_node_that_is_watched() -> None:
    world = settled("abc")
    first = primary(world)
    unwatched, other = sorted({A, B, C} - {first})
    require(world, unwatched)
    world.run(2)
    world.nodes[first].kill_host()
    assert wait_primary(world, 20, other_than=first) == other
    world.write_everywhere(0.3)


def test_cluster_waits_where_nobody_who_is_left_is_watched() -> None:
    world = settled("abc")
    first = primary(world)
    for node in {A, B, C} - {first}:
        require(world, node)
    world.run(2)
    world.nodes[first].kill_host()
    world.run(10)
    assert world.primary() is None
    left = min({A, B, C} - {first})
    assert "watchdog is required and not armed" in status(world, left).blocked
    world.nodes[first].start()
    until(world, lambda: world.primary() == first, limit_s=30)
    assert document(world).primary == first


# ---------------------------------------------------------------- what the guard's word means


STATUS = GuardStatus(pid=1, data_dir="/d")
WISH = Wish("/dev/watchdog", 1, required=True)


@pytest.mark.parametrize(
    ("said", "state", "why"),
    [
        (replace(STATUS, watchdog="idle"), WatchdogState.IDLE, ""),
        (replace(STATUS, watchdog="armed", watchdog_why="old"), WatchdogState.ARMED, ""),
        (replace(STATUS, watchdog="failed", watchdog_why="x"), WatchdogState.FAILED, "x"),
        (STATUS, WatchdogState.FAILED, "started without it"),
        (replace(STATUS, watchdog="colour"), WatchdogState.FAILED, ""),
    ],
)
def test_guard_is_believed_where_it_knows_of_a_watchdog(
    said: GuardStatus, state: WatchdogState, why: str
) -> None:
    seen = watchdog_seen(said, WISH, lost=False)
    assert seen.state is state
    assert why in seen.why
    assert watchdog_seen(said, WISH, lost=True).state is WatchdogState.FAILED
    assert watchdog_seen(said, None, lost=False) == NO_WATCHDOG


# ---------------------------------------------------------------- what is told


def told(before: WatchdogSeen, after: WatchdogSeen) -> list[tuple[Severity, str]]:
    pictures = (replace(DETACHED, watchdog=each) for each in (before, after))
    return [(event.severity, event.message) for event in server_events(*pictures, None)]


def test_log_tells_each_change_once_and_a_failure_with_its_reason() -> None:
    failure = (Severity.ERROR, f"guard.watchdog: not armed: {FAILED.why}")
    assert told(NO_WATCHDOG, FAILED) == [failure]
    assert told(IDLE, FAILED) == [failure]
    assert told(FAILED, FAILED) == []
    assert told(FAILED, replace(FAILED, timeout_s=1)) == []
    ((severity, message),) = told(IDLE, ARMED)
    assert (severity, message.split(":")[1]) == (Severity.INFO, " armed")
    assert told(ARMED, IDLE) == [(Severity.INFO, "guard.watchdog: disarmed")]
    assert told(NO_WATCHDOG, IDLE) == []


def shown(watchdog: WatchdogSeen) -> tuple[object, str, str, list[tuple[str, str]]]:
    world = Stage("a")
    world.run(3)
    seen = status(world, A)
    seen = replace(seen, postgres=replace(seen.postgres, watchdog=watchdog))
    view = status_view(seen)
    facts = [fact for fact in picture(view).facts if fact[0] == "watchdog"]
    return (
        view["watchdog"],
        render_metrics(node="a", version="1", status=seen),
        status_line(seen),
        facts,
    )


def test_status_metrics_and_commands_show_it() -> None:
    view, metrics, line, facts = shown(FAILED)
    assert view == {"state": "failed", "why": FAILED.why, "timeout_s": None, "identity": None}
    assert 'metako_watchdog_failed{node="a"} 1' in metrics
    assert "watchdog=failed" in line
    assert facts == [("watchdog", f"NOT ARMED: {FAILED.why}")]
    view, metrics, line, facts = shown(ARMED)
    assert view == {"state": "armed", "why": None, "timeout_s": 1, "identity": "Fake"}
    assert 'metako_watchdog_armed{node="a"} 1' in metrics
    assert "watchdog" not in line
    assert facts == [("watchdog", "armed, Fake, 1 s")]
    view, metrics, line, facts = shown(NO_WATCHDOG)
    assert view == {"state": "off", "why": None, "timeout_s": None, "identity": None}
    assert "metako_watchdog" not in metrics
    assert "watchdog" not in line
    assert facts == []
