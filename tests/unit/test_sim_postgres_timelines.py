"""Timelines and promotion: numbers are compared, rows are not."""

from __future__ import annotations

import pytest
from sim_postgres_kit import (
    Cluster,
    attach,
    data_of,
    data_on,
    detached_standbys,
    primary_cluster,
    ready_data,
    split,
    sync_of,
)

from metako.model.ids import NodeId, TimelineId
from metako.model.lsn import Lsn
from metako.model.postgres import (
    ProcessState,
    Stopped,
    SyncSetting,
    Untouched,
)
from metako.model.timeline import HistoryStep
from metako.postgres.steps import ServerConfig, UpstreamAddress
from sim.postgres.commits import Outcome, SyncLevel
from sim.postgres.receiver import Receiver
from sim.postgres.wal import PLACEHOLDER, SEGMENT_BYTES, Chain, Record, RecordKind

# ------------------------------------------------------------ timelines


def test_a_promotion_begins_a_branch_on_exactly_the_reserved_timeline() -> None:
    cluster = split(tli=7)
    server, data = cluster.servers["n2"], data_on(cluster, "n2")
    assert ("n2", 7) in cluster.promotions
    assert data.tli == 7
    assert server.branch != cluster.servers["n1"].branch
    assert data.wal[-1].tli == 7
    assert [data.history_files[number] for number in (3, 4, 5, 6)] == [PLACEHOLDER] * 4
    assert data.standby_signal
    assert cluster.observed("n2").marker_term == 3


