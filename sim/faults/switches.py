"""Switches: attributes of a disk or a server that have another value while a fault lasts.

Invariant: a switch is held by one fault at a time; a second one that wants it is left out, so that
the end of a fault is the end of what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim.faults.fault import Fault
from sim.faults.kind import Skipped, Undo, nodes_of
from sim.faults.site import Site, Switch

Setting = tuple[str, str, object]
"""`disk` or `server`, the attribute, its value while the fault lasts."""


def switch(
    site: Site, fault: Fault, settings: Sequence[Setting], *, undone: bool = True
) -> Undo | Skipped | None:
    """Turn switches of every node of the fault; skip those that another fault holds."""
    turned: list[tuple[Switch, object]] = []
    for name in nodes_of(fault):
        for part, attribute, value in settings:
            key: Switch = (name, part, attribute)
            owner = _owner(site, key)
            before = getattr(owner, attribute)
            if key in site.held or before == value:
                continue
            setattr(owner, attribute, value)
            turned.append((key, before))
            if undone:
                site.held[key] = fault
    if not turned:
        return Skipped("it is so already")
    if not undone:
        return None

    def undo() -> None:
        for key, before in turned:
            site.held.pop(key, None)
            setattr(_owner(site, key), key[2], before)

    return undo


def _owner(site: Site, key: Switch) -> object:
    node = site.node(key[0])
    return node.disk if key[1] == "disk" else node.server


class Switches:
    """An effect that turns fixed switches."""

    def __init__(self, *settings: Setting) -> None:
        self._settings = settings

    def __call__(self, site: Site, fault: Fault) -> Undo | Skipped | None:
        return switch(site, fault, self._settings)


class Counted:
    """An effect that sets one switch to a number that the fault names."""

    def __init__(self, part: str, attribute: str, number: Callable[[Fault], float]) -> None:
        self._part = part
        self._attribute = attribute
        self._number = number

    def __call__(self, site: Site, fault: Fault) -> Undo | Skipped | None:
        return switch(site, fault, ((self._part, self._attribute, self._number(fault)),))
