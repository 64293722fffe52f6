"""SCRAM by keys alone: RFC 7677's example, both sides against each other, and what is refused."""

from __future__ import annotations

import base64
import copy
import hashlib
import pickle

import pytest
from cryptography.hazmat.primitives import hashes
from pgwire_kit import (
    BINDING,
    MOCK_SECRET,
    NONCE,
    OTHER_NONCE,
    SALT,
    certificate,
    old_certificate,
    scram_keys,
    stored_scram,
)

from metako.pgwire.binding import channel_binding_data
from metako.pgwire.keys import ClientKey, Md5Hash, ScramKeys
from metako.pgwire.scram import MECHANISM, MECHANISM_PLUS, ScramClient, ScramServer
from metako.pgwire.startup import PgWireError
from metako.pgwire.verifier import (
    ITERATIONS_DEFAULT,
    ITERATIONS_MAX,
    ScramVerifier,
    mock_verifier,
    parse_verifier,
    verifier_of,
)

# RFC 7677, section 3: user "user", password "pencil".
RFC_CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
RFC_SERVER_FIRST = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
RFC_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
RFC_SALT = base64.b64decode(b"W22ZaJ0SNY7soEsUEjb6gQ==")

VERIFIER = parse_verifier(stored_scram("pencil"))
assert VERIFIER is not None


def server(verifier: ScramVerifier = VERIFIER, binding: bytes | None = None) -> ScramServer:
    return ScramServer(verifier, nonce=NONCE, binding=binding)


def client(keys: ScramKeys | None = None, binding: bytes | None = None) -> ScramClient:
    return ScramClient(keys or scram_keys("pencil"), nonce=OTHER_NONCE, binding=binding)


def test_server_side_of_the_example_of_rfc_7677_yields_the_client_key() -> None:
    verifier = parse_verifier(stored_scram("pencil", RFC_SALT, 4096))
    assert verifier is not None
    side = server(verifier)
    side._nonce = RFC_SERVER_NONCE  # not base64, as all nonces that we make
    assert side.first_untrusted(MECHANISM, RFC_CLIENT_FIRST) == RFC_SERVER_FIRST
    proved = side.final_untrusted(RFC_CLIENT_FINAL)
    assert proved is not None
    assert proved.message == RFC_SERVER_FINAL
    assert proved.client_key == scram_keys("pencil", RFC_SALT, 4096).client_key


def test_client_side_of_the_example_of_rfc_7677_needs_no_password() -> None:
    side = client(scram_keys("pencil", RFC_SALT, 4096))
    assert side.first((MECHANISM,)) is not None
    side._nonce, side._first_bare = b"rOprNGfwEbeRWgbNEkqO", RFC_CLIENT_FIRST[3:]
    assert side.final_untrusted(RFC_SERVER_FIRST) == RFC_CLIENT_FINAL
    side.verify_untrusted(RFC_SERVER_FINAL)


@pytest.mark.parametrize("client_binding", [None, BINDING])
@pytest.mark.parametrize("server_binding", [None, BINDING])
def test_both_sides_agree_with_every_binding(
    client_binding: bytes | None, server_binding: bytes | None
) -> None:
    ours, theirs = server(binding=server_binding), client(binding=client_binding)
    choice = theirs.first(ours.mechanisms)
    assert choice is not None
    assert (choice[0] == MECHANISM_PLUS) == (client_binding == server_binding == BINDING)
    proved = ours.final_untrusted(theirs.final_untrusted(ours.first_untrusted(*choice)))
    assert proved is not None
    assert proved.client_key == scram_keys("pencil").client_key
    theirs.verify_untrusted(proved.message)


def test_a_recovered_key_logs_in_elsewhere_and_recovers_again() -> None:
    keys = scram_keys("pencil")
    for _ in range(3):
        ours, theirs = server(), client(keys)
        choice = theirs.first(ours.mechanisms)
        assert choice is not None
        proved = ours.final_untrusted(theirs.final_untrusted(ours.first_untrusted(*choice)))
        assert proved is not None
        keys = ScramKeys(proved.client_key, VERIFIER.server_key)


@pytest.mark.parametrize(
    "keys",
    [scram_keys("pencils"), scram_keys("pencil", b"x" * 16), scram_keys("pencil", SALT, 5)],
    ids=["password", "salt", "iterations"],
)
def test_a_wrong_key_is_no_exception_and_yields_nothing(keys: ScramKeys) -> None:
    ours, theirs = server(), client(keys)
    choice = theirs.first(ours.mechanisms)
    assert choice is not None
    assert ours.final_untrusted(theirs.final_untrusted(ours.first_untrusted(*choice))) is None


