"""Properties of the wire protocol: what is built comes back, and hostile bytes do no harm.

`scripts/fuzz` plays the same and more in hundreds of thousands of cases.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing.parsers import PARSERS
from metako.pgwire import messages as m
from metako.pgwire import startup as pg
from metako.pgwire.authentication import (
    authentication_sasl,
    parse_authentication_untrusted,
    parse_sasl_initial_untrusted,
    sasl_initial_response,
)
from metako.pgwire.cancel import NODE_MAX, SESSION_MAX, WORKER_MAX, CancelKeys, CancelPlace
from metako.pgwire.keys import ClientKey, ScramKeys
from metako.pgwire.login_client import ConnectStep, LoginClient
from metako.pgwire.login_server import LoggedIn, LoginInputs, LoginRefused, LoginServer, ScramLogin
from metako.pgwire.reader import MessageReader
from metako.pgwire.startup import PgWireError
from metako.pgwire.verifier import ScramVerifier, mock_verifier, parse_verifier

pytestmark = pytest.mark.slow  # hundreds of examples each

MANY = settings(derandomize=True, deadline=None, max_examples=300)

STRING = st.binary(max_size=20).filter(lambda value: b"\0" not in value)
TEXT = STRING.map(pg.decode_text)
SALTED = hashlib.pbkdf2_hmac("sha256", b"pencil", b"salt", 1)
KEYS = ScramKeys(
    ClientKey(hmac.digest(SALTED, b"Client Key", "sha256")),
    hmac.digest(SALTED, b"Server Key", "sha256"),
)
VERIFIER = ScramVerifier(1, b"salt", KEYS.client_key.stored_key(), KEYS.server_key)
CANCEL = CancelKeys(b"the secret of all proxies")


def body(message: bytes) -> bytes:
    return message[5:]


@MANY
@given(st.binary(max_size=100))
def test_random_bytes_raise_only_wire_errors(data: bytes) -> None:
    accepted = 0
    for parser in PARSERS:
        try:
            parser.parse(data)
        except PgWireError:
            continue
        accepted += 1
    assert accepted < len(PARSERS)


@MANY
@given(STRING, STRING, st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_every_statement_comes_back(name: bytes, sql: bytes, oids: list[int]) -> None:
    statement = m.Parse(name, sql, tuple(oids))
    assert m.parse_parse_untrusted(body(m.parse(statement))) == statement


@MANY
@given(TEXT, TEXT)
def test_every_setting_comes_back(name: str, value: str) -> None:
    assert m.parse_parameter_status_untrusted(body(m.parameter_status(name, value))) == (
        name,
        value,
    )


@MANY
@given(st.text("ABC-", min_size=1), st.none() | st.binary(max_size=50))
def test_every_choice_of_a_mechanism_comes_back(name: str, data: bytes | None) -> None:
    found = parse_sasl_initial_untrusted(body(sasl_initial_response(name, data)))
    assert (found.mechanism, found.data) == (name, data)
    offer = parse_authentication_untrusted(body(authentication_sasl((name, name))))
    assert offer.mechanisms == (name, name)


@MANY
@given(st.lists(st.binary(max_size=30), max_size=6), st.binary(max_size=8), st.data())
def test_a_stream_is_the_same_however_it_is_cut(
    bodies: list[bytes], rest: bytes, data: st.DataObject
) -> None:
    stream = b"".join(m.message(b"Q", one) for one in bodies) + rest
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    edges = [0, *cuts, len(stream)]
    assert read_all([stream]) == read_all([stream[a:b] for a, b in itertools.pairwise(edges)])


def read_all(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes]], bool, bytes]:
    reader = MessageReader(body_bytes_max=100)
    found, broken = [], False
    for piece in pieces:
        reader.receive(piece)
        try:
            while not broken and (message := reader.next_untrusted()) is not None:
                found.append(tuple(message))
        except PgWireError:
            broken = True
    return found, broken, reader.take_rest()


# -- logins -----------------------------------------------------------------------------------


@MANY
@given(
    st.sampled_from([VERIFIER, mock_verifier("anna", secret=b"s", iterations=1)]),
    st.sampled_from([None, b"binding"]),
    st.integers(0, 5),
    st.data(),
)
def test_a_login_that_was_changed_on_its_way_never_ends_with_another_key(
    verifier: ScramVerifier, binding: bytes | None, changed_turn: int, data: st.DataObject
) -> None:
    """Somebody flips one bit of one message; turns behind the last one mean an untouched login."""
    server = LoginServer("anna", ScramLogin(verifier), LoginInputs(bytes(18), b"salt", binding))
    client = LoginClient({"user": "anna"}, KEYS, nonce=b"n" * 18, binding=binding)
    turn, said, step = 0, server.start().send, None
    try:
        while step is None or step.outcome is None:
            if turn == changed_turn:
                bit = data.draw(st.integers(0, 8 * len(said) - 1))
                raw = bytearray(said)
                raw[bit // 8] ^= 1 << bit % 8
                said = bytes(raw)
            from_client = turn % 2 == 1
            answer = (
                server.receive_untrusted(said) if from_client else client.receive_untrusted(said)
            )
            if not from_client and answer.outcome is not None:
                return  # the client will not answer this
            said, step = answer.send, answer if from_client else step
            turn += 1
            if not said and (step is None or step.outcome is None):
                return  # one side waits for bytes that will not come
    except PgWireError:
        return  # our client has left
    if isinstance(step.outcome, LoggedIn):
        assert not verifier.mock
        assert step.outcome.keys == KEYS
    else:
        assert isinstance(step.outcome, LoginRefused)
        assert verifier.mock or changed_turn < 4


@MANY
@given(st.lists(st.binary(max_size=60), max_size=4), st.booleans())
def test_a_stranger_is_never_logged_in(pieces: list[bytes], framed: bool) -> None:
    server = LoginServer("anna", ScramLogin(VERIFIER), LoginInputs(bytes(18), b"salt"))
    server.start()
    for piece in pieces:
        step = server.receive_untrusted(m.message(b"p", piece) if framed else piece)
        if step.outcome is not None:
            assert isinstance(step.outcome, LoginRefused)
            return
    assert not (framed and pieces), "a whole message got no answer"


@MANY
@given(st.binary(max_size=80), st.booleans())
def test_a_strange_server_raises_only_wire_errors(data: bytes, framed: bool) -> None:
    client = LoginClient({"user": "anna"}, KEYS, nonce=bytes(18))
    try:
        step = client.receive_untrusted(m.message(b"R", data) if framed else data)
    except PgWireError:
        return
    assert isinstance(step, ConnectStep)


@MANY
@given(st.text(max_size=120))
def test_any_text_is_a_verifier_or_none(text: str) -> None:
    for stored in (text, "SCRAM-SHA-256$" + text, f"SCRAM-SHA-256$4096:{text}${text}:{text}"):
        found = parse_verifier(stored)
        assert found is None or len(found.stored_key) == 32


# -- cancel keys ------------------------------------------------------------------------------


@MANY
@given(
    st.integers(1, NODE_MAX),
    st.integers(0, WORKER_MAX),
    st.integers(0, SESSION_MAX),
    st.binary(min_size=8, max_size=8),
    st.booleans(),
)
def test_every_cancel_key_tells_its_place(
    node: int, worker: int, session: int, tag: bytes, long_keys: bool
) -> None:
    place = CancelPlace(node, worker, session)
    key = CANCEL.issue(place, long_keys=long_keys, tag=tag)
    packet = pg.parse_first_packet_untrusted(pg.cancel_packet(key.process_id, key.secret_key))
    found = CANCEL.read_untrusted(packet)
    assert found is not None
    assert (found.place, found.key, found.hops) == (place, key, 0)


@MANY
@given(st.integers(0, 2**32 - 1), st.binary(min_size=4, max_size=80))
def test_a_key_that_nobody_issued_is_not_ours(process_id: int, key: bytes) -> None:
    packet = pg.parse_first_packet_untrusted(pg.cancel_packet(process_id, key))
    assert CANCEL.read_untrusted(packet) is None
