"""The cluster that a scenario describes becomes the configuration of real nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chaos.cluster import plan
from chaos.lab import Lab
from metako.demo.layout import node_config_text
from metako.model.document import PairMode
from metako.model.ids import NodeId
from sim.scenario import Cluster

TWO = (NodeId("n1"), NodeId("n2"))


@pytest.mark.parametrize(
    ("cluster", "wanted"),
    [
        (Cluster(TWO), {"pair_mode": "manual"}),
        (
            Cluster(TWO, pair_mode=PairMode.TAKEOVER, takeover_wait_ms=1500),
            {"pair_mode": "takeover", "takeover_delay": "1500ms"},
        ),
        (Cluster(), {}),
        (Cluster((*TWO, NodeId("w")), witnesses=(NodeId("w"),)), {}),
    ],
)
def test_the_rule_of_a_pair_is_that_of_the_scenario(
    cluster: Cluster, wanted: dict[str, str]
) -> None:
    layout = plan(Lab(cluster.names, run_id="3fa1"), Path("/tmp/x"), cluster, os_user=None)
    for node in layout.nodes:
        section = yaml.safe_load(node_config_text(layout, node))["cluster"]
        assert {k: v for k, v in section.items() if k.startswith(("pair", "take"))} == wanted
