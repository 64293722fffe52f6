"""Standbys connect to the next primary before it is promoted, where that acknowledges nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from resuming_kit import B, C, standby_at
from sim_postgres_kit import Cluster, data_on, detached_standbys

from metako.cluster.projection import server_state
from metako.model.ids import Address, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.member import ServerState
from metako.model.postgres import Following, ReceiverState, SyncSetting, Upstream
from metako.wire.messages import Heartbeat, Outbound
from sim.network import Fate
from sim.postgres import startup
from sim.processes import Processes
from sim.settled import Stage, primary, settled
from sim.watch import Watcher


class Invitations(Watcher):
    """Notes of each heartbeat that says `attachable` whether its sender's server was promoted."""

    name = "invitations"

    def __init__(self, world: Stage) -> None:
        self._world = world
        self.promoted: dict[int, list[bool]] = {}  # by term

    def sent(self, node: Processes, outbound: Outbound, fate: Fate | None) -> None:
        message = outbound.message
        if isinstance(message, Heartbeat) and message.attachable:
            server = self._world.nodes[node.name].server
            self.promoted.setdefault(message.term, []).append(server.primary is not None)


def after_a_crash() -> list[bool]:
    """Return for each invitation of the next primary whether its server was promoted."""
    world = settled()
    seen = Invitations(world)
    world.watch.add(seen)
    world.nodes[primary(world)].kill_host()
    world.run(4)
    return seen.promoted[max(seen.promoted)]


def test_standbys_are_invited_before_the_promotion() -> None:
    invitations = after_a_crash()
    assert not invitations[0]
    assert invitations[-1]


def test_nobody_is_invited_early_where_part_of_a_record_was_received(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(startup, "part_of_a_record", lambda _: 100)
    assert all(after_a_crash())


def detached_pair(partial: int) -> Cluster:
    """Return n2 detached, with a part of a record behind its WAL, and n3 following it."""
    cluster = detached_standbys()
    recovery = cluster.servers["n2"].startup
    assert recovery is not None
    recovery.partial = partial
    cluster.follow("n3", "n2", term=2)
    cluster.run_to(lambda: cluster.streams("n3"))
    cluster.run(2)  # a reply
    return cluster


def test_a_standby_that_came_before_the_promotion_streams_on_after_it() -> None:
    cluster = detached_pair(partial=0)
    receiver = cluster.servers["n3"].receiver
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.run_to(lambda: data_on(cluster, "n3").tli == 3)
    assert cluster.servers["n3"].receiver is receiver
    assert cluster.streams("n3")


@pytest.mark.parametrize("partial", [0, 1 << 16])
def test_part_of_a_record_acknowledges_what_is_written_in_its_place(partial: int) -> None:
    """Why it is looked for: a WAL sender keeps what its standby has acknowledged."""
    cluster = detached_pair(partial)
    cluster.lead("n2", 2, 3, SyncSetting())
    cluster.run_to(lambda: cluster.servers["n2"].primary is not None)
    new = cluster.servers["n2"].primary
    assert new is not None
    kept = max(sender.flush_lsn for sender in new.senders)
    fork = data_on(cluster, "n2").history[-1].begin_lsn
    assert kept == Lsn(fork + partial)


def test_nothing_is_read_from_who_is_connected_to_a_primary_that_is_yet_to_be() -> None:
    upstream = Upstream(B, Address("h", 1), Term(5), (), tip=TimelineId(3), system_id=1)
    invited = replace(
        standby_at(C, 600, 5), receiver=ReceiverState.STREAMING, under=Following(upstream)
    )
    assert server_state(invited) is ServerState.RUNNING
    assert server_state(replace(invited, timeline=TimelineId(3))) is ServerState.STREAMING
