"""Logins: our server against our client in every combination, and against strangers."""

from __future__ import annotations

import pytest
from pgwire_kit import (
    BINDING,
    INPUTS,
    MOCK_SECRET,
    NONCE,
    OTHER_NONCE,
    SETTINGS,
    converse,
    scram_keys,
    stored_md5,
    stored_scram,
)

from metako.pgwire import authentication as auth
from metako.pgwire import messages as m
from metako.pgwire.keys import Md5Hash, ScramKeys
from metako.pgwire.login_client import (
    LOGIN_BYTES_MAX,
    NOTICES_MAX,
    ConnectStep,
    LoginClient,
    Refusal,
    ServerReady,
    ServerRefused,
)
from metako.pgwire.login_server import (
    PASSWORD_BYTES_MAX,
    Credential,
    LoggedIn,
    LoginInputs,
    LoginRefused,
    LoginServer,
    Md5Login,
    RejectLogin,
    ScramLogin,
    TrustLogin,
)
from metako.pgwire.negotiation import negotiate_protocol_version
from metako.pgwire.scram import MECHANISM, MECHANISM_PLUS, ScramClient
from metako.pgwire.startup import PgWireError, error_response, parse_error_untrusted, startup_packet
from metako.pgwire.verifier import verifier_of

USER = {"user": "anna", "database": "shop"}
SCRAM = ScramLogin(verifier_of(stored_scram("pencil"), user="anna", mock_secret=MOCK_SECRET))
UNKNOWN = ScramLogin(verifier_of(None, user="anna", mock_secret=MOCK_SECRET))
MD5 = stored_md5("pencil", "anna")
KEYS = scram_keys("pencil")
REFUSED = 'password authentication failed for user "anna"'


def server(credential: Credential = SCRAM, binding: bytes | None = None) -> LoginServer:
    return LoginServer("anna", credential, LoginInputs(NONCE, b"salt", binding))


def client(keys: ScramKeys | Md5Hash | None = KEYS, binding: bytes | None = None) -> LoginClient:
    return LoginClient(USER, keys, nonce=OTHER_NONCE, binding=binding)


def error_of(refused: LoginRefused) -> tuple[str, str]:
    """Return code and text of what the client is told."""
    fields = parse_error_untrusted(refused.error[5:])
    assert fields["S"] == "FATAL"
    return fields["C"], fields["M"]


# -- both of ours -----------------------------------------------------------------------------


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 16])
@pytest.mark.parametrize("server_binding", [None, BINDING])
@pytest.mark.parametrize("client_binding", [None, BINDING])
@pytest.mark.parametrize(
    ("credential", "keys"),
    [(SCRAM, KEYS), (Md5Login(MD5), MD5), (TrustLogin(), None), (TrustLogin(), KEYS)],
    ids=["scram", "md5", "trust", "trust-with-keys"],
)
def test_the_right_key_logs_in(
    credential: Credential,
    keys: ScramKeys | Md5Hash | None,
    client_binding: bytes | None,
    server_binding: bytes | None,
    piece_bytes: int,
) -> None:
    ours, theirs = server(credential, server_binding), client(keys, client_binding)
    accepted, ready = converse(ours, theirs, piece_bytes=piece_bytes)
    expected = None if isinstance(credential, TrustLogin) else keys
    assert accepted.outcome == LoggedIn(expected)
    assert ready.outcome == ServerReady({}, 4711, b"key!", 0, ())


@pytest.mark.parametrize(
    ("credential", "keys"),
    [
        (SCRAM, scram_keys("pencils")),
        (UNKNOWN, KEYS),
        (Md5Login(MD5), stored_md5("pencils", "anna")),
        (Md5Login(None), MD5),
    ],
    ids=["wrong", "unknown", "wrong-md5", "unknown-md5"],
)
def test_a_wrong_key_and_an_unknown_role_end_in_the_same_words(
    credential: Credential, keys: ScramKeys | Md5Hash
) -> None:
    refused, answer = converse(server(credential), client(keys))
    assert isinstance(refused.outcome, LoginRefused)
    assert error_of(refused.outcome) == ("28P01", REFUSED)
    assert isinstance(answer.outcome, ServerRefused)
    assert answer.outcome.reason is Refusal.KEY_REFUSED
    assert not answer.outcome.retryable


