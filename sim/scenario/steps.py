"""The timeline of a scenario file: each line becomes a `Step`.

In: the list as plain values, and who there is in the cluster. Out: steps, and a problem for every
word that means nothing: kinds, arguments, units, nodes, selectors, events.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from metako.model.events import EventName
from sim.faults import KINDS, Argument, ArgumentError, Family, FaultKind, Type
from sim.faults.arguments import EVERYONE, NAMES, Open
from sim.faults.fault import FOR, Value, names_in
from sim.heap import NS_PER_S
from sim.marks import MARKS
from sim.scenario.composites import COMPOSITES, PICK, PICK_ARGUMENTS, Composite
from sim.scenario.fields import Reader, unknown
from sim.scenario.model import Anchor, Step, When
from sim.scenario.selectors import MANY, SELECTORS
from sim.scenario.times import HINT, parse_when

EVENTS = frozenset(MARKS) | frozenset(str(name) for name in EventName)
"""What `$event(…)` can wait for: every mark, and every event of the engine."""

DOABLE = (*KINDS, *COMPOSITES, PICK)
STEPS_MAX = 200
TIMES_MAX = 1000
WITHIN_NS = 30 * NS_PER_S
_NO_TIME = When(Anchor.START, 0, 0)


@dataclass(slots=True)
class Known:
    """Whom a timeline may name; `bound` grows as steps name what they chose."""

    nodes: Sequence[str]
    witnesses: Collection[str]
    clients: Sequence[str]
    bound: dict[str, None]


def read_timeline(reader: Reader, known: Known) -> tuple[Step, ...]:
    """Return the steps of the key `timeline`."""
    items = reader.items("timeline")
    if len(items) > STEPS_MAX:
        reader.problem("timeline", f"has more than {STEPS_MAX} steps")
        return ()
    steps: list[Step] = []
    for path, item in items:
        line = Reader(item, path, reader.problems)
        if not isinstance(item, Mapping):
            if item is None:
                line.problem("", "is empty", "write it like {at: 10s, do: heal}")
            continue
        steps.append(_step(line, known, first=not steps))
    return tuple(steps)


def _step(line: Reader, known: Known, *, first: bool) -> Step:
    when = _when(line, first=first)
    do = line.text("do", None)
    within = line.duration("within", WITHIN_NS)
    if line.has("within") and when.anchor is not Anchor.EVENT:
        line.problem("within", "the step waits for no event", "remove it")
    times, every = _repeat(line)
    if line.has("after"):
        line.problem("after", "unknown key", "write 'at: previous' or 'at: +2s'")
    arguments: tuple[Argument, ...] = ()
    kind: FaultKind | Composite | None = KINDS.get(do) or COMPOSITES.get(do)
    if do == PICK:
        arguments = PICK_ARGUMENTS
    elif isinstance(kind, FaultKind):
        arguments = kind.all_arguments
    elif kind is not None:
        arguments = kind.arguments
    elif do:
        line.problem("do", *unknown("kind of fault", do, DOABLE))
    bind = line.text("as")
    if not arguments and not kind:
        # Without a kind no argument can be known, and none should be called unknown.
        return Step(when, do, bind=bind, within_ns=within, times=times, every_ns=every)
    before = len(line.problems)
    args = _arguments(line, arguments, known)
    if isinstance(kind, FaultKind) and len(line.problems) == before:
        _related(line, kind, args, known)
    line.done()
    _bind(line, bind, args, known)
    return Step(
        when,
        do,
        tuple(sorted(args.items(), key=lambda item: item[0])),
        bind=bind,
        within_ns=within,
        times=times,
        every_ns=every,
    )


def _when(line: Reader, *, first: bool) -> When:
    if not line.has("at"):
        line.problem("at", "is missing", HINT)
        return _NO_TIME
    try:
        when = parse_when(line.raw("at"))
    except ArgumentError as error:
        line.problem("at", str(error), error.hint)
        return _NO_TIME
    if when.anchor is Anchor.EVENT and when.event not in EVENTS:
        line.problem("at", *unknown("event", when.event, sorted(EVENTS)))
    if first and when.anchor in (Anchor.PREVIOUS, Anchor.ENDED):
        line.problem("at", "there is no step before it", "give it a time of its own, like 10s")
    return when


def _repeat(line: Reader) -> tuple[int, int]:
    if not line.has("repeat"):
        return 1, 0
    repeat = line.section("repeat")
    times = repeat.whole("times", 1, low=1, high=TIMES_MAX)
    every = repeat.duration("every", 0)
    if times > 1 and every == 0:
        repeat.problem("every", "is missing", "write how far apart they are, like 2s")
    repeat.done()
    return times, every


def _arguments(line: Reader, arguments: Sequence[Argument], known: Known) -> dict[str, Open]:
    found: dict[str, Open] = {}
    for argument in arguments:
        if not line.has(argument.name):
            if argument.required:
                line.problem(argument.name, "is missing", f"it is {argument.doc}")
            elif argument.default is not None:
                found[argument.name] = argument.default
            continue
        value = line.argument(argument.name, argument)
        if argument.type in NAMES and not isinstance(value, int | float) and value is not None:
            _check_names(line, argument, value, known)
        if value is not None:
            found[argument.name] = value
    return found


def _check_names(line: Reader, argument: Argument, value: Open, known: Known) -> None:
    clients = argument.type in (Type.GROUPS, Type.PLACE, Type.PLACES)
    for name in names_in([value] if isinstance(value, str | tuple) else []):
        if name == EVERYONE and argument.type is Type.PLACES:
            continue
        if name.startswith("$"):
            if name[1:] in known.bound:
                continue
            if name not in SELECTORS:
                bound = [f"${bound}" for bound in known.bound]
                line.problem(argument.name, *unknown("selector", name, [*SELECTORS, *bound]))
            elif name in MANY and argument.type in (Type.NODE, Type.PLACE):
                line.problem(argument.name, f"{name} can be many, and only one is wanted")
            elif name in ("$witness", "$witnesses") and not known.witnesses:
                line.problem(argument.name, "the cluster has no witnesses")
            elif name in ("$client", "$clients") and not clients:
                line.problem(argument.name, "only nodes can be named here")
        elif name in known.clients and not clients:
            line.problem(argument.name, f"{name} is a client, and only nodes can be named here")
        elif name not in known.nodes and name not in known.clients:
            there = [*known.nodes, *known.clients] if clients else known.nodes
            line.problem(argument.name, *unknown("node", name, there))


def _related(line: Reader, kind: FaultKind, args: Mapping[str, Open], known: Known) -> None:
    try:
        kind.check_relation(args)
    except ArgumentError as error:
        key = next((k for k in (FOR, "jitter", "groups") if str(error).find(k) >= 0), "do")
        line.problem(key if key in args else "do", str(error), error.hint)
    if kind.family is Family.POSTGRES:
        nodes: list[Value] = [v for v in args.values() if isinstance(v, tuple)]
        for name in names_in(nodes):
            if name in known.witnesses:
                line.problem("node", f"{name} is a witness: it has no PostgreSQL")


def _bind(line: Reader, bind: str, args: Mapping[str, Open], known: Known) -> None:
    if not bind:
        return
    if not bind.isidentifier():
        line.problem("as", f"{bind!r} is no name", "write a word, without '$'")
    elif f"${bind}" in SELECTORS:
        line.problem("as", f"${bind} has a meaning already", "choose another name")
    elif "node" not in args:
        line.problem("as", "the step has no 'node' that could be named")
    else:
        known.bound[bind] = None