def test_a_mock_is_refused_even_with_its_own_key() -> None:
    real = parse_verifier(stored_scram("pencil"))
    assert real is not None
    mock = ScramVerifier(real.iterations, real.salt, real.stored_key, real.server_key, mock=True)
    ours, theirs = server(mock), client()
    choice = theirs.first(ours.mechanisms)
    assert choice is not None
    assert ours.final_untrusted(theirs.final_untrusted(ours.first_untrusted(*choice))) is None


def test_a_changed_offer_of_channel_binding_is_noticed() -> None:
    ours, theirs = server(binding=BINDING), client(binding=BINDING)
    choice = theirs.first((MECHANISM,))  # somebody between has cut PLUS out
    assert choice is not None
    assert choice[1].startswith(b"y,,")
    with pytest.raises(PgWireError) as raised:
        ours.first_untrusted(*choice)
    assert raised.value.sqlstate == "28000"
    assert "thinks the server does not" in raised.value.detail


def test_a_login_bound_to_another_certificate_is_refused() -> None:
    ours, theirs = server(binding=BINDING), client(binding=b"of somebody between")
    choice = theirs.first(ours.mechanisms)
    assert choice is not None
    final = theirs.final_untrusted(ours.first_untrusted(*choice))
    with pytest.raises(PgWireError, match="SCRAM channel binding check failed") as raised:
        ours.final_untrusted(final)
    assert raised.value.sqlstate == "28000"


GOOD_BARE = b"n=,r=clientnonce"


@pytest.mark.parametrize(
    ("mechanism", "data", "sqlstate"),
    [
        (MECHANISM, b"", "08P01"),
        (MECHANISM, b"n", "08P01"),
        (MECHANISM, b"n,", "08P01"),
        (MECHANISM, b"n,,", "08P01"),
        (MECHANISM, b"n,,n=", "08P01"),
        (MECHANISM, b"n,,n=,r=", "08P01"),
        (MECHANISM, b"n,,n=,r=a\x7fb", "08P01"),
        (MECHANISM, b"n,,n=,r=\xc3\xa4", "08P01"),
        (MECHANISM, b"n,,r=x,n=", "08P01"),
        (MECHANISM, b"n,,n=,r=x,y", "08P01"),
        (MECHANISM, b"n,,n=,r=x\0", "08P01"),
        (MECHANISM, b"n,,m=ext,n=,r=x", "0A000"),
        (MECHANISM, b"n,a=other," + GOOD_BARE, "0A000"),
        (MECHANISM, b"n,b=other," + GOOD_BARE, "08P01"),
        (MECHANISM, b"z,," + GOOD_BARE, "08P01"),
        (MECHANISM, b"p=tls-server-end-point,," + GOOD_BARE, "08P01"),
        (MECHANISM_PLUS, b"n,," + GOOD_BARE, "08P01"),
        (MECHANISM_PLUS, b"y,," + GOOD_BARE, "08P01"),
        (MECHANISM_PLUS, b"p=tls-unique,," + GOOD_BARE, "08P01"),
        ("SCRAM-SHA-1", b"n,," + GOOD_BARE, "08P01"),
        (MECHANISM, b"n,,n=,r=" + b"x" * 1024, "08P01"),
    ],
)
def test_an_unusable_client_first_message_is_refused(
    mechanism: str, data: bytes, sqlstate: str
) -> None:
    with pytest.raises(PgWireError) as raised:
        server(binding=BINDING).first_untrusted(mechanism, data)
    assert raised.value.sqlstate == sqlstate


def test_plus_is_refused_where_it_was_not_offered() -> None:
    with pytest.raises(PgWireError, match="invalid SASL authentication mechanism"):
        server().first_untrusted(MECHANISM_PLUS, b"p=tls-server-end-point,," + GOOD_BARE)


def test_unknown_extensions_behind_the_nonce_are_passed_over() -> None:
    answer = server().first_untrusted(MECHANISM, b"n,," + GOOD_BARE + b",x=1,y=2")
    assert answer.startswith(b"r=clientnonce")


