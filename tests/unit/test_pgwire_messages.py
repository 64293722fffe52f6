"""Messages outside the hot path: built, parsed, read from a stream, and the protocol's version."""

from __future__ import annotations

import struct

import pytest

from metako.pgwire import authentication as auth
from metako.pgwire import messages as m
from metako.pgwire.negotiation import (
    Negotiation,
    VersionOffer,
    negotiate,
    negotiate_protocol_version,
    parse_negotiate_untrusted,
)
from metako.pgwire.reader import MessageReader
from metako.pgwire.startup import (
    ALPN_PROTOCOL,
    PgWireError,
    Startup,
    begins_with_tls,
    parse_error_untrusted,
    parse_first_packet_untrusted,
    startup_packet,
)


def body_of(message: bytes, kind: bytes) -> bytes:
    """Return the body of the one message that there is."""
    reader = MessageReader(body_bytes_max=1 << 20)
    reader.receive(message)
    found = reader.next_untrusted()
    assert found is not None
    assert found.kind == kind
    assert reader.buffered_bytes == 0
    return found.body


# -- bytes as documented ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (auth.AUTHENTICATION_OK, "52 00000008 00000000"),
        (auth.AUTHENTICATION_CLEARTEXT, "52 00000008 00000003"),
        (auth.authentication_md5(b"abcd"), "52 0000000c 00000005 61626364"),
        (auth.authentication_sasl(("A", "B")), "52 0000000d 0000000a 4100 4200 00"),
        (auth.authentication_sasl_continue(b"x"), "52 00000009 0000000b 78"),
        (auth.authentication_sasl_final(b"x"), "52 00000009 0000000c 78"),
        (auth.password_message(b"pw"), "70 00000007 707700"),
        (auth.sasl_initial_response("A", b"xy"), "70 0000000c 4100 00000002 7879"),
        (auth.sasl_initial_response("A", None), "70 0000000a 4100 ffffffff"),
        (auth.sasl_response(b"xy"), "70 00000006 7879"),
        (m.parameter_status("a", "b"), "53 00000008 6100 6200"),
        (m.backend_key_data(m.BackendKey(7, b"abcd")), "4b 0000000c 00000007 61626364"),
        (m.ready_for_query(m.TransactionStatus.FAILED), "5a 00000005 45"),
        (m.command_complete("SET"), "43 00000008 53455400"),
        (m.query(b"x"), "51 00000006 7800"),
        (m.parse(m.Parse(b"s", b"q", (23, 0))), "50 00000012 7300 7100 0002 00000017 00000000"),
        (m.close(m.Close(m.CloseKind.PORTAL, b"p")), "43 00000007 50 7000"),
        (
            negotiate_protocol_version(2, ("_pq_.x",)),
            "76 00000013 00030002 00000001 5f70715f2e7800",
        ),
        (m.PARSE_COMPLETE, "31 00000004"),
        (m.BIND_COMPLETE, "32 00000004"),
        (m.CLOSE_COMPLETE, "33 00000004"),
        (m.NO_DATA, "6e 00000004"),
        (m.EMPTY_QUERY, "49 00000004"),
        (m.PORTAL_SUSPENDED, "73 00000004"),
        (m.SYNC, "53 00000004"),
        (m.FLUSH, "48 00000004"),
        (m.TERMINATE, "58 00000004"),
    ],
)
def test_messages_have_the_documented_bytes(built: bytes, expected: str) -> None:
    assert built == bytes.fromhex(expected)


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (auth.AUTHENTICATION_OK, auth.AuthenticationOk()),
        (auth.AUTHENTICATION_CLEARTEXT, auth.AuthenticationCleartext()),
        (auth.authentication_md5(b"abcd"), auth.AuthenticationMd5(b"abcd")),
        (auth.authentication_sasl(("A", "B")), auth.AuthenticationSasl(("A", "B"))),
        (auth.authentication_sasl(()), auth.AuthenticationSasl(())),
        (auth.authentication_sasl_continue(b"x"), auth.AuthenticationSaslContinue(b"x")),
        (auth.authentication_sasl_final(b""), auth.AuthenticationSaslFinal(b"")),
        (m.message(b"R", b"\0\0\0\x07"), auth.AuthenticationOther(7)),
        (m.message(b"R", b"\xff\xff\xff\xffjunk"), auth.AuthenticationOther(2**32 - 1)),
    ],
)
def test_authentication_requests_come_back(built: bytes, expected: auth.Authentication) -> None:
    assert auth.parse_authentication_untrusted(body_of(built, b"R")) == expected


