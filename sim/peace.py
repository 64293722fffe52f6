"""The peace at the end of a run: a core is healed, and it has to become whole.

In: a world after its faults. Out: nothing, or a violation. What is outside of the core is switched
off for good. *Whole* means: a primary, each data node of the core in the sync set with the data
that it has, nobody else in it, no change of the members half done, commits that return, and every
node knows all of that: who is alive, who is dead, and where reads and writes go; for a while
without a break. Who is no member, or lost the record by which it is one, is left out: it has to be
taken in first. The server of one that was removed does not run, and is nobody's replica.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metako.cluster.engine import Engine
from metako.model.document import Durability, SyncMember
from metako.model.ids import NodeId
from metako.model.member import Member, MemberState, only_measures_differ
from metako.model.orders import Order, OrderKind
from metako.model.postgres import ProcessState
from sim.checkers.durability import Durable
from sim.core import choose_core, qualifies
from sim.exam import take_exam
from sim.faults import Injector
from sim.heap import NS_PER_S
from sim.scenario import Core, Scenario
from sim.standing import counts, is_member
from sim.streams import stream
from sim.watch import ViolationError
from sim.world import World

LASTS_S = 2.0
ASK_AGAIN_NS = 3 * NS_PER_S
"""An operator who ends a pause gives a node so long to do it."""
ONLY_A_CORE = 1 / 3
"""Of the runs with random faults that would heal everybody, the part that heals a core alone."""


def make_peace(
    scenario: Scenario,
    seed: int,
    world: World,
    injector: Injector,
    durable: Durable,
    *,
    extra_faults: bool,
) -> None:
    """Heal a core, let what is outside stay as it is, and demand that the core becomes whole.

    Raises:
        ViolationError: it does not within the scenario's bound, or an acknowledged commit is gone.
    """
    want = scenario.liveness.heal_core
    if want is Core.NONE and extra_faults:
        want = Core.ALL  # what is meant to last is the scenario's, not what came at random
    elif want is Core.ALL and extra_faults and stream(seed, "peace").random() < ONLY_A_CORE:
        want = Core.QUORUM
    if want is Core.NONE:
        core: tuple[NodeId, ...] = world.names
    elif want is Core.ALL:
        core = world.names
        injector.end_all()
        world.network.heal()
    else:
        core = choose_core(world, stream(seed, "core"))
        injector.end_where(lambda a: not a.nodes or bool(set(a.nodes) & set(core)))
        injector.keep_all()  # or the end of a fault starts a node that is switched off below
        world.network.heal()
        outside = [n for n in world.names if n not in core]
        for name in outside:
            world.nodes[name].kill_host()
    if want is not Core.NONE:
        _restore(world, core)
    limit_s = scenario.liveness.converge_within_ns / NS_PER_S
    try:
        become_whole(world, durable, core, limit_s)
    except ViolationError as error:
        if not extra_faults or error.check != "not_converged" or not _is_hopeless(world, core):
            raise
        world.note(core[0], "beyond_repair", error.text)
        return
    if extra_faults:
        first = len(injector.applied)
        take_exam(seed, world, first, core, lambda: become_whole(world, durable, core, limit_s))


def become_whole(world: World, durable: Durable, core: Sequence[NodeId], limit_s: float) -> None:
    """Demand that the core becomes whole, and stays so for a while.

    Raises:
        ViolationError: it does not in that time, or an acknowledged commit is gone.
    """
    if not world.run_until(Peace(world, durable, core).lasts, limit_s=limit_s, step_ms=100):
        raise ViolationError(
            "not_converged",
            f"{', '.join(core)} {'is' if len(core) == 1 else 'are'} healed and not whole after "
            f"{limit_s:g} s: {_why_not_whole(world, core)}",
            core,
        )
    primary = world.primary()
    assert primary is not None
    data = world.nodes[primary].server.data
    assert data is not None
    durable.check_end(data, primary)


def _is_hopeless(world: World, core: Sequence[NodeId]) -> bool:
    """Return whether those that count cannot have a primary, and an operator could help.

    A scenario that lets a node lose its record survives one failure less from then on, until that
    node is taken in again, for which there has to be a primary. What came at random on top of it
    may have been the failure too many.
    """
    document = world.document()
    if document is None or all(counts(world.nodes[n], document) for n in document.members()):
        return False
    return not qualifies(world, [n for n in core if counts(world.nodes[n], document)])


class Peace:
    """Whether the core has been whole, and commits have returned, for a while."""

    def __init__(self, world: World, durable: Durable, core: Sequence[NodeId]) -> None:
        self._world = world
        self._durable = durable
        self._core = core
        self._since_ns: int | None = None  # whole since; None: it is not
        self._asked = 0  # times that an operator had somebody end a pause
        self._ask_at_ns = 0  # again
        self._before = 0  # commits acknowledged by then
        # One that lives on a host outside of the core is down with it.
        self._writing = any(
            c.config.rate > 0 and (c.config.home is None or c.config.home in core)
            for c in world.clients
        )

    def lasts(self) -> bool:
        """Look now; return whether it has lasted for long enough."""
        now = self._world.heap.now_ns
        for name in self._core:
            self._world.nodes[name].start()  # one that was still stopping when peace was made
        self._end_pause(now)
        if not _whole(self._world, self._core):
            self._since_ns = None
            return False
        if self._since_ns is None:
            self._since_ns, self._before = now, len(self._durable.commits)
        long = now - self._since_ns >= LASTS_S * NS_PER_S
        return long and (not self._writing or len(self._durable.commits) > self._before)

    def _end_pause(self, now_ns: int) -> None:
        """End a pause that is left, as its operator would: at one node after the other."""
        document = self._world.document()
        if document is None or not document.paused or now_ns < self._ask_at_ns:
            return
        asked = self._core[self._asked % len(self._core)]
        self._world.nodes[asked].order(Order("", OrderKind.RESUME))
        self._asked, self._ask_at_ns = self._asked + 1, now_ns + ASK_AGAIN_NS


def _restore(world: World, core: Sequence[NodeId]) -> None:
    """End whatever still ails the nodes of the core."""
    for name in core:
        node = world.nodes[name]
        node.wake()
        node.resume_host()
        node.slow_agent(0)
        node.burn(0)
        node.disk.tear_next = False  # or a host would fail at its next vote, whenever that is
        node.set_clock_rate(max(-9_000, min(9_000, node.clock.rate_ppm)))
        node.start()


def _whole(world: World, core: Sequence[NodeId]) -> bool:
    """Return whether the core has a primary, its data nodes count for commits, and all know it."""
    primary = world.primary()
    document = world.document()
    if primary is None or document is None or primary not in core:
        return False
    members = [n for n in core if not _given_up(world, n)]
    # Who leaves is not waited for by commits, and may have to stay for its vote.
    staying = set(members) - set(document.leaving)
    standbys = {n for n in staying if not world.nodes[n].witness} - {primary}
    strangers = {n for n in core if not is_member(document, n)}
    # Strictly nobody may leave before another has come, also one whose data were replaced.
    strict = document.durability is Durability.STRICT
    stuck = strict and len(document.sync.members) <= document.sync.k
    waits = document.durability is not Durability.ASYNC  # else nobody is listed; reads show them
    listed = {m.node for m in document.sync.members if stuck or _has(world, m)}
    others = document.sync.nodes() - set(core)
    served = set(core) - strangers
    return (
        document.primary == primary
        and (standbys <= listed or not waits)
        and (strict or not others)
        and not set(document.joining).intersection(members)
        and (stuck or not document.leaving or len(core) < len(world.names))
        and all(_stopped(world, name) for name in strangers)
        and _all_know(world, members)
        and all(_routes(world, name, primary, standbys, served) for name in members)
    )


def _stopped(world: World, name: NodeId) -> bool:
    """Return whether a node that is no member has no server, if its agent can see to that."""
    node = world.nodes[name]
    return node.witness or not node.agent_up or node.server.process is ProcessState.STOPPED


def _has(world: World, member: SyncMember) -> bool:
    """Return whether a listed standby has the data that it is listed with."""
    data = world.nodes[member.node].server.data
    return data is not None and data.data_id == member.data_id


def _all_know(world: World, members: Sequence[NodeId]) -> bool:
    """Return whether each holds these alive, as they are now, and nobody whose host is down."""
    engines = [engine for name in members if (engine := world.nodes[name].engine) is not None]
    own = {engine.node: _member(engine, engine.node) for engine in engines}
    return len(engines) == len(members) and all(_knows(world, engine, own) for engine in engines)


def _member(engine: Engine, name: NodeId) -> Member | None:
    return next((member for member in engine.members() if member.node == name), None)


def _knows(world: World, engine: Engine, own: Mapping[NodeId, Member | None]) -> bool:
    for member in engine.members():
        alive = member.state is MemberState.ALIVE
        if alive and not world.nodes[member.node].host_up:
            return False
        if member.node not in own:
            continue
        true = own[member.node]
        if not alive or member.meta is None or true is None or true.meta is None:
            return False
        if not only_measures_differ(member.meta, true.meta):
            return False
    return True


def _routes(
    world: World, name: NodeId, primary: NodeId, standbys: set[NodeId], served: set[NodeId]
) -> bool:
    """Return whether a node's proxy leads writes to the primary, and reads to all the standbys."""
    proxy = world.nodes[name].proxy
    if proxy is None or not proxy.alive or proxy.table is None:
        return True
    return proxy.primary() == primary and standbys <= set(proxy.replicas()) <= served


