"""Logins between our two sides with somebody between them, and strangers to either.

What is claimed of a login, whatever was done to it on its way: who is let in has the key that is
stored, and proved it for this very login by a proof that arrived as it was made; who believes a
server that it spoke SCRAM with was let in by it; a login that both sides can bind is bound; what is
kept while it goes on is bounded. A login that nobody disturbs ends as keys and bindings say.
"""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, field

from fuzzing import roles
from fuzzing.middleman import Middleman, cut_into_messages
from fuzzing.mutation import (
    Broken,
    pieces,
    some_name,
    some_string,
    spoil,
    spoil_bodies,
    spoil_packet,
)
from metako.pgwire import authentication as auth
from metako.pgwire import messages as m
from metako.pgwire import startup as pg
from metako.pgwire.keys import Md5Hash, ScramKeys
from metako.pgwire.login_client import (
    LOGIN_BYTES_MAX,
    NOTICES_MAX,
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
from metako.pgwire.negotiation import MINOR_LONG_KEYS, MINOR_PLAIN, Negotiation, negotiate
from metako.pgwire.reader import HEADER_BYTES
from metako.pgwire.scram import MESSAGE_BYTES_MAX
from metako.pgwire.startup import FIRST_MESSAGE_BYTES_MAX, PgWireError
from metako.pgwire.verifier import mock_verifier

TURNS_MAX = 12  # of a dialogue; a login has five
BINDINGS = (None, None, b"binding", b"binding", b"other")
SASL_FINAL = (12).to_bytes(4, "big")
NOTICES = m.notice_response("01000", "x" * 60_000)

RIGHT, WRONG = (roles.secret_of("anna", password) for password in ("pencil", "pencils"))
MOCK = mock_verifier("anna", secret=b"fuzz", iterations=1)
CREDENTIALS: tuple[Credential, ...] = (
    *(ScramLogin(RIGHT.verifier), ScramLogin(RIGHT.verifier), ScramLogin(MOCK)),
    *(Md5Login(RIGHT.md5), Md5Login(None), TrustLogin(), RejectLogin("pg_hba.conf rejects you")),
)


@dataclass
class Dialogue:
    """A client that logs in to a server, and all that passes between them."""

    rng: random.Random
    credential: Credential
    keys: roles.Keys  # of the client
    bindings: tuple[bytes | None, bytes | None]  # of the server, and of the client
    between: Middleman
    settings: roles.Settings = field(init=False)
    spoken: Negotiation = field(init=False)
    salt: bytes = b""  # that an answer by md5 has to have
    said: bytes = b""  # by the client, behind its startup packet
    heard: bytes = b""  # by the server
    answered: bytes = b""  # by the server
    understood: bytes = b""  # by the client
    user: str = ""  # as the server has heard it
    rest: bytes = b""  # what the server leaves to what is behind the login
    verdict: LoggedIn | LoginRefused | None = None
    end: ServerReady | ServerRefused | PgWireError | None = None  # of the client

    def play(self) -> None:
        """Let the client log in until it or the server is through, or nothing is said any more."""
        rng = self.rng
        minor = rng.choice((MINOR_PLAIN, MINOR_LONG_KEYS))
        parameters = {"user": "anna", rng.choice(("_pq_.x", "database")): some_name(rng)}
        client = LoginClient(
            parameters, self.keys, nonce=rng.randbytes(18), binding=self.bindings[1], minor=minor
        )
        first = self._greet(client)
        if first is None:
            return
        self.salt = rng.randbytes(4)
        inputs = LoginInputs(rng.randbytes(18), self.salt, self.bindings[0])
        self.user = first.parameter("user") or ""
        server = LoginServer(self.user, self.credential, inputs)
        step = server.start()
        to_client, self.verdict = self.spoken.message + step.send, step.outcome
        self.answered = step.send
        for _ in range(TURNS_MAX):
            match self.verdict:
                case LoggedIn():
                    to_client += self._say_settings()
                case LoginRefused(error):
                    to_client += error
            to_server = self.play_client(client, self.between.pass_on(to_client))
            if self.verdict is not None or self.end is not None or not to_server:
                return
            to_client = self.play_server(server, self.between.pass_on(to_server))
        raise Broken(f"a login does not end: {self}")

    def _greet(self, client: LoginClient) -> pg.Startup | None:
        """Pass the client's first packet on; return it as it arrives, None if it is no use."""
        packet = client.start()
        arrived = packet
        if self.between.meddles and self.rng.random() < 0.1:
            arrived = spoil_packet(self.rng, packet)
            self.between.changed = self.between.changed or arrived != packet
        try:
            first = pg.parse_first_packet_untrusted(arrived)
        except PgWireError as error:
            self.end = error
            return None
        if not isinstance(first, pg.Startup):
            return None
        self.spoken = negotiate(first, newest_minor=self.rng.choice((MINOR_PLAIN, MINOR_LONG_KEYS)))
        self.settings = roles.some_settings(self.rng, minor=self.spoken.minor)
        return first

    def _say_settings(self) -> bytes:
        flood = self.rng.choice((5, 20)) if self.rng.random() < 0.002 else 0
        self.between.changed = self.between.changed or flood > 0
        return NOTICES * flood + self.settings.message()

    def play_client(self, client: LoginClient, data: bytes) -> bytes:
        send = b""
        try:
            for piece in pieces(self.rng, data):
                self.understood += piece
                step = client.receive_untrusted(piece)
                send += step.send
                self.end = step.outcome
                if self.end is not None:
                    break
                if client._reader.buffered_bytes > HEADER_BYTES + FIRST_MESSAGE_BYTES_MAX:
                    raise Broken(f"the client keeps too much: {self}")
        except PgWireError as error:
            self.end = error
        self.said += send
        return send

    def play_server(self, server: LoginServer, data: bytes) -> bytes:
        send = b""
        most = PASSWORD_BYTES_MAX if isinstance(self.credential, Md5Login) else MESSAGE_BYTES_MAX
        for piece in pieces(self.rng, data):
            self.heard += piece
            step = server.receive_untrusted(piece)
            send += step.send
            self.verdict = step.outcome
            if self.verdict is not None:
                self.rest = server.take_rest()
                break
            if server._reader.buffered_bytes > HEADER_BYTES + most:
                raise Broken(f"the server keeps too much: {self}")
        self.answered += send
        return send


# -- claims -------------------------------------------------------------------------------------


def stored_key(credential: Credential) -> ScramKeys | Md5Hash | None:
    """Return the key of whom a credential lets in, None if there is no such key."""
    match credential:
        case ScramLogin(verifier):
            return None if verifier.mock else RIGHT.scram
        case Md5Login(stored):
            return stored
    return None


def check_admission(login: Dialogue, admitted: LoggedIn) -> None:
    """Raise Broken unless whoever was let in has proved to have the key, and for this login."""
    if isinstance(login.credential, TrustLogin):
        if admitted.keys is not None:
            raise Broken(f"trust yields keys: {login}")
        return
    key = stored_key(login.credential)
    if key is None or admitted.keys != key or login.keys != key:
        raise Broken(f"somebody was let in who has not the role's key: {login}")
    said, heard = (cut_into_messages(stream)[0] for stream in (login.said, login.heard))
    if isinstance(key, Md5Hash):
        is_right, used = heard[0] == auth.password_message(key.answer(login.salt)), 1
    else:
        _check_bound(login)
        is_right, used = _scram_words(heard) == _scram_words(said), 3 - _is_first_said(heard)
    if not is_right:
        raise Broken(f"somebody was let in by a proof that was changed: {login}")
    if login.rest != login.heard[sum(map(len, heard[:used])) :]:
        raise Broken(f"what is behind the login is not what followed it: {login}")


def _is_first_said(messages: list[bytes]) -> bool:
    """Return whether the client said something along with its choice of a mechanism."""
    return auth.parse_sasl_initial_untrusted(messages[0][HEADER_BYTES:]).data is not None


def _scram_words(messages: list[bytes]) -> tuple[bytes | None, bytes, bytes]:
    """Return the client's two messages of SCRAM; of the second one the proof is decoded."""
    first = auth.parse_sasl_initial_untrusted(messages[0][HEADER_BYTES:]).data
    if first is None:
        first, *messages = messages[1][HEADER_BYTES:], *messages[1:]
    words, _, proof = messages[1][HEADER_BYTES:].rpartition(b",p=")
    # Six bits are left over in the last letters, which nobody looks at.
    return first, words, base64.b64decode(proof, validate=True)


def _check_bound(login: Dialogue) -> None:
    server, client = login.bindings
    if server is not None and client is not None:
        bound = b"p=tls-server-end-point,,n=" in login.heard
        if server != client or not bound:
            raise Broken(f"a login that both can bind is not bound: {login}")


def _signature(stream: bytes) -> bytes | None:
    """Return by what a server proves that it has the verifier, None if it does not."""
    for one in cut_into_messages(stream)[0]:
        code, data = one[HEADER_BYTES : HEADER_BYTES + 4], one[HEADER_BYTES + 4 :]
        if one[:1] == b"R" and code == SASL_FINAL:
            return base64.b64decode(data.removeprefix(b"v="), validate=True)
    return None


def check_client(login: Dialogue) -> None:
    """Raise Broken if the client believes what was not proved."""
    match login.end:
        case ServerReady() as ready:
            spoke_scram = login.said.startswith(b"p") and b"SCRAM-SHA-256" in login.said
            signature = _signature(login.understood)
            if spoke_scram and (signature is None or signature != _signature(login.answered)):
                raise Broken(f"a server without proof was believed: {login}")
            if len(ready.notices) > NOTICES_MAX:
                raise Broken(f"the client keeps too many notices: {login}")
            kept = [text for pair in ready.parameters.items() for text in pair]
            kept += [text for notice in ready.notices for text in notice.values()]
            if sum(map(len, kept)) > LOGIN_BYTES_MAX:
                raise Broken(f"the client keeps too much: {login}")
            if len(ready.secret_key) > pg.CANCEL_KEY_BYTES_MAX:
                raise Broken(f"the client keeps too long a key: {login}")
        case ServerRefused() as refused:
            roles.check_refused_by_server(refused)
        case PgWireError() if not login.between.changed:
            raise Broken(f"the client does not understand an undisturbed login: {login}")


def check_undisturbed(login: Dialogue) -> None:
    """Raise Broken if a login that nobody disturbs ends otherwise than keys and bindings say."""
    expected: type | Refusal
    match login.credential, login.keys:
        case TrustLogin(), _:
            expected = ServerReady
        case RejectLogin(), _:
            expected = Refusal.OTHER
        case ScramLogin(), ScramKeys():
            is_bound = None not in login.bindings
            right = login.keys == stored_key(login.credential)
            expected = ServerReady if right else Refusal.KEY_REFUSED
            if is_bound and login.bindings[0] != login.bindings[1]:
                expected = Refusal.OTHER
        case Md5Login(), Md5Hash():
            right = login.keys == stored_key(login.credential)
            expected = ServerReady if right else Refusal.KEY_REFUSED
        case _:
            expected = Refusal.UNANSWERABLE
    match login.end:
        case ServerReady() as ready:
            ended: object = ServerReady
            settings = login.settings
            told = roles.Settings(
                ready.parameters,
                m.BackendKey(ready.process_id, ready.secret_key),
                len(ready.notices),
            )
            if told != settings:
                raise Broken(f"{settings} are understood as {ready}")
            if ready.minor != login.spoken.minor:
                raise Broken(f"the client speaks 3.{ready.minor}, the server {login.spoken}")
        case ServerRefused() as refused:
            ended = refused.reason
        case other:
            ended = other
    admitted = isinstance(login.verdict, LoggedIn)
    if ended is not expected or admitted != (expected is ServerReady):
        raise Broken(f"an undisturbed login ends by {ended}, not by {expected}: {login}")


# -- cases --------------------------------------------------------------------------------------


def some_login(rng: random.Random, *, rate: float) -> Dialogue:
    credential = rng.choice(CREDENTIALS)
    keys = rng.choice((RIGHT.scram, RIGHT.md5, WRONG.scram, WRONG.md5, None))
    if rng.random() < 0.7:
        keys = RIGHT.md5 if isinstance(credential, Md5Login) else RIGHT.scram
    bindings = rng.choice(BINDINGS), rng.choice(BINDINGS)
    return Dialogue(rng, credential, keys, bindings, Middleman(rng, rate=rate))


def fuzz_login(rng: random.Random) -> str:
    """Let our client log in to our server while somebody between them changes what is said."""
    login = some_login(rng, rate=rng.choice((0.0, 0.3, 0.3, 1.0)))
    if login.between.meddles and rng.random() < 0.5:
        # The role has logged in before, or somebody else has, and every word of that was heard.
        before = some_login(rng, rate=0.0)
        if rng.random() < 0.7:
            before.credential, before.keys = login.credential, stored_key(login.credential)
            before.bindings = login.bindings
        before.play()
        login.between.remember(before.between.heard)
    login.play()
    match login.verdict:
        case LoggedIn() as admitted:
            check_admission(login, admitted)
        case LoginRefused() as refused:
            roles.check_refusal(refused, login.user)
    check_client(login)
    if not login.between.changed:
        check_undisturbed(login)
    verdict = "open" if login.verdict is None else type(login.verdict).__name__
    end = "open" if login.end is None else type(login.end).__name__
    return f"login {'changed' if login.between.changed else 'undisturbed'} {verdict}/{end}"


def fuzz_stranger(rng: random.Random) -> str:
    """Let a stranger who knows no key talk to both sides; only trust may let it in."""
    words = [
        auth.AUTHENTICATION_OK,
        auth.authentication_sasl(("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")),
        auth.authentication_sasl_continue(b"r=" + some_string(rng) + b",s=c2FsdA==,i=1"),
        auth.authentication_sasl_final(b"v=" + base64.b64encode(rng.randbytes(32))),
        auth.authentication_md5(b"salt"),
        roles.some_settings(rng).message(),
        auth.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=" + some_name(rng).encode()),
        auth.sasl_response(b"c=biws,r=x,p=" + base64.b64encode(rng.randbytes(32))),
        auth.password_message(b"md5" + rng.randbytes(16).hex().encode()),
    ]
    data = b"".join(rng.choices(words, k=rng.randint(1, 4)))
    if rng.random() < 0.5:
        data = spoil_bodies(rng, data) if rng.random() < 0.7 else spoil(rng, data)
    credential = rng.choice(CREDENTIALS[:-2])  # those that ask for something
    login = Dialogue(rng, credential, stored_key(credential), (None, None), Middleman(rng, rate=0))
    if rng.random() < 0.5:
        client = LoginClient({"user": "anna"}, login.keys, nonce=rng.randbytes(18))
        send = login.play_client(client, data)
        if isinstance(login.end, ServerReady) and send.startswith(b"pSCRAM"):
            raise Broken("a server without proof was believed")
        return f"strange server {'open' if login.end is None else type(login.end).__name__}"
    server = LoginServer("anna", credential, LoginInputs(rng.randbytes(18), b"salt"))
    server.start()
    login.play_server(server, data)
    if isinstance(login.verdict, LoggedIn):
        raise Broken("a stranger was logged in")
    return f"strange client {'open' if login.verdict is None else 'refused'}"
