"""How a simulated server starts and ends, and what a crash leaves of its WAL."""

from __future__ import annotations

import random

import pytest
from sim_postgres_kit import Cluster, data_of, initialize, primary_cluster, ready_data

from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import (
    DataState,
    Detached,
    ProcessState,
    ReceiverState,
    Stopped,
)
from metako.model.timeline import HistoryStep
from sim.postgres.commits import Outcome, SyncLevel
from sim.postgres.wal import PLACEHOLDER, RecordKind


def test_initdb_makes_a_standby_with_a_known_position() -> None:
    cluster = Cluster(("n1",))
    initialize(cluster)
    seen = cluster.observed("n1")
    assert cluster.step_names("n1") == ["InitDb", "MeasurePosition", "Start"]
    assert (seen.data, seen.process) == (DataState.PRESENT, ProcessState.RUNNING)
    assert seen.position is not None
    assert seen.receiver is ReceiverState.GONE
    assert cluster.servers["n1"].data_state is DataState.PRESENT


def test_every_initdb_makes_another_system() -> None:
    cluster = Cluster(("n1", "n2"))
    initialize(cluster, "n1")
    initialize(cluster, "n2")
    first, second = cluster.servers["n1"].data, cluster.servers["n2"].data
    assert first is not None
    assert second is not None
    assert first.system_id != second.system_id


def test_a_server_is_starting_before_it_runs() -> None:
    cluster = Cluster(("n1",))
    cluster.servers["n1"].data = ready_data()
    cluster.detach("n1", 1)
    cluster.run_to(lambda: cluster.observed("n1").process is ProcessState.STARTING)
    assert cluster.observed("n1").in_recovery is None
    cluster.run_to(lambda: cluster.observed("n1").process is ProcessState.RUNNING)
    assert cluster.observed("n1").in_recovery is True


def test_a_killed_server_is_dying_for_a_moment_and_then_gone() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n1"]
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    server.kill()
    assert server.process is ProcessState.DYING
    assert not server.writable
    cluster.run(0.1)
    assert server.process is ProcessState.STOPPED
    states = [seen.process for seen in cluster.reports["n1"][-3:]]
    assert states[-1] is ProcessState.STOPPED
    assert ProcessState.DYING in states


def test_the_exit_of_the_postmaster_is_noticed_within_two_milliseconds() -> None:
    cluster = primary_cluster()
    cluster.run(10)  # the poll is rare by now
    cluster.servers["n2"].kill()
    cluster.run(0.002)
    assert cluster.observed("n2").process is ProcessState.DYING


def test_a_process_crash_loses_nothing_that_was_written() -> None:
    cluster = primary_cluster(sync=False)
    commit, outcomes = cluster.commit(level=SyncLevel.LOCAL)
    assert commit is not None
    server = cluster.servers["n1"]
    data = server.data
    assert data is not None
    assert data.flushed < len(data.wal) == data.written
    server.kill()
    assert outcomes == [Outcome.LOST]
    assert data.holds(commit.record)


def test_a_process_crash_loses_what_was_only_in_wal_buffers() -> None:
    cluster = primary_cluster(sync=False)
    kept, _ = cluster.commit(level=SyncLevel.LOCAL)
    behind, outcomes = cluster.commit(level=SyncLevel.LOCAL)  # waits for the flush under way
    assert kept is not None
    assert behind is not None
    cluster.servers["n1"].kill()
    data = cluster.servers["n1"].data
    assert data is not None
    assert outcomes == [Outcome.LOST]
    assert data.holds(kept.record)
    assert not data.holds(behind.record)


@pytest.mark.parametrize("seed", range(8))
def test_a_host_crash_cuts_to_what_was_flushed_and_a_part_of_what_was_written(seed: int) -> None:
    data = ready_data()
    for _ in range(6):
        data.append(RecordKind.COMMIT)
    data.written, data.flushed, data.durable = 5, 3, 3
    data.lose_power(random.Random(seed))
    assert 3 <= len(data.wal) <= 5
    assert data.flushed == data.written == data.durable == len(data.wal)


def test_a_disk_that_lies_loses_flushed_wal_with_the_host() -> None:
    losses = 0
    for seed in range(6):
        cluster = primary_cluster(sync=False, seed=seed)
        server = cluster.servers["n1"]
        server.fsync_lies = True
        commit, outcomes = cluster.commit(level=SyncLevel.LOCAL)
        cluster.run(0.05)
        assert outcomes == [Outcome.OK]
        cluster.crash_host("n1")
        assert server.data is not None
        assert commit is not None
        losses += not server.data.holds(commit.record)
    assert losses


def test_a_cut_makes_a_new_list_so_that_messages_on_their_way_stay_as_they_were() -> None:
    data = ready_data()
    data.append(RecordKind.COMMIT)
    before = data.wal
    data.cut(1)
    assert (len(before), len(data.wal)) == (2, 1)


