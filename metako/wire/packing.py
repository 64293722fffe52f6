"""The border to msgpack: plain values to bytes, and hostile bytes to plain values.

Invariant: `unpack_untrusted` raises `WireError` and nothing else, and reserves memory in proportion
to what it was given: a length that lies is refused before anything is reserved for it. msgpack
itself bounds nesting and never recurses on the C stack.

It deliberately does not know what the values mean.
"""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no stubs

from metako.wire import limits
from metako.wire.errors import EncodingError, WireError


def pack(value: object) -> bytes:
    """Return the msgpack form of maps, lists, texts, integers, booleans and None.

    Raises:
        EncodingError: a value has no such form.
    """
    try:
        data: bytes = msgpack.packb(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise EncodingError(f"cannot be packed: {error}") from None
    return data


def unpack_untrusted(data: bytes, max_bytes: int) -> dict[Any, Any]:
    """Return the map that the bytes stand for; keys and values are not checked.

    Raises:
        WireError: too long, not msgpack, more than one value, or not a map.
    """
    if len(data) > max_bytes:
        raise WireError(f"{len(data)} bytes, at most {max_bytes} are allowed")
    try:
        raw = msgpack.unpackb(
            data,
            strict_map_key=True,
            max_str_len=limits.TEXT_WIRE_MAX_BYTES,
            max_bin_len=limits.TEXT_WIRE_MAX_BYTES,
            max_array_len=limits.ITEMS_MAX,
            max_map_len=limits.MAP_ITEMS_MAX,
            max_ext_len=limits.TEXT_WIRE_MAX_BYTES,
        )
    # Most of msgpack's errors are ValueErrors; these are all that it and the conversion of texts
    # and time stamps raise.
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"not msgpack: {type(error).__name__}") from None
    if type(raw) is not dict:
        raise WireError("not a map")
    return raw
