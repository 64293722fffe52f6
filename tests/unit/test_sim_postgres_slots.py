"""Replication slots and the space of pg_wal: what keeps WAL, what loses it, and who is refused."""

from __future__ import annotations

import pytest
from sim_postgres_kit import Cluster, data_on, diverged, primary_cluster

from metako.model.ids import NodeId
from metako.model.lsn import Lsn
from metako.model.postgres import ProcessState, Stopped
from sim.postgres.commits import SyncLevel
from sim.postgres.server import SimServer
from sim.postgres.slots import Slot, WalStatus, wal_status
from sim.postgres.wal import RECORD_BYTES


def slot_of(cluster: Cluster, name: str = "s", node: str = "n1") -> Slot:
    return data_on(cluster, node).slots[name]


def write(cluster: Cluster, count: int, node: str = "n1") -> None:
    for number in range(count):
        cluster.commit(node, f"{node}-{number}", SyncLevel.LOCAL)
        cluster.run(0.003)
    cluster.run(0.05)


def use_slot(cluster: Cluster, node: str = "n2", name: str = "s") -> None:
    """Let a standby follow with a slot from now on."""
    cluster.servers[node].primary_slot = name
    cluster.servers[node].reload()


def with_slot(*, used: bool = True) -> Cluster:
    """Return a cluster whose n1 has the slot `s`, which n2 uses or nobody does."""
    cluster = primary_cluster(sync=False)
    for server in cluster.servers.values():
        server.wal_keep = 4
    assert cluster.servers["n1"].create_slot("s")
    if used:
        use_slot(cluster)
        cluster.run_to(lambda: slot_of(cluster).sender is not None)
        cluster.run(1.2)
    return cluster


def stop_following(cluster: Cluster, node: str = "n2") -> None:
    cluster.supervisors[node].kill()
    cluster.servers[node].kill()
    cluster.run(0.2)


def follow_again(cluster: Cluster, node: str = "n2") -> None:
    """Start the server once more as it was, with nobody who would clone it."""
    server = cluster.servers[node]
    assert server.conf is not None
    server.start(server.conf)
    cluster.run(2)


def remove_wal(cluster: Cluster, node: str = "n1") -> None:
    cluster.servers[node].remove_wal()
    cluster.run(0.1)


# ------------------------------------------------------------ the life of a slot


def test_a_new_slot_keeps_wal_from_the_last_checkpoint_on_or_nothing() -> None:
    cluster = with_slot(used=False)
    server = cluster.servers["n1"]
    assert slot_of(cluster).restart_lsn == data_on(cluster, "n1").control.redo_lsn
    assert server.create_slot("empty", reserve=False)
    assert slot_of(cluster, "empty").restart_lsn == 0
    assert wal_status(server, slot_of(cluster, "empty")) is None
    assert not server.create_slot("s")


def test_a_standby_has_slots_of_its_own_and_keeps_them_through_its_promotion() -> None:
    cluster = with_slot(used=False)
    assert cluster.servers["n2"].create_slot("own")
    kept = slot_of(cluster, "own", "n2").restart_lsn
    assert 0 < kept <= data_on(cluster, "n2").control.redo_lsn
    assert "s" not in data_on(cluster, "n2").slots
    cluster.detach("n2", 2)
    cluster.run_to(lambda: cluster.observed("n2").detached_for == 2)
    cluster.lead("n2", 2, 3, cluster.servers["n1"].conf.sync)  # type: ignore[union-attr]
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    write(cluster, 30, "n2")
    remove_wal(cluster, "n2")
    assert slot_of(cluster, "own", "n2").restart_lsn == kept
    assert data_on(cluster, "n2").wal_begin <= kept


def test_a_slot_follows_what_its_standby_has_on_disk() -> None:
    cluster = with_slot()
    write(cluster, 5)
    assert slot_of(cluster).restart_lsn == data_on(cluster, "n1").end
    cluster.servers["n2"].receive_stalled = True
    before = slot_of(cluster).restart_lsn
    write(cluster, 5)
    assert slot_of(cluster).restart_lsn == before


def test_a_slot_without_a_reservation_gets_one_with_the_first_reply() -> None:
    cluster = primary_cluster(sync=False)
    assert cluster.servers["n1"].create_slot("s", reserve=False)
    use_slot(cluster)
    cluster.run(2)
    assert slot_of(cluster).restart_lsn == data_on(cluster, "n2").end


def test_a_slot_in_use_cannot_be_dropped_and_is_free_when_its_standby_has_gone() -> None:
    cluster = with_slot()
    server = cluster.servers["n1"]
    assert not server.drop_slot("s")
    stop_following(cluster)
    assert slot_of(cluster).sender is None
    assert server.drop_slot("s")
    assert not server.drop_slot("s")