def test_other_messages_come_back() -> None:
    assert auth.parse_password_untrusted(body_of(auth.password_message(b"p"), b"p")) == b"p"
    for data in (b"data", b"", None):
        body = body_of(auth.sasl_initial_response("A", data), b"p")
        assert auth.parse_sasl_initial_untrusted(body) == auth.SaslInitialResponse("A", data)
    body = body_of(m.parameter_status("n", "wert \udcff"), b"S")
    assert m.parse_parameter_status_untrusted(body) == ("n", "wert \udcff")
    for status in m.TransactionStatus:
        assert m.parse_ready_untrusted(body_of(m.ready_for_query(status), b"Z")) is status
    assert m.parse_command_complete_untrusted(body_of(m.command_complete("SET"), b"C")) == "SET"
    assert m.parse_query_untrusted(body_of(m.query(b"q\xff"), b"Q")) == b"q\xff"
    statement = m.Parse(b"s", b"select $1", (23, 0, 2**32 - 1))
    assert m.parse_parse_untrusted(body_of(m.parse(statement), b"P")) == statement
    for kind in m.CloseKind:
        target = m.Close(kind, b"s")
        assert m.parse_close_untrusted(body_of(m.close(target), b"C")) == target
    fields = parse_error_untrusted(body_of(m.notice_response("01000", "t", hint="h"), b"N"))
    assert fields == {"S": "NOTICE", "V": "NOTICE", "C": "01000", "M": "t", "H": "h"}


@pytest.mark.parametrize(("length", "long_keys"), [(4, False), (4, True), (32, True), (256, True)])
def test_cancel_keys_of_both_versions_come_back(length: int, long_keys: bool) -> None:
    key = m.BackendKey(2**32 - 1, b"k" * length)
    body = body_of(m.backend_key_data(key), b"K")
    assert m.parse_backend_key_untrusted(body, long_keys=long_keys) == key
    assert "kkkk" not in repr(key)


@pytest.mark.parametrize(("length", "long_keys"), [(3, True), (5, False), (32, False), (257, True)])
def test_cancel_keys_of_impossible_length_are_refused(length: int, long_keys: bool) -> None:
    with pytest.raises(PgWireError):
        m.parse_backend_key_untrusted(b"\0\0\0\1" + b"k" * length, long_keys=long_keys)


def key_body(body: bytes) -> m.BackendKey:
    return m.parse_backend_key_untrusted(body, long_keys=True)


