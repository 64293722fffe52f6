"""The supervisor's model: steps, promises, rebuilds, and agents that are paused or killed."""

from __future__ import annotations

import pytest
from sim_postgres_kit import (
    Cluster,
    data_of,
    data_on,
    diverged,
    errors,
    primary_cluster,
    ready_data,
    sync_of,
)

from metako.model.ids import Term
from metako.model.postgres import (
    DataState,
    Detached,
    ProcessState,
    ReceiverState,
    Stopped,
    Untouched,
)
from metako.postgres.steps import ServerConfig
from sim.postgres import supervisor as supervisor_module
from sim.postgres.commits import Outcome

# ------------------------------------------------------------ detaching


def test_a_detached_standby_has_no_receiver_and_knows_its_position() -> None:
    cluster = primary_cluster()
    begun = cluster.heap.now_ns
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    assert 0.04 < (cluster.heap.now_ns - begun) / 1e9 < 0.2
    seen = cluster.observed("n2")
    assert (seen.receiver, seen.upstream) == (ReceiverState.GONE, None)
    assert seen.detached_for == 2
    assert seen.position == data_on(cluster, "n2").position
    assert not cluster.servers["n2"].receiving


def test_what_was_received_and_not_flushed_counts_as_on_disk() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].fsync_ms = 500.0
    cluster.commit()
    cluster.run(0.01)
    data = data_on(cluster, "n2")
    assert data.flushed < len(data.wal)
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    seen = cluster.observed("n2").position
    assert seen is not None
    assert seen.lsn == data.end


def test_a_paused_startup_process_goes_on_acknowledging_until_the_receiver_is_terminated() -> None:
    cluster = primary_cluster(("n1", "n2"))
    cluster.servers["n2"].replay_paused = True
    cluster.detach("n2", 2)
    cluster.run(0.06)
    assert cluster.servers["n2"].config == ServerConfig()
    _, outcomes = cluster.commit()
    cluster.run_to(lambda: outcomes, seconds=0.03)
    assert outcomes == [Outcome.OK]
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    assert cluster.noted("receiver_terminated") == 1
    _, outcomes = cluster.commit()
    cluster.run(0.5)
    assert outcomes == []


def test_what_a_server_that_is_paused_from_its_start_was_told_holds_when_it_goes_on() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n2"]
    server.replay_paused = True
    server.kill()
    cluster.run_to(lambda: cluster.observed("n2").process is not ProcessState.RUNNING)
    cluster.run_to(lambda: cluster.observed("n2").process is ProcessState.RUNNING)
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    server.replay_paused = False
    cluster.run(0.005)
    assert server.startup is not None
    assert server.startup.receiver is None


def test_a_server_that_does_not_let_go_is_stopped() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].hung = True
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.noted("detach_stopped_server"))
    cluster.servers["n2"].hung = False
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    assert cluster.observed("n2").detached_for == 2


def test_a_server_that_is_starting_with_an_upstream_is_stopped_to_detach_it() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].kill()
    cluster.run_to(lambda: cluster.observed("n2").process is ProcessState.STARTING)
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    assert cluster.noted("detach_stopped_server") == 1


def test_a_position_is_forgotten_when_there_is_an_upstream_again() -> None:
    cluster = primary_cluster()
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    cluster.follow("n2")
    cluster.run_to(lambda: cluster.streams("n2"))
    assert cluster.observed("n2").position is None
    assert cluster.observed("n2").detached_for == 0


# ------------------------------------------------------------ agents that come and go


def test_a_new_agent_adopts_a_running_primary_and_marks_it_again() -> None:
    cluster = primary_cluster()
    supervisor = cluster.reboot("n1")
    cluster.run(0.05)
    seen = supervisor.observed
    assert (seen.process, seen.in_recovery) == (ProcessState.RUNNING, False)
    assert seen.sync_applied == sync_of("n2", "n3")
    assert seen.sync_barrier is None
    assert seen.marker_term == 0
    cluster.lead("n1", 1, 2, sync_of("n2", "n3"))
    cluster.run_to(lambda: cluster.observed("n1").marker_term == 1)
    assert cluster.promotions == [("n1", 2)]


def test_a_new_agent_has_to_find_the_position_again() -> None:
    cluster = primary_cluster()
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    cluster.reboot("n2")
    cluster.run(0.05)
    assert cluster.observed("n2").position is None
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    assert cluster.servers["n2"].process is ProcessState.RUNNING


def test_a_signal_that_was_sent_stays_sent_when_the_agent_is_killed() -> None:
    cluster = primary_cluster()
    server = cluster.servers["n2"]
    cluster.detach("n2", 2)
    cluster.run_to(lambda: server.conf == ServerConfig())
    cluster.supervisors["n2"].kill()
    cluster.run(0.01)
    assert server.config == ServerConfig()


def test_a_file_that_was_not_loaded_is_applied_by_the_next_agent() -> None:
    cluster = primary_cluster()
    cluster.supervisors["n2"].kill()
    server = cluster.servers["n2"]
    server.conf = ServerConfig()
    supervisor = cluster.reboot("n2")
    cluster.run(0.05)
    assert supervisor.observed.sync_applied is None
    assert supervisor.observed.upstream is None
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").position is not None)
    assert server.config == ServerConfig()


def test_a_rewind_dies_with_its_agent_and_leaves_tainted_data() -> None:
    cluster = diverged()
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: data_on(cluster, "n1").tainted)
    cluster.run(0.2)
    cluster.supervisors["n1"].kill()
    cluster.run(5)
    assert data_on(cluster, "n1").tainted
    assert not cluster.noted("rewind_used")
    supervisor = cluster.reboot("n1")
    cluster.run(0.05)
    assert supervisor.observed.data is DataState.TAINTED
    assert supervisor.observed.system_id == 0