def test_two_isolated_promotions_can_mint_one_number_with_other_rows() -> None:
    cluster = split(tli=3)
    cluster.detach("n3", 9)
    cluster.run_to(lambda: cluster.observed("n3").detached_for == 9)
    cluster.lead("n3", 4, 3, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n3"].primary is not None)
    assert cluster.servers["n2"].branch != cluster.servers["n3"].branch
    assert data_on(cluster, "n2").tli == data_on(cluster, "n3").tli == 3


def test_a_standby_on_the_same_number_attaches_silently_and_mixes_rows() -> None:
    cluster = split(tli=3)
    cluster.detach("n3", 9)
    cluster.run_to(lambda: cluster.observed("n3").detached_for == 9)
    cluster.lead("n3", 4, 3, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n3"].primary is not None)
    cluster.run(0.3)
    cluster.supervisors["n3"].set_target(Stopped(fast=False))
    cluster.run_to(lambda: cluster.servers["n3"].process is ProcessState.STOPPED)
    cluster.supervisors["n3"].set_target(Untouched())
    cluster.detach("n3", 10)
    cluster.run_to(lambda: cluster.observed("n3").detached_for == 10)
    for number in range(30):
        cluster.commit("n2", f"new{number}", SyncLevel.LOCAL)
        cluster.run(0.01)
    attach(cluster, "n3", "n2")
    cluster.run(1)
    assert cluster.noted("same_timeline_other_branch")
    branches = {record.branch for record in data_on(cluster, "n3").wal if record.tli == 3}
    assert len(branches) == 2
    assert data_on(cluster, "n3").end == data_on(cluster, "n2").end


def test_a_standby_follows_to_a_new_timeline_if_it_is_not_beyond_the_fork() -> None:
    cluster = detached_standbys()
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    cluster.run(0.2)
    before = data_on(cluster, "n3").data_id
    cluster.follow("n3", "n2", term=2)
    cluster.run_to(lambda: cluster.observed("n3").timeline == 3 and cluster.streams("n3"))
    assert data_on(cluster, "n3").data_id == before
    assert cluster.observed("n3").history == cluster.observed("n2").history


def test_a_standby_whose_upstream_is_promoted_amid_the_handshake_gets_the_history_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL fetches it when streaming ends for a timeline that it had not been told of."""
    cluster = detached_standbys()
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    cluster.run(0.2)
    identified, asked = Receiver.identified, list[int]()

    def before_the_promotion(
        self: Receiver, system_id: int, tli: TimelineId, files: dict[int, Chain]
    ) -> None:
        asked.append(tli)
        if len(asked) == 1:
            tli, files = TimelineId(2), {n: f for n, f in files.items() if n < tli}
        identified(self, system_id, tli, files)

    monkeypatch.setattr(Receiver, "identified", before_the_promotion)
    cluster.follow("n3", "n2", term=2)
    cluster.run_to(lambda: cluster.observed("n3").timeline == 3 and cluster.streams("n3"))
    assert asked == [3, 3]
    assert not cluster.noted("diverged_standby_attached")


def test_a_standby_fetches_the_placeholders_of_skipped_numbers() -> None:
    cluster = detached_standbys()
    cluster.lead("n2", 2, 5, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    cluster.run(0.2)
    cluster.follow("n3", "n2", term=2)
    cluster.run_to(lambda: cluster.observed("n3").timeline == 5)
    assert {3, 4, 5} <= set(data_on(cluster, "n3").history_files)


def test_without_a_placeholder_nothing_is_followed() -> None:
    cluster = detached_standbys()
    cluster.lead("n2", 2, 5, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    cluster.run(0.2)
    del data_on(cluster, "n2").history_files[4]
    cluster.follow("n3", "n2", term=2)
    cluster.run(1)
    assert not cluster.streams("n3")
    assert "history file" in cluster.servers["n3"].last_receiver_error


def test_a_standby_beyond_the_fork_acknowledges_what_it_never_gets() -> None:
    """Measured on PostgreSQL 15: it attaches for a moment, says how far it is, and is believed."""
    cluster = split(tli=3)
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    cluster.run_to(lambda: cluster.servers["n1"].process is ProcessState.STOPPED)
    cluster.lead("n2", 3, 3, sync_of("n3"))
    cluster.run(0.2)
    commit, outcomes = cluster.commit("n2", "new")
    cluster.run(0.2)
    assert outcomes == []
    attach(cluster, "n3", "n2")
    cluster.run_to(lambda: outcomes, seconds=2)
    assert commit is not None
    assert outcomes == [Outcome.OK]
    assert not data_on(cluster, "n3").holds(commit.record)
    cluster.run(0.5)
    assert cluster.noted("diverged_standby_attached")


def test_a_standby_beyond_the_fork_has_never_written_what_it_never_gets() -> None:
    """Measured on PostgreSQL 15: it reports as written only what it was sent."""
    cluster = split(tli=3)
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    cluster.lead("n2", 3, 3, sync_of("n3"))
    cluster.run(0.2)
    _, outcomes = cluster.commit("n2", "new", SyncLevel.REMOTE_WRITE)
    attach(cluster, "n3", "n2")
    cluster.run(2)
    assert cluster.noted("diverged_standby_attached")
    assert outcomes == []


def test_a_standby_beyond_the_fork_holds_up_no_shutdown() -> None:
    cluster = split(tli=3)
    while data_on(cluster, "n2").end <= data_on(cluster, "n3").end:
        cluster.commit("n2", "new", SyncLevel.LOCAL)
        cluster.run(0.01)
    attach(cluster, "n3", "n2")
    cluster.run_to(lambda: cluster.noted("diverged_standby_attached"))
    cluster.supervisors["n2"].set_target(Stopped(fast=True))
    cluster.run_to(lambda: cluster.servers["n2"].process is ProcessState.STOPPED, seconds=1)
    assert data_on(cluster, "n2").control.clean


def test_a_standby_killed_beyond_the_fork_keeps_its_rows_on_the_new_timeline() -> None:
    """Measured on PostgreSQL 15: it finds no file of the new timeline and replays the old one's."""
    cluster = split(tli=3)
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    attach(cluster, "n3", "n2")
    server = cluster.servers["n3"]
    cluster.run_to(lambda: cluster.noted("diverged_standby_attached"))
    beyond = data_on(cluster, "n3").wal[-1]
    server.kill()
    cluster.run_to(lambda: server.process is ProcessState.STOPPED)
    server.start(ServerConfig())
    cluster.run(2)
    assert server.process is ProcessState.RUNNING
    assert cluster.noted("wal_beyond_fork_replayed")
    assert data_on(cluster, "n3").history == data_on(cluster, "n2").history
    assert data_on(cluster, "n3").holds(beyond)
    assert not data_on(cluster, "n2").holds(beyond)
    assert set(beyond.values) <= {("k", value) for value in server.read("k") or ()}


def test_a_standby_a_segment_beyond_the_fork_is_refused() -> None:
    cluster = split(tli=3)
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    data = data_on(cluster, "n3")
    last = data.wal[-1]
    far = Record(
        Lsn(2 * SEGMENT_BYTES + SEGMENT_BYTES // 2), last.tli, last.branch, RecordKind.COMMIT
    )
    cluster.servers["n3"].kill()
    data.wal = [*data.wal, far]
    data.settle()
    cluster.supervisors["n3"].kill()
    cluster.run(0.1)
    upstream = UpstreamAddress(NodeId("n2"), cluster.upstream("n2").address)
    cluster.servers["n3"].start(ServerConfig(upstream))
    cluster.run(1)
    assert "beyond its end" in cluster.servers["n3"].last_receiver_error


def test_the_planner_keeps_a_diverged_standby_from_attaching() -> None:
    cluster = split(tli=3)
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    cluster.follow("n3", "n2", term=3)
    cluster.run_to(lambda: cluster.noted("rewind_used"))
    cluster.run_to(lambda: cluster.streams("n3"))
    assert not cluster.noted("diverged_standby_attached")


# ------------------------------------------------------------ promotion


def test_promotion_replays_everything_that_was_received_first() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].replay_paused = True
    cluster.commit(value="a")
    cluster.run(0.2)
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    cluster.servers["n2"].replay_paused = False
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    assert cluster.servers["n2"].data.holds(data_on(cluster, "n1").wal[-1])


def test_a_promotion_without_the_armed_guard_is_refused() -> None:
    cluster = primary_cluster()
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.guards["n2"].armed_term = 0
    cluster.run(1)
    assert cluster.servers["n2"].primary is None
    assert cluster.noted("promote_refused")
    assert any("not armed" in error for _, name, _, error in cluster.steps if name == "Promote")


def test_a_timeline_whose_file_exists_is_not_promoted_to() -> None:
    cluster = primary_cluster()
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    data_on(cluster, "n2").history_files[3] = PLACEHOLDER
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.run(1)
    assert cluster.promotions == [("n1", 2)]
    assert any("used before" in error for *_, error in cluster.steps)


def test_a_hanging_promotion_fails_after_its_deadline() -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].promote_hangs = True
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.run(31)
    assert any("still in recovery" in error for *_, error in cluster.steps)
    assert cluster.servers["n2"].in_recovery is True


@pytest.mark.parametrize("extra_ms", [0, 400])
def test_a_promotion_takes_as_long_as_it_is_told(extra_ms: int) -> None:
    cluster = primary_cluster()
    cluster.servers["n2"].promote_extra_ms = extra_ms
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    cluster.lead("n2", 2, 3, SyncSetting())
    begun = cluster.heap.now_ns
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    assert 0 <= (cluster.heap.now_ns - begun) / 1e6 - extra_ms < 120


def test_a_promotion_that_is_cut_short_leaves_a_history_file_and_no_wal() -> None:
    cluster = primary_cluster()
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    cluster.lead("n2", 2, 3, SyncSetting())
    data = data_on(cluster, "n2")
    cluster.run_to(lambda: 3 in data.history_files)
    cluster.detach("n2", 3)
    cluster.servers["n2"].kill()
    assert data.wal[-1].tli == 2
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 3)
    assert 3 not in data.history_files  # set aside by the start
    assert cluster.observed("n2").timeline == 2


