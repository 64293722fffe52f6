"""Planted bugs: each takes one safety rule away, in a scenario that then ends in harm.

A plant patches one function of the production code (or of the guard's model) after the cluster has
settled, so that nothing but the scenario itself can go wrong. The same scenario without the plant
must pass: it is the rule, and nothing else, that keeps it from harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest

from metako.cluster import engine
from metako.election import leader, quorum, syncchange
from metako.election.core import Core
from metako.election.leader import End, Leader
from metako.election.lease import Hold
from metako.election.quorum import Promise
from metako.election.reserve import reserve
from metako.election.settings import ElectionSettings
from metako.election.syncset import Order, SyncChange, next_change
from metako.model import document as model_document
from metako.model.durable import HardState
from metako.model.events import EventName
from metako.model.ids import NodeId, TimelineId
from metako.model.timeline import TimelineEntry
from sim.first.checks import ViolationError
from sim.first.scenario import document, finish, happened, others, outage, primary, settled, until, writes
from sim.first.world import World

LOCKSTEP = ElectionSettings(stagger_ms=0, jitter_ms=0)
NEVER_MS = 10_000_000
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Bug:
    """A rule to take away, and the scenario that shows what for it is there."""

    plant: Plant
    play: Callable[[World], object]
    prepare: Callable[[int], World] = lambda seed: settled(seed=seed)


# ------------------------------------------------------------ scenarios


def with_witnesses(seed: int, *, election: ElectionSettings | None = None) -> World:
    return settled("abcvw", witnesses="vw", seed=seed, election=election)


def data_nodes(world: World, *without: str) -> list[NodeId]:
    return others(world, *world.witnesses, *without)


def primary_is_cut_off(world: World) -> None:
    old = primary(world)
    world.network.partition([old], others(world, old))
    world.write_everywhere(4)
    world.network.heal()
    finish(world)


def holder_of_the_commit_is_lost(world: World) -> None:
    old = primary(world)
    ahead, behind = data_nodes(world, old)
    world.stalled.add(behind)
    assert writes(world)
    world.kill_node(old)
    world.kill_node(ahead)
    world.stalled.clear()
    world.run(6)
    world.start(ahead)
    outage(world)
    finish(world)


def lagging_node_stands_first(world: World) -> float:
    """Return how long writes were away."""
    old = primary(world)
    behind, ahead = data_nodes(world, old)
    world.stalled.add(behind)
    assert writes(world)
    # It ranks first by its name: gossip has not yet told who is ahead. And what the one that is
    # ahead says is late, so that it stands.
    world.kill_server(old)
    world.nodes[old].server.durations_ms["MeasurePosition"] = NEVER_MS
    world.network.cut.add((ahead, behind))
    until(world, lambda: bool(happened(world, EventName.CANDIDACY_STARTED, behind)), limit_s=1)
    world.network.heal()
    world.stalled.clear()
    away_s = outage(world)
    finish(world)
    return away_s


def lagging_node_stands_first_in_vain(world: World) -> None:
    if lagging_node_stands_first(world) > 1.0:
        raise ViolationError("a candidacy that could not win was not handed over")


def standby_returns_to_an_empty_set(world: World) -> None:
    old = primary(world)
    standbys = others(world, old)
    for name in standbys:
        world.kill_server(name)
        world.nodes[name].server.durations_ms["Start"] = NEVER_MS
    until(world, lambda: not world.nodes[old].server.config.sync.nodes, limit_s=5)
    for name in standbys:
        world.nodes[name].server.durations_ms["Start"] = 250
        world.nodes[name].server.abandon_step()
    until(world, lambda: bool(document(world).sync.members), limit_s=5)
    # The very moment at which a data quorum of the document stops asking the old primary.
    world.stalled.update(standbys)
    world.write(old)
    world.run(0.01)
    world.kill_node(old)
    world.stalled.clear()
    outage(world, other_than=old)
    finish(world)


def voter_detaches_slowly(world: World) -> None:
    old = primary(world)
    world.pause(old, server=False)
    world.freeze_guard(old)  # so the old primary goes on taking writes
    for name in others(world, old):
        world.nodes[name].server.durations_ms["Detach"] = 300
    until(world, lambda: bool(happened(world, EventName.CANDIDACY_STARTED)), limit_s=3)
    candidate = happened(world, EventName.CANDIDACY_STARTED)[0]
    world.nodes[candidate].server.durations_ms["Detach"] = 70
    world.nodes[candidate].server.abandon_step()  # and begin it again, faster
    world.stalled.add(candidate)
    for _ in range(20):
        world.write(old)
        world.run(0.002)
    world.run(0.1)  # past the candidate's own detachment
    world.stalled.clear()
    outage(world, other_than=old)
    world.resume(old)
    finish(world)


def agent_of_the_primary_is_paused(world: World) -> None:
    old = primary(world)
    world.pause(old, server=False)
    world.write_everywhere(4)
    world.resume(old)
    finish(world)


def primary_stops_slowly(world: World) -> None:
    old = primary(world)
    world.nodes[old].server.durations_ms["Stop"] = 1500
    world.stop(old)
    world.write_everywhere(3)
    finish(world)


def promotion_is_cut_short(world: World) -> None:
    old = primary(world)
    world.kill_server(old)
    world.stalled.update(world.names)  # the marker of the next primary is acknowledged by nobody
    done = len(happened(world, EventName.PROMOTED))
    until(world, lambda: len(happened(world, EventName.PROMOTED)) > done, limit_s=3)
    world.kill_node(happened(world, EventName.PROMOTED)[-1])
    world.stalled.clear()
    outage(world)
    finish(world)


def next_primary_is_lost_before_anybody_follows_it(world: World) -> None:
    old = primary(world)
    ahead, behind = data_nodes(world, old)
    world.stalled.add(behind)
    assert writes(world)
    world.kill_node(old)
    until(world, lambda: document(world).primary == ahead, limit_s=4)
    world.run(0.02)
    world.kill_node(ahead)
    world.stalled.clear()
    # Whoever is left has a majority with the witnesses, and lacks the commit.
    world.run(6)
    world.start(old)
    outage(world)
    finish(world)


def voter_restarts_between_two_candidates(world: World) -> None:
    old = primary(world)
    left, right = data_nodes(world, old)
    left_friend, right_friend = world.witnesses
    world.network.delay_ms = (1.0, 1.0)
    world.network.partition([left], [right, right_friend])
    world.network.partition([right], [left, left_friend])
    world.kill_server(old)
    # Both stand in the same term; the old primary's vote decides, and its data is a data quorum.
    until(world, lambda: bool(happened(world, EventName.PROMISE_KEPT, old)), limit_s=1)
    world.kill_agent(old)
    world.start(old)
    world.run(1)
    world.network.heal()
    outage(world)
    finish(world)


def voter_restarts_while_it_holds(world: World) -> None:
    old = primary(world)
    candidate, voter = others(world, old)
    world.network.partition([old], [candidate])
    world.run(3)  # the candidate's own hold has ended, the voter's is renewed all the time
    world.network.partition([old], [candidate, voter])
    world.kill_agent(voter)
    world.start(voter)
    world.write_everywhere(3, per_second=100)
    world.network.heal()
    finish(world)


# ------------------------------------------------------------ plants


def data_quorum_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(quorum, "data_quorum", lambda *_: True)


def hold_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Hold, "active", lambda *_: False)


def half_is_a_majority(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model_document, "majority_of", lambda count: count // 2)


def positions_ignored(patch: pytest.MonkeyPatch) -> None:
    """Count promises, whatever WAL the promising nodes have."""

    def counted(
        doc: model_document.ClusterDocument, _: object, promises: Mapping[NodeId, Promise]
    ) -> bool:
        members = [p for p in promises.values() if p.node in doc.sync.nodes() and p.detached]
        return doc.primary in promises or len(members) >= doc.sync.read_quorum

    patch.setattr(quorum, "data_quorum", counted)
    patch.setattr(quorum, "_better", lambda *_: None)


def better_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(quorum, "_better", lambda *_: None)


def sync_order_reversed(patch: pytest.MonkeyPatch) -> None:
    def reversed_change(*args: object, **options: object) -> SyncChange | None:
        change = next_change(*args, **options)  # type: ignore[arg-type]  # passed through
        if change is None:
            return None
        first = change.order is Order.DOCUMENT_FIRST
        return replace(change, order=Order.POSTGRES_FIRST if first else Order.DOCUMENT_FIRST)

    patch.setattr(syncchange, "next_change", reversed_change)


def promise_before_detached(patch: pytest.MonkeyPatch) -> None:
    honest = Core.own_promise

    def hasty(self: Core, term: int) -> Promise:
        promise = honest(self, term)  # type: ignore[arg-type]  # a term is an int
        if promise.detached:
            return promise
        return replace(promise, detached=True, position=self.advisory_position())

    patch.setattr(Core, "own_promise", hasty)


def old_primary_left_out(patch: pytest.MonkeyPatch) -> None:
    """Let the next sync set forget the server that may alone have the newest commits."""
    honest = quorum.successor_sync_set

    def forgetful(doc: model_document.ClusterDocument, winner: NodeId, **options: object) -> object:
        new = honest(doc, winner, **options)  # type: ignore[arg-type]  # passed through
        kept = tuple(m for m in new.members if m.node != doc.primary)
        return replace(new, members=kept, k=min(new.k, len(kept)))

    patch.setattr(leader, "successor_sync_set", forgetful)


def fence_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(World, "_fence", lambda *_: None)


def released_while_stopping(patch: pytest.MonkeyPatch) -> None:
    honest = Leader.over
    patch.setattr(
        Leader, "over", lambda self, now: End.SERVER if self.ending else honest(self, now)
    )


def timeline_reused(patch: pytest.MonkeyPatch) -> None:
    honest = reserve

    def reusing(entries: tuple[TimelineEntry, ...], **options: object) -> object:
        entry = honest(entries, **options)[-1]  # type: ignore[arg-type]  # passed through
        confirmed = tuple(e for e in entries if e.confirmed)
        return (*confirmed, replace(entry, tli=TimelineId(max(e.tli for e in confirmed) + 1)))

    patch.setattr(leader, "reserve", reusing)


def record_forgotten(patch: pytest.MonkeyPatch) -> None:
    def forgetful(hard: HardState) -> HardState:
        return HardState(hard.node_id, hard.boot_epoch + 1, document=hard.document)

    patch.setattr("sim.first.world.next_boot", forgetful)


def hold_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("sim.first.world.next_boot", lambda h: replace(engine.next_boot(h), max_hold_ms=0))


BUGS: Mapping[str, Bug] = {
    "data quorum ignored": Bug(data_quorum_ignored, holder_of_the_commit_is_lost, with_witnesses),
    "hold ignored": Bug(hold_ignored, primary_is_cut_off),
    "half is a majority": Bug(half_is_a_majority, primary_is_cut_off),
    "positions ignored": Bug(positions_ignored, lagging_node_stands_first, with_witnesses),
    "better ignored": Bug(better_ignored, lagging_node_stands_first_in_vain, with_witnesses),
    "sync order reversed": Bug(sync_order_reversed, standby_returns_to_an_empty_set),
    "promise before detached": Bug(promise_before_detached, voter_detaches_slowly),
    "old primary left out": Bug(
        old_primary_left_out, next_primary_is_lost_before_anybody_follows_it, with_witnesses
    ),
    "fence ignored": Bug(fence_ignored, agent_of_the_primary_is_paused),
    "released while stopping": Bug(released_while_stopping, primary_stops_slowly),
    "timeline reused": Bug(timeline_reused, promotion_is_cut_short),
    "record forgotten": Bug(
        record_forgotten,
        voter_restarts_between_two_candidates,
        lambda seed: with_witnesses(seed, election=LOCKSTEP),
    ),
    "hold forgotten": Bug(hold_forgotten, voter_restarts_while_it_holds),
}