def test_a_standby_that_names_another_slot_reconnects_with_it() -> None:
    cluster = with_slot()
    assert cluster.servers["n1"].create_slot("t")
    use_slot(cluster, name="t")
    cluster.run(2)
    assert slot_of(cluster).sender is None
    assert slot_of(cluster, "t").sender is cluster.servers["n1"].senders[NodeId("n2")]


# ------------------------------------------------------------ refusals


def test_a_standby_whose_slot_does_not_exist_is_refused_until_it_does() -> None:
    cluster = primary_cluster(sync=False)
    use_slot(cluster)
    cluster.run(2)
    assert "does not exist" in cluster.servers["n2"].last_receiver_error
    assert NodeId("n2") not in cluster.servers["n1"].senders
    assert cluster.servers["n1"].create_slot("s")
    cluster.run(2)
    assert cluster.servers["n1"].senders[NodeId("n2")].slot is slot_of(cluster)


def test_two_standbys_cannot_use_one_slot() -> None:
    cluster = with_slot()
    use_slot(cluster, "n3")
    cluster.run(2)
    assert "is active" in cluster.servers["n3"].last_receiver_error
    assert NodeId("n3") not in cluster.servers["n1"].senders
    stop_following(cluster)
    cluster.run(1)
    assert slot_of(cluster).sender is cluster.servers["n1"].senders[NodeId("n3")]


def test_a_lost_host_holds_its_slot_until_its_sender_times_out() -> None:
    cluster = with_slot()
    begun = cluster.heap.now_ns
    cluster.crash_host("n2")
    cluster.run_to(lambda: slot_of(cluster).sender is None)
    assert 8 < (cluster.heap.now_ns - begun) / 1e9 < 12


def test_a_host_that_is_back_before_that_is_refused_its_own_slot_at_first() -> None:
    """PostgreSQL tells processes apart and not standbys."""
    cluster = with_slot()
    cluster.crash_host("n2")
    cluster.run(1)
    cluster.hosts_down.clear()
    old = slot_of(cluster).sender
    assert old is not None
    follow_again(cluster)
    assert "is active" in cluster.servers["n2"].last_receiver_error
    # What the primary sends next is answered with a reset, which ends the old sender.
    assert slot_of(cluster).sender not in (None, old)


# ------------------------------------------------------------ crashes


def test_a_crash_sets_a_slot_back_to_the_last_checkpoint() -> None:
    cluster = with_slot()
    server = cluster.servers["n1"]
    assert server.primary is not None
    server.primary.checkpoint()
    cluster.run(0.1)
    saved = slot_of(cluster).saved_lsn
    write(cluster, 5)
    assert slot_of(cluster).restart_lsn > saved
    cluster.supervisors["n1"].kill()
    server.kill()
    assert slot_of(cluster).restart_lsn == saved
    assert slot_of(cluster).sender is None


def test_a_clean_shutdown_saves_what_its_checkpoint_knew() -> None:
    cluster = with_slot()
    write(cluster, 5)
    confirmed = slot_of(cluster).restart_lsn
    cluster.supervisors["n1"].set_target(Stopped(fast=True))
    cluster.run_to(lambda: cluster.servers["n1"].process is ProcessState.STOPPED)
    assert slot_of(cluster).restart_lsn == confirmed < data_on(cluster, "n1").end
    assert data_on(cluster, "n2").end == data_on(cluster, "n1").end


def test_neither_a_clone_nor_a_rewind_brings_slots_along() -> None:
    cluster = diverged()
    assert cluster.servers["n2"].create_slot("theirs")
    data_on(cluster, "n1").slots["own"] = Slot("own", data_on(cluster, "n1").end)
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: cluster.streams("n1"))
    assert cluster.noted("rewind_used") == 1
    assert not data_on(cluster, "n1").slots
    data_on(cluster, "n1").tainted = True
    cluster.supervisors["n1"].set_target(Stopped(fast=False))
    cluster.run_to(lambda: cluster.servers["n1"].process is ProcessState.STOPPED)
    cluster.follow("n1", "n2", term=2)
    cluster.run_to(lambda: cluster.noted("clone_used"))
    assert not data_on(cluster, "n1").slots


# ------------------------------------------------------------ keeping WAL


def test_a_slot_keeps_wal_for_a_standby_that_is_away_and_nobody_is_cloned() -> None:
    cluster = with_slot()
    stop_following(cluster)
    write(cluster, 30)
    remove_wal(cluster)
    data = data_on(cluster, "n1")
    assert data.wal_begin == slot_of(cluster).restart_lsn < data.lsn_at(len(data.wal) - 10)
    assert cluster.noted("slot_kept_wal")
    follow_again(cluster)
    assert data_on(cluster, "n2").end == data.end
    assert not cluster.noted("wal_lost")