def test_an_unknown_role_sees_messages_of_the_same_form() -> None:
    def challenge(credential: Credential) -> bytes:
        ours = server(credential)
        ours.start()
        first = b"n,,n=,r=clientnonce"
        return ours.receive_untrusted(auth.sasl_initial_response(MECHANISM, first)).send

    again = challenge(UNKNOWN)
    assert again == challenge(UNKNOWN)
    known = ScramLogin(
        verifier_of(stored_scram("pencil", iterations=4096), user="anna", mock_secret=MOCK_SECRET)
    )
    assert len(again) == len(challenge(known))


def test_who_is_rejected_is_told_why() -> None:
    step = server(RejectLogin("pg_hba.conf rejects connection")).start()
    assert isinstance(step.outcome, LoginRefused)
    assert step.send == b""
    assert error_of(step.outcome) == ("28000", "pg_hba.conf rejects connection")
    assert step.outcome.reason == "28000: pg_hba.conf rejects connection"


@pytest.mark.parametrize(
    ("credential", "keys", "wanted"),
    [
        (SCRAM, None, "SCRAM-SHA-256"),
        (SCRAM, MD5, "SCRAM-SHA-256"),
        (Md5Login(MD5), KEYS, "md5"),
        (Md5Login(MD5), None, "md5"),
    ],
)
def test_a_request_without_a_fitting_key_is_not_answered(
    credential: Credential, keys: ScramKeys | Md5Hash | None, wanted: str
) -> None:
    step = client(keys).receive_untrusted(server(credential).start().send)
    assert step.send == b""
    assert isinstance(step.outcome, ServerRefused)
    assert step.outcome.reason is Refusal.UNANSWERABLE
    assert wanted in step.outcome.fields["M"]
    assert not step.outcome.retryable


# -- the server's side ------------------------------------------------------------------------


def test_plus_is_offered_only_where_it_can_be_done() -> None:
    plain, bound = server().start().send, server(binding=BINDING).start().send
    assert plain == auth.authentication_sasl((MECHANISM,))
    assert bound == auth.authentication_sasl((MECHANISM_PLUS, MECHANISM))


def test_a_client_may_choose_first_and_speak_later() -> None:
    ours, theirs = server(), ScramClient(KEYS, nonce=OTHER_NONCE, binding=None)
    ours.start()
    choice = theirs.first((MECHANISM,))
    assert choice is not None
    step = ours.receive_untrusted(auth.sasl_initial_response(MECHANISM, None))
    assert step.send == auth.authentication_sasl_continue(b"")
    step = ours.receive_untrusted(auth.sasl_response(choice[1]))
    final = theirs.final_untrusted(step.send[9:])
    assert ours.receive_untrusted(auth.sasl_response(final)).outcome == LoggedIn(KEYS)


def test_what_a_client_sends_behind_its_login_is_left_for_its_session() -> None:
    ours = server(Md5Login(MD5))
    ours.start()
    query = m.query(b"select 1")
    step = ours.receive_untrusted(auth.password_message(MD5.answer(b"salt")) + query)
    assert step.outcome == LoggedIn(MD5)
    assert step.send == auth.AUTHENTICATION_OK
    assert ours.take_rest() == query


CHOICE = auth.sasl_initial_response(MECHANISM, b"n,,n=,r=clientnonce")


@pytest.mark.parametrize(
    ("credential", "data", "code", "text"),
    [
        (SCRAM, m.query(b"select 1"), "08P01", "expected SASL response, got message type 81"),
        (Md5Login(MD5), m.SYNC, "08P01", "expected password response, got message type 83"),
        (SCRAM, m.TERMINATE, "08P01", "expected SASL response, got message type 88"),
        (SCRAM, b"p\0\0\4\5", "08P01", "invalid message length"),
        (SCRAM, b"p\xff\xff\xff\xff", "08P01", "invalid message length"),
        (SCRAM, b"p\0\0\0\3", "08P01", "not a message of PostgreSQL"),
        (SCRAM, b"\0\0\0\x08\x04", "08P01", "not a message of PostgreSQL"),
        (Md5Login(MD5), b"p\0\1\0\4", "08P01", "invalid message length"),
        (Md5Login(MD5), auth.password_message(b""), "28P01", "empty password returned by client"),
        (Md5Login(MD5), auth.password_message(b"pencil"), "28P01", REFUSED),
        (Md5Login(MD5), auth.password_message(b"p" * (PASSWORD_BYTES_MAX - 1)), "28P01", REFUSED),
        (SCRAM, auth.password_message(b"pencil"), "08P01", "insufficient data left in message"),
        (
            SCRAM,
            auth.sasl_initial_response(MECHANISM_PLUS, b""),
            "08P01",
            "client selected an invalid SASL authentication mechanism",
        ),
        (SCRAM, auth.sasl_initial_response(MECHANISM, b""), "08P01", "malformed SCRAM message"),
        (SCRAM, CHOICE + CHOICE, "08P01", "malformed SCRAM message"),
        (SCRAM, CHOICE + m.SYNC, "08P01", "expected SASL response, got message type 83"),
    ],
)
def test_a_client_that_says_anything_else_is_refused(
    credential: Credential, data: bytes, code: str, text: str
) -> None:
    ours = server(credential)
    ours.start()
    outcome = ours.receive_untrusted(data).outcome
    assert isinstance(outcome, LoginRefused)
    assert error_of(outcome) == (code, text)


