"""Streaming, timelines and promotion: what PostgreSQL compares, and what it does not."""

from __future__ import annotations

import pytest
from sim_postgres_kit import Cluster, attach, data_on, primary_cluster, ready_data, sync_of

from metako.model.ids import NodeId, Term, TimelineId
from metako.model.postgres import (
    CatchingUp,
    DataState,
    ProcessState,
    ReceiverState,
    SyncSetting,
)
from metako.postgres.steps import ServerConfig, UpstreamAddress
from sim.postgres.commits import Outcome, SyncLevel
from sim.postgres.wal import segment_of

# ------------------------------------------------------------ streaming


def test_a_standby_gets_the_same_records_and_not_copies_of_them() -> None:
    cluster = primary_cluster()
    cluster.commit()
    cluster.run(0.1)
    first, second = data_on(cluster, "n1"), data_on(cluster, "n2")
    assert all(a is b for a, b in zip(first.wal, second.wal, strict=True))
    assert second.holds(first.wal[-1])


def test_a_standby_reads_what_it_has_replayed() -> None:
    cluster = primary_cluster()
    cluster.commit(value="a")
    cluster.commit(value="b")
    cluster.run(0.1)
    assert cluster.servers["n2"].read("k") == ("a", "b")
    cluster.servers["n2"].replay_paused = True
    cluster.commit(value="c")
    cluster.run(0.1)
    assert cluster.servers["n2"].read("k") == ("a", "b")
    assert cluster.servers["n1"].read("k") == ("a", "b", "c")


def test_a_standby_that_was_away_catches_up() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].kill()
    for number in range(10):
        cluster.commit(value=str(number))
        cluster.run(0.01)
    cluster.run_to(lambda: cluster.streams("n2"))
    cluster.run(0.1)
    assert data_on(cluster, "n2").end == data_on(cluster, "n1").end


def test_wal_that_was_there_before_does_not_count_as_received() -> None:
    """Measured on PostgreSQL 15: pg_last_wal_receive_lsn() stays at the begin of a segment."""
    cluster = primary_cluster()
    for supervisor in cluster.supervisors.values():
        supervisor.kill()  # no probe writes anything
    server = cluster.servers["n2"]
    server.kill()
    cluster.run_to(lambda: server.process is ProcessState.STOPPED)
    server.start(ServerConfig(UpstreamAddress(NodeId("n1"), cluster.upstream("n1").address)))
    cluster.run_to(lambda: server.receiving)
    cluster.run(1)
    server.terminate_receiver()
    cluster.run(1)
    startup, data = server.startup, data_on(cluster, "n2")
    assert startup is not None
    assert startup.received == segment_of(data.end) < data.end
    cluster.commit(level=SyncLevel.LOCAL)
    cluster.run(0.1)
    assert startup.received == data.end


def test_what_was_received_is_counted_on_only_for_the_same_timeline() -> None:
    cluster = primary_cluster()
    cluster.commit()
    cluster.run(0.1)
    startup, data = cluster.servers["n2"].startup, data_on(cluster, "n2")
    assert startup is not None
    assert startup.received == data.end
    startup.will_receive(data.tli, anew=False)
    assert startup.received == data.end
    startup.will_receive(TimelineId(data.tli + 1), anew=False)
    assert startup.received == segment_of(data.end)


def test_a_foreign_upstream_is_refused_by_its_system_identifier() -> None:
    cluster = Cluster(("n1", "n2"))
    cluster.servers["n1"].data, cluster.servers["n2"].data = ready_data(1), ready_data(2)
    data_on(cluster, "n1").system_id = 99
    cluster.lead("n1", 1, 2, SyncSetting())
    cluster.detach("n2", 1)
    cluster.run(1)
    attach(cluster, "n2", "n1")
    cluster.run(0.3)
    assert cluster.noted("foreign_upstream")
    assert data_on(cluster, "n2").end != data_on(cluster, "n1").end


def behind_a_standby() -> Cluster:
    """Return a cluster in which n3 has got nothing of what n1 wrote last, and n2 is detached."""
    cluster = primary_cluster()
    cluster.detach("n3", 2)
    cluster.run_to(lambda: cluster.observed("n3").detached_for == 2)
    for number in range(5):
        cluster.commit(value=str(number))
        cluster.run(0.01)
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    assert data_on(cluster, "n3").end < data_on(cluster, "n2").end
    return cluster


def catch_up(cluster: Cluster, node: str, source: str) -> None:
    target = CatchingUp(Term(2), cluster.upstream(source))
    cluster.supervisors[node].set_target(target)


