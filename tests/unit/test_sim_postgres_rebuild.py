"""Rewinds and clones: what they need, what they leave, and how they break."""

from __future__ import annotations

from sim_postgres_kit import Cluster, data_on, diverged, errors, primary_cluster

from metako.model.ids import Address, NodeId
from metako.model.lsn import Lsn
from metako.model.postgres import (
    DataState,
    Following,
    ProcessState,
    Stopped,
    Untouched,
)
from metako.postgres.steps import ServerConfig, UpstreamAddress
from sim.network import Traffic
from sim.postgres.commits import SyncLevel
from sim.postgres.data import Data
from sim.postgres.rebuild import (
    NOT_NEEDED,
    common_end,
    copy_of,
    flushed_on,
    rewound,
)
from sim.postgres.wal import RECORD_BYTES, last_checkpoint

# ------------------------------------------------------------ rewind and clone


def test_a_diverged_server_is_rewound_and_gets_a_new_identity() -> None:
    cluster = diverged()
    before = data_on(cluster, "n1")
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: cluster.streams("n1"))
    after = data_on(cluster, "n1")
    assert cluster.noted("rewind_used") == 1
    assert after.data_id != before.data_id
    source = data_on(cluster, "n2")
    assert all(a is b for a, b in zip(after.wal, source.wal, strict=False))
    assert not after.tainted
    assert after.standby_signal


def test_recovery_before_a_rewind_appends_records_of_its_own() -> None:
    cluster = diverged()
    before = data_on(cluster, "n1")
    count = len(before.wal)
    assert not before.control.clean
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: before.tainted)
    assert len(before.wal) == count + 1
    assert before.wal[-1].branch not in {record.branch for record in before.wal[:-1]}


def test_a_failed_rewind_taints_the_data_and_a_clone_follows() -> None:
    cluster = diverged()
    cluster.servers["n1"].rewind_failures = 1
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: cluster.observed("n1").data is DataState.TAINTED)
    cluster.run_to(lambda: cluster.noted("rewind_failed"))
    cluster.run(0.05)
    assert cluster.observed("n1").rewind_failed
    cluster.run_to(lambda: cluster.streams("n1"))
    assert cluster.noted("clone_used") == 1
    assert cluster.observed("n1").data is DataState.PRESENT
    assert not cluster.observed("n1").rewind_failed


def test_a_rewind_whose_source_is_lost_taints_the_data() -> None:
    cluster = diverged()
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: data_on(cluster, "n1").tainted)
    cluster.run(0.1)
    cluster.servers["n2"].kill()
    cluster.run_to(lambda: cluster.noted("rewind_failed"))
    assert data_on(cluster, "n1").tainted
    assert any("went away" in error for error in errors(cluster, "Rewind"))


def test_a_rewind_whose_source_cannot_be_reached_leaves_the_data_as_they_are() -> None:
    cluster = diverged()
    before = data_on(cluster, "n1")
    cluster.servers["n2"].kill()
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: bool(errors(cluster, "Rewind")))
    assert any("cannot be reached" in error for error in errors(cluster, "Rewind"))
    observed = cluster.observed("n1")
    assert observed.data is DataState.PRESENT
    assert not observed.rewind_failed
    assert not cluster.noted("rewind_failed")
    assert observed.data_id == before.data_id


def test_a_rewind_over_a_cut_path_ends_after_the_time_that_tcp_waits() -> None:
    cluster = diverged()
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: data_on(cluster, "n1").tainted)
    cluster.run(0.1)
    cluster.network.cut("n2", "n1", Traffic.REPLICATION)
    cluster.run(4)
    assert not cluster.noted("rewind_failed")
    cluster.run_to(lambda: cluster.noted("rewind_failed"))
    assert any("timed out" in error for error in errors(cluster, "Rewind"))


def test_equal_timeline_numbers_make_pg_rewind_see_no_difference() -> None:
    cluster = diverged()
    target, source = data_on(cluster, "n1"), cluster.servers["n2"]
    target.control.checkpoint_tli = data_on(cluster, "n2").control.checkpoint_tli
    assert rewound(target, source) == NOT_NEEDED


def test_a_rewind_before_the_sources_checkpoint_fails_as_not_required() -> None:
    cluster = diverged()
    source = data_on(cluster, "n2")
    source.control.checkpoint_tli = data_on(cluster, "n1").control.checkpoint_tli
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: cluster.noted("rewind_not_required"))
    assert data_on(cluster, "n1").tainted


