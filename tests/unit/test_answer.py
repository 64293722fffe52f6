"""The answer at the end of a stream: stable for ever, and safe to show."""

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metako.wire.answer import (
    ANSWER_MAX_BYTES,
    AnswerReason,
    StreamAnswer,
    decode_answer_untrusted,
    encode_answer,
    reason_of,
)
from metako.wire.errors import SealReason, WireError


@pytest.mark.parametrize("reason", [None, *AnswerReason])
def test_every_answer_comes_back(reason):
    answer = StreamAnswer(reason, "main", "n1", 0 if reason is None else -31_000)
    data = encode_answer(answer)
    assert decode_answer_untrusted(data) == answer
    assert len(data) <= ANSWER_MAX_BYTES


def test_the_longest_answer_fits():
    answer = StreamAnswer(AnswerReason.RECIPIENT, "c" * 63, "n" * 63, -(2**62))
    assert decode_answer_untrusted(encode_answer(answer)) == answer


def test_format_of_an_answer_does_not_change():
    assert msgpack.unpackb(encode_answer(StreamAnswer(None, "main", "n1"))) == {
        "ok": True,
        "cluster": "main",
        "node": "n1",
    }
    refused = StreamAnswer(AnswerReason.CLOCK, "main", "n1", 5)
    assert msgpack.unpackb(encode_answer(refused)) == {
        "ok": False,
        "reason": "clock",
        "skew_ms": 5,
        "cluster": "main",
        "node": "n1",
    }


def test_every_refusal_of_the_seal_has_an_answer():
    assert {reason_of(reason) for reason in SealReason} <= set(AnswerReason)


def test_a_reason_of_a_later_version_is_a_refusal_all_the_same():
    data = msgpack.packb({"ok": False, "reason": "phase of the moon", "new": [1, 2]})
    assert decode_answer_untrusted(data) == StreamAnswer(AnswerReason.UNKNOWN, "", "")


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "x" * 64, 7, None, ["n1"]])
def test_a_name_that_is_not_fit_to_be_shown_is_left_out(name):
    data = msgpack.packb({"ok": True, "cluster": name, "node": name})
    assert decode_answer_untrusted(data) == StreamAnswer(None, "", "")


@pytest.mark.parametrize(
    "fields",
    [{}, {"ok": 1}, {"ok": "yes"}, {"ok": False, "reason": 3}, {"ok": True, "skew_ms": 1.5}],
)
def test_what_is_no_answer_is_refused(fields):
    with pytest.raises(WireError):
        decode_answer_untrusted(msgpack.packb(fields))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=100))
def test_random_bytes_raise_only_wire_errors(data):
    with pytest.raises(WireError):
        decode_answer_untrusted(data)
