"""Faults: a registry of kinds, concrete values of them, and what applies them to a world."""

from sim.faults.arguments import Argument, ArgumentError, Range, Type
from sim.faults.fault import Fault, FaultError, Value
from sim.faults.injector import Active, Injector, Observer
from sim.faults.kind import Family, FaultKind, Skipped, Undo
from sim.faults.registry import KINDS, checked, kind_of, nodes_named, text_of

__all__ = [
    "KINDS",
    "Active",
    "Argument",
    "ArgumentError",
    "Family",
    "Fault",
    "FaultError",
    "FaultKind",
    "Injector",
    "Observer",
    "Range",
    "Skipped",
    "Type",
    "Undo",
    "Value",
    "checked",
    "kind_of",
    "nodes_named",
    "text_of",
]
