"""Synchronous commits: who releases them, and PostgreSQL's known holes."""

from __future__ import annotations

import pytest
from sim_postgres_kit import Cluster, primary_cluster, sync_of

from metako.model.ids import NodeId
from metako.model.postgres import SyncSetting
from metako.postgres.steps import ServerConfig
from sim.network import Traffic
from sim.postgres.commits import CommitState, Outcome, SyncLevel
from sim.postgres.receiver import Receiver

FOUR = ("n1", "n2", "n3", "n4")


def receiver_of(cluster: Cluster, node: str) -> Receiver:
    receiver = cluster.servers[node].receiver
    assert receiver is not None
    return receiver


def test_a_commit_is_acknowledged_once_k_standbys_have_flushed_it() -> None:
    cluster = primary_cluster()
    commit, outcomes = cluster.commit()
    assert commit is not None
    assert commit.state is CommitState.WAITING
    cluster.run_to(lambda: outcomes)
    assert outcomes == [Outcome.OK]
    assert cluster.acknowledged_commits == [commit]
    holders = [n for n in ("n2", "n3") if cluster.servers[n].data.holds(commit.record)]
    assert holders


def test_with_k_of_two_one_standby_is_not_enough() -> None:
    cluster = primary_cluster(k=2)
    cluster.servers["n3"].freeze()
    _, outcomes = cluster.commit()
    cluster.run(1)
    assert outcomes == []
    cluster.servers["n3"].thaw()
    cluster.run(0.1)
    assert outcomes == [Outcome.OK]


def test_without_its_standbys_a_commit_waits_and_nobody_sees_it() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].freeze()
    cluster.servers["n3"].freeze()
    _, outcomes = cluster.commit(value="a")
    cluster.run(1)
    assert outcomes == []
    assert cluster.servers["n1"].read("k") == ()


def test_a_local_commit_waits_for_nobody() -> None:
    cluster = primary_cluster()
    for node in ("n2", "n3"):
        cluster.servers[node].freeze()
    _, outcomes = cluster.commit(level=SyncLevel.LOCAL)
    cluster.run(0.01)
    assert outcomes == [Outcome.OK]


def test_an_asynchronous_commit_returns_before_anything_is_flushed() -> None:
    cluster = primary_cluster()
    commit, outcomes = cluster.commit(level=SyncLevel.OFF)
    assert outcomes == [Outcome.OK]
    assert commit is not None
    data = cluster.servers["n1"].data
    assert data is not None
    assert data.written < len(data.wal)
    cluster.run(0.5)
    assert data.flushed == len(data.wal)


def test_a_cancelled_wait_makes_the_commit_visible_with_a_warning() -> None:
    cluster = primary_cluster()
    for node in ("n2", "n3"):
        cluster.servers[node].freeze()
    commit, outcomes = cluster.commit(value="a")
    cluster.run(0.1)
    assert commit is not None
    cluster.servers["n1"].cancel(commit)
    assert outcomes == [Outcome.OK_WITH_WARNING]
    assert cluster.servers["n1"].read("k") == ("a",)
    assert cluster.acknowledged_commits == []
    assert cluster.noted("commit_cancelled_visible") == 1


def test_a_cancel_before_the_wait_takes_effect_when_the_wait_begins() -> None:
    cluster = primary_cluster()
    for node in ("n2", "n3"):
        cluster.servers[node].freeze()
    commit, outcomes = cluster.commit()
    assert commit is not None
    cluster.servers["n1"].cancel(commit)
    assert outcomes == []
    cluster.run(0.05)
    assert outcomes == [Outcome.OK_WITH_WARNING]


def test_a_restart_makes_waiting_commits_visible() -> None:
    cluster = primary_cluster()
    for node in ("n2", "n3"):
        cluster.servers[node].freeze()
    _, outcomes = cluster.commit(value="a")
    cluster.run(0.1)
    cluster.detach("n1", 2)
    cluster.servers["n1"].kill()
    assert outcomes == [Outcome.LOST]
    cluster.run_to(lambda: cluster.noted("waiters_visible_after_restart"))
    cluster.run(0.5)
    assert cluster.servers["n1"].read("k") == ("a",)


def test_an_empty_setting_wakes_everybody_as_if_they_were_acknowledged() -> None:
    cluster = primary_cluster()
    for node in ("n2", "n3"):
        cluster.servers[node].freeze()
    commit, outcomes = cluster.commit()
    cluster.run(0.1)
    cluster.lead("n1", 1, 2, SyncSetting())
    cluster.run_to(lambda: outcomes)
    assert outcomes == [Outcome.OK]
    assert cluster.acknowledged_commits == [commit]
    assert cluster.noted("empty_setting_woke_waiters") == 1
    _, later = cluster.commit()
    cluster.run(0.01)
    assert later == [Outcome.OK]


