"""`list`: what there is to play, to break and to look for.

In: which lists. Out: names with one sentence each, or one JSON object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metako.cli.output import printable, write_json, write_line
from sim.cli import catalog

SCENARIOS, FAULTS, MARKS, MUTATIONS, CHECKS = "scenarios", "faults", "marks", "mutations", "checks"


def show_lists(wanted: Sequence[str], *, as_json: bool) -> int:
    """Show the lists with these names; the scenarios if none is named."""
    lists = {name: _entries(name) for name in wanted or (SCENARIOS,)}
    if as_json:
        write_json(lists)
        return 0
    for number, (name, entries) in enumerate(lists.items()):
        if number:
            write_line()
        if len(lists) > 1:
            write_line(f"{name}:")
        width = max(map(len, entries), default=0)
        for entry, text in entries.items():
            write_line(printable(f"{entry:<{width}}  {text}".rstrip()))
    return 0


def _entries(name: str) -> Mapping[str, str]:
    match name:
        case "scenarios":
            return {each.name: each.summary for each in catalog.library()}
        case "faults":
            return catalog.fault_kinds()
        case "marks":
            return catalog.marks()
        case "checks":
            return catalog.checks()
        case _:
            assert name == MUTATIONS, name
            return {bug.name: f"{bug.rule}: {bug.doc}" for bug in catalog.mutations()}
