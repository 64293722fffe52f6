"""Every parser of `metako.pgwire`, with bodies that it takes and claims on what it returns."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass

from fuzzing.mutation import (
    BODY_BYTES_MAX,
    Broken,
    pieces,
    some_bytes,
    some_name,
    some_string,
    some_text,
    spoil,
    spoil_packet,
)
from metako.pgwire import authentication as auth
from metako.pgwire import messages as m
from metako.pgwire import startup as pg
from metako.pgwire.binding import channel_binding_data
from metako.pgwire.cancel import TAG_BYTES, CancelKeys, CancelPlace, OwnCancel
from metako.pgwire.negotiation import (
    negotiate,
    negotiate_protocol_version,
    parse_negotiate_untrusted,
)
from metako.pgwire.reader import HEADER_BYTES, MessageReader
from metako.pgwire.startup import PgWireError
from metako.pgwire.verifier import SALT_BYTES_MAX, parse_verifier

CANCEL = CancelKeys(b"a secret of the fuzzer")
CERTIFICATE = base64.b64decode(
    "MIIBFTCBvaADAgECAgEBMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCWxvY2FsaG9zdDAgFw0yMDAxMDEwMDAwMDBa"
    "GA8yMTE5MTIwODAwMDAwMFowFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"
    "tKgmHzO8H8B4iDLwFiKQI94o0WuyjP0kxY5r2QKzuKnquhjuwm7sBHyYikCwOnqu5fmsZUcVTDd4SN9POk4X1DAK"
    "BggqhkjOPQQDAgNHADBEAiBRCa0MXS0XvU6fxPxgtqFjGU5PtzbfOlgExmYv0OY7+AIgcE9BWwgiknfJfE9M8uc+"
    "GWIKrTQH/gyI3BfYAc9ddM0="
)


@dataclass(frozen=True, slots=True)
class Parser:
    """One parser, a body for it, and how what it returns is built again, if that is exact."""

    name: str
    parse: Callable[[bytes], object]
    sample: Callable[[random.Random], bytes]
    rebuild: Callable[..., bytes] | None = None


def _body(message: bytes) -> bytes:
    return message[HEADER_BYTES:]


def _authentication(rng: random.Random) -> bytes:
    names = tuple(some_name(rng) for _ in range(rng.randrange(4)))
    return _body(
        rng.choice(
            (
                auth.AUTHENTICATION_OK,
                auth.AUTHENTICATION_CLEARTEXT,
                auth.authentication_md5(rng.randbytes(4)),
                auth.authentication_sasl(names),
                auth.authentication_sasl_continue(some_bytes(rng)),
                auth.authentication_sasl_final(some_bytes(rng)),
            )
        )
    )


def _rebuild_authentication(request: auth.Authentication) -> bytes | None:
    match request:
        case auth.AuthenticationOk():
            return auth.AUTHENTICATION_OK
        case auth.AuthenticationCleartext():
            return auth.AUTHENTICATION_CLEARTEXT
        case auth.AuthenticationMd5():
            return auth.authentication_md5(request.salt)
        case auth.AuthenticationSasl():
            return auth.authentication_sasl(request.mechanisms)
        case auth.AuthenticationSaslContinue():
            return auth.authentication_sasl_continue(request.data)
        case auth.AuthenticationSaslFinal():
            return auth.authentication_sasl_final(request.data)
    return None


def _parse_authentication_exactly(body: bytes) -> auth.Authentication:
    request = auth.parse_authentication_untrusted(body)
    built = _rebuild_authentication(request)
    if built is not None and _body(built) != body:
        raise Broken(f"{body!r} was read as {request}")
    return request


def _statement(rng: random.Random) -> m.Parse:
    oids = tuple(rng.getrandbits(32) for _ in range(rng.randrange(4)))
    return m.Parse(some_string(rng), some_string(rng), oids)


def _startup(rng: random.Random) -> bytes:
    choice = rng.randrange(4)
    if choice == 0:
        return rng.choice((pg.ssl_request_packet(), pg.gssenc_request_packet()))
    if choice == 1:
        return pg.cancel_packet(rng.getrandbits(32), rng.randbytes(rng.choice((4, 32, 38, 66))))
    names = ("user", "database", "options", "_pq_.x", "replication", some_name(rng))
    parameters = {name: some_text(rng) for name in rng.sample(names, rng.randrange(6))}
    return pg.startup_packet(parameters, minor=rng.choice((0, 1, 2, 3, 9999)))


def _parse_startup(packet: bytes) -> object:
    first = pg.parse_first_packet_untrusted(packet)
    if isinstance(first, pg.Startup):
        negotiate(first)
    elif isinstance(first, pg.CancelRequest):
        CANCEL.read_untrusted(first)
    return first


PARSERS = (
    Parser("authentication", _parse_authentication_exactly, _authentication),
    Parser(
        "password",
        auth.parse_password_untrusted,
        lambda rng: some_string(rng) + b"\0",
        auth.password_message,
    ),
    Parser(
        "sasl-initial",
        auth.parse_sasl_initial_untrusted,
        lambda rng: _body(
            auth.sasl_initial_response(some_name(rng), rng.choice((None, some_bytes(rng))))
        ),
        lambda found: auth.sasl_initial_response(found.mechanism, found.data),
    ),
    Parser(
        "parameter-status",
        m.parse_parameter_status_untrusted,
        lambda rng: _body(m.parameter_status(some_text(rng), some_text(rng))),
        lambda found: m.parameter_status(*found),
    ),
    Parser(
        "backend-key",
        lambda body: m.parse_backend_key_untrusted(body, long_keys=True),
        lambda rng: rng.randbytes(rng.choice((8, 36))),
        m.backend_key_data,
    ),
    Parser(
        "ready",
        m.parse_ready_untrusted,
        lambda rng: rng.choice((b"I", b"T", b"E")),
        m.ready_for_query,
    ),
    Parser(
        "command-complete",
        m.parse_command_complete_untrusted,
        lambda rng: some_string(rng) + b"\0",
        m.command_complete,
    ),
    Parser("query", m.parse_query_untrusted, lambda rng: some_string(rng) + b"\0", m.query),
    Parser("parse", m.parse_parse_untrusted, lambda rng: _body(m.parse(_statement(rng))), m.parse),
    Parser(
        "close",
        m.parse_close_untrusted,
        lambda rng: rng.choice((b"S", b"P")) + some_string(rng) + b"\0",
        m.close,
    ),
    Parser(
        "negotiate",
        lambda body: parse_negotiate_untrusted(body, requested_minor=2),
        lambda rng: _body(
            negotiate_protocol_version(
                rng.choice((0, 1, 2)), tuple(some_text(rng) for _ in range(rng.randrange(3)))
            )
        ),
        lambda found: negotiate_protocol_version(found.minor, found.options),
    ),
    Parser(
        "error",
        pg.parse_error_untrusted,
        lambda rng: _body(pg.error_response("57P03", some_text(rng), detail=some_text(rng))),
    ),
    Parser("message-header", pg.message_header_untrusted, lambda _: b"E\0\0\0\x08"),
    Parser("startup", _parse_startup, _startup),
    Parser("certificate", channel_binding_data, lambda _: CERTIFICATE),
)


def fuzz_parser(rng: random.Random) -> str:
    """Play one body to one parser."""
    parser = rng.choice(PARSERS)
    body = parser.sample(rng)
    # Most changes to a first packet would only break its length.
    body = spoil_packet(rng, body) if parser.name == "startup" else spoil(rng, body)
    try:
        found = parser.parse(body)
    except PgWireError:
        return f"{parser.name} refused"
    if parser.rebuild is not None and _body(parser.rebuild(found)) != body:
        raise Broken(f"{parser.name} read {body!r} as {found!r}, which is built differently")
    return f"{parser.name} accepted"


def _verifier_text(iterations: int, *parts: bytes) -> str:
    salt, stored_key, server_key = (base64.b64encode(part).decode() for part in parts)
    return f"SCRAM-SHA-256${iterations}:{salt}${stored_key}:{server_key}"


def fuzz_verifier(rng: random.Random) -> str:
    """Play one text to the parser of verifiers."""
    iterations, salt_bytes = rng.choice((0, 1, 4096, 2**31)), rng.choice((0, 1, 16, 256, 257))
    parts = rng.randbytes(salt_bytes), rng.randbytes(32), rng.randbytes(32)
    whole = _verifier_text(iterations, *parts)
    text = spoil(rng, whole.encode()).decode("utf-8", "surrogateescape")
    found = parse_verifier(text)
    is_usable = 0 < iterations < 2**31 and 0 < salt_bytes <= SALT_BYTES_MAX
    if text == whole and (found is not None) != is_usable:
        raise Broken(f"{text} is read as {found}")
    if found is None:
        return "verifier refused"
    keys = found.stored_key, found.server_key
    if found.mock or parse_verifier(_verifier_text(found.iterations, found.salt, *keys)) != found:
        raise Broken(f"{text} is read as {found}, which is written differently")
    return "verifier accepted"


def _drain(data: list[bytes]) -> tuple[list[tuple[bytes, bytes]], bool, bytes]:
    """Return the messages of a stream, whether it is broken, and what is left of it."""
    reader = MessageReader(body_bytes_max=BODY_BYTES_MAX)
    found: list[tuple[bytes, bytes]] = []
    broken = False
    for piece in data:
        reader.receive(piece)
        try:
            while not broken and (message := reader.next_untrusted()) is not None:
                found.append(message)
        except PgWireError:
            broken = True
    return found, broken, reader.take_rest()


def fuzz_reader(rng: random.Random) -> str:
    """Cut one stream into messages, at once and in pieces."""
    stream = b"".join(
        m.message(rng.choice((b"Q", b"1", b"S")), some_bytes(rng)) for _ in range(rng.randrange(6))
    )
    stream = spoil(rng, stream)
    whole, cut = _drain([stream]), _drain(pieces(rng, stream))
    if whole != cut and stream:
        raise Broken(f"{stream!r} is {whole} at once and {cut} in pieces")
    consumed = sum(HEADER_BYTES + len(body) for _, body in whole[0])
    if stream[consumed:] != whole[2]:
        raise Broken(f"of {stream!r} {whole[2]!r} is left behind {consumed} bytes")
    return "reader broken" if whole[1] else "reader read"


def fuzz_cancel(rng: random.Random) -> str:
    """Issue a cancel key, pass it on, change it on the way, and look what is made of it."""
    place = CancelPlace(rng.randint(1, 127), rng.randrange(64), rng.randrange(1 << 18))
    key = CANCEL.issue(place, long_keys=rng.random() < 0.5, tag=rng.randbytes(TAG_BYTES))
    cancel = OwnCancel(place, key, rng.randrange(3))
    packet = pg.cancel_packet(key.process_id, key.secret_key)
    if cancel.hops:
        packet = CANCEL.forward_packet(cancel) or b""
    changed = spoil_packet(rng, packet)
    try:
        request = pg.parse_first_packet_untrusted(changed)
    except PgWireError:
        return "cancel refused"
    if not isinstance(request, pg.CancelRequest):
        return "cancel refused"
    found = CANCEL.read_untrusted(request)
    if (found is not None) != (changed == packet):
        raise Broken(f"{packet!r} changed to {changed!r} is {found}")
    return "cancel strange" if found is None else "cancel ours"