def test_a_primary_is_never_started_as_one() -> None:
    cluster = primary_cluster()
    cluster.servers["n1"].kill()
    cluster.run(3)
    assert not cluster.servers["n1"].writable
    assert cluster.observed("n1").process is ProcessState.STOPPED


def test_the_control_file_names_the_new_timeline_a_moment_after_the_promotion() -> None:
    cluster = Cluster(("n1",))
    cluster.servers["n1"].data = data_of(ready_data().wal)
    cluster.lead("n1", 1, 2, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n1"].primary is not None)
    control = data_on(cluster, "n1").control
    assert control.checkpoint_tli == 1
    cluster.run(0.5)
    assert control.checkpoint_tli == 2


def test_a_standby_on_an_abandoned_timeline_is_restarted_before_it_attaches_to_another() -> None:
    """It never would: "new timeline 6 is not a child of database system timeline 3"."""
    cluster = detached_standbys()
    data = data_on(cluster, "n3")
    # It had fetched the history of a primary that was lost before it sent any WAL.
    data.history_files[3] = (*data.history, HistoryStep(TimelineId(3), data.end))
    cluster.lead("n2", 5, 6, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    cluster.run(0.2)
    cluster.follow("n3", "n2", term=5)
    epoch = cluster.servers["n3"].epoch
    cluster.run_to(lambda: cluster.streams("n3"))
    assert cluster.servers["n3"].epoch > epoch  # the start sets histories without WAL aside
    assert cluster.observed("n3").timeline == 6
