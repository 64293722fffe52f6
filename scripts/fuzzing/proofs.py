"""What a client may say in SCRAM, in every legal way and many others; and who is told what.

Clients here know the right key as a rule and prove it for whatever they have said, so a server has
nothing to refuse them for but the form, the nonce and the binding. Whether it should is told by
`should_admit`, a second reading of RFC 5802 and of what PostgreSQL makes of it.

Source: RFC 5802, section 7; read_client_first_message and read_client_final_message of
src/backend/libpq/auth-scram.c.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
import random
import re

from fuzzing import roles
from fuzzing.middleman import Middleman, cut_into_messages
from fuzzing.mutation import Broken, mutate, pieces, some_bytes
from metako.pgwire import authentication as auth
from metako.pgwire.keys import ScramKeys
from metako.pgwire.login_client import LoginClient
from metako.pgwire.login_server import (
    Credential,
    LoggedIn,
    LoginInputs,
    LoginRefused,
    LoginServer,
    LoginStep,
    Md5Login,
    ScramLogin,
)
from metako.pgwire.reader import HEADER_BYTES
from metako.pgwire.scram import MESSAGE_BYTES_MAX
from metako.pgwire.startup import PgWireError, SqlState
from metako.pgwire.verifier import mock_verifier

RIGHT, WRONG = (roles.secret_of("anna", password) for password in ("pencil", "pencils"))
BINDING = b"digest of a certificate"
PLAIN, PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"

_FIRST = re.compile(
    rb"(?P<header>(?P<flag>n|y|p=tls-server-end-point),,)"
    rb"(?P<bare>n=[^,]*,r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,]*)*)"
)
_FINAL = re.compile(
    rb"(?P<words>c=(?P<binding>[^,]*),r=(?P<nonce>[^,]*)(?:,[A-Za-oq-z]=[^,]*)*),p=(?P<proof>[^,]*)"
)
_PROOF = re.compile(rb"[A-Za-z0-9+/]{43}=")


class _Verdict(enum.Enum):
    ADMIT = enum.auto()
    WRONG_PROOF = enum.auto()
    MALFORMED = enum.auto()  # or for another login, or bound otherwise than was said


def may_begin(mechanism: str, binding: bytes | None, first: bytes) -> re.Match[bytes] | None:
    """Return the parts of a first message that a server answers with a challenge."""
    parts = _FIRST.fullmatch(first)
    if parts is None or b"\0" in first or len(first) > MESSAGE_BYTES_MAX:
        return None
    legal = {(PLAIN, b"n"): True, (PLAIN, b"y"): binding is None}
    legal[PLUS, b"p=tls-server-end-point"] = binding is not None
    return parts if legal.get((mechanism, parts["flag"])) else None


def should_admit(
    mechanism: str, binding: bytes | None, first: bytes, challenge: bytes, final: bytes
) -> _Verdict:
    """Return what a server makes of a client that was given this challenge."""
    opening, closing = may_begin(mechanism, binding, first), _FINAL.fullmatch(final)
    if opening is None or closing is None or b"\0" in final or len(final) > MESSAGE_BYTES_MAX:
        return _Verdict.MALFORMED
    bound = opening["header"] + (BINDING if mechanism == PLUS else b"")
    nonce = challenge.split(b",")[0].removeprefix(b"r=")
    if (closing["binding"], closing["nonce"]) != (base64.b64encode(bound), nonce):
        return _Verdict.MALFORMED
    if not _PROOF.fullmatch(closing["proof"]):
        return _Verdict.MALFORMED
    whole = b",".join((opening["bare"], challenge, closing["words"]))
    if base64.b64decode(closing["proof"]) != _proof(RIGHT.scram, whole):
        return _Verdict.WRONG_PROOF
    return _Verdict.ADMIT


def _proof(keys: ScramKeys, whole: bytes) -> bytes:
    key = keys.client_key.reveal()
    signature = hmac.digest(hashlib.sha256(key).digest(), whole, "sha256")
    return bytes(a ^ b for a, b in zip(key, signature, strict=True))


def feed(server: LoginServer, data: list[bytes]) -> LoginStep:
    """Give pieces to a server; return its answer as if they had come at once."""
    send = b""
    for piece in data:
        step = server.receive_untrusted(piece)
        send += step.send
        if step.outcome is not None:
            return LoginStep(send, step.outcome)
    return LoginStep(send)


# -- what is said -------------------------------------------------------------------------------


def _mostly(rng: random.Random, usual: bytes, *others: bytes) -> bytes:
    return usual if rng.random() < 0.96 else rng.choice(others)


def _extensions(rng: random.Random) -> bytes:
    if rng.random() < 0.8:
        return b""
    letters = (b"x", b"Z", b"r", b"e", b"m", b"p", b"1", b"", b"\xe9")
    count = rng.choice((1, 1, 2))
    return b"".join(b",%s=%s" % (rng.choice(letters), some_bytes(rng, 4)) for _ in range(count))


def _header(rng: random.Random, mechanism: str, binding: bytes | None) -> bytes:
    flag = b"p=tls-server-end-point" if mechanism == PLUS else b"n"
    if mechanism == PLAIN and binding is None and rng.random() < 0.5:
        flag = b"y"
    flag = _mostly(rng, flag, b"n", b"y", b"p=tls-server-end-point", b"p=tls-unique", b"x", b"")
    return flag + _mostly(rng, b",,", b",", b",a=anna,", b",x,", b"")


def _bare(rng: random.Random) -> bytes:
    name = rng.choice((b"", b"anna", b"a=2Cb", "\xe9".encode(), b"n="))
    nonce = bytes(rng.choices(b"aZ09+/=~!", k=rng.choice((1, 20, 20, 20, 20, 20, 500, 1000))))
    nonce = _mostly(rng, nonce, b"", nonce + b" ", nonce + b"\x7f", b"\n" + nonce)
    return _mostly(rng, b"", b"m=x,", b"x=y,") + b"n=%s,r=%s" % (name, nonce) + _extensions(rng)


def _final(rng: random.Random, header: bytes, bare: bytes, challenge: bytes, bound: bytes) -> bytes:
    """Return a client's last word, with a proof for all that was said."""
    bound = _mostly(rng, bound, b"", b"other", bound + b"x")
    channel = _mostly(rng, base64.b64encode(header + bound), b"biws", b"eSws", b"", b"=")
    nonce = challenge.split(b",")[0].removeprefix(b"r=")
    nonce = _mostly(rng, nonce, nonce[:-1], nonce + b"x", bare[-20:], b"", nonce.lower())
    words = b"c=%s,r=%s%s" % (channel, nonce, _extensions(rng))
    words = mutate(rng, words) if rng.random() < 0.03 else words
    keys = RIGHT.scram if rng.random() < 0.9 else WRONG.scram
    proof = _proof(keys, b",".join((bare, challenge, words)))
    text = base64.b64encode(proof)
    text = _mostly(rng, text, text[:-1], text + b"=", text[:-2] + b"B=", b"\n" + text, text[:40])
    final = words + _mostly(rng, b",p=", b",P=", b"p=", b",", b",p=x,p=") + text
    final += _mostly(rng, b"", b",", b",x=y", b"\0", b"," + b"x" * 900)
    return mutate(rng, final) if rng.random() < 0.05 else final


