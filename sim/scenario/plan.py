"""Plays a scenario's timeline on a world: waits, chooses, and makes concrete faults.

In: a scenario, a seed, marks and events as they happen. Out: concrete faults, applied through the
injector, which keeps them. Invariant: each step draws from a stream of its own, so that a change of
one step changes nothing that another one draws.

A step that is counted from an event looks for it only after the step before it was applied; one
whose event does not come within its time is left out, and the timeline goes on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

from metako.model.ids import NodeId
from sim.faults import KINDS, Argument, Fault, Injector, Range, Type, Value
from sim.faults.arguments import NAMES, Open
from sim.faults.fault import names_in
from sim.heap import NS_PER_MS, Entry, Heap
from sim.marks import MARKS
from sim.scenario.composites import COMPOSITES, PICK, PICK_ARGUMENTS
from sim.scenario.model import Anchor, Scenario, Step
from sim.scenario.selectors import REST, Choice
from sim.streams import stream

OFFSET_UNIT_NS = NS_PER_MS // 10
"""Offsets and durations are drawn in steps of this, so that people can read and shorten them."""
NEXT_NS = 1
"""After an event, so that a replay, which knows the time only, comes after the event too."""


class Script(Protocol):
    """Something that plays faults on a world."""

    def begin(self, injector: Injector) -> None:
        """Schedule what is known already. Called once, at virtual time 0."""
        ...

    def on_mark(self, name: str, node: str) -> None:
        """A mark was reached, as `sim.marks` counts it."""
        ...

    def on_event(self, name: str, node: str) -> None:
        """The engine of a node reported an event."""
        ...

    def end(self) -> None:
        """Begin nothing more: the time of the faults is over."""
        ...


class Plan:
    """The timeline of one scenario, for one seed."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        self._seed = seed
        self._bound: dict[str, tuple[str, ...]] = {}
        self._waiting: dict[int, tuple[int, Entry]] = {}  # step → events to come, its time limit
        self._first_primary: NodeId | None = None
        self._promoted: NodeId | None = None
        self._over = False
        self._injector: Injector  # from `begin` on, and so is the heap
        self._heap: Heap

    def begin(self, injector: Injector) -> None:
        """See `Script`."""
        self._injector, self._heap = injector, injector.world.heap
        conditions = base_conditions(self._scenario, self._seed)
        if conditions is not None:
            injector.apply(conditions)
        for index, step in enumerate(self._scenario.timeline):
            if step.when.anchor is Anchor.START:
                self._heap.at(self._offset_ns(index, step), self._play, index, 1, None)
        self._arm(0, 0, 0)

    def on_mark(self, name: str, node: str) -> None:
        """See `Script`."""
        if name == "primary_active" and self._first_primary is None:
            self._first_primary = NodeId(node)
        elif name == "promoted":
            self._promoted = NodeId(node)
        self._happened(name, node)

    def on_event(self, name: str, node: str) -> None:
        """See `Script`. What is a mark as well counts as a mark only."""
        if name not in MARKS:
            self._happened(name, node)

    def end(self) -> None:
        """See `Script`."""
        self._over = True

    def _happened(self, name: str, node: str) -> None:
        for index in list(self._waiting):
            step = self._scenario.timeline[index]
            if step.when.event != name:
                continue
            left, limit = self._waiting.pop(index)
            if left > 1:
                self._waiting[index] = (left - 1, limit)
                continue
            self._heap.cancel(limit)
            delay = max(NEXT_NS, self._offset_ns(index, step))
            self._heap.after(delay, self._play, index, 1, NodeId(node))

    # ------------------------------------------------------------ time

    def _rng(self, index: int, purpose: str) -> random.Random:
        return stream(self._seed, self._scenario.name, "step", index, purpose)

    def _offset_ns(self, index: int, step: Step) -> int:
        return drawn(self._rng(index, "at"), step.when.low_ns, step.when.high_ns)

    def _arm(self, index: int, applied_ns: int, ended_ns: int) -> None:
        """Let a step that depends on the one before it begin to wait."""
        if index >= len(self._scenario.timeline):
            return
        step = self._scenario.timeline[index]
        match step.when.anchor:
            case Anchor.START:
                return
            case Anchor.EVENT:
                limit = self._heap.after(step.within_ns, self._give_up, index)
                self._waiting[index] = (step.when.nth, limit)
            case _:
                base = ended_ns if step.when.anchor is Anchor.ENDED else applied_ns
                at = max(base + self._offset_ns(index, step), self._heap.now_ns + NEXT_NS)
                self._heap.at(at, self._play, index, 1, None)

    def _give_up(self, index: int) -> None:
        if self._waiting.pop(index, None) is not None:
            self._arm(index + 1, self._heap.now_ns, self._heap.now_ns)

    # ------------------------------------------------------------ steps

    def _play(self, index: int, number: int, event_node: NodeId | None) -> None:
        """Do a step for the `number`th time."""
        now_ns = self._heap.now_ns
        if self._over:
            return
        step = self._scenario.timeline[index]
        rng = self._rng(index, f"args/{number}")
        args = self._resolve(step, rng, event_node)
        ended_ns = now_ns if args is None else self._apply(step, args, rng)
        if number < step.times:
            self._heap.after(step.every_ns, self._play, index, number + 1, event_node)
        else:
            self._arm(index + 1, now_ns, ended_ns)

    def _apply(self, step: Step, args: Mapping[str, Value], rng: random.Random) -> int:
        """Apply what a step comes down to; return when the last of it ends."""
        now_ns = self._heap.now_ns
        if step.bind:
            self._bound[step.bind] = names_in([args.get("node")])
        if step.do == PICK:
            return now_ns
        composite = COMPOSITES.get(step.do)
        parts = composite.expand(rng, args) if composite is not None else ((0, step.do, args),)
        ended_ns = now_ns
        for delay_ns, do, values in parts:
            fault = Fault.make(now_ns + delay_ns, do, values)
            ended_ns = max(ended_ns, fault.at_ns + (fault.for_ns or 0))
            if delay_ns:
                self._heap.at(fault.at_ns, self._apply_part, fault)
            else:
                self._injector.apply(fault)
        return ended_ns

    def _apply_part(self, fault: Fault) -> None:
        if not self._over:
            self._injector.apply(fault)

    def _resolve(
        self, step: Step, rng: random.Random, event_node: NodeId | None
    ) -> dict[str, Value] | None:
        """Return concrete arguments; None if a selector stands for nobody now."""
        choice = Choice(
            self._injector.world,
            rng,
            self._bound,
            event_node,
            self._first_primary,
            self._promoted,
        )
        return resolve_arguments(step, choice)