WHOLE = b"clientnonce" + base64.b64encode(NONCE)
PROOF = base64.b64encode(bytes(32))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"c=biws",
        b"c=biws,r=" + WHOLE,
        b"c=biws,p=" + PROOF,
        b"c=biws,r=" + WHOLE + b",p=",
        b"c=biws,r=" + WHOLE + b",p=" + PROOF[:-4],
        b"c=biws,r=" + WHOLE + b",p=" + PROOF + PROOF,
        b"c=biws,r=" + WHOLE + b",p=!!!!" + PROOF[4:],
        b"c=biws,r=" + WHOLE + b",p=" + PROOF + b",x=1",
        b"c=biws,r=" + WHOLE + b",p=" + PROOF + b",p=" + PROOF,
        b"c=eSws,r=" + WHOLE + b",p=" + PROOF,
        b"c=,r=" + WHOLE + b",p=" + PROOF,
        b"c=biws,r=clientnonce,p=" + PROOF,
        b"c=biws,r=" + WHOLE[:-1] + b",p=" + PROOF,
        b"c=biws,r=" + WHOLE + b"x,p=" + PROOF,
        b"c=biws,r=" + WHOLE + b",p=" + PROOF + b"\0",
        b"c=biws,r=" + WHOLE + b",x=" + b"x" * 1024 + b",p=" + PROOF,
    ],
)
def test_an_unusable_client_final_message_is_refused(data: bytes) -> None:
    side = server()
    side.first_untrusted(MECHANISM, b"n,," + GOOD_BARE)
    with pytest.raises(PgWireError) as raised:
        side.final_untrusted(data)
    assert raised.value.sqlstate == "08P01"


OWN = base64.b64encode(OTHER_NONCE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"r=" + OWN + b",s=c2FsdA==,i=4096",  # the server added nothing
        b"r=other" + OWN + b",s=c2FsdA==,i=4096",
        b"r=" + OWN + b"x,s=,i=4096",
        b"r=" + OWN + b"x,s=c2FsdA=,i=4096",
        b"r=" + OWN + b"x,s=c2FsdA==",
        b"r=" + OWN + b"x,s=c2FsdA==,i=0",
        b"r=" + OWN + b"x,s=c2FsdA==,i=-1",
        b"r=" + OWN + b"x,s=c2FsdA==,i=4_096",
        b"r=" + OWN + b"x,s=c2FsdA==,i=2147483648",
        b"r=" + OWN + b"x,s=c2FsdA==,i=" + b"9" * 900,
        b"r=" + OWN + b"x,s=c2FsdA==,i=4096,x=1",
        b"m=x,r=" + OWN + b"x,s=c2FsdA==,i=4096",
        b"r=" + OWN + b"x" * 1024 + b",s=c2FsdA==,i=4096",
        b"r=" + OWN + b"\x01,s=c2FsdA==,i=4096",
    ],
)
def test_an_unusable_server_first_message_is_refused(data: bytes) -> None:
    side = client()
    side.first((MECHANISM,))
    with pytest.raises(PgWireError):
        side.final_untrusted(data)


@pytest.mark.parametrize(
    "data", [b"", b"e=other-error", b"v=", b"v=" + PROOF, b"v=" + PROOF + b",x=1", b"x=" + PROOF]
)
def test_a_server_that_does_not_know_the_verifier_is_noticed(data: bytes) -> None:
    side = client()
    side.first((MECHANISM,))
    side.final_untrusted(b"r=" + OWN + b"x,s=c2FsdA==,i=4096")
    with pytest.raises(PgWireError):
        side.verify_untrusted(data)


def test_a_mechanism_that_is_not_known_is_not_chosen() -> None:
    assert client().first(("OAUTHBEARER", MECHANISM_PLUS)) is None


# -- verifiers --------------------------------------------------------------------------------

GOOD = stored_scram("pencil", iterations=4096)
KEY64 = base64.b64encode(bytes(32)).decode()


def test_a_verifier_of_postgresql_is_read() -> None:
    keys = scram_keys("pencil", iterations=4096)
    assert parse_verifier(GOOD) == ScramVerifier(
        4096, SALT, keys.client_key.stored_key(), keys.server_key
    )
    largest = parse_verifier(f"SCRAM-SHA-256${ITERATIONS_MAX}:c2FsdA==${KEY64}:{KEY64}")
    assert largest is not None
    assert largest.iterations == ITERATIONS_MAX


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "md5" + "0" * 32,
        "secret",
        GOOD[:-1],
        GOOD + "=",
        GOOD + "\n",
        " " + GOOD,
        GOOD.lower(),
        GOOD.replace("$", ":"),
        GOOD.replace("SCRAM-SHA-256$", "SCRAM-SHA-256$SCRAM-SHA-256$"),
        f"SCRAM-SHA-256$0:c2FsdA==${KEY64}:{KEY64}",
        f"SCRAM-SHA-256$-1:c2FsdA==${KEY64}:{KEY64}",
        f"SCRAM-SHA-256$+1:c2FsdA==${KEY64}:{KEY64}",
        f"SCRAM-SHA-256$1_0:c2FsdA==${KEY64}:{KEY64}",
        f"SCRAM-SHA-256$٣:c2FsdA==${KEY64}:{KEY64}",
        f"SCRAM-SHA-256$2147483648:c2FsdA==${KEY64}:{KEY64}",
        f"SCRAM-SHA-256${'9' * 500}:c2FsdA==${KEY64}:{KEY64}",
        f"SCRAM-SHA-256$4096:${KEY64}:{KEY64}",
        f"SCRAM-SHA-256$4096:{'c2Fs' * 86}${KEY64}:{KEY64}",
        f"SCRAM-SHA-256$4096:{'c2Fs' * 100_000}${KEY64}:{KEY64}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY64}:{KEY64}:{KEY64}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY64[:-4]}:{KEY64}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY64}",
        f"SCRAM-SHA-256$4096:c2 FsdA==${KEY64}:{KEY64}",
    ],
)
def test_what_is_no_verifier_is_none(stored: str | None) -> None:
    assert parse_verifier(stored) is None