@pytest.mark.parametrize(
    ("parser", "body"),
    [
        (auth.parse_authentication_untrusted, b"\0\0\0"),
        (auth.parse_authentication_untrusted, b"\0\0\0\0x"),
        (auth.parse_authentication_untrusted, b"\0\0\0\3x"),
        (auth.parse_authentication_untrusted, b"\0\0\0\5abc"),
        (auth.parse_authentication_untrusted, b"\0\0\0\5abcde"),
        (auth.parse_authentication_untrusted, b"\0\0\0\x0a"),
        (auth.parse_authentication_untrusted, b"\0\0\0\x0aA\0"),
        (auth.parse_authentication_untrusted, b"\0\0\0\x0aA\0\0B\0\0"),
        (auth.parse_authentication_untrusted, b"\0\0\0\x0a\xc3\xa4\0\0"),
        (auth.parse_authentication_untrusted, b"\0\0\0\x0a" + b"A\0" * 33 + b"\0"),
        (auth.parse_password_untrusted, b""),
        (auth.parse_password_untrusted, b"pw"),
        (auth.parse_password_untrusted, b"pw\0x"),
        (auth.parse_password_untrusted, b"pw\0\0"),
        (auth.parse_sasl_initial_untrusted, b"A"),
        (auth.parse_sasl_initial_untrusted, b"A\0\0\0\0"),
        (auth.parse_sasl_initial_untrusted, b"A\0\0\0\0\2x"),
        (auth.parse_sasl_initial_untrusted, b"A\0\0\0\0\0x"),
        (auth.parse_sasl_initial_untrusted, b"A\0\xff\xff\xff\xffx"),
        (auth.parse_sasl_initial_untrusted, b"A\0\x7f\xff\xff\xffx"),
        (auth.parse_sasl_initial_untrusted, b"\xff\0\0\0\0\0"),
        (m.parse_parameter_status_untrusted, b"a\0b"),
        (m.parse_parameter_status_untrusted, b"a\0b\0c"),
        (m.parse_parameter_status_untrusted, b""),
        (key_body, b""),
        (key_body, b"\0\0\0"),
        (m.parse_ready_untrusted, b""),
        (m.parse_ready_untrusted, b"X"),
        (m.parse_ready_untrusted, b"II"),
        (m.parse_command_complete_untrusted, b"SET"),
        (m.parse_query_untrusted, b"select 1\0; drop table t\0"),
        (m.parse_query_untrusted, b""),
        (m.parse_parse_untrusted, b"s\0q\0"),
        (m.parse_parse_untrusted, b"s\0q\0\0"),
        (m.parse_parse_untrusted, b"s\0q\0\0\1\0\0\0"),
        (m.parse_parse_untrusted, b"s\0q\0\0\0\0"),
        (m.parse_parse_untrusted, b"s\0q\0\xff\xff\0\0\0\1"),
        (m.parse_close_untrusted, b""),
        (m.parse_close_untrusted, b"Xs\0"),
        (m.parse_close_untrusted, b"Ss"),
    ],
)
def test_a_broken_body_is_refused(parser, body: bytes) -> None:
    with pytest.raises(PgWireError):
        parser(body)


@pytest.mark.parametrize(
    "build",
    [
        lambda: m.query(b"a\0b"),
        lambda: m.parse(m.Parse(b"a\0", b"", ())),
        lambda: m.parse(m.Parse(b"", b"", (0,) * 65_536)),
        lambda: m.close(m.Close(m.CloseKind.PORTAL, b"\0")),
        lambda: m.parameter_status("a", "b\0"),
        lambda: m.backend_key_data(m.BackendKey(1, b"abc")),
        lambda: m.backend_key_data(m.BackendKey(1, b"k" * 257)),
        lambda: auth.password_message(b"\0"),
        lambda: auth.authentication_md5(b"abc"),
        lambda: startup_packet({"user": "a\0database\0b"}),
        lambda: startup_packet({"user": "a" * 10_000}),
    ],
)
def test_what_would_not_come_out_as_it_went_in_is_not_built(build) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - ours in every case: PgWireError is none
        build()


# -- from a stream ----------------------------------------------------------------------------


def test_messages_are_whole_however_they_arrive() -> None:
    stream = m.SYNC + m.query(b"select 1") + auth.AUTHENTICATION_OK
    reader = MessageReader(body_bytes_max=100)
    found = []
    for octet in stream:
        reader.receive(bytes((octet,)))
        while (message := reader.next_untrusted()) is not None:
            found.append(message)
    assert found == [(b"S", b""), (b"Q", b"select 1\0"), (b"R", b"\0\0\0\0")]
    assert reader.buffered_bytes == 0


def test_what_follows_is_left_as_it_was() -> None:
    reader = MessageReader(body_bytes_max=100)
    behind = m.query(b"x" * 200) + b"\xff"
    reader.receive(m.SYNC + behind)
    assert reader.next_untrusted() == (b"S", b"")
    assert reader.buffered_bytes == len(behind)
    assert reader.take_rest() == behind
    assert reader.buffered_bytes == 0