def test_without_the_slot_the_same_standby_finds_its_wal_removed() -> None:
    cluster = with_slot()
    cluster.servers["n2"].primary_slot = ""
    stop_following(cluster)
    assert cluster.servers["n1"].drop_slot("s")
    write(cluster, 30)
    remove_wal(cluster)
    follow_again(cluster)
    assert cluster.noted("wal_lost")


def test_what_a_standby_confirms_while_a_checkpoint_is_written_frees_nothing() -> None:
    """A crash would set the slot back to what the checkpoint has saved: that WAL must be there."""
    cluster = with_slot()
    server, data = cluster.servers["n1"], data_on(cluster, "n1")
    cluster.servers["n2"].receive_stalled = True
    write(cluster, 30)
    saved = slot_of(cluster).restart_lsn
    server.fsync_ms = 300.0
    assert server.remove_wal()
    cluster.servers["n2"].receive_stalled = False
    cluster.run_to(lambda: slot_of(cluster).restart_lsn > saved)
    cluster.run(1)
    assert slot_of(cluster).saved_lsn == saved
    assert data.wal_begin == saved


def test_a_slot_that_is_created_during_a_checkpoint_outlives_it() -> None:
    cluster = primary_cluster(sync=False)
    server = cluster.servers["n1"]
    server.wal_keep, server.fsync_ms = 0, 300.0
    write(cluster, 5)
    assert server.remove_wal()
    assert server.create_slot("s")
    cluster.run(1)
    assert 0 < slot_of(cluster).restart_lsn <= data_on(cluster, "n1").control.redo_lsn
    assert data_on(cluster, "n1").wal_begin <= slot_of(cluster).restart_lsn
    assert not cluster.noted("slot_invalidated")


def test_a_shutdown_that_lets_the_last_slot_down_goes_on_without_its_standby() -> None:
    cluster = with_slot()
    server = cluster.servers["n1"]
    server.slot_keep, server.wal_removed = 10, True
    for node in ("n1", "n2", "n3"):
        cluster.supervisors[node].kill()
    stop_following(cluster, "n3")
    cluster.servers["n2"].receive_stalled = True
    write(cluster, 40)
    server.stop(fast=True)
    cluster.run(1)
    data = data_on(cluster, "n1")
    assert server.process is ProcessState.STOPPED
    assert cluster.noted("slot_invalidated") == 1
    assert data.control.redo_lsn == data.end
    assert data.control.clean


def test_the_oldest_of_several_slots_decides() -> None:
    cluster = with_slot()
    assert cluster.servers["n1"].create_slot("forgotten")
    kept = slot_of(cluster, "forgotten").restart_lsn
    write(cluster, 30)
    assert slot_of(cluster).restart_lsn > kept
    remove_wal(cluster)
    assert data_on(cluster, "n1").wal_begin == kept


# ------------------------------------------------------------ slots that are let down


def test_a_slot_that_asks_for_too_much_is_lost_with_its_wal() -> None:
    cluster = with_slot(used=False)
    server = cluster.servers["n1"]
    assert wal_status(server, slot_of(cluster)) is WalStatus.RESERVED
    server.slot_keep = 10
    write(cluster, 40)
    assert wal_status(server, slot_of(cluster)) is WalStatus.UNRESERVED
    remove_wal(cluster)
    assert wal_status(server, slot_of(cluster)) is WalStatus.LOST
    assert slot_of(cluster).restart_lsn == 0
    assert cluster.noted("slot_invalidated") == 1
    data = data_on(cluster, "n1")
    assert data.wal_begin >= data.lsn_at(len(data.wal) - 12)


def test_a_slot_kept_beyond_max_wal_size_is_extended() -> None:
    cluster = with_slot(used=False)
    server = cluster.servers["n1"]
    server.wal_size_max = 10 * RECORD_BYTES
    write(cluster, 40)
    assert wal_status(server, slot_of(cluster)) is WalStatus.EXTENDED


def test_the_sender_of_a_slot_that_is_let_down_is_terminated_and_its_standby_is_too_late() -> None:
    cluster = with_slot()
    cluster.supervisors["n2"].kill()
    server = cluster.servers["n1"]
    server.slot_keep = 10
    cluster.servers["n2"].receive_stalled = True
    sender = slot_of(cluster).sender
    assert sender is not None
    write(cluster, 40)
    remove_wal(cluster)
    assert not sender.alive
    assert slot_of(cluster).restart_lsn == 0
    # What had been sent it still reads; it is what came then that it would miss.
    cluster.servers["n2"].kill()
    cluster.servers["n2"].receive_stalled = False
    cluster.run(0.2)
    follow_again(cluster)
    assert cluster.noted("wal_lost")
    assert slot_of(cluster).sender is None