def fuzz_proof(rng: random.Random) -> str:
    """Let a client that knows the key prove it in every way that there is."""
    binding = rng.choice((None, BINDING))
    mechanism = rng.choice((PLAIN, PLUS)) if binding is not None else PLAIN
    if rng.random() < 0.02:
        mechanism = rng.choice((PLUS, "SCRAM-SHA-1", ""))
    header, bare = _header(rng, mechanism, binding), _bare(rng)
    first = header + bare
    first = mutate(rng, first) if rng.random() < 0.05 else first
    inputs = LoginInputs(rng.randbytes(18), b"salt", binding)
    server = LoginServer("anna", ScramLogin(RIGHT.verifier), inputs)
    server.start()
    if rng.random() < 0.2:
        said = auth.sasl_initial_response(mechanism, None)
        step = feed(server, pieces(rng, said))
        if step != LoginStep(auth.authentication_sasl_continue(b"")):
            raise Broken(f"a client that waits for a challenge is told {step}")
        said = auth.sasl_response(first)
    else:
        said = auth.sasl_initial_response(mechanism, first)
    step = feed(server, pieces(rng, said))
    begins = may_begin(mechanism, binding, first) and len(said) <= HEADER_BYTES + MESSAGE_BYTES_MAX
    if bool(begins) != (step.outcome is None):
        raise Broken(f"{first!r} by {mechanism} is answered by {step}")
    expected = _Verdict.MALFORMED
    if step.outcome is None:
        challenge = step.send[HEADER_BYTES + 4 :]
        final = _final(rng, header, bare, challenge, BINDING if mechanism == PLUS else b"")
        step = feed(server, pieces(rng, auth.sasl_response(final)))
        expected = should_admit(mechanism, binding, first, challenge, final)
    if _verdict(step) is not expected:
        raise Broken(f"{first!r} by {mechanism} ends by {step}, not by {expected}")
    return f"proof {expected.name.lower()}"


