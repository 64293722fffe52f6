"""Properties of the codec: round trips, and nothing but WireError for hostile bytes."""

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_strategies import instances, messages

from metako.model.document import ClusterDocument
from metako.model.durable import HardState
from metako.wire import schema
from metako.wire.codec import (
    decode_document,
    decode_hard_state,
    decode_untrusted,
    encode,
    encode_document,
    encode_hard_state,
)
from metako.wire.errors import WireError

pytestmark = pytest.mark.slow  # hundreds of examples each

FEW = settings(derandomize=True, deadline=None, max_examples=30)
MANY = settings(derandomize=True, deadline=None, max_examples=400)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)


def accepts_or_refuses(decode, data):
    """Return what was decoded, None if it was refused; any other exception fails the test."""
    try:
        return decode(data)
    except WireError:
        return None


@pytest.mark.parametrize("kind", sorted(schema.KINDS))
def test_every_message_comes_back_as_it_was(kind):
    @FEW
    @given(instances(schema.KINDS[kind]))
    def check(message):
        assert decode_untrusted(encode(message)) == message

    check()


@FEW
@given(instances(ClusterDocument))
def test_every_document_comes_back_as_it_was(document):
    assert decode_document(encode_document(document)) == document


@FEW
@given(instances(HardState))
def test_every_record_comes_back_as_it_was(state):
    assert decode_hard_state(encode_hard_state(state)) == state


@MANY
@given(st.binary(max_size=200))
def test_random_bytes_raise_only_wire_errors(data):
    for decode in (decode_untrusted, decode_document, decode_hard_state):
        assert accepts_or_refuses(decode, data) is None


@MANY
@given(messages(), st.data())
def test_mutated_messages_raise_only_wire_errors_or_decode_to_something_encodable(message, data):
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip":
                raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
            case "cut":
                del raw[data.draw(st.integers(1, len(raw))) :]
            case "insert":
                at = data.draw(st.integers(0, len(raw)))
                raw[at:at] = data.draw(st.binary(max_size=6))
            case "repeat":
                raw += raw[data.draw(st.integers(0, len(raw) - 1)) :]
    decoded = accepts_or_refuses(decode_untrusted, bytes(raw))
    assert decoded is None or decode_untrusted(encode(decoded)) == decoded


@MANY
@given(messages(), PLAIN, st.data())
def test_any_value_in_any_field_is_checked(message, value, data):
    raw = msgpack.unpackb(encode(message))
    path = raw
    while True:  # walks down at random to a field, then replaces it
        key = data.draw(st.sampled_from(sorted(path)))
        if isinstance(path[key], dict) and path[key] and data.draw(st.booleans()):
            path = path[key]
            continue
        break
    path[key] = value
    decoded = accepts_or_refuses(decode_untrusted, msgpack.packb(raw))
    assert decoded is None or decode_untrusted(encode(decoded)) == decoded


@MANY
@given(messages(), st.dictionaries(st.text(min_size=5, max_size=9), PLAIN, max_size=3))
def test_unknown_keys_are_ignored(message, extra):
    raw = msgpack.unpackb(encode(message))
    # A later version may say more; none of our keys has five letters.
    assert decode_untrusted(msgpack.packb({**extra, **raw})) == message
