"""A standby whose agent has been replaced: how far its WAL goes is not seen from outside."""

from __future__ import annotations

import pytest

from sim.settled import Stage, document, finish, others, outage, primary, settled, until, writes


def follows_without_its_agent(seed: int) -> tuple[Stage, str, str]:
    """Return a cluster, its second primary, and the standby that has everything.

    That standby's server went over to the second primary's timeline and has written no checkpoint
    since: its control file names the former one.
    """
    world = settled("abcvw", witnesses="vw", seed=seed)
    first = primary(world)
    world.nodes[first].kill_host()
    outage(world, other_than=first)
    second = primary(world)
    (third,) = others(world, first, second, *world.witnesses)
    until(world, lambda: document(world).sync.nodes() == {third}, limit_s=5)
    data = world.nodes[third].server.data
    assert data is not None
    assert writes(world)
    data.control.checkpoint_tli = data.control.min_recovery_tli = data.history[-2].tli
    return world, second, third


@pytest.mark.parametrize("seed", range(3))
def test_standby_that_has_everything_stands_after_its_agent_was_replaced(seed: int) -> None:
    """Nothing shows its timeline but the WAL on its disk, which is read for a promise."""
    world, lost, standby = follows_without_its_agent(seed)
    node = world.nodes[standby]
    node.kill_agent()
    world.nodes[lost].kill_postgres()  # the standby's receiver ends, and with it what it showed
    world.nodes[lost].kill_host()
    world.run(3)
    assert node.start()
    assert outage(world, other_than=lost, limit_s=12) < 8
    assert primary(world) == standby
    for name in world.names:
        world.nodes[name].start()
    finish(world)