def test_a_standby_is_no_source_of_a_rewind() -> None:
    cluster = diverged()
    assert rewound(data_on(cluster, "n1"), cluster.servers["n3"]) == "the source is no primary"


def test_a_rewind_needs_the_targets_wal_from_the_last_common_checkpoint_on() -> None:
    cluster = diverged()
    target = data_on(cluster, "n1")
    fork = data_on(cluster, "n2").history[-1].begin_lsn
    common = last_checkpoint([record for record in target.wal if record.end <= fork])
    target.wal_begin = common
    assert isinstance(rewound(target, cluster.servers["n2"]), Data)
    target.wal_begin = Lsn(common + RECORD_BYTES)
    assert "could not find" in str(rewound(target, cluster.servers["n2"]))


def remove_all_but_the_end(cluster: Cluster) -> None:
    """Let n2 write more than n1 had and lose the WAL at the fork, which pg_rewind does not read."""
    for _ in range(10):
        cluster.commit("n2", "new", SyncLevel.LOCAL)
        cluster.run(0.01)
    source = data_on(cluster, "n2")
    assert source.end > data_on(cluster, "n1").end
    source.wal_begin = source.end


def test_a_rewind_whose_source_lacks_wal_from_the_fork_on_ends_in_a_clone() -> None:
    cluster = diverged()
    remove_all_but_the_end(cluster)
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: cluster.noted("rewind_used"))
    cluster.run_to(lambda: cluster.noted("wal_lost"))
    assert cluster.servers["n1"].process is ProcessState.STARTING
    cluster.run_to(lambda: cluster.streams("n1"))
    assert cluster.noted("clone_used") == 1


def test_a_server_rewound_without_wal_from_the_fork_on_replays_its_own_and_is_lost() -> None:
    cluster = diverged()
    before = data_on(cluster, "n1")
    remove_all_but_the_end(cluster)
    data = rewound(before, cluster.servers["n2"])
    assert isinstance(data, Data)
    assert data.wal[-1] is before.wal[-1]
    cluster.supervisors["n1"].kill()
    server = cluster.servers["n1"]
    server.data = data
    config = ServerConfig(UpstreamAddress(NodeId("n2"), Address("n2", 5432)))
    server.start(config)
    cluster.run_to(lambda: cluster.noted("wal_lost") > 1)
    assert server.process is ProcessState.STARTING
    assert server.read("k") is None
    server.stop(fast=True)
    cluster.run_to(lambda: server.process is ProcessState.STOPPED)
    server.start(config)
    cluster.run_to(lambda: cluster.noted("start_failed"))  # its restartpoint is beyond the fork


def test_histories_part_where_their_numbers_do() -> None:
    cluster = diverged()
    fork = data_on(cluster, "n2").history[-1].begin_lsn
    assert common_end(data_on(cluster, "n1"), data_on(cluster, "n2")) == fork
    assert common_end(data_on(cluster, "n3"), data_on(cluster, "n2")) == fork


def test_a_base_backup_is_what_the_source_had_flushed() -> None:
    cluster = primary_cluster()
    source = cluster.servers["n1"]
    cluster.commit(level=SyncLevel.LOCAL)
    copied = copy_of(source, data_on(cluster, "n2").data_id)
    assert len(copied.wal) == data_on(cluster, "n1").flushed
    assert copied.wal[0] is data_on(cluster, "n1").wal[0]
    assert copied.control.min_recovery_lsn == copied.end
    assert set(copied.history_files) == {2}


def test_an_empty_directory_is_cloned_and_the_old_one_stays_until_the_clone_streams() -> None:
    cluster = primary_cluster(("n1", "n2"))
    server = cluster.servers["n2"]
    data_on(cluster, "n2").tainted = True
    server.version += 1
    old = server.data
    cluster.run_to(lambda: server.superseded)
    assert server.superseded == [old]
    cluster.run_to(lambda: cluster.streams("n2"))
    cluster.run(0.1)
    assert server.superseded == []


