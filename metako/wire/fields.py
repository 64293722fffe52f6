"""How each type of ours is checked and turned into what msgpack takes, and back.

For a class of the schema, `record_codec` builds once, from the class's own type hints, one function
a field that checks type and range. Nothing is created from a name found in the input and there is
no call-back; recursion follows our types, never the input, so hostile nesting goes no deeper than
our own. Whatever is under an unknown key is skipped.

Invariant: whatever `encode` accepts `decode` returns equal, and the reverse. Both raise
`BadValueError` and nothing else.

It deliberately does not know of bytes, versions and kinds: that is `metako.wire.codec`.
"""

# ruff: noqa: ANN401 - outside data is narrowed here; it has no better type until it was checked.

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NewType

from metako.model.document import ClusterDocument, SyncSet
from metako.wire import limits, schema
from metako.wire.packing import pack

Convert = Callable[[Any], Any]

DOCUMENTS_REMEMBERED = 2
"""Documents of which the codec keeps the encoding."""


class BadValueError(Exception):
    """A value breaks the format. Becomes an EncodingError or a WireError at the border."""


_MISSING = object()


@dataclasses.dataclass(frozen=True, slots=True)
class Codec:
    """How one type travels: `encode` to what msgpack takes, `decode` back from it."""

    encode: Convert
    decode: Convert


# ---------------------------------------------------------------- single values


def _integer(where: str, low: int, high: int) -> Codec:
    def check(value: Any) -> int:
        # A bool is an int to isinstance; on the wire the two are different things.
        if type(value) is not int or not low <= value <= high:
            raise BadValueError(f"{where}: not an integer from {low} to {high}")
        return value

    return Codec(check, check)


def _boolean(where: str) -> Codec:
    def check(value: Any) -> bool:
        if type(value) is not bool:
            raise BadValueError(f"{where}: not a boolean")
        return value

    return Codec(check, check)


def _text(where: str, low: int, high: int) -> Codec:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not low <= len(value) <= high:
            raise BadValueError(f"{where}: not a text of {low} to {high} bytes")
        if not value.isascii():
            try:
                size = len(value.encode())
            except UnicodeEncodeError:
                raise BadValueError(f"{where}: not valid Unicode") from None
            if size > high:
                raise BadValueError(f"{where}: not a text of {low} to {high} bytes")
        return value

    return Codec(check, check)


def _enumeration(where: str, cls: type[enum.StrEnum]) -> Codec:
    members = {member.value: member for member in cls}

    def encode_member(value: Any) -> str:
        if type(value) is not cls:
            raise BadValueError(f"{where}: not a {cls.__name__}")
        return str(value.value)

    def decode_member(value: Any) -> enum.StrEnum:
        member = members.get(value) if type(value) is str else None
        if member is None:
            raise BadValueError(f"{where}: not a {cls.__name__}")
        return member

    return Codec(encode_member, decode_member)


# ---------------------------------------------------------------- composed values


def _optional(item: Codec) -> Codec:
    encode_item, decode_item = item.encode, item.decode
    return Codec(
        lambda value: None if value is None else encode_item(value),
        lambda value: None if value is None else decode_item(value),
    )


def _list(where: str, item: Codec) -> Codec:
    encode_item, decode_item = item.encode, item.decode

    def check(value: Any, cls: type[list[Any]] | type[tuple[Any, ...]]) -> None:
        if type(value) is not cls or len(value) > limits.ITEMS_MAX:
            raise BadValueError(f"{where}: not a list of at most {limits.ITEMS_MAX}")

    def encode_list(value: Any) -> list[Any]:
        check(value, tuple)
        return [encode_item(element) for element in value]

    def decode_list(value: Any) -> tuple[Any, ...]:
        check(value, list)
        return tuple([decode_item(element) for element in value])

    return Codec(encode_list, decode_list)


def record_codec(cls: type) -> Codec:
    """Return the codec of a class of the schema: a map, without fields equal to their default.

    Raises:
        AssertionError: class and schema disagree; a mistake of ours.
        TypeError: a field's type has no form on the wire; the same.
    """
    if cls is SyncSet:
        return _sync_set()
    if cls is ClusterDocument:
        return _cluster_document()
    return _plain(cls)


