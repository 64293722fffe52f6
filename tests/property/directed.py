"""Directed scenarios: each ends in harm if one particular rule is missing.

The rules are taken away by the planted bugs of `sim.mutations`, after the cluster has settled, so
that nothing but the scenario itself can go wrong. The same scenario without the bug must pass: it
is the rule, and nothing else, that keeps it from harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metako.election.settings import ElectionSettings
from metako.model.events import EventName
from metako.model.ids import NodeId
from metako.wire.messages import PreVoteReply
from sim.network import Traffic
from sim.settled import (
    Stage,
    document,
    finish,
    happened,
    keep_down,
    let_up,
    others,
    outage,
    primary,
    settled,
    until,
    writes,
)
from sim.watch import ViolationError

LOCKSTEP = ElectionSettings(stagger_ms=0, jitter_ms=0)
IMPATIENT = ElectionSettings(stop_timeout_ms=3000)
HANDED_OVER_S = 1.0
"""A candidacy that cannot win lasts for two seconds if nobody ends it."""


@dataclass(frozen=True)
class Directed:
    """A scenario, and as what the harm shows if the rule is missing."""

    play: Callable[[Stage], object]
    checks: tuple[str, ...]
    prepare: Callable[[int], Stage] = lambda seed: settled(seed=seed)


def with_witnesses(seed: int, *, election: ElectionSettings | None = None) -> Stage:
    return settled("abcvw", witnesses="vw", seed=seed, election=election)


def data_nodes(world: Stage, *without: str) -> list[NodeId]:
    return others(world, *world.witnesses, *without)


def starve(world: Stage, node: NodeId) -> None:
    """Let no WAL reach a node, and have the others acknowledge a write."""
    world.network.cut("*", node, Traffic.REPLICATION)
    assert writes(world)


# ------------------------------------------------------------ who is cut off


def primary_is_cut_off(world: Stage) -> None:
    old = primary(world)
    world.network.partition([old], others(world, old))
    world.write_everywhere(4)
    world.network.heal()
    finish(world)


def one_standby_hears_no_heartbeats(world: Stage) -> None:
    """Its WAL streams, so it is as good a candidate as any."""
    old = primary(world)
    deaf = others(world, old)[0]
    for traffic in (Traffic.GOSSIP, Traffic.STREAM):
        world.network.partition([old], [deaf], traffic=traffic)
    world.run(4)
    world.network.heal()
    finish(world)


def voter_restarts_while_it_holds(world: Stage) -> None:
    old = primary(world)
    candidate, voter = others(world, old)
    world.network.partition([old], [candidate])
    world.run(3)  # the candidate's own hold has ended, the voter's is renewed all the time
    world.network.partition([old], [voter])
    world.nodes[voter].kill_agent()
    world.nodes[voter].start()
    world.write_everywhere(3, per_second=100)
    world.network.heal()
    finish(world)


def replied(world: Stage, voter: NodeId, candidate: NodeId) -> bool:
    """Return whether a voter has answered the candidate's pre-vote."""
    return any(
        sender == voter and outbound.to == candidate and isinstance(outbound.message, PreVoteReply)
        for _, sender, outbound in world.story.messages
    )


def voter_restarts_between_two_candidates(world: Stage) -> None:
    old = primary(world)
    left, right = data_nodes(world, old)
    left_friend, right_friend = world.witnesses
    world.network.set_base("*", "*", delay_ms=(1.0, 1.0))
    world.network.partition([left], [right, right_friend])
    world.network.partition([right], [left, left_friend])
    world.nodes[old].kill_postgres()
    # Both stand in the same term; the old primary's vote decides, and its data is a data quorum.
    until(world, lambda: replied(world, old, right), limit_s=1)
    late = world.network.cut(right, old)
    until(world, lambda: bool(happened(world, EventName.PROMISE_KEPT, old)), limit_s=1)
    world.nodes[old].kill_agent()
    world.nodes[old].start()
    until(world, lambda: world.nodes[old].agent_up, limit_s=1)
    late.undo()  # now the other candidate asks for the same vote
    until(world, lambda: world.marks.counts["vote_refused_term"] > 0, limit_s=0.2)
    world.run(1)
    world.network.heal()
    outage(world)
    finish(world)


# ------------------------------------------------------------ who has the commit


def holder_of_the_commit_is_lost(world: Stage) -> None:
    old = primary(world)
    ahead, behind = data_nodes(world, old)
    starve(world, behind)
    world.nodes[old].kill_host()
    world.nodes[ahead].kill_host()
    world.network.heal()
    world.run(6)
    world.nodes[ahead].start()
    outage(world)
    finish(world)


def lagging_node_stands_first(world: Stage) -> float:
    """Return how long writes were away."""
    old = primary(world)
    behind, ahead = data_nodes(world, old)
    starve(world, behind)
    # It takes itself for the best: gossip has not yet told who is ahead. And the one that is ahead
    # comes to hear of anything only when the other stands already.
    world.nodes[ahead].pause_agent()
    world.nodes[old].kill_host()
    until(world, lambda: bool(happened(world, EventName.CANDIDACY_STARTED, behind)), limit_s=4)
    world.nodes[ahead].resume_agent()
    until(world, lambda: not world.nodes[behind].server.receiving, limit_s=1)
    world.network.heal()  # too late for the commit: nobody is there to take it
    away_s = outage(world)
    world.nodes[old].start()
    finish(world)
    return away_s


