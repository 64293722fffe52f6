"""What a kind of fault is: its name, family, arguments, what it does and what undoes it.

In: a concrete fault and the site of the run. Out: an undo, nothing, or that it made no sense. The
registry is data: the scenario reader, the documentation and the swarm all read the same table, so
that no kind exists for one of them only.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from metako.config.problems import nearest
from metako.model.ids import NodeId
from sim.faults.arguments import NAMES, Argument, ArgumentError, Open, Type, show
from sim.faults.fault import FOR, Fault, FaultError, Value, names_in

if TYPE_CHECKING:
    from sim.faults.site import Site

Undo: TypeAlias = Callable[[], object]


class Family(enum.StrEnum):
    """What a fault is about; a scenario allows random faults by family or by kind."""

    NETWORK = "network"
    CLOCK = "clock"
    DISK = "disk"
    PROCESS = "process"
    POSTGRES = "postgres"
    CLIENT = "client"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Skipped:
    """The fault made no sense at that moment, such as killing what is dead; nothing was changed."""

    why: str


Effect: TypeAlias = "Callable[[Site, Fault], Undo | Skipped | None]"
Relation: TypeAlias = Callable[[Mapping[str, Open]], None]
"""Raises ArgumentError when arguments that are right by themselves do not go together."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One entry of the registry."""

    name: str
    family: Family
    doc: str  # one sentence
    arguments: tuple[Argument, ...]
    effect: Effect
    lasting: bool = False  # it stays until it is undone, and so takes `for`
    cures: tuple[str, ...] = ()  # kinds that it ends where it is applied
    relation: Relation | None = None

    @property
    def all_arguments(self) -> tuple[Argument, ...]:
        """Return the arguments with `for`, if the kind takes it."""
        return (*self.arguments, FOR_ARGUMENT) if self.lasting else self.arguments

    def argument(self, name: str) -> Argument | None:
        return next((a for a in self.all_arguments if a.name == name), None)

    def complete(self, fault: Fault) -> Fault:
        """Return the fault with every default written out.

        Raises:
            FaultError: an argument is unknown, missing or of the wrong type.
        """
        given = dict(fault.args)
        for name in given:
            if self.argument(name) is None:
                raise FaultError(self.unknown(name))
        for argument in self.all_arguments:
            value = given.get(argument.name)
            if value is None and argument.required:
                raise FaultError(f"{self.name}: {argument.name} is missing")
            if value is None and argument.default is not None:
                given[argument.name] = argument.default
            elif value is not None:
                try:
                    argument.check(value)
                except ArgumentError as error:
                    raise FaultError(f"{self.name}: {argument.name}: {error}") from None
        try:
            self.check_relation(given)
        except ArgumentError as error:
            raise FaultError(f"{self.name}: {error}") from None
        return Fault.make(fault.at_ns, fault.do, given)

    def check_relation(self, arguments: Mapping[str, Open]) -> None:
        """Raise ArgumentError when the arguments do not go together."""
        if self.relation is not None:
            self.relation(arguments)

    def unknown(self, name: str) -> str:
        known = [a.name for a in self.all_arguments]
        guess = nearest(name, known)
        hint = f"did you mean '{guess}'?" if guess else f"it takes {', '.join(known) or 'none'}"
        return f"{self.name} has no argument {name!r}; {hint}"

    def nodes(self, fault: Fault) -> tuple[str, ...]:
        """Return the nodes and clients that a concrete fault names, in order."""
        values = [fault.get(a.name) for a in self.arguments if a.type in NAMES]
        return tuple(name for name in names_in(values) if name != "*")

    def text(self, fault: Fault) -> str:
        """Return a fault in one short line, for people."""
        parts = [self.name]
        for argument in self.all_arguments:
            value = fault.get(argument.name)
            if value is None or (value == argument.default and argument.type not in NAMES):
                continue
            shown = show(argument.type, value)
            positional = argument.name in ("node", "groups", "what")
            parts.append(shown if positional else f"{argument.name} {shown}")
        return " ".join(parts)


FOR_ARGUMENT = Argument(FOR, Type.DURATION, "until it is undone; to the end if missing", low=1)
RECORDS_MAX = 1_000_000
SLOTS_KEEP = Argument(
    *(
        "slots_keep",
        Type.COUNT,
        "new `max_slot_wal_keep_size`, in records; unchanged if missing",
    ),
    low=0,
    high=RECORDS_MAX,
)
NODES = Argument("node", Type.NODES, "one node, or a list of them", required=True)


def nodes_of(fault: Fault) -> tuple[NodeId, ...]:
    """Return the value of the argument `node` of a completed fault."""
    return tuple(NodeId(name) for name in names(fault, "node"))


def names(fault: Fault, name: str) -> tuple[str, ...]:
    """Return an argument that is a list of names."""
    return names_in([fault.get(name)])


def number(fault: Fault, name: str) -> float:
    """Return an argument that is a number and that every completed fault carries."""
    value = fault.get(name)
    assert isinstance(value, int | float), fault
    return value


def whole(fault: Fault, name: str) -> int:
    """Return an argument that is a whole number and that every completed fault carries."""
    value = fault.get(name)
    assert isinstance(value, int), fault
    return value


def text(fault: Fault, name: str) -> str:
    """Return an argument that is a choice and that every completed fault carries."""
    value = fault.get(name)
    assert isinstance(value, str), fault
    return value


def together(undos: Iterable[Undo]) -> Undo:
    """Return one undo that does all of them, the newest first."""
    ordered = tuple(undos)[::-1]

    def undo() -> None:
        for one in ordered:
            one()

    return undo


def choice(name: str, doc: str, *choices: Value) -> Argument:
    """Return an argument with a fixed set of words, the first one being the default."""
    words = tuple(str(word) for word in choices)
    return Argument(name, Type.CHOICE, doc, default=words[0], choices=words)