@pytest.mark.parametrize("stored", [None, "md5" + "0" * 32, "SCRAM-SHA-256$broken"])
def test_who_has_no_verifier_gets_the_same_mock_again(stored: str | None) -> None:
    mock = verifier_of(stored, user="anna", mock_secret=MOCK_SECRET)
    assert mock == verifier_of(None, user="anna", mock_secret=MOCK_SECRET)
    assert mock.mock
    assert (mock.iterations, len(mock.salt)) == (ITERATIONS_DEFAULT, 16)
    assert mock.salt != verifier_of(None, user="anne", mock_secret=MOCK_SECRET).salt
    assert mock.salt != verifier_of(None, user="anna", mock_secret=MOCK_SECRET + b"!").salt
    assert mock_verifier("anna", secret=MOCK_SECRET, iterations=9).iterations == 9


def test_who_has_a_verifier_gets_no_mock() -> None:
    assert verifier_of(GOOD, user="anna", mock_secret=MOCK_SECRET) == parse_verifier(GOOD)


# -- keys -------------------------------------------------------------------------------------


def test_no_key_shows_itself() -> None:
    keys = scram_keys("pencil")
    verifier = parse_verifier(GOOD)
    md5 = Md5Hash.parse("md5" + "0123456789abcdef" * 2)
    assert verifier is not None
    shown = f"{keys} {keys!r} {keys.client_key!s} {verifier!r} {md5} {[md5]}"
    for secret in (keys.client_key.reveal(), keys.server_key, verifier.stored_key):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
    assert "0123456789abcdef" not in shown
    assert "<ClientKey>" in shown


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps, hash])
def test_a_key_is_neither_copied_nor_pickled_nor_hashed(take) -> None:
    with pytest.raises(TypeError):
        take(ClientKey(bytes(32)))


def test_a_wiped_key_logs_nobody_in() -> None:
    keys = scram_keys("pencil")
    keys.client_key.wipe()
    assert keys.client_key.reveal() == bytes(32)
    ours, theirs = server(), client(keys)
    choice = theirs.first(ours.mechanisms)
    assert choice is not None
    assert ours.final_untrusted(theirs.final_untrusted(ours.first_untrusted(*choice))) is None


def test_keys_of_other_kinds_are_not_equal() -> None:
    assert ClientKey(bytes(32)) == ClientKey(bytes(32))
    assert ClientKey(bytes(32)) != ClientKey(bytes(31) + b"x")
    assert ClientKey(bytes(32)) != Md5Hash(bytes(32))
    with pytest.raises(ValueError, match="32 bytes"):
        ClientKey(bytes(31))


def test_short_nonces_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="nonce"):
        ScramServer(VERIFIER, nonce=b"short", binding=None)
    with pytest.raises(ValueError, match="nonce"):
        ScramClient(scram_keys("pencil"), nonce=b"short", binding=None)


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [(hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512")],
)
def test_a_binding_has_the_digest_of_the_signature(algorithm, digest: str) -> None:
    der = certificate(algorithm)
    assert channel_binding_data(der) == hashlib.new(digest, der).digest()


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_a_binding_never_has_a_digest_that_is_broken(digest: str) -> None:
    der = old_certificate(digest)
    assert channel_binding_data(der) == hashlib.sha256(der).digest()


@pytest.mark.parametrize("der", [b"", b"no certificate", certificate(None), bytes(1 << 17)])
def test_there_is_no_binding_to_what_has_no_digest(der: bytes) -> None:
    assert channel_binding_data(der) is None