def test_a_clone_dies_with_its_agent_and_leaves_nothing() -> None:
    cluster = primary_cluster(("n1", "n2"))
    server = cluster.servers["n2"]
    cluster.supervisors["n2"].set_target(Stopped(fast=False))
    cluster.run_to(lambda: server.process is ProcessState.STOPPED)
    cluster.reboot("n2")
    server.data = None
    cluster.follow("n2")
    cluster.run(0.4)
    cluster.supervisors["n2"].kill()
    cluster.run(5)
    assert server.data is None


def test_a_killed_agent_does_nothing_more() -> None:
    cluster = primary_cluster()
    cluster.supervisors["n2"].kill()
    reports = len(cluster.reports["n2"])
    cluster.detach("n2", 2)
    cluster.servers["n2"].kill()
    cluster.run(5)
    assert len(cluster.reports["n2"]) == reports
    assert cluster.servers["n2"].process is ProcessState.STOPPED


def test_a_paused_agent_does_nothing_until_it_runs_on() -> None:
    cluster = primary_cluster()
    cluster.supervisors["n2"].pause()
    cluster.detach("n2", 2)
    cluster.run(3)
    assert cluster.servers["n2"].receiving
    cluster.supervisors["n2"].resume()
    cluster.run_to(lambda: cluster.observed("n2").position is not None)


def test_a_program_goes_on_while_its_agent_is_paused() -> None:
    cluster = diverged()
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: data_on(cluster, "n1").tainted)
    cluster.run(0.05)
    cluster.supervisors["n1"].pause()
    cluster.run(3)
    assert not cluster.noted("rewind_used")
    cluster.supervisors["n1"].resume()
    cluster.run(0.1)
    assert cluster.noted("rewind_used") == 1


def test_a_hung_primary_is_seen_as_it_was_with_commits_blocked() -> None:
    cluster = primary_cluster()
    cluster.run(6)
    cluster.servers["n1"].hung = True
    cluster.run_to(lambda: cluster.observed("n1").commit_blocked, seconds=4)
    seen = cluster.observed("n1")
    assert (seen.process, seen.in_recovery) == (ProcessState.RUNNING, False)
    assert seen.sync_applied == seen.sync_barrier == sync_of("n2", "n3")
    assert [standby.node for standby in seen.standbys] == ["n2", "n3"]
    cluster.servers["n1"].hung = False
    cluster.run_to(lambda: not cluster.observed("n1").commit_blocked)


def test_a_server_that_answers_again_is_seen_although_nothing_else_changes() -> None:
    cluster = Cluster(("n1",))
    cluster.servers["n1"].data = data_of(ready_data().wal)
    cluster.servers["n1"].hung = True
    cluster.detach("n1", 1)
    cluster.run_to(lambda: cluster.servers["n1"].process is ProcessState.RUNNING)
    cluster.run(0.2)
    cluster.supervisors["n1"].pause()  # in the middle of a look
    cluster.run(3)
    cluster.servers["n1"].hung = False
    cluster.supervisors["n1"].resume()
    cluster.run(0.5)
    assert cluster.observed("n1").process is ProcessState.RUNNING


def test_while_the_guard_is_frozen_nothing_is_known_to_be_gone() -> None:
    cluster = primary_cluster()
    cluster.supervisors["n1"].set_target(Untouched())
    cluster.guards["n1"].answers = False
    cluster.servers["n1"].kill()
    cluster.run(1)
    assert cluster.servers["n1"].process is ProcessState.STOPPED
    assert cluster.observed("n1").process is ProcessState.RUNNING
    cluster.guards["n1"].answers = True
    cluster.run(1)
    assert cluster.observed("n1").process is ProcessState.STOPPED


def test_without_a_guard_the_processes_themselves_are_looked_at() -> None:
    cluster = primary_cluster()
    cluster.guards["n1"].answers = False
    cluster.guards["n1"].lost = True
    cluster.servers["n1"].kill()
    cluster.run(1)
    assert cluster.observed("n1").process is ProcessState.STOPPED


def test_a_server_is_looked_at_rarely_when_nothing_happens() -> None:
    cluster = primary_cluster()
    cluster.run(10)
    before = cluster.heap.executed
    cluster.run(2)
    # Probe and status replies go on; a poll of 25 ms on three nodes alone would be 240 calls.
    assert cluster.heap.executed - before < 100


def test_the_planner_is_not_asked_twice_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = primary_cluster()
    asked: list[tuple[object, ...]] = []
    real = supervisor_module.plan

    def counting(*arguments: object) -> object:
        asked.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(supervisor_module, "plan", counting)
    cluster.run(8)
    pairs = [(id(first), id(second)) for first, second, _ in asked]
    assert len(pairs) == len(set(pairs))


def test_a_new_target_ends_the_pause_after_a_failure() -> None:
    cluster = Cluster(("n1",))
    cluster.servers["n1"].data = data_of(ready_data().wal)
    cluster.servers["n1"].start_failures = 4
    cluster.detach("n1", 1)
    cluster.run_to(lambda: cluster.servers["n1"].start_failures == 0)
    cluster.run_to(lambda: len(errors(cluster, "Start")) == 4)
    begun = cluster.heap.now_ns
    cluster.supervisors["n1"].set_target(Detached(Term(2)))
    cluster.run_to(lambda: cluster.observed("n1").process is ProcessState.STARTING)
    assert (cluster.heap.now_ns - begun) / 1e6 < 120
