"""What a mutation is, and patching attributes so that it can be undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Patch:
    """Replaces attributes of modules and classes, and puts them back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute that is there."""
        old = vars(owner)[name]
        self._undo.append((owner, name, old))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put everything back, the newest first."""
        while self._undo:
            owner, name, old = self._undo.pop()
            setattr(owner, name, old)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One planted bug."""

    name: str
    rule: str  # where the rule stands: a section of the design
    doc: str  # what is wrong now, in one sentence
    plant: Callable[[Patch], None]
    measured: bool = False  # the rule rests on something that was reproduced on a real server