def lagging_node_stands_first_in_vain(world: Stage) -> None:
    if lagging_node_stands_first(world) > HANDED_OVER_S:
        raise ViolationError("expected", "a candidacy that could not win was not handed over")


def standby_returns_to_an_empty_set(world: Stage) -> None:
    old = primary(world)
    standbys = others(world, old)
    server = world.nodes[old].server
    keep_down(world, *standbys)
    until(world, lambda: server.config is not None and not server.config.sync.nodes, limit_s=5)
    let_up(world, *standbys)
    until(world, lambda: bool(document(world).sync.members), limit_s=5)
    # The very moment at which a data quorum of the document stops asking the old primary.
    world.network.cut(old, "*", Traffic.REPLICATION)
    world.write(old)
    world.run(0.01)
    world.nodes[old].kill_host()
    world.network.heal()
    outage(world, other_than=old)
    finish(world)


def next_primary_is_lost_before_anybody_follows_it(world: Stage) -> None:
    old = primary(world)
    ahead, behind = data_nodes(world, old)
    starve(world, behind)
    world.nodes[old].kill_host()
    until(world, lambda: document(world).primary == ahead, limit_s=4)
    world.run(0.02)
    world.nodes[ahead].kill_host()
    world.network.heal()
    # Whoever is left has a majority with the witnesses, and lacks the commit.
    world.run(6)
    world.nodes[old].start()
    outage(world)
    finish(world)


# ------------------------------------------------------------ servers that do not stop at once


def voter_detaches_slowly(world: Stage) -> None:
    old = primary(world)
    world.nodes[old].pause_agent()
    world.nodes[old].pause_guard()  # so the old primary goes on taking writes
    for name in others(world, old):
        world.nodes[name].server.slow = 8.0
    until(world, lambda: bool(happened(world, EventName.CANDIDACY_STARTED)), limit_s=3)
    candidate = happened(world, EventName.CANDIDACY_STARTED)[0]
    world.nodes[candidate].server.slow = 1.0
    world.network.cut(old, candidate, Traffic.REPLICATION)
    for _ in range(20):
        world.write(old)
        world.run(0.002)
    world.run(0.1)  # past the candidate's own detachment
    world.network.heal()
    for name in others(world, old):
        world.nodes[name].server.slow = 1.0
    outage(world, other_than=old)
    world.nodes[old].resume_host()
    finish(world)


def agent_of_the_primary_is_paused(world: Stage) -> None:
    old = primary(world)
    world.nodes[old].pause_agent()
    world.write_everywhere(4)
    world.nodes[old].resume_agent()
    finish(world)


def primary_hangs_while_it_is_stopped(world: Stage) -> None:
    """A fast shutdown does not end it, and until it has ended it may still write."""
    old = primary(world)
    world.nodes[old].server.hung = True
    world.nodes[old].stop()
    world.write_everywhere(5, per_second=5)
    world.nodes[old].server.hung = False
    finish(world)


def promotion_is_cut_short(world: Stage) -> None:
    old = primary(world)
    world.nodes[old].kill_postgres()
    world.network.cut("*", "*", Traffic.REPLICATION)  # nobody acknowledges the next one's marker
    done = len(happened(world, EventName.PROMOTED))
    until(world, lambda: len(happened(world, EventName.PROMOTED)) > done, limit_s=3)
    world.nodes[happened(world, EventName.PROMOTED)[-1]].kill_host()
    world.network.heal()
    outage(world)
    finish(world)


DIRECTED: Mapping[str, Directed] = {
    "half_is_a_majority": Directed(
        primary_is_cut_off, ("one_writable", "one_leader", "by_minority")
    ),
    "hold_ignored": Directed(one_standby_hears_no_heartbeats, ("false_failover", "one_writable")),
    "hold_forgotten": Directed(voter_restarts_while_it_holds, ("one_writable", "beyond_lease")),
    "vote_forgotten": Directed(
        voter_restarts_between_two_candidates,
        ("one_vote", "not_durable"),
        lambda seed: with_witnesses(seed, election=LOCKSTEP),
    ),
    "data_quorum_ignored": Directed(holder_of_the_commit_is_lost, ("lost_write",), with_witnesses),
    "positions_ignored": Directed(lagging_node_stands_first, ("lost_write",), with_witnesses),
    "better_ignored": Directed(lagging_node_stands_first_in_vain, ("expected",), with_witnesses),
    "sync_order_reversed": Directed(
        standby_returns_to_an_empty_set, ("sync_invariant", "lost_write")
    ),
    "from_empty_without_barrier": Directed(
        standby_returns_to_an_empty_set, ("sync_invariant", "lost_write")
    ),
    "old_primary_left_out": Directed(
        next_primary_is_lost_before_anybody_follows_it,
        ("sync_invariant", "lost_write"),
        with_witnesses,
    ),
    "promise_before_detached": Directed(voter_detaches_slowly, ("promise_untrue",)),
    "fence_ignored": Directed(agent_of_the_primary_is_paused, ("one_writable", "beyond_lease")),
    "released_while_stopping": Directed(
        primary_hangs_while_it_is_stopped,
        ("one_writable", "beyond_lease"),
        lambda seed: settled(seed=seed, election=IMPATIENT),
    ),
    "timeline_reused": Directed(promotion_is_cut_short, ("one_timeline",)),
}
"""By the name of the bug in `sim.mutations`."""