def test_a_frozen_server_does_nothing_and_goes_on_where_it_was() -> None:
    cluster = primary_cluster()
    commit, outcomes = cluster.commit()
    cluster.servers["n1"].freeze()
    cluster.run(1)
    assert outcomes == []
    assert not cluster.servers["n1"].writable
    cluster.servers["n1"].thaw()
    cluster.run(0.1)
    assert outcomes == [Outcome.OK]
    assert commit is not None


def test_a_frozen_server_is_ended_by_a_kill_and_by_nothing_less() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n1"]
    server.freeze()
    server.stop(fast=False)
    cluster.run(0.5)
    assert server.process is ProcessState.RUNNING
    server.kill()
    cluster.run(0.1)
    assert server.process is ProcessState.STOPPED


def test_a_signal_that_waited_ends_a_server_when_it_runs_on() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n1"]
    server.freeze()
    server.stop(fast=False)
    server.thaw()
    assert server.process is ProcessState.DYING


def test_a_fast_stop_of_a_hung_server_begins_when_it_answers_again() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n2"]
    server.hung = True
    cluster.supervisors["n2"].set_target(Stopped(fast=True))
    cluster.run(5)
    assert server.process is ProcessState.RUNNING
    server.hung = False
    cluster.run(0.1)
    assert server.process is ProcessState.STOPPED
    assert server.data is not None
    assert server.data.control.clean


def test_a_fast_stop_of_a_frozen_server_begins_when_it_runs_on() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n1"]
    server.freeze()
    server.stop(fast=True)
    server.thaw()
    assert server.process is ProcessState.STOPPING
    cluster.run(0.2)
    assert server.process is ProcessState.STOPPED


def test_stopping_a_frozen_server_takes_the_grace_and_then_a_kill() -> None:
    cluster = primary_cluster()
    cluster.servers["n1"].freeze()
    cluster.run(0.1)
    begun = cluster.heap.now_ns
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    cluster.run_to(lambda: cluster.servers["n1"].process is ProcessState.STOPPED)
    assert 1.0 < (cluster.heap.now_ns - begun) / 1e9 < 4.5


def test_a_fast_stop_leaves_a_clean_directory_and_standbys_with_everything() -> None:
    cluster = primary_cluster()
    cluster.supervisors["n1"].set_target(Stopped(fast=True))
    cluster.run_to(lambda: cluster.observed("n1").process is ProcessState.STOPPED)
    data = cluster.servers["n1"].data
    assert data is not None
    assert data.control.clean
    assert data.wal[-1].kind is RecordKind.CHECKPOINT
    for node in ("n2", "n3"):
        held = cluster.servers[node].data
        assert held is not None
        assert held.wal[-1] is data.wal[-1]


def test_an_immediate_stop_does_not_leave_a_clean_directory() -> None:
    cluster = primary_cluster()
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    cluster.run_to(lambda: cluster.observed("n1").process is ProcessState.STOPPED)
    data = cluster.servers["n1"].data
    assert data is not None
    assert not data.control.clean


def test_a_frozen_standby_blocks_a_fast_stop_until_its_sender_times_out() -> None:
    cluster = primary_cluster()
    cluster.servers["n3"].freeze()
    cluster.run(0.1)
    begun = cluster.heap.now_ns
    cluster.supervisors["n1"].set_target(Stopped(fast=True))
    cluster.run_to(lambda: cluster.servers["n1"].process is ProcessState.STOPPED)
    assert 8 < (cluster.heap.now_ns - begun) / 1e9 < 12
    assert cluster.noted("stop_blocked_by_standby") == 1


def test_a_stopping_server_looks_like_one_that_does_not_answer() -> None:
    cluster = primary_cluster()
    cluster.servers["n3"].freeze()
    cluster.supervisors["n1"].set_target(Stopped(fast=True))
    cluster.run(2)
    seen = cluster.observed("n1")
    assert cluster.servers["n1"].process is ProcessState.STOPPING
    assert (seen.process, seen.in_recovery) == (ProcessState.RUNNING, False)
    assert seen.commit_blocked


def test_a_full_disk_ends_a_primary_at_its_next_write() -> None:
    cluster = primary_cluster()
    cluster.servers["n1"].wal_disk_full = True
    commit, outcomes = cluster.commit()
    assert commit is None
    assert outcomes == []
    assert cluster.servers["n1"].process is ProcessState.DYING
    assert cluster.noted("server_panicked") == 1


def test_a_standby_with_a_full_disk_loses_its_receiver_and_tries_again() -> None:
    cluster = primary_cluster()
    cluster.servers["n3"].wal_disk_full = True
    cluster.commit()
    cluster.run_to(lambda: cluster.servers["n3"].last_receiver_error.startswith("no space"))
    assert cluster.servers["n3"].process is ProcessState.RUNNING
    cluster.servers["n3"].wal_disk_full = False
    cluster.run_to(lambda: cluster.servers["n3"].data.end == cluster.servers["n1"].data.end)