def test_a_busy_checkpointer_lets_commits_go_although_the_setting_is_in_force() -> None:
    """Measured on PostgreSQL 15: the flag that commits ask is the checkpointer's to set."""
    cluster = primary_cluster(sync=False)
    server = cluster.servers["n1"]
    server.checkpointer_stall_ms = 500.0
    assert server.config is not None
    server.conf = ServerConfig(None, sync_of("nobody"), server.config.admit)
    server.reload()
    cluster.run(0.1)
    assert server.config.sync.k == 1  # a fresh backend shows it
    _, outcomes = cluster.commit()
    cluster.run(0.1)
    assert outcomes == [Outcome.OK]
    cluster.run(0.5)
    _, outcomes = cluster.commit()
    cluster.run(0.5)
    assert outcomes == []


def test_production_sees_a_commit_wait_before_it_relies_on_standbys() -> None:
    cluster = primary_cluster(sync=False)
    cluster.servers["n1"].checkpointer_stall_ms = 500.0
    begun = cluster.heap.now_ns
    cluster.lead("n1", 1, 2, sync_of("n2", "n3"))
    cluster.run_to(lambda: cluster.observed("n1").sync_barrier == sync_of("n2", "n3"))
    assert cluster.heap.now_ns - begun > 500e6
    assert cluster.servers["n1"].sync_defined


def test_a_checkpoint_keeps_the_checkpointer_from_its_signals() -> None:
    cluster = primary_cluster(sync=False)
    server = cluster.servers["n1"]
    server.checkpointer_free_ns = cluster.heap.now_ns + 200_000_000
    assert server.config is not None
    server.conf = ServerConfig(None, sync_of("nobody"), server.config.admit)
    server.reload()
    cluster.run(0.15)
    assert not server.sync_defined
    cluster.run(0.1)
    assert server.sync_defined


def test_a_sender_releases_by_its_own_copy_until_it_has_renewed_it() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n1"]
    sender = server.senders[NodeId("n2")]
    sender.reload(sync_of("n3"), late_ns=10**9)
    _, outcomes = cluster.commit()
    cluster.servers["n3"].freeze()
    cluster.run_to(lambda: outcomes)  # by n2, which the new setting does not list
    assert sender.setting == sync_of("n2", "n3")
    _, outcomes = cluster.commit()
    cluster.run(0.5)
    assert sender.setting == sync_of("n3")
    assert outcomes == []


def test_a_sender_renews_its_copy_although_its_standby_says_nothing() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n1"]
    cluster.servers["n2"].freeze()
    cluster.run(0.1)
    assert server.config is not None
    server.conf = ServerConfig(None, sync_of("n3"), server.config.admit)
    server.reload()
    cluster.run(0.1)
    sender = server.senders[NodeId("n2")]
    assert sender.setting == sync_of("n3")
    assert not sender.listed


def test_a_removed_standby_acknowledges_nothing_after_the_barrier() -> None:
    cluster = primary_cluster()
    cluster.lead("n1", 1, 2, sync_of("n2"))
    cluster.run_to(lambda: cluster.observed("n1").sync_barrier == sync_of("n2"))
    cluster.servers["n2"].freeze()
    _, outcomes = cluster.commit()
    cluster.run(1)
    assert outcomes == []


def test_the_barrier_waits_for_the_members_of_the_new_set() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].freeze()
    cluster.lead("n1", 1, 2, sync_of("n2"))
    cluster.run(2)
    assert cluster.observed("n1").sync_applied == sync_of("n2")
    assert cluster.observed("n1").sync_barrier is None
    cluster.servers["n2"].thaw()
    cluster.run_to(lambda: cluster.observed("n1").sync_barrier == sync_of("n2"))


def test_a_barrier_that_is_not_wanted_any_more_is_abandoned() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].freeze()
    cluster.lead("n1", 1, 2, sync_of("n2"))
    cluster.run(1)
    cluster.lead("n1", 1, 2, sync_of("n3"))
    cluster.run_to(lambda: cluster.observed("n1").sync_barrier == sync_of("n3"), seconds=2)


def test_two_senders_of_one_standby_count_twice() -> None:
    """Measured on PostgreSQL 15: `ANY 2 (c, d)` is satisfied by c, c."""
    cluster = primary_cluster(k=2)
    server = cluster.servers["n1"]
    cluster.servers["n3"].kill()
    cluster.supervisors["n3"].kill()
    cluster.run(0.5)
    _, outcomes = cluster.commit()
    cluster.run(0.1)
    assert outcomes == []
    # The path is cut for longer than the standby waits and for less than the sender does.
    cut = cluster.network.cut_pairs(lambda src, dst: "n2" in (src, dst))
    cluster.run_to(lambda: cluster.servers["n2"].last_receiver_error == "the connection timed out")
    cut.undo()
    cluster.run_to(lambda: outcomes, seconds=6)
    assert [s.node for s in server.primary.senders].count(NodeId("n2")) == 2
    assert outcomes == [Outcome.OK]