def _plain(cls: type) -> Codec:
    hints = typing.get_type_hints(cls)
    defaults = _defaults_of(cls)
    keys = {field.name: field.key for field in schema.fields_of(cls)}
    assert set(keys) == set(defaults), cls
    assert len(set(keys.values())) == len(keys), cls
    # The constructor is called by position, so the order is that of the class, not of the table.
    plan = [
        (
            keys[name],
            name,
            _MISSING if default is dataclasses.MISSING else default,
            _codec_for(hints[name], cls, name),
        )
        for name, default in defaults.items()
    ]
    encoders = [(key, name, default, codec.encode) for key, name, default, codec in plan]
    decoders = [(key, default, codec.decode) for key, _, default, codec in plan]

    def encode_record(value: Any) -> dict[str, Any]:
        if type(value) is not cls:
            raise BadValueError(f"not a {cls.__name__}")
        result = {}
        for key, name, default, encode_field in encoders:
            item = getattr(value, name)
            if default is _MISSING or item != default:
                result[key] = encode_field(item)
        return result

    def decode_record(value: Any) -> Any:
        if type(value) is not dict:
            raise BadValueError(f"{cls.__name__}: not a map")
        arguments = []
        for key, default, decode_field in decoders:
            item = value.get(key, _MISSING)
            if item is not _MISSING:
                arguments.append(decode_field(item))
            elif default is not _MISSING:
                arguments.append(default)
            else:
                raise BadValueError(f"{cls.__name__}: no {key!r}")
        return cls(*arguments)

    return Codec(encode_record, decode_record)


def _defaults_of(cls: Any) -> dict[str, Any]:
    """Return the fields of a dataclass or a named tuple, each with its default, if it has one."""
    if issubclass(cls, tuple):
        return {name: cls._field_defaults.get(name, dataclasses.MISSING) for name in cls._fields}
    return {field.name: field.default for field in dataclasses.fields(cls)}


def _sync_set() -> Codec:
    """Return the codec of SyncSet, whose invariant must not depend on `assert` being compiled."""
    plain = _plain(SyncSet)

    def decode_sync_set(value: Any) -> SyncSet:
        try:
            result: SyncSet = plain.decode(value)
        except AssertionError:
            raise BadValueError("SyncSet: members and k do not fit") from None
        count = len(result.members)
        if result.k > count or (result.k == 0) != (count == 0) or len(result.nodes()) != count:
            raise BadValueError("SyncSet: members and k do not fit")
        return result

    return Codec(plain.encode, decode_sync_set)


@functools.cache
def _cluster_document() -> Codec:
    """Return the codec of a document, which must fit its limit wherever it is nested.

    A document that arrives in a message is made durable next. Were its size checked only there,
    one peer's oversized document would stop every node that receives it.

    It is the same one wherever a document is nested, for what it remembers.
    """
    plain = _plain(ClusterDocument)
    # The newest documents encoded, and as what: one that was received is then made durable, and
    # one that is made durable is sent to everybody, a second one perhaps: itself without its
    # oldest timelines. Documents never change, so the object is enough to know it by.
    newest: deque[tuple[Any, Any]] = deque(maxlen=DOCUMENTS_REMEMBERED)

    def encode_sized(value: Any) -> Any:
        for known, encoded in newest:
            if value is known:
                return encoded
        fields = plain.encode(value)
        frame = {"v": limits.PROTOCOL_VERSION, "k": schema.KIND_DOCUMENT, **fields}
        size = len(pack(frame))
        if size > limits.DOCUMENT_MAX_BYTES:
            raise BadValueError(
                f"document: {size} bytes, at most {limits.DOCUMENT_MAX_BYTES} are allowed"
            )
        newest.append((value, fields))
        return fields

    def decode_sized(value: Any) -> ClusterDocument:
        document: ClusterDocument = plain.decode(value)
        encode_sized(document)
        return document

    return Codec(encode_sized, decode_sized)


def _range(ranges: Mapping[object, tuple[int, int]], *keys: object) -> tuple[int, int]:
    return next(ranges[key] for key in keys if key in ranges)


def _codec_for(hint: Any, owner: type, name: str) -> Codec:
    """Return the codec of a field's type.

    Raises:
        TypeError: the type has no form on the wire; a mistake in our classes.
    """
    where = f"{owner.__name__}.{name}"
    # `NewType | None` evaluates to the one, `class | None` to the other.
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
        return _optional(_codec_for(inner, owner, name))
    if typing.get_origin(hint) is tuple:
        element, ellipsis = typing.get_args(hint)
        assert ellipsis is Ellipsis, where
        return _list(where, _codec_for(element, owner, name))
    base = hint.__supertype__ if isinstance(hint, NewType) else hint
    if base is bool:
        return _boolean(where)
    if base is int:
        return _integer(where, *_range(schema.INTEGER_RANGES, (owner, name), hint, int))
    if base is str:
        return _text(where, *_range(schema.TEXT_RANGES, (owner, name), hint, str))
    if isinstance(base, type) and issubclass(base, enum.StrEnum):
        return _enumeration(where, base)
    if isinstance(base, type) and base in schema.KEYS:
        return record_codec(base)
    raise TypeError(f"{where}: {hint!r} has no form on the wire")
