"""Random faults for a swarm, on top of what a scenario does by itself.

In: a scenario, a seed, what is turned off. Out: concrete faults through the injector. Invariant:
each seed turns a random half of the templates off and draws its own rates, so that runs differ in
kind and not only in detail; whatever is begun is mostly ended again soon.

Faults come singly and in bursts, and are drawn towards the primary and towards moments at which a
decision has just been made: a vote, a promotion, a change of the sync set.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from itertools import pairwise

from metako.model.ids import NodeId
from sim.faults import KINDS, Fault, Injector, Range, Type, Value
from sim.faults.fault import names_in
from sim.heap import NS_PER_MS, NS_PER_S, Heap
from sim.scenario.composites import COMPOSITES
from sim.scenario.model import Scenario
from sim.scenario.plan import arguments_of, draw, drawn
from sim.scenario.selectors import Choice
from sim.scenario.templates import TEMPLATES, Span, Template, Who
from sim.streams import stream

MOMENTS = frozenset(
    {
        *("vote_granted", "promise_kept", "election_won", "promoted", "primary_active"),
        *("lease_lost", "lease_released", "stepped_down", "hold_expired", "candidacy_handed_over"),
        *("sync_set_shrunk", "sync_set_emptied", "sync_set_from_empty", "k_raised", "k_lowered"),
        *("switchover_accepted", "switchover_begun", "switchover_completed"),
        *("rewind_used", "clone_used", "leadership_resumed", "fenced_by_guard"),
        *("members_changing", "member_added", "vote_given", "readmitted", "member_removed"),
    }
)
"""Marks after which a fault is likely to find an unfinished decision."""

EVENTS = frozenset({"candidacy_started", "sync_set_changing", "timeline_reserved"})
"""Events of the engine that are such moments too, and no marks."""

CALM_NS = 5 * NS_PER_S
"""A new cluster gets this long to form: without a primary there is little to disturb."""
FAULTS_MAX = 400
"""Of one run; each of them may bring more marks, and so more faults."""
MOMENT_DELAY_MAX_NS = 60 * NS_PER_MS
BURST_NS = 400 * NS_PER_MS
AT_ONCE_MAX = 6
"""Faults that last at one time; more than that, and nothing happens in the run any more."""


class RandomFaults:
    """See the module's docstring. A `Script`."""

    def __init__(self, scenario: Scenario, seed: int, off: Collection[str] = ()) -> None:
        """Draw what this seed is about.

        Args:
            scenario: whose conditions say what is allowed.
            seed: of everything that is drawn.
            off: families, kinds or templates that are not wanted.
        """
        self._rng = rng = stream(seed, scenario.name, "random faults")
        allowed = [t for t in TEMPLATES if _wanted(t, scenario.random.faults, off)]
        allowed = [t for t in allowed if not set(t.words()) & set(scenario.random.without)]
        # At least one, else a run without faults would count as one with them.
        self.templates = tuple(rng.sample(allowed, max(min(1, len(allowed)), len(allowed) // 2)))
        self._gap_ns = round(rng.uniform(0.7, 6) * NS_PER_S)  # between two faults, on average
        self._burst = rng.choice((0.0, 0.1, 0.3))  # how often a fault comes with others
        self._moment = rng.choice((0.0, 0.02, 0.1, 0.3))  # how often a moment is used
        self._bias = rng.choice((0.3, 0.6, 0.9))  # how often it is the primary
        self._forever = rng.choice((0.0, 0.05, 0.2))  # how often a fault has no end of its own
        self._left = FAULTS_MAX
        self._over = False
        self._injector: Injector  # from `begin` on, and so is the heap
        self._heap: Heap

    def begin(self, injector: Injector) -> None:
        """See `sim.scenario.plan.Script`."""
        self._injector, self._heap = injector, injector.world.heap
        if self.templates:
            self._heap.after(CALM_NS + self._next_ns(), self._turn)

    def end(self) -> None:
        """See `sim.scenario.plan.Script`."""
        self._over = True

    def on_event(self, name: str, node: str) -> None:
        """See `sim.scenario.plan.Script`. Whatever is of interest is a mark or listed here."""
        if name in EVENTS:
            self._moment_came(node)

    def on_mark(self, name: str, node: str) -> None:
        """See `sim.scenario.plan.Script`."""
        if name in MOMENTS:
            self._moment_came(node)

    def _moment_came(self, node: str) -> None:
        if self._over or not self.templates or self._heap.now_ns < CALM_NS:
            return
        if self._rng.random() < self._moment:
            delay = max(1, drawn(self._rng, 0, MOMENT_DELAY_MAX_NS))
            self._heap.after(delay, self._one, NodeId(node))

    # ------------------------------------------------------------ when

    def _next_ns(self) -> int:
        return round(self._rng.expovariate(1 / self._gap_ns))

    def _turn(self) -> None:
        if self._over or not self._left:
            return
        self._one(None)
        if self._rng.random() < self._burst:
            for _ in range(self._rng.randint(1, 4)):
                self._heap.after(drawn(self._rng, 0, BURST_NS), self._one, None)
        if self._rng.random() < self._forever:
            self._cure()
        self._heap.after(self._next_ns(), self._turn)

    def _cure(self) -> None:
        """End something that has no end of its own."""
        lasting = [a for a in self._injector.active if a.fault.for_ns is None]
        if lasting:
            self._injector.cut_short(self._rng.choice(lasting).number)

    # ------------------------------------------------------------ what

    def _one(self, node: NodeId | None) -> None:
        """Apply one fault now, to a node that a moment was about or to one that is drawn."""
        if self._over or not self._left:
            return
        if len(self._injector.active) >= AT_ONCE_MAX:
            self._cure()
            return
        self._left -= 1
        rng = self._rng
        weights = [template.weight for template in self.templates]
        template = rng.choices(self.templates, weights)[0]
        args = self._arguments(template, node)
        if args is None:
            return
        if template.do in COMPOSITES:
            for delay_ns, do, values in COMPOSITES[template.do].expand(rng, args):
                at_ns = self._heap.now_ns + delay_ns
                self._heap.at(at_ns, self._apply, Fault.make(at_ns, do, values))
        else:
            self._apply(Fault.make(self._heap.now_ns, template.do, args))

    def _apply(self, fault: Fault) -> None:
        if not self._over:
            self._injector.apply(fault)

    def _arguments(self, template: Template, node: NodeId | None) -> dict[str, Value] | None:
        rng = self._rng
        who = self._who(template.who, node)
        if who is None:
            return None
        args: dict[str, Value] = {**who}
        for argument in arguments_of(template.do):
            if argument.name == "node" and argument.type is Type.NODE:
                args["node"] = names_in([args["node"]])[0]
            value = template.args.get(argument.name)
            if isinstance(value, Range):
                args[argument.name] = draw(rng, argument.type, value)
            elif value is not None:
                args[argument.name] = value
            elif argument.name not in args and argument.default is not None:
                args[argument.name] = argument.default
        span = rng.choice(template.spans)
        lasting = template.do in KINDS and KINDS[template.do].lasting
        if span is not Span.NONE and lasting and rng.random() >= self._forever:
            low, high = span.value
            args["for"] = drawn(rng, low, high)
        return args

    def _who(self, who: Who, node: NodeId | None) -> dict[str, Value] | None:
        world, rng = self._injector.world, self._rng
        choice = Choice(world, rng)
        names = list(world.names)
        match who:
            case Who.NOBODY:
                return {}
            case Who.ALL:
                return {"node": tuple(names)}
            case Who.NODE | Who.DATA_NODE:
                among = names if who is Who.NODE else choice.data_nodes()
                return {"node": (self._node(choice, among, node),)}
            case Who.PAIR:
                if len(names) < 2:
                    return None
                one = self._node(choice, names, node)
                other = rng.choice([n for n in names if n != one])
                pair = (one, other) if rng.random() < 0.5 else (other, one)
                return {"from": (pair[0],), "to": (pair[1],)}
            case Who.GROUPS:
                return _sides(rng, names)

    def _node(self, choice: Choice, among: Iterable[NodeId], node: NodeId | None) -> str:
        nodes = list(among)
        wanted = node if node is not None and self._rng.random() < 0.5 else choice.primary()
        if wanted in nodes and self._rng.random() < self._bias:
            return str(wanted)
        return str(self._rng.choice(nodes))


def _sides(rng: random.Random, names: list[NodeId]) -> dict[str, Value] | None:
    """Return two sides, or three now and then."""
    if len(names) < 2:
        return None
    mixed = rng.sample(names, len(names))
    count = 3 if len(names) > 3 and rng.random() < 0.2 else 2
    cuts = sorted(rng.sample(range(1, len(names)), count - 1))
    bounds = [0, *cuts, len(names)]
    groups = [tuple(sorted(mixed[a:b])) for a, b in pairwise(bounds)]
    return {"groups": tuple(groups)}


def _wanted(template: Template, allowed: Collection[str], off: Collection[str]) -> bool:
    words = template.words()
    return any(word in allowed for word in words) and not any(word in off for word in words)
