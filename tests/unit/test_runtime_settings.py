"""What the engine is told of the configuration, where it is more than a copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metako.config import load
from metako.election.settings import ClusterSettings
from metako.model.document import PairMode
from metako.runtime.settings import node_settings

BASE = """node: {name: n1, zone: north, priority: 7}
cluster:
  name: main
  bootstrap_node: n1
  members: [{name: n1, host: 127.0.0.1}, {name: n2, host: 127.0.0.2}]
"""


@pytest.fixture
def told(tmp_path: Path) -> Callable[[str], ClusterSettings]:
    def told(cluster: str = "") -> ClusterSettings:
        path = tmp_path / "node.yaml"
        path.write_text(BASE + cluster)
        return node_settings(load(path, environ={})).cluster

    return told


def test_a_pair_that_says_nothing_goes_by_the_primary(told: Callable[..., ClusterSettings]) -> None:
    assert told().pair_mode is PairMode.MANUAL
    assert told("  pair_mode: takeover\n").pair_mode is PairMode.TAKEOVER


@pytest.mark.parametrize(
    ("delay", "failures", "wait_ms"),
    [("10ms", 3, 10), ("4s", 3, 4000), ("10ms", 20, 3000), ("4s", 20, 4000)],
)
def test_the_standby_waits_for_the_longer_of_delay_and_missed_heartbeats(
    told: Callable[..., ClusterSettings], delay: str, failures: int, wait_ms: int
) -> None:
    """20 heartbeats of 250 ms are 5 s, of which the hold is 2."""
    keys = f"  takeover_delay: {delay}\n  takeover_failures: {failures}\n"
    assert told(keys).takeover_wait_ms == wait_ms


def test_where_the_node_is_and_how_much_it_is_preferred_is_told(
    told: Callable[..., ClusterSettings],
) -> None:
    assert (told().zone, told().priority) == ("north", 7)
