"""What a mutation is, and patching attributes so that it can be undone."""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FunctionType
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


def edited(
    owner: Any, name: str, *changes: tuple[str, str], also: tuple[Any, ...] = ()
) -> Callable[[Patch], None]:
    """Return what plants a slip: a function whose source has other text in some places.

    Each piece of text has to be there once, so a bug whose place has changed is noticed; and no
    module may keep the function as it was, or nobody would meet the bug.

    Args:
        owner: the class or module of the function.
        name: of the function.
        changes: text, and what stands there instead; the indentation is that of the function alone.
        also: modules that have imported the function by its name.
    """

    def plant(patch: Patch) -> None:
        found = vars(owner)[name]
        source = textwrap.dedent(inspect.getsource(found))
        for old, new in changes:
            assert source.count(old) == 1, f"{name}: {old!r} is there {source.count(old)} times"
            source = source.replace(old, new)
        flags = __future__.annotations.compiler_flag
        module = compile(source, f"<slip in {name}>", "exec", flags=flags)
        code = next(each for each in module.co_consts if isinstance(each, CodeType))
        made = FunctionType(code, vars(sys.modules[found.__module__]), name, found.__defaults__)
        made.__kwdefaults__ = found.__kwdefaults__
        for each in (owner, *also):
            patch.set(each, name, made)
        left = _with(name, found)
        assert not left, f"{', '.join(left)}: {name} is still there as it was"

    return plant


def _with(name: str, function: object) -> list[str]:
    """Return the modules of a run that know a function by its name."""
    return [
        module
        for module, found in list(sys.modules.items())
        if module.startswith(("metako.", "sim."))
        and not module.startswith(("sim.mutations.", "sim.explorer."))
        and "trio" not in vars(found)  # a driver, which no run of the simulator uses
        and vars(found).get(name) is function
    ]
