"""Logins between our two sides while somebody changes what is said, and strangers to either."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random

from fuzzing.mutation import Broken, pieces, some_name, some_string, spoil, spoil_bodies
from metako.pgwire import authentication as auth
from metako.pgwire import messages as m
from metako.pgwire.keys import ClientKey, Md5Hash, ScramKeys
from metako.pgwire.login_client import LoginClient, ServerReady
from metako.pgwire.login_server import (
    Credential,
    LoggedIn,
    LoginInputs,
    LoginRefused,
    LoginServer,
    Md5Login,
    ScramLogin,
    TrustLogin,
)
from metako.pgwire.startup import PgWireError
from metako.pgwire.verifier import ScramVerifier, mock_verifier

TURNS_MAX = 12  # of a dialogue; a login has five

_SALT = b"sodium chloride!"
_SALTED = hashlib.pbkdf2_hmac("sha256", b"pencil", _SALT, 1)
KEYS = ScramKeys(
    ClientKey(hmac.digest(_SALTED, b"Client Key", "sha256")),
    hmac.digest(_SALTED, b"Server Key", "sha256"),
)
VERIFIER = ScramVerifier(1, _SALT, KEYS.client_key.stored_key(), KEYS.server_key)
MD5 = Md5Hash(b"md5" + hashlib.md5(b"pencilanna", usedforsecurity=False).hexdigest().encode())

CREDENTIALS: tuple[tuple[Credential, ScramKeys | Md5Hash | None], ...] = (
    (ScramLogin(VERIFIER), KEYS),
    (ScramLogin(mock_verifier("anna", secret=b"fuzz", iterations=1)), KEYS),
    (Md5Login(MD5), MD5),
    (Md5Login(None), MD5),
    (TrustLogin(), None),
)
SETTINGS = m.parameter_status("TimeZone", "UTC") + m.notice_response("01000", "hello")
SETTINGS += m.backend_key_data(m.BackendKey(1, b"1234"))
SETTINGS += m.ready_for_query(m.TransactionStatus.IDLE)


def fuzz_login(rng: random.Random) -> str:
    """Let our client log in to our server while somebody between them changes what is said."""
    credential, keys = rng.choice(CREDENTIALS)
    bindings = [rng.choice((None, b"binding", b"binding", b"other")) for _ in range(2)]
    server = LoginServer("anna", credential, LoginInputs(rng.randbytes(18), b"salt", bindings[0]))
    client = LoginClient({"user": "anna"}, keys, nonce=rng.randbytes(18), binding=bindings[1])
    client.start()
    step = server.start()
    to_client = step.send
    rate = rng.choice((0.0, 0.3, 1.0))  # how often a message is changed
    for _ in range(TURNS_MAX):
        if isinstance(step.outcome, LoggedIn):
            _check_admission(credential, keys, step.outcome)
            to_client += SETTINGS
        elif isinstance(step.outcome, LoginRefused):
            to_client += step.outcome.error
        to_server, end = _play_client(client, _spoil_at(rng, rate, to_client), rng)
        if end is not None or step.outcome is not None:
            ours = "open" if step.outcome is None else type(step.outcome).__name__
            return f"login {ours}/{end or 'open'}"
        to_client = b""
        for piece in pieces(rng, _spoil_at(rng, rate, to_server)):
            step = server.receive_untrusted(piece)
            to_client += step.send
            if step.outcome is not None:
                break
    return "login without end"


def _spoil_at(rng: random.Random, rate: float, data: bytes) -> bytes:
    if rng.random() >= rate:
        return data
    # Most changes of any byte would only break the length of a message.
    return spoil_bodies(rng, data) if rng.random() < 0.7 else spoil(rng, data)


def _play_client(client: LoginClient, data: bytes, rng: random.Random) -> tuple[bytes, str | None]:
    """Give bytes to the client; return its answer, and how its login ended if it did."""
    send = b""
    try:
        for piece in pieces(rng, data):
            step = client.receive_untrusted(piece)
            send += step.send
            if step.outcome is not None:
                return send, type(step.outcome).__name__
    except PgWireError:
        return send, "PgWireError"
    return send, None


def _check_admission(
    credential: Credential, keys: ScramKeys | Md5Hash | None, outcome: LoggedIn
) -> None:
    if isinstance(credential, ScramLogin) and credential.verifier.mock:
        raise Broken("somebody was logged in with a mock verifier")
    if credential == Md5Login(None):
        raise Broken("somebody was logged in without a stored password")
    if outcome.keys != keys:
        raise Broken("somebody was logged in with other keys than the role's")


def fuzz_stranger(rng: random.Random) -> str:
    """Let a stranger who knows no key talk to both sides; only trust may let it in."""
    words = [
        auth.AUTHENTICATION_OK,
        auth.authentication_sasl(("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")),
        auth.authentication_sasl_continue(b"r=" + some_string(rng) + b",s=c2FsdA==,i=1"),
        auth.authentication_sasl_final(b"v=" + base64.b64encode(rng.randbytes(32))),
        auth.authentication_md5(b"salt"),
        SETTINGS,
        auth.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=" + some_name(rng).encode()),
        auth.sasl_response(b"c=biws,r=x,p=" + base64.b64encode(rng.randbytes(32))),
        auth.password_message(b"md5" + rng.randbytes(16).hex().encode()),
    ]
    data = _spoil_at(rng, 0.5, b"".join(rng.choices(words, k=rng.randint(1, 4))))
    credential, keys = rng.choice(CREDENTIALS[:-1])
    if rng.random() < 0.5:
        client = LoginClient({"user": "anna"}, keys, nonce=rng.randbytes(18), binding=None)
        send, end = _play_client(client, data, rng)
        if end == ServerReady.__name__ and send.startswith(b"pSCRAM"):
            raise Broken("a server without proof was believed")
        return f"strange server {end or 'open'}"
    server = LoginServer("anna", credential, LoginInputs(rng.randbytes(18), b"salt"))
    server.start()
    for piece in pieces(rng, data):
        step = server.receive_untrusted(piece)
        if isinstance(step.outcome, LoggedIn):
            raise Broken("a stranger was logged in")
        if step.outcome is not None:
            return "strange client refused"
    return "strange client open"
