"""The members' own slots: who has one, whose is emptied, and that a standby is counted once."""

from __future__ import annotations

from sim_postgres_kit import Cluster, data_on, primary_cluster

from metako.model.ids import NodeId, Term
from metako.model.postgres import Detached, ProcessState, Stopped
from sim.postgres.upkeep import slot_of


def slots(cluster: Cluster, node: str) -> dict[str, tuple[bool, bool]]:
    """Return by whose slot it is: in use, keeps WAL."""
    found = data_on(cluster, node).slots
    names = {slot_of(NodeId(name)): name for name in cluster.servers}
    return {names[s.name]: (s.sender is not None, s.restart_lsn > 0) for s in found.values()}


def test_every_server_has_a_slot_for_each_other_member() -> None:
    cluster = primary_cluster(own_slots=True)
    cluster.run(1)
    assert slots(cluster, "n1") == {"n2": (True, True), "n3": (True, True)}
    assert slots(cluster, "n2") == {"n1": (False, False), "n3": (False, False)}


def test_one_standby_does_not_count_twice() -> None:
    """What `ANY 2 (c, d)` takes c, c for, without slots; see test_sim_postgres_sync."""
    cluster = primary_cluster(k=2, own_slots=True)
    server = cluster.servers["n1"]
    cluster.servers["n3"].kill()
    cluster.supervisors["n3"].kill()
    cluster.run(0.5)
    _, outcomes = cluster.commit()
    cut = cluster.network.cut_pairs(lambda src, dst: "n2" in (src, dst))
    cluster.run_to(lambda: cluster.servers["n2"].last_receiver_error == "the connection timed out")
    cut.undo()
    cluster.run(0.5)
    assert "is active" in cluster.servers["n2"].last_receiver_error
    assert server.primary is not None
    for _ in range(100):
        cluster.run(0.1)
        assert [s.node for s in server.primary.senders].count(NodeId("n2")) <= 1
    assert cluster.streams("n2")
    assert outcomes == []


def test_former_primary_keeps_wal_for_nobody() -> None:
    cluster = primary_cluster(own_slots=True)
    for node in ("n2", "n3"):
        cluster.supervisors[node].set_target(Detached(Term(2)))
    cluster.supervisors["n1"].set_target(Stopped(fast=True))
    cluster.run_to(lambda: cluster.servers["n1"].process is ProcessState.STOPPED)
    assert any(kept for _, kept in slots(cluster, "n1").values())
    cluster.supervisors["n1"].set_target(Detached(Term(2)))
    cluster.run_to(lambda: cluster.observed("n1").in_recovery)
    cluster.run(1)
    assert slots(cluster, "n1") == {"n2": (False, False), "n3": (False, False)}


def test_slot_of_one_that_is_no_member_any_more_is_dropped_once_it_is_gone() -> None:
    cluster = primary_cluster(own_slots=True)
    cluster.supervisors["n1"].set_members([NodeId("n1"), NodeId("n2")])
    cluster.run(1)
    assert slots(cluster, "n1")["n3"] == (True, True)
    cluster.supervisors["n3"].set_target(Stopped(fast=True))
    cluster.run(6)
    assert slots(cluster, "n1") == {"n2": (True, True)}
