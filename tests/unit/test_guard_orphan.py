"""What a guard does that no agent is connected to."""

from metako.guard.orphan import FAST_STOP_S, IDLE_EXIT_S, NS_PER_S, Due, Orphan

RUNS = {"armed": False, "gone": False, "ending": False}
GONE = {"armed": False, "gone": True, "ending": False}


def seconds(number):
    return round(number * NS_PER_S)


def test_server_is_stopped_after_the_timeout_and_ended_if_that_takes_too_long():
    orphan = Orphan(60.0, since_ns=0)
    assert orphan.due(seconds(60) - 1, **RUNS) is None
    assert orphan.due(seconds(60), **RUNS) is Due.STOP
    assert orphan.due(seconds(61), **RUNS) is None
    assert orphan.due(seconds(60 + FAST_STOP_S), **RUNS) is Due.END
    assert orphan.wakeup_ns(**{**RUNS, "ending": True}) is None


def test_guard_with_nothing_to_watch_exits_soon_and_later_after_a_fence():
    orphan = Orphan(60.0, since_ns=0)
    assert orphan.due(seconds(IDLE_EXIT_S), **GONE) is Due.EXIT
    orphan.fenced = True
    assert orphan.due(seconds(IDLE_EXIT_S), **GONE) is None
    assert orphan.due(seconds(60), **GONE) is Due.EXIT


def test_armed_server_waits_for_its_deadline():
    assert Orphan(1.0, since_ns=0).due(seconds(100), **{**RUNS, "armed": True}) is None


def test_agent_that_comes_back_ends_all_that():
    orphan = Orphan(1.0, since_ns=0)
    assert orphan.due(seconds(1), **RUNS) is Due.STOP
    orphan.adopted()
    assert orphan.wakeup_ns(**RUNS) is None
    orphan.since_ns = seconds(10)
    assert orphan.due(seconds(11), **RUNS) is Due.STOP