def test_a_downgrade_is_refused_with_a_reason() -> None:
    ours = server(binding=BINDING)
    ours.start()
    message = auth.sasl_initial_response(MECHANISM, b"y,,n=,r=clientnonce")
    outcome = ours.receive_untrusted(message).outcome
    assert isinstance(outcome, LoginRefused)
    assert error_of(outcome) == ("28000", "SCRAM channel binding negotiation error")
    assert "However, this server does" in parse_error_untrusted(outcome.error[5:])["D"]


def test_a_name_cannot_smuggle_fields_into_the_error() -> None:
    ours = LoginServer('x"\0Cevil', Md5Login(None), INPUTS)
    ours.start()
    outcome = ours.receive_untrusted(auth.password_message(b"x")).outcome
    assert isinstance(outcome, LoginRefused)
    assert error_of(outcome)[0] == "28P01"


# -- the client's side ------------------------------------------------------------------------


def test_the_startup_packet_is_as_asked_for() -> None:
    side = LoginClient(USER, None, nonce=NONCE, minor=2)
    assert side.start() == startup_packet(USER, minor=2)


def test_what_the_server_reports_is_kept_in_order() -> None:
    reports = [("server_version", "15.1"), ("TimeZone", "UTC"), ("client_encoding", "UTF8")]
    data = auth.AUTHENTICATION_OK + m.notice_response("01000", "mind the step")
    data += b"".join(m.parameter_status(*report) for report in [("TimeZone", "x"), *reports])
    rest = m.notice_response("01000", "later")
    side = client(None)
    outcome = side.receive_untrusted(data + SETTINGS + rest).outcome
    assert isinstance(outcome, ServerReady)
    assert list(outcome.parameters.items()) == [reports[1], reports[0], reports[2]]
    assert (outcome.process_id, outcome.secret_key, outcome.minor) == (4711, b"key!", 0)
    assert [notice["M"] for notice in outcome.notices] == ["mind the step"]
    assert side.take_rest() == rest
    assert "key!" not in repr(outcome)


def test_long_cancel_keys_are_read_only_if_the_version_has_them() -> None:
    key = m.backend_key_data(m.BackendKey(1, b"k" * 32))
    data = auth.AUTHENTICATION_OK + key + m.ready_for_query(m.TransactionStatus.IDLE)
    side = LoginClient(USER, None, nonce=NONCE, minor=2)
    outcome = side.receive_untrusted(data).outcome
    assert isinstance(outcome, ServerReady)
    assert (outcome.secret_key, outcome.minor) == (b"k" * 32, 2)
    side = LoginClient(USER, None, nonce=NONCE, minor=2)
    with pytest.raises(PgWireError):
        side.receive_untrusted(negotiate_protocol_version(0, ()) + data)


@pytest.mark.parametrize(
    ("code", "reason", "retryable"),
    [
        ("57P03", Refusal.NOT_YET, True),
        ("57P01", Refusal.NOT_YET, True),
        ("57P02", Refusal.NOT_YET, True),
        ("53300", Refusal.FULL, True),
        ("28P01", Refusal.KEY_REFUSED, False),
        ("28000", Refusal.OTHER, False),
        ("3D000", Refusal.OTHER, False),
        ("", Refusal.OTHER, False),
    ],
)
@pytest.mark.parametrize("before", [b"", auth.AUTHENTICATION_OK])
def test_refusals_are_told_apart(
    before: bytes, code: str, reason: Refusal, retryable: bool
) -> None:
    outcome = client().receive_untrusted(before + error_response(code, "no")).outcome
    assert isinstance(outcome, ServerRefused)
    assert (outcome.reason, outcome.sqlstate, outcome.retryable) == (reason, code, retryable)
    assert outcome.fields["M"] == "no"


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (auth.AUTHENTICATION_CLEARTEXT, "the password in clear"),
        (m.message(b"R", b"\0\0\0\x07"), "kind 7"),
        (auth.authentication_sasl(("OAUTHBEARER",)), "a SASL mechanism other than"),
        (auth.authentication_sasl((MECHANISM_PLUS,)), "a SASL mechanism other than"),
    ],
)
def test_what_cannot_be_answered_is_named(request_: bytes, wanted: str) -> None:
    step = client().receive_untrusted(request_)
    assert step.send == b""
    assert isinstance(step.outcome, ServerRefused)
    assert (step.outcome.reason, step.outcome.sqlstate) == (Refusal.UNANSWERABLE, "28000")
    assert wanted in step.outcome.fields["M"]