def test_a_lost_slot_is_good_again_once_a_standby_streams_with_it() -> None:
    cluster = with_slot(used=False)
    server = cluster.servers["n1"]
    server.slot_keep = 10
    write(cluster, 40)
    remove_wal(cluster)
    assert wal_status(server, slot_of(cluster)) is WalStatus.LOST
    use_slot(cluster)  # n2 streams, so it needs no old WAL
    cluster.run(2)
    assert slot_of(cluster).restart_lsn == data_on(cluster, "n2").end
    assert wal_status(server, slot_of(cluster)) is WalStatus.RESERVED


def test_a_lost_slot_stays_lost_through_a_crash() -> None:
    cluster = with_slot(used=False)
    cluster.servers["n1"].slot_keep = 10
    write(cluster, 40)
    remove_wal(cluster)
    cluster.servers["n1"].kill()
    assert slot_of(cluster).restart_lsn == 0
    assert slot_of(cluster).invalidated_lsn > 0


# ------------------------------------------------------------ space for WAL


def small_disk(room: int = 80, node: str = "n1") -> tuple[Cluster, SimServer]:
    cluster = with_slot(used=False)
    server = cluster.servers[node]
    server.wal_room = room
    return cluster, server


def test_checkpoints_keep_a_small_disk_from_filling() -> None:
    cluster, server = small_disk()
    assert server.drop_slot("s")
    write(cluster, 300)
    assert server.is_up
    assert data_on(cluster, "n1").wal_held < 80
    assert not cluster.noted("server_panicked")


def test_a_forgotten_slot_fills_a_small_disk_and_the_server_panics() -> None:
    cluster, server = small_disk()
    cluster.supervisors["n1"].kill()
    write(cluster, 300)
    assert server.process is ProcessState.STOPPED
    assert cluster.noted("server_panicked") == 1
    assert server.wal_full
    assert data_on(cluster, "n1").wal_begin <= slot_of(cluster).restart_lsn


def test_a_limit_lets_the_slot_down_before_the_disk_is_full() -> None:
    cluster, server = small_disk()
    server.slot_keep = 40
    write(cluster, 300)
    assert server.is_up
    assert wal_status(server, slot_of(cluster)) is WalStatus.LOST


def test_dropping_the_slot_makes_room_at_the_next_checkpoint() -> None:
    cluster, server = small_disk()
    write(cluster, 60)
    held = data_on(cluster, "n1").wal_held
    assert server.drop_slot("s")
    assert data_on(cluster, "n1").wal_held == held
    write(cluster, 30)
    assert data_on(cluster, "n1").wal_held < held
    assert server.is_up


def test_a_standby_on_a_full_disk_receives_nothing_and_a_dropped_slot_does_not_help_it() -> None:
    """Measured on PostgreSQL 15: without a newer checkpoint record there is no restartpoint."""
    cluster, server = small_disk()
    for supervisor in cluster.supervisors.values():
        supervisor.kill()
    write(cluster, 300)
    assert server.conf is not None
    server.start(server.conf)
    cluster.run(2)
    assert server.is_up  # recovery writes nothing
    assert server.startup is not None
    held = data_on(cluster, "n1").wal_held
    assert server.drop_slot("s")
    server.startup.restartpoint()
    assert data_on(cluster, "n1").wal_held == held
    server.wal_room = 0
    assert not server.wal_full


def test_a_standby_with_a_small_disk_makes_room_at_the_checkpoints_that_it_replays() -> None:
    cluster, _ = small_disk(node="n2")
    for _ in range(10):
        write(cluster, 30)
        assert cluster.servers["n1"].primary is not None
        cluster.servers["n1"].primary.checkpoint()
    cluster.run(0.1)
    assert data_on(cluster, "n2").end == data_on(cluster, "n1").end
    assert data_on(cluster, "n2").wal_held < 80


@pytest.mark.parametrize("running", [True, False])
def test_room_is_counted_from_what_is_there_when_the_limit_comes(running: bool) -> None:
    cluster = primary_cluster(sync=False)
    server = cluster.servers["n1"]
    if not running:
        cluster.supervisors["n1"].kill()
        server.kill()
    server.wal_room = 5
    assert server.wal_limit == data_on(cluster, "n1").wal_held + 5
    assert not server.wal_full
    server.wal_room = 0
    assert Lsn(server.wal_limit) == 0