def arguments_of(do: str) -> tuple[Argument, ...]:
    """Return the arguments of a kind of fault, a composite, or `pick`."""
    if do == PICK:
        return PICK_ARGUMENTS
    return KINDS[do].all_arguments if do in KINDS else COMPOSITES[do].arguments


def resolve_arguments(step: Step, choice: Choice) -> dict[str, Value] | None:
    """Return the step's arguments with names for selectors and values for ranges.

    None if a selector stands for nobody, or a partition has only one side left.
    """
    open_values = dict(step.args)
    found: dict[str, Value] = {}
    arguments = [a for a in arguments_of(step.do) if a.name in open_values]
    # `$rest` is whoever the others have not named, wherever it stands: it comes last.
    for last in (False, True):
        for argument in arguments:
            if _has_rest(open_values[argument.name]) is last:
                value = _concrete(argument, open_values[argument.name], choice)
                if value is None:
                    return None
                found[argument.name] = value
    return found


def _has_rest(value: Open) -> bool:
    if isinstance(value, tuple):
        return any(_has_rest(item) for item in value)
    return value == REST


def _concrete(argument: Argument, value: Open, choice: Choice) -> Value:
    if isinstance(value, Range):
        return draw(choice.rng, argument.type, value)
    if argument.type not in NAMES:
        return value
    match argument.type:
        case Type.GROUPS:
            assert isinstance(value, tuple)
            return _groups(value, choice)
        case Type.NODE | Type.PLACE:
            names = choice.resolve(str(value))
            return names[0] if names else None
        case _:
            if isinstance(value, str):
                return value  # "*"
            assert isinstance(value, tuple)
            return _flat(value, choice) or None


def _flat(names: tuple[Value, ...], choice: Choice) -> tuple[str, ...]:
    return tuple(dict.fromkeys(n for name in names for n in choice.resolve(str(name))))


def _groups(groups: tuple[Value, ...], choice: Choice) -> Value:
    found: dict[int, tuple[str, ...]] = {}
    taken: set[str] = set()
    for last in (False, True):
        for index, group in enumerate(groups):
            if _has_rest(group) is last:
                assert isinstance(group, tuple)
                names = [n for n in _flat(group, choice) if n not in taken]
                taken.update(names)
                found[index] = tuple(names)
    whole = tuple(found[index] for index in sorted(found) if found[index])
    return whole if len(whole) > 1 else None


def drawn(rng: random.Random, low_ns: int, high_ns: int) -> int:
    """Return a time between the two, in readable steps."""
    return low_ns + rng.randint(0, (high_ns - low_ns) // OFFSET_UNIT_NS) * OFFSET_UNIT_NS


def draw(rng: random.Random, kind: Type, wanted: Range) -> int | float:
    """Return a value out of a range of that type."""
    if kind in (Type.DURATION, Type.SECONDS):
        return drawn(rng, int(wanted.low), int(wanted.high))
    if kind in (Type.SHARE, Type.FACTOR):
        return round(rng.uniform(wanted.low, wanted.high), 4)
    return rng.randint(int(wanted.low), int(wanted.high))


def base_conditions(scenario: Scenario, seed: int) -> Fault | None:
    """Return what every link of this run is like, as a fault at time 0; None for the default."""
    rng, wanted = stream(seed, scenario.name, "conditions"), scenario.random
    ranges = {
        "loss": wanted.loss,
        "duplicate": wanted.duplicate,
        "reorder": wanted.reorder,
        "corrupt": wanted.corrupt,
    }
    args: dict[str, Value] = {}
    for name, between in ranges.items():
        value = draw(rng, Type.SHARE, between)
        if value:
            args[name] = value
    if wanted.delay is not None:
        args["delay"] = int(wanted.delay.low)
        args["jitter"] = int(wanted.delay.high - wanted.delay.low)
    if not args:
        return None
    return Fault.make(0, "link", {"from": "*", "to": "*", "base": True, **args})
