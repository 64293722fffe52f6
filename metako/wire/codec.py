"""Messages and durable records as bytes and back: msgpack maps, checked field by field.

Inputs and outputs: frozen values of `metako.wire.messages` and `metako.model`; bytes. The format
itself is data, in `metako.wire.schema`. Every map says its version (`v`) and its kind (`k`).

Invariant: whatever an encoder accepts the decoder returns equal; whatever a decoder returns can be
encoded again. Decoders raise `WireError` and nothing else, whatever the bytes are.

It deliberately does not know who sent the bytes: that is `metako.wire.seal`, which comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from metako.model.document import ClusterDocument
from metako.model.durable import HardState
from metako.wire import limits, schema
from metako.wire.errors import EncodingError, WireError, WireVersionError
from metako.wire.fields import BadValueError, Codec, record_codec
from metako.wire.messages import Message
from metako.wire.packing import pack, unpack_untrusted


def encode(message: Message) -> bytes:
    """Return the encoding of a message, at most STREAM_PAYLOAD_MAX bytes.

    Raises:
        EncodingError: a field is out of range, or the whole is too large.
    """
    try:
        kind, codec = _MESSAGES_BY_TYPE[type(message)]
    except KeyError:
        raise EncodingError(f"{type(message).__name__} is not a message") from None
    return _encode(kind, codec, message, limits.STREAM_PAYLOAD_MAX)


def decode_untrusted(data: bytes) -> Message:
    """Return the message that the bytes stand for.

    Unknown keys are ignored and missing ones take their default, so that a newer peer can say
    more. An unknown kind is an error: to act on half of a message would be worse than to lose it.

    Raises:
        WireError: anything is wrong with the bytes.
    """
    raw = _unpack(data, limits.STREAM_PAYLOAD_MAX)
    kind = raw.get("k")
    codec = _MESSAGES_BY_KIND.get(kind) if type(kind) is str else None
    if codec is None:
        raise WireError("unknown kind of message")
    message: Message = _decode(codec, raw)
    return message


def encode_document(document: ClusterDocument) -> bytes:
    """Return the encoding of a document, at most DOCUMENT_MAX_BYTES.

    Raises:
        EncodingError: a field is out of range, or the whole is too large.
    """
    return _encode(schema.KIND_DOCUMENT, _DOCUMENT, document, limits.DOCUMENT_MAX_BYTES)


def decode_document(data: bytes) -> ClusterDocument:
    """Return the document that the bytes stand for.

    Raises:
        WireError: anything is wrong with the bytes.
    """
    raw = _unpack(data, limits.DOCUMENT_MAX_BYTES, kind=schema.KIND_DOCUMENT)
    document: ClusterDocument = _decode(_DOCUMENT, raw)
    return document


def encode_hard_state(state: HardState) -> bytes:
    """Return the encoding of a durable record, at most RECORD_MAX_BYTES.

    Raises:
        EncodingError: a field is out of range, or the document is too large.
    """
    return _encode(schema.KIND_HARD_STATE, _HARD_STATE, state, limits.RECORD_MAX_BYTES)


def decode_hard_state(data: bytes) -> HardState:
    """Return the durable record that the bytes stand for.

    Raises:
        WireError: anything is wrong with the bytes.
    """
    raw = _unpack(data, limits.RECORD_MAX_BYTES, kind=schema.KIND_HARD_STATE)
    state: HardState = _decode(_HARD_STATE, raw)
    return state


def _encode(kind: str, codec: Codec, value: object, max_bytes: int) -> bytes:
    try:
        fields = codec.encode(value)
    except BadValueError as error:
        raise EncodingError(str(error)) from None
    data = pack({"v": limits.PROTOCOL_VERSION, "k": kind, **fields})
    if len(data) > max_bytes:
        raise EncodingError(f"{kind}: {len(data)} bytes, at most {max_bytes} are allowed")
    return data


def _unpack(data: bytes, max_bytes: int, *, kind: str | None = None) -> dict[Any, Any]:
    raw = unpack_untrusted(data, max_bytes)
    version = raw.get("v")
    if type(version) is not int or version != limits.PROTOCOL_VERSION:
        raise WireVersionError(f"version {version!r}, here {limits.PROTOCOL_VERSION}")
    if kind is not None and raw.get("k") != kind:
        raise WireError(f"not a {kind}")
    return raw


def _decode(codec: Codec, raw: dict[Any, Any]) -> Any:  # noqa: ANN401 - any of our classes
    try:
        return codec.decode(raw)
    except BadValueError as error:
        raise WireError(str(error)) from None


_DOCUMENT = record_codec(ClusterDocument)
_HARD_STATE = record_codec(HardState)
_MESSAGES_BY_KIND: Mapping[str, Codec] = MappingProxyType(
    {kind: record_codec(cls) for kind, cls in schema.KINDS.items()}
)
_MESSAGES_BY_TYPE: Mapping[type, tuple[str, Codec]] = MappingProxyType(
    {cls: (kind, _MESSAGES_BY_KIND[kind]) for kind, cls in schema.KINDS.items()}
)