def _given_up(world: World, name: NodeId) -> bool:
    """Return whether a node cannot come back by itself.

    It is no member, has lost the record by which it is one, or its data are not ours.
    """
    node = world.nodes[name]
    document, data = world.document(), node.server.data
    foreign = data is not None and document is not None and document.system_id != data.system_id
    stranger = document is not None and not counts(node, document)
    return stranger or foreign or not node.agent_up


def _why_not_whole(world: World, core: Sequence[NodeId]) -> str:
    primary = world.primary()
    document = world.document()
    told = [f"primary {primary}"]
    if document is not None:
        told.append(f"sync set {', '.join(sorted(document.sync.nodes())) or 'empty'}")
        told += [f"{name} joins" for name in document.joining]
        told += [f"{name} leaves" for name in document.leaving]
    for name in core:
        node = world.nodes[name]
        engine = node.engine
        if engine is None:
            told.append(f"{name} down")
            continue
        why = engine.status(node.clock.instant(world.heap.now_ns)).blocked
        server = node.server
        state = "" if node.witness else f" ({server.process}"
        if state:
            following = server.process is ProcessState.RUNNING and server.in_recovery
            state += ", standby)" if following else ")"
        told.append(f"{name}{state}{': ' + why if why else ''}")
    return "; ".join(told)