def test_a_broken_clone_leaves_the_directory_as_it_was() -> None:
    cluster = primary_cluster(("n1", "n2"))
    server = cluster.servers["n2"]
    server.clone_failures = 1
    data_on(cluster, "n2").tainted = True
    server.version += 1
    old = server.data
    cluster.run_to(lambda: cluster.noted("clone_broken"))
    assert server.data is old
    cluster.run_to(lambda: cluster.noted("clone_used"))
    assert server.data is not old


def test_a_clone_from_a_server_that_does_not_run_fails_soon() -> None:
    cluster = primary_cluster(("n1", "n2"))
    upstream = cluster.upstream("n1")
    cluster.servers["n2"].kill()
    cluster.supervisors["n2"].set_target(Untouched())
    cluster.run(0.1)
    cluster.servers["n2"].data = None
    cluster.servers["n2"].version += 1
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    cluster.run(0.5)
    cluster.supervisors["n2"].set_target(Following(upstream))
    cluster.run(0.3)
    assert any("refused" in error for error in errors(cluster, "Clone"))
    assert cluster.servers["n2"].data_state is DataState.EMPTY


def test_foreign_data_is_not_touched() -> None:
    cluster = primary_cluster(("n1", "n2"))
    upstream = cluster.upstream("n1")
    cluster.supervisors["n2"].set_target(Stopped(fast=False))
    cluster.run_to(lambda: cluster.servers["n2"].process is ProcessState.STOPPED)
    cluster.reboot("n2")
    cluster.servers["n2"].make_foreign()
    foreign = cluster.servers["n2"].data
    cluster.supervisors["n2"].set_target(Following(upstream))
    cluster.run(3)
    assert cluster.servers["n2"].data is foreign
    assert cluster.servers["n2"].process is ProcessState.STOPPED
    assert cluster.observed("n2").system_id == foreign.system_id


def rewound_while_the_source_writes(cluster: Cluster) -> Data:
    """Rewind the data of n1 to n2, which writes while the rest is copied after its WAL."""
    copied = flushed_on(cluster.servers["n2"])
    for number in range(3):
        cluster.commit("n2", f"new{number}", SyncLevel.LOCAL)
        cluster.run(0.01)
    data = rewound(data_on(cluster, "n1"), cluster.servers["n2"], copied)
    assert isinstance(data, Data)
    assert data.end < data.control.min_recovery_lsn == data_on(cluster, "n2").end
    return data


def test_a_rewound_server_streams_before_it_is_consistent() -> None:
    cluster = diverged()
    data = rewound_while_the_source_writes(cluster)
    cluster.supervisors["n1"].kill()
    server = cluster.servers["n1"]
    server.data = data
    server.start(ServerConfig(UpstreamAddress(NodeId("n2"), Address("n2", 5432))))
    cluster.run_to(lambda: data.end == data.control.min_recovery_lsn)
    assert server.process is ProcessState.STARTING
    assert server.receiving
    cluster.run(0.1)
    assert server.process is ProcessState.RUNNING


def test_a_rewound_server_without_an_upstream_stays_where_it_is() -> None:
    cluster = diverged()
    data = rewound_while_the_source_writes(cluster)
    cluster.supervisors["n1"].kill()
    cluster.servers["n1"].data = data
    cluster.servers["n1"].start(ServerConfig())
    cluster.run(2)
    assert cluster.servers["n1"].process is ProcessState.STARTING
    assert cluster.servers["n1"].read("k") is None


def test_a_server_rewound_to_a_quiet_source_is_consistent_without_an_upstream() -> None:
    cluster = diverged()
    cluster.commit("n2", "new", SyncLevel.LOCAL)
    cluster.run(0.01)
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: cluster.noted("rewind_used"))
    cluster.supervisors["n1"].kill()
    server = cluster.servers["n1"]
    server.start(ServerConfig())
    cluster.run(2)
    assert server.process is ProcessState.RUNNING
    assert "new" in (server.read("k") or ())


def test_what_the_source_writes_at_the_end_of_a_rewind_is_not_copied() -> None:
    cluster = diverged()
    cluster.follow("n1", "n2", term=2)
    while not cluster.noted("rewind_used"):
        cluster.commit("n2", "new", SyncLevel.LOCAL)
        cluster.run(0.005)
    data, source = data_on(cluster, "n1"), data_on(cluster, "n2")
    assert source.history[-1].begin_lsn < data.end < data.control.min_recovery_lsn <= source.end