@pytest.mark.parametrize("length", [0, 3, 105, 2**31 - 1, 2**31, 2**32 - 1])
def test_an_impossible_length_is_refused_by_its_header(length: int) -> None:
    reader = MessageReader(body_bytes_max=100)
    reader.receive(b"Q" + struct.pack("!I", length))
    with pytest.raises(PgWireError):
        reader.next_untrusted()


def test_the_longest_message_that_is_allowed_is_read() -> None:
    reader = MessageReader(body_bytes_max=100)
    reader.receive(m.message(b"Q", bytes(100)))
    assert reader.next_untrusted() == (b"Q", bytes(100))


@pytest.mark.parametrize("data", [b"\0\0\0\0\4", b"\x16\3\1\2\0", b"\xff\0\0\0\4"])
def test_another_protocol_is_refused(data: bytes) -> None:
    reader = MessageReader(body_bytes_max=100)
    reader.receive(data)
    with pytest.raises(PgWireError):
        reader.next_untrusted()


# -- the protocol's version -------------------------------------------------------------------


def startup(minor: int, **options: str) -> Startup:
    named = {f"_pq_.{name}": value for name, value in options.items()}
    packet = startup_packet({"user": "anna", **named}, minor=minor)
    parsed = parse_first_packet_untrusted(packet)
    assert isinstance(parsed, Startup)
    return parsed


@pytest.mark.parametrize(
    ("requested", "newest", "expected"),
    [
        (0, 2, Negotiation(0, b"")),
        (1, 2, Negotiation(0, b"")),
        (2, 2, Negotiation(2, b"")),
        (3, 2, Negotiation(2, negotiate_protocol_version(2, ()))),
        (9999, 2, Negotiation(2, negotiate_protocol_version(2, ()))),
        (65535, 2, Negotiation(2, negotiate_protocol_version(2, ()))),
        (0, 0, Negotiation(0, b"")),
        (1, 0, Negotiation(0, negotiate_protocol_version(0, ()))),
        (2, 0, Negotiation(0, negotiate_protocol_version(0, ()))),
    ],
)
def test_a_client_is_told_when_it_asks_for_too_much(
    requested: int, newest: int, expected: Negotiation
) -> None:
    assert negotiate(startup(requested), newest_minor=newest) == expected


@pytest.mark.parametrize("minor", [0, 2, 3])
def test_a_client_is_told_which_options_are_not_known(minor: int) -> None:
    found = negotiate(startup(minor, x="1", y="2"))
    assert found.minor == min(minor, 2)
    assert found.message == negotiate_protocol_version(found.minor, ("_pq_.x", "_pq_.y"))


def test_the_answer_of_an_older_server_is_read() -> None:
    body = body_of(negotiate_protocol_version(0, ("_pq_.x",)), b"v")
    assert parse_negotiate_untrusted(body, requested_minor=2) == VersionOffer(0, ("_pq_.x",))
    assert parse_negotiate_untrusted(body, requested_minor=0) == VersionOffer(0, ("_pq_.x",))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "00030000 000000",
        "00030001 00000000",  # 3.1 does not exist
        "00030002 00000000",  # what was asked for, and nothing refused
        "00030003 00000000",
        "00020000 00000000",
        "00000000 00000000",
        "00030000 00000001",
        "00030000 00000000 00",
        "00030000 00000001 61",
        "00030000 00000002 6100",
        "00030000 ffffffff 6100",
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(body: str) -> None:
    with pytest.raises(PgWireError):
        parse_negotiate_untrusted(bytes.fromhex(body), requested_minor=2)


def test_a_newer_version_than_was_asked_for_is_refused() -> None:
    body = body_of(negotiate_protocol_version(2, ("_pq_.x",)), b"v")
    with pytest.raises(PgWireError, match="without need"):
        parse_negotiate_untrusted(body, requested_minor=0)


def test_direct_tls_is_seen_by_its_first_byte() -> None:
    assert begins_with_tls(b"\x16")
    assert begins_with_tls(b"\x16\x03\x01")
    assert not begins_with_tls(startup_packet({"user": "a"}))
    assert not begins_with_tls(b"")
    assert ALPN_PROTOCOL == "postgresql"