SASL = auth.authentication_sasl((MECHANISM,))
OK = auth.AUTHENTICATION_OK


@pytest.mark.parametrize(
    "data",
    [
        SASL + OK,  # no proof of the server was seen
        SASL + SASL,
        SASL + auth.authentication_sasl_final(b"v=x"),
        SASL + auth.authentication_sasl_continue(b"r=other,s=c2FsdA==,i=1"),
        SASL + auth.authentication_md5(b"salt"),
        SASL + negotiate_protocol_version(0, ("_pq_.x",)),
        SASL + m.parameter_status("a", "b"),
        auth.authentication_sasl_continue(b"x"),
        auth.authentication_sasl_final(b"x"),
        m.parameter_status("a", "b"),
        SETTINGS,
        OK + OK,
        OK + SASL,
        OK + m.ready_for_query(m.TransactionStatus.IN_TRANSACTION),
        OK + m.command_complete("SELECT 1"),
        OK + m.message(b"K", b"\0\0\0\1abc"),
        negotiate_protocol_version(0, ()),  # 3.0 was asked for
        negotiate_protocol_version(0, ("_pq_.x",)),  # no option was asked for
        b"HTTP/1.1 400 Bad Request",
        b"E\xff\xff\xff\xff",
        m.message(b"E", b"no end"),
    ],
)
def test_a_server_that_breaks_the_protocol_is_left(data: bytes) -> None:
    with pytest.raises(PgWireError):
        client().receive_untrusted(data)


@pytest.mark.parametrize("before", [SASL, OK, negotiate_protocol_version(0, ())])
def test_a_server_names_its_version_once_and_before_all_else(before: bytes) -> None:
    side = LoginClient(USER, KEYS, nonce=NONCE, minor=2)
    side.receive_untrusted(before)
    with pytest.raises(PgWireError, match="does not belong to a login"):
        side.receive_untrusted(negotiate_protocol_version(0, ()))


def scram_until_proof() -> tuple[LoginClient, LoginServer, ConnectStep]:
    ours, theirs = server(), client()
    step = theirs.receive_untrusted(ours.start().send)
    step = theirs.receive_untrusted(ours.receive_untrusted(step.send).send)
    return theirs, ours, step


def test_a_server_that_skips_its_own_proof_is_left() -> None:
    theirs, _, _ = scram_until_proof()
    with pytest.raises(PgWireError):
        theirs.receive_untrusted(OK + SETTINGS)


def test_a_server_that_does_not_know_the_role_is_left() -> None:
    theirs, _, _ = scram_until_proof()
    forged = auth.authentication_sasl_final(b"v=" + b"A" * 43 + b"=")
    with pytest.raises(PgWireError, match="could not prove"):
        theirs.receive_untrusted(forged + OK + SETTINGS)


def test_a_server_cannot_make_us_keep_without_end() -> None:
    side = client(None)
    side.receive_untrusted(OK)
    report = m.parameter_status("name", "x" * 60_000)
    with pytest.raises(PgWireError, match="does not come to the end"):
        side.receive_untrusted(report * (LOGIN_BYTES_MAX // len(report) + 1))


def test_only_so_many_notices_are_kept() -> None:
    notices = m.notice_response("01000", "again") * (NOTICES_MAX + 1)
    outcome = client(None).receive_untrusted(OK + notices + SETTINGS).outcome
    assert isinstance(outcome, ServerReady)
    assert len(outcome.notices) == NOTICES_MAX


def test_md5_answers_as_postgresql_computes_them() -> None:
    # md5(md5("pencil" + "anna") + "salt"), computed by hand with md5sum.
    assert MD5.answer(b"salt") == b"md5dd0550b73f4bab8a13a18c3871952ff7"
    for stored in (
        "",
        "md5",
        "md5" + "0" * 31,
        "md5" + "0" * 33,
        "MD5" + "0" * 32,
        "md5" + "g" * 32,
    ):
        assert Md5Hash.parse(stored) is None