def test_a_standby_sends_on_what_it_has_and_gets() -> None:
    cluster = behind_a_standby()
    catch_up(cluster, "n3", "n2")
    cluster.run_to(lambda: data_on(cluster, "n3").end == data_on(cluster, "n2").end)
    assert cluster.observed("n3").position is None
    cluster.follow("n2", "n1")
    cluster.run_to(lambda: cluster.streams("n2"))
    _, outcomes = cluster.commit(value="later")
    cluster.run_to(lambda: outcomes)
    cluster.run(0.1)
    assert data_on(cluster, "n3").wal[-1] is data_on(cluster, "n1").wal[-1]


def test_after_a_start_a_standby_sends_on_what_it_has_replayed() -> None:
    """Its WAL receiver has received nothing in this life."""
    cluster = behind_a_standby()
    cluster.servers["n2"].kill()
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    cluster.run_to(lambda: cluster.observed("n2").in_recovery)
    catch_up(cluster, "n3", "n2")
    cluster.run_to(lambda: data_on(cluster, "n3").end == data_on(cluster, "n2").end)


def test_who_catches_up_is_measured_anew_when_it_has_left() -> None:
    cluster = behind_a_standby()
    catch_up(cluster, "n3", "n2")
    cluster.run_to(lambda: data_on(cluster, "n3").end == data_on(cluster, "n2").end)
    cluster.detach("n3", 2)
    cluster.run_to(lambda: cluster.observed("n3").position is not None)
    position = cluster.observed("n3").position
    assert position is not None
    assert position.lsn == data_on(cluster, "n2").end
    assert not cluster.servers["n3"].receiving


@pytest.mark.parametrize("counts", [True, False])
def test_no_commit_is_acknowledged_by_who_catches_up(counts: bool) -> None:
    """Were it the old primary that answers at the address, it must not take it for a standby."""
    cluster = behind_a_standby()
    cluster.supervisors["n3"].kill()
    server = cluster.servers["n3"]
    address = cluster.upstream("n1").address
    server.conf = ServerConfig(UpstreamAddress(NodeId("n1"), address, counts=counts))
    server.reload()
    cluster.run_to(lambda: data_on(cluster, "n3").end == data_on(cluster, "n1").end)
    _, outcomes = cluster.commit(value="x")
    cluster.run(0.5)
    assert data_on(cluster, "n3").end == data_on(cluster, "n1").end
    assert bool(outcomes) is counts


def test_a_standby_that_is_promoted_cuts_off_who_streams_from_it() -> None:
    cluster = behind_a_standby()
    catch_up(cluster, "n3", "n2")
    cluster.run_to(lambda: cluster.streams("n3"))
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    cluster.commit("n2", value="new", level=SyncLevel.LOCAL)
    cluster.run_to(lambda: data_on(cluster, "n3").end == data_on(cluster, "n2").end)
    assert data_on(cluster, "n3").tli == 3


def test_a_standby_behind_removed_wal_is_told_so_and_cloned() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].wal_keep = cluster.servers["n1"].wal_keep = 4
    cluster.servers["n2"].start_failures = 1000
    cluster.servers["n2"].kill()
    for number in range(10):
        cluster.commit(value=str(number), level=SyncLevel.LOCAL)
        cluster.run(0.01)
    assert cluster.servers["n1"].remove_wal()
    cluster.servers["n2"].start_failures = 0
    before = data_on(cluster, "n2").data_id
    cluster.run_to(lambda: cluster.noted("wal_lost"))
    cluster.run_to(lambda: cluster.noted("clone_used"))
    assert data_on(cluster, "n2").data_id != before


def test_a_primary_removes_no_wal_that_it_needs_itself() -> None:
    cluster = primary_cluster()
    server, data = cluster.servers["n1"], data_on(cluster, "n1")
    assert not server.remove_wal()  # it keeps 64 records
    server.wal_keep = cluster.servers["n2"].wal_keep = 0
    assert not cluster.servers["n2"].remove_wal()
    before = data.wal_begin
    assert server.remove_wal()
    assert data.wal_begin == before  # not before its checkpoint is on disk
    cluster.run(0.1)
    assert before < data.wal_begin <= data.control.redo_lsn


