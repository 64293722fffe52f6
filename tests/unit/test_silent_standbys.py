"""Who leaves the sync set while commits block: standbys that are silent, not those without WAL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metako.model.postgres import StandbySeen
from sim.network import Traffic
from sim.postgres.observe import Observer
from sim.settled import Stage, document, others, primary, settled

BLOCKED_S = 5.5
"""A commit that is sent once a second has not returned for two, and then the grace, with room."""


def listed_after_a_cut(world: Stage) -> set[str]:
    """Cut the replication of the primary; return who is listed some seconds later."""
    old = primary(world)
    world.network.partition([old], others(world, old), traffic=Traffic.REPLICATION)
    world.run(BLOCKED_S)
    assert primary(world) == old
    newest = document(world)
    return set(newest.sync.nodes())


def test_standbys_that_flush_nothing_of_what_there_is_leave() -> None:
    assert listed_after_a_cut(settled()) == set()


def test_standbys_of_a_primary_whose_disk_takes_no_wal_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They have flushed all that it has: taken out, nobody could take over from it."""
    world = settled()
    look = Observer._standbys

    def caught_up(self: Observer) -> tuple[StandbySeen, ...]:
        return tuple(replace(seen, behind=False) for seen in look(self))

    monkeypatch.setattr(Observer, "_standbys", caught_up)
    assert listed_after_a_cut(world) == set(others(world, primary(world)))


def test_standbys_of_a_primary_that_hangs_stay() -> None:
    """What it showed last says nothing about now."""
    world = settled()
    world.nodes[primary(world)].server.hung = True
    assert listed_after_a_cut(world) == set(others(world, primary(world)))
