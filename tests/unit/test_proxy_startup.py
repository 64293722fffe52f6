"""First packets and error messages of the PostgreSQL protocol."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.pgwire import startup as s

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


def test_startup_keeps_the_packet_verbatim_and_finds_its_parameters() -> None:
    packet = s.startup_packet({"user": "anna", "database": "shop"}, minor=2)
    parsed = s.parse_first_packet_untrusted(packet)
    assert parsed == s.Startup(packet, 2, (("user", "anna"), ("database", "shop")))
    assert parsed.parameter("database") == "shop"
    assert parsed.parameter("options") is None


def test_last_of_two_equal_parameters_wins() -> None:
    body = struct.pack("!I", 3 << 16) + b"user\0a\0user\0b\0\0"
    parsed = s.parse_first_packet_untrusted(struct.pack("!I", len(body) + 4) + body)
    assert isinstance(parsed, s.Startup)
    assert parsed.parameter("user") == "b"


@given(st.dictionaries(TEXT.filter(bool), TEXT, max_size=8), TEXT.filter(bool))
def test_built_startup_packets_parse_to_the_same_parameters(
    parameters: dict[str, str], user: str
) -> None:
    parameters["user"] = user
    packet = s.startup_packet(parameters)
    parsed = s.parse_first_packet_untrusted(packet)
    assert isinstance(parsed, s.Startup)
    assert dict(parsed.parameters) == parameters


def test_encryption_requests_are_recognised() -> None:
    assert s.parse_first_packet_untrusted(s.ssl_request_packet()) == s.SslRequest()
    assert s.parse_first_packet_untrusted(s.gssenc_request_packet()) == s.GssEncRequest()


@pytest.mark.parametrize("key", [b"1234", b"k" * 32, b"k" * 256])
def test_cancel_requests_of_both_key_lengths_are_recognised(key: bytes) -> None:
    packet = s.cancel_packet(4711, key)
    assert s.parse_first_packet_untrusted(packet) == s.CancelRequest(packet, 4711, key)


@pytest.mark.parametrize("key", [b"", b"123", b"k" * 257])
def test_cancel_request_with_an_impossible_key_is_refused(key: bytes) -> None:
    with pytest.raises(s.PgWireError):
        s.parse_first_packet_untrusted(s.cancel_packet(1, key))


@pytest.mark.parametrize("length", [0, 7, 10_001, 2**31, 2**32 - 1])
def test_impossible_length_is_refused_before_the_body_is_read(length: int) -> None:
    with pytest.raises(s.PgWireError) as raised:
        s.first_packet_length_untrusted(struct.pack("!I", length))
    assert raised.value.sqlstate == "08P01"


def test_http_is_refused_by_its_length() -> None:
    with pytest.raises(s.PgWireError):
        s.first_packet_length_untrusted(b"GET ")


def test_direct_tls_is_told_apart_from_garbage() -> None:
    with pytest.raises(s.DirectTlsError):
        s.first_packet_length_untrusted(b"\x16\x03\x01\x02")


@pytest.mark.parametrize(
    ("body", "sqlstate"),
    [
        (b"user\0a\0", "08P01"),  # no terminator behind the last pair
        (b"user\0a", "08P01"),
        (b"user\0\0", "08P01"),  # a name without a value
        (b"\0", "28000"),  # no user
        (b"database\0x\0\0", "28000"),
        (b"user\0\0\0", "28000"),  # an empty user
        (b"user\0a\0\0junk\0\0", "08P01"),
        (b"", "08P01"),
    ],
)
def test_malformed_parameters_are_refused_with_the_code_of_postgresql(
    body: bytes, sqlstate: str
) -> None:
    packet = struct.pack("!II", len(body) + 8, 3 << 16) + body
    with pytest.raises(s.PgWireError) as raised:
        s.parse_first_packet_untrusted(packet)
    assert raised.value.sqlstate == sqlstate


def test_protocol_two_is_refused_as_unsupported() -> None:
    with pytest.raises(s.PgWireError) as raised:
        s.parse_first_packet_untrusted(struct.pack("!II", 8, 2 << 16))
    assert raised.value.sqlstate == "0A000"


@given(st.binary(max_size=300))
def test_garbage_never_raises_anything_but_wire_errors(data: bytes) -> None:
    packet = struct.pack("!I", len(data) + 4) + data
    for attempt in (data, packet, struct.pack("!II", len(data) + 8, 3 << 16) + data):
        try:
            parsed = s.parse_first_packet_untrusted(attempt)
        except s.PgWireError:
            continue
        assert isinstance(parsed, s.FirstPacket)


@given(st.binary(max_size=300))
def test_garbage_from_a_server_never_raises_anything_but_wire_errors(data: bytes) -> None:
    try:
        kind, length = s.message_header_untrusted(data[:5])
        assert len(kind) == 1
        assert 0 <= length <= s.FIRST_MESSAGE_BYTES_MAX
    except s.PgWireError:
        pass
    try:
        assert all(len(key) == 1 for key in s.parse_error_untrusted(data))
    except s.PgWireError:
        assert not data.endswith(b"\0")


def test_error_response_is_readable_again() -> None:
    message = s.error_response("57P03", "no primary", detail="d", hint="h")
    kind, length = s.message_header_untrusted(message[:5])
    assert (kind, length) == (b"E", len(message) - 5)
    assert s.parse_error_untrusted(message[5:]) == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "57P03",
        "M": "no primary",
        "D": "d",
        "H": "h",
    }


@given(TEXT, st.text(max_size=40))
def test_error_text_cannot_smuggle_fields(code: str, text: str) -> None:
    body = s.error_response(code, text)[5:]
    assert set(s.parse_error_untrusted(body)) <= {"S", "V", "C", "M"}