def _verdict(step: LoginStep) -> _Verdict:
    match step.outcome:
        case LoggedIn(keys):
            if keys != RIGHT.scram:
                raise Broken(f"{keys} are not the key of the role")
            return _Verdict.ADMIT
        case LoginRefused(_, reason) as refused:
            roles.check_refusal(refused, "anna")
            is_wrong = reason.startswith(SqlState.INVALID_PASSWORD)
            return _Verdict.WRONG_PROOF if is_wrong else _Verdict.MALFORMED
    raise Broken(f"a last word is not answered: {step}")


# -- who does not exist -------------------------------------------------------------------------


def _form(step: LoginStep) -> tuple[list[tuple[bytes, int]], LoggedIn | LoginRefused | None]:
    """Return of what is said the kinds and lengths, and all of a refusal."""
    messages, rest = cut_into_messages(step.send)
    if rest:
        raise Broken(f"{step} is no whole message")
    return [(one[:1], len(one)) for one in messages], step.outcome


def fuzz_stand_in(rng: random.Random) -> str:
    """Say the same to the login of a role, without its key, and to that of one that is none."""
    secret = rng.randbytes(8)
    mock = mock_verifier("anna", secret=secret, iterations=1)
    if mock != mock_verifier("anna", secret=secret, iterations=1):
        raise Broken("who is no role gets another salt each time")
    known: Credential
    unknown: Credential
    if rng.random() < 0.7:
        known, unknown = ScramLogin(RIGHT.verifier), ScramLogin(mock)
    else:
        known, unknown = Md5Login(RIGHT.md5), Md5Login(None)
    inputs = LoginInputs(rng.randbytes(18), b"salt", rng.choice((None, BINDING)))
    servers = [LoginServer("anna", one, inputs) for one in (known, unknown)]
    keys = WRONG.md5 if isinstance(known, Md5Login) else WRONG.scram
    binding = rng.choice((None, BINDING))
    client = LoginClient({"user": "anna"}, keys, nonce=rng.randbytes(18), binding=binding)
    between = Middleman(rng, rate=rng.choice((0.0, 0.5)))
    steps = [server.start() for server in servers]
    while True:
        if _form(steps[0]) != _form(steps[1]):
            raise Broken(f"a role is told {steps[0]}, who is none {steps[1]}")
        if steps[0].outcome is not None:
            return "stand-in refused"
        try:
            said = client.receive_untrusted(steps[0].send).send
        except PgWireError:
            said = b""
        said = between.pass_on(said)
        if not said:
            return "stand-in open"
        cut = pieces(rng, said)
        steps = [feed(server, cut) for server in servers]
