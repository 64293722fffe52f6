"""Hypothesis strategies for everything that travels, built from the classes' own types."""

import dataclasses
import enum
import types
import typing

from hypothesis import strategies as st

from metako.model.document import SyncMember, SyncSet
from metako.model.ids import DataId
from metako.wire import schema

ITEMS_MAX = 4


def _between(ranges, *keys):
    return next(ranges[key] for key in keys if key in ranges)


def _value(hint, owner, name):
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
        return st.none() | _value(inner, owner, name)
    if typing.get_origin(hint) is tuple:
        item = _value(typing.get_args(hint)[0], owner, name)
        return st.lists(item, max_size=ITEMS_MAX).map(tuple)
    base = getattr(hint, "__supertype__", hint)
    if base is bool:
        return st.booleans()
    if base is int:
        low, high = _between(schema.INTEGER_RANGES, (owner, name), hint, int)
        return st.integers(low, high)
    if base is str:
        low, high = _between(schema.TEXT_RANGES, (owner, name), hint, str)
        # Three bytes are the most that one of these characters takes.
        alphabet = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])
        return st.text(alphabet, min_size=low, max_size=min(high // 3, 24))
    if issubclass(base, enum.Enum):
        return st.sampled_from(base)
    return instances(base)


@st.composite
def sync_sets(draw):
    names = draw(st.lists(st.text("abc", min_size=1, max_size=5), unique=True, max_size=ITEMS_MAX))
    members = tuple(SyncMember(name, DataId(f"d-{name}")) for name in names)
    return SyncSet(members, draw(st.integers(1, len(members))) if members else 0)


def instances(cls):
    """Return a strategy for valid instances of a class of the schema."""
    if cls is SyncSet:
        return sync_sets()
    hints = typing.get_type_hints(cls)
    if issubclass(cls, tuple):
        names = cls._fields
    else:
        names = [field.name for field in dataclasses.fields(cls)]
    fields = {name: _value(hints[name], cls, name) for name in names}
    return st.builds(cls, **fields)


def messages():
    """Return a strategy for every kind of message, all kinds alike often."""
    return st.sampled_from(sorted(schema.KINDS)).flatmap(lambda kind: instances(schema.KINDS[kind]))