def test_a_start_that_fails_is_reported_and_repeated_after_a_pause() -> None:
    cluster = Cluster(("n1",))
    cluster.servers["n1"].data = ready_data()
    cluster.servers["n1"].start_failures = 2
    cluster.detach("n1", 1)
    cluster.run_to(lambda: cluster.observed("n1").in_recovery)
    failed = [error for _, name, ok, error in cluster.steps if name == "Start" and not ok]
    assert len(failed) == 2
    assert "ended while it was starting" in failed[0]


def test_a_server_that_is_stopped_while_it_starts_has_not_failed_to_start() -> None:
    cluster = Cluster(("n1",))
    cluster.servers["n1"].data = ready_data()
    cluster.detach("n1", 1)
    cluster.run_to(lambda: cluster.observed("n1").process is ProcessState.STARTING)
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    cluster.run_to(lambda: cluster.observed("n1").process is ProcessState.STOPPED)
    assert cluster.observed("n1").stop_asked
    assert [name for _, name, ok, _ in cluster.steps if not ok] == []
    cluster.detach("n1", 1)
    cluster.run_to(lambda: cluster.observed("n1").process is ProcessState.RUNNING)
    assert not cluster.observed("n1").stop_asked


def test_a_history_file_without_its_wal_would_keep_a_server_from_starting() -> None:
    data = ready_data()
    data.history_files[2] = PLACEHOLDER
    _, wrong = data.recovery_chain()
    assert "not a child" in wrong


def test_history_files_ahead_of_the_wal_are_set_aside_at_a_start() -> None:
    cluster = Cluster(("n1",))
    data = cluster.servers["n1"].data = ready_data()
    data.history_files[2] = PLACEHOLDER
    cluster.detach("n1", 1)
    cluster.run_to(lambda: cluster.observed("n1").in_recovery)
    assert data.history_files == {}


def test_a_placeholder_names_no_ancestor_and_counts_as_a_number_on_disk() -> None:
    cluster = Cluster(("n1",))
    data = cluster.servers["n1"].data = ready_data()
    cluster.detach("n1", 1)
    cluster.run_to(lambda: cluster.observed("n1").in_recovery)
    data.history_files[3] = PLACEHOLDER
    cluster.supervisors["n1"].set_members([NodeId("n1"), NodeId("n9")])  # makes it look again
    cluster.run(1)
    seen = cluster.observed("n1")
    assert seen.max_tli == 3
    assert seen.history == (HistoryStep(TimelineId(1), Lsn(0)),)


def test_the_position_of_a_restarted_server_is_found_on_its_disk_and_not_told_by_it() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].replay_paused = True
    for _ in range(5):
        cluster.commit()
        cluster.run(0.05)
    server, data = cluster.servers["n2"], cluster.servers["n2"].data
    assert data is not None
    server.kill()
    cluster.run_to(lambda: cluster.observed("n2").process is ProcessState.STARTING)
    cluster.run_to(lambda: cluster.observed("n2").in_recovery)
    seen = cluster.observed("n2")
    assert seen.lsn < data.end
    cluster.detach("n2", 7)
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    seen = cluster.observed("n2")
    assert seen.position is not None
    assert seen.position.lsn == data.end
    assert seen.detached_for == 7


def test_a_crashed_primary_replays_all_that_it_has_before_it_is_up() -> None:
    cluster = primary_cluster()
    for _ in range(5):
        cluster.commit()
        cluster.run(0.05)
    server = cluster.servers["n1"]
    cluster.supervisors["n1"].set_target(Detached(Term(5)))
    server.kill()
    cluster.run_to(lambda: cluster.observed("n1").process is ProcessState.STARTING)
    cluster.run_to(lambda: cluster.observed("n1").in_recovery)
    assert server.startup is not None
    assert server.data is not None
    assert server.startup.replayed == len(server.data.wal)


def test_a_checkpoint_that_points_beyond_the_wal_keeps_the_server_from_starting() -> None:
    cluster = Cluster(("n1",))
    data = cluster.servers["n1"].data = data_of(ready_data().wal)
    data.control.redo_lsn = Lsn(data.end + 1)
    cluster.detach("n1", 1)
    cluster.run(0.4)
    assert cluster.noted("start_failed")


def test_the_same_seed_gives_the_same_run() -> None:
    def play() -> list[object]:
        cluster = primary_cluster(seed=5)
        for number in range(10):
            cluster.commit(value=str(number))
            cluster.run(0.03)
        return [cluster.heap.now_ns, cluster.heap.executed, cluster.steps]

    assert play() == play()


def test_other_seeds_give_other_runs() -> None:
    ends = {primary_cluster(seed=seed).heap.executed for seed in range(4)}
    assert len(ends) > 1


def test_ill_says_whether_a_fault_is_on() -> None:
    server = Cluster(("n1",)).servers["n1"]
    assert not server.ill
    server.replay_paused = True
    assert server.ill