def test_a_cut_path_ends_the_receiver_before_the_sender() -> None:
    cluster = primary_cluster()
    begun = cluster.heap.now_ns
    cluster.network.cut_pairs(lambda src, dst: "n2" in (src, dst))
    cluster.run_to(lambda: cluster.servers["n2"].last_receiver_error == "the connection timed out")
    assert 4 < (cluster.heap.now_ns - begun) / 1e9 < 8
    assert NodeId("n2") in cluster.servers["n1"].senders
    cluster.run_to(lambda: NodeId("n2") not in cluster.servers["n1"].senders)
    assert (cluster.heap.now_ns - begun) / 1e9 < 12


def test_a_standby_reconnects_after_a_cut() -> None:
    cluster = primary_cluster()
    cut = cluster.network.cut_pairs(lambda src, dst: "n2" in (src, dst))
    cluster.run(20)
    cut.undo()
    cluster.commit()
    cluster.run(5)
    assert data_on(cluster, "n2").end == data_on(cluster, "n1").end


def test_a_stalled_standby_stays_attached_and_gets_nothing() -> None:
    cluster = primary_cluster(k=2)
    cluster.servers["n2"].receive_stalled = True
    commit, outcomes = cluster.commit()
    cluster.run(3)
    assert commit is not None
    assert cluster.streams("n2")
    assert not data_on(cluster, "n2").holds(commit.record)
    cluster.servers["n2"].receive_stalled = False
    cluster.run(0.1)
    assert outcomes == [Outcome.OK]


def test_a_standby_that_stalls_and_freezes_reads_everything_in_order() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n2"]

    def write(value: str) -> None:
        cluster.commit(value=value, level=SyncLevel.LOCAL)
        cluster.run(0.05)

    server.receive_stalled = True
    write("before both")
    server.freeze()
    write("during both")
    server.receive_stalled = False
    write("frozen only")
    server.thaw()
    write("after both")
    cluster.run(1)
    assert data_on(cluster, "n2").wal == data_on(cluster, "n1").wal


def test_what_a_stalled_receiver_has_got_is_read_after_its_upstream_has_ended() -> None:
    """Measured on PostgreSQL 15: it is in the socket of the stopped process."""
    cluster = primary_cluster(("n1", "n2"))
    for supervisor in cluster.supervisors.values():
        supervisor.kill()
    server = cluster.servers["n2"]
    server.receive_stalled = True
    commit, _ = cluster.commit(level=SyncLevel.LOCAL)
    cluster.run(0.1)
    cluster.servers["n1"].kill()
    cluster.run(0.5)
    assert commit is not None
    assert server.receiving
    assert not data_on(cluster, "n2").holds(commit.record)
    server.receive_stalled = False
    cluster.run(0.5)
    assert data_on(cluster, "n2").holds(commit.record)


def test_what_a_frozen_standby_has_got_is_read_before_it_gives_its_upstream_up() -> None:
    cluster = primary_cluster(("n1", "n2"))
    for supervisor in cluster.supervisors.values():
        supervisor.kill()
    server = cluster.servers["n2"]
    server.freeze()
    cluster.run(2)
    commit, _ = cluster.commit(level=SyncLevel.LOCAL)
    cluster.run(0.1)
    cluster.servers["n1"].kill()
    cluster.run(20)
    server.thaw()
    cluster.run(0.5)
    assert commit is not None
    assert data_on(cluster, "n2").holds(commit.record)


def test_a_standby_that_is_its_own_upstream_does_no_harm() -> None:
    cluster = primary_cluster()
    attach(cluster, "n2", "n2")
    cluster.run(1)
    assert cluster.servers["n2"].process is ProcessState.RUNNING
    assert "itself" in cluster.servers["n2"].last_receiver_error


def test_the_observation_of_a_primary_is_whole() -> None:
    cluster = primary_cluster()
    cluster.run(2)
    seen = cluster.observed("n1")
    assert seen.data is DataState.PRESENT
    assert seen.receiver is ReceiverState.GONE
    assert (seen.timeline, seen.max_tli) == (2, 2)
    assert [step.tli for step in seen.history] == [1, 2]
    assert seen.sync_applied == seen.sync_barrier == sync_of("n2", "n3")
    assert seen.admitting
    assert seen.marker_term == Term(1)
    assert seen.position is None


def test_the_observation_of_a_standby_names_its_upstream_and_progress() -> None:
    cluster = primary_cluster()
    cluster.commit()
    cluster.run(2)
    seen, data = cluster.observed("n2"), data_on(cluster, "n2")
    assert (seen.upstream, seen.receiver) == ("n1", ReceiverState.STREAMING)
    assert seen.lag_ms == 0
    assert seen.lsn <= data.end
    assert seen.timeline == 2
