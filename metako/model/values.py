"""Values that are made many times a second: frozen for the type checker, quick at run time.

A frozen dataclass assigns each of its fields by a call of `object.__setattr__`, because it has
closed the ordinary way itself: to make the picture of a server, with 24 fields, then takes longer
than most that is done with it. What `value` makes is the same in all else: slots, equality, hash,
`dataclasses.replace`. To assign to a field is an error of mypy, which checks every file of program
and simulator, and no longer one at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make a class of values; use it as `@dataclass(frozen=True, slots=True)`."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