def test_remote_write_needs_no_flush_and_remote_apply_needs_replay() -> None:
    cluster = primary_cluster(("n1", "n2"))
    cluster.servers["n2"].fsync_ms = 200.0
    _, written = cluster.commit(level=SyncLevel.REMOTE_WRITE)
    cluster.run(0.05)
    assert written == [Outcome.OK]
    cluster.servers["n2"].fsync_ms = 1.0
    cluster.run(1)
    cluster.servers["n2"].replay_paused = True
    _, flushed = cluster.commit(level=SyncLevel.ON)
    _, applied = cluster.commit(level=SyncLevel.REMOTE_APPLY)
    cluster.run(0.5)
    assert (flushed, applied) == ([Outcome.OK], [])
    cluster.servers["n2"].replay_paused = False
    cluster.run(0.1)
    assert applied == [Outcome.OK]


@pytest.mark.parametrize("level", [SyncLevel.ON, SyncLevel.REMOTE_APPLY])
def test_commits_are_acknowledged_in_the_order_of_the_wal(level: SyncLevel) -> None:
    cluster = primary_cluster()
    for number in range(20):
        cluster.commit(value=str(number), level=level)
        cluster.run(0.0007)
    cluster.run(0.2)
    ends = [commit.record.end for commit in cluster.acknowledged_commits]
    assert len(ends) == 20
    assert ends == sorted(ends)


def test_commits_are_refused_where_applications_are_not_admitted() -> None:
    cluster = primary_cluster()
    cluster.lead("n1", 1, 2, sync_of("n2", "n3"), admit=False)
    cluster.run_to(lambda: not cluster.servers["n1"].admitting)
    commit, _ = cluster.commit()
    assert commit is None
    assert not cluster.servers["n1"].can_login()
    standby, _ = cluster.commit("n2")
    assert standby is None


def test_could_acknowledge_tells_the_truth_about_what_is_attached() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n1"]
    assert server.could_acknowledge()
    cluster.servers["n2"].freeze()
    assert server.could_acknowledge()
    cut = cluster.network.cut("n3", "n1", Traffic.REPLICATION)
    assert not server.could_acknowledge()
    cut.undo()
    assert server.could_acknowledge()
    cluster.servers["n3"].receive_stalled = True
    assert not server.could_acknowledge()
    assert not cluster.servers["n2"].could_acknowledge()


def test_could_acknowledge_counts_the_copy_of_a_sender_that_is_not_renewed() -> None:
    cluster = primary_cluster(k=2)
    server = cluster.servers["n1"]
    cluster.servers["n3"].freeze()
    assert not server.could_acknowledge()
    server.senders[NodeId("n2")].reload(sync_of("n2"), late_ns=10**9)
    assert server.could_acknowledge()


def test_a_hung_primary_takes_and_acknowledges_nothing() -> None:
    cluster = primary_cluster()
    cluster.servers["n1"].hung = True
    commit, _ = cluster.commit()
    assert commit is None
    assert not cluster.servers["n1"].could_acknowledge()


def test_the_probe_finds_commits_that_do_not_return() -> None:
    cluster = primary_cluster()
    for node in ("n2", "n3"):
        cluster.servers[node].freeze()
    cluster.run(5)
    assert cluster.observed("n1").commit_blocked
    for node in ("n2", "n3"):
        cluster.servers[node].thaw()
    cluster.run(5)
    assert not cluster.observed("n1").commit_blocked


def test_standbys_are_reported_with_what_they_flushed_and_whether_they_count() -> None:
    cluster = primary_cluster(FOUR)
    cluster.lead("n1", 1, 2, sync_of("n2"))
    cluster.run(2)
    seen = {standby.node: standby for standby in cluster.observed("n1").standbys}
    assert sorted(seen) == ["n2", "n3", "n4"]
    assert [seen[NodeId(n)].counted for n in ("n2", "n3", "n4")] == [True, False, False]
    assert all(standby.streaming and standby.flush_lsn for standby in seen.values())


def test_only_members_are_reported() -> None:
    cluster = primary_cluster()
    cluster.supervisors["n1"].set_members([NodeId("n1"), NodeId("n3")])
    cluster.run(1)
    assert [standby.node for standby in cluster.observed("n1").standbys] == ["n3"]


def test_a_primary_that_lost_its_standbys_keeps_their_senders_until_they_time_out() -> None:
    cluster = primary_cluster()
    cluster.crash_host("n2")
    cluster.run(5)
    assert NodeId("n2") in cluster.servers["n1"].senders
    cluster.run(7)
    assert NodeId("n2") not in cluster.servers["n1"].senders


def test_a_receiver_replies_at_least_once_a_second() -> None:
    cluster = primary_cluster(("n1", "n2"))
    cluster.run(3)
    sender = cluster.servers["n1"].senders[NodeId("n2")]
    assert cluster.heap.now_ns - sender.reply_ns < 1.1e9
    assert receiver_of(cluster, "n2").alive
