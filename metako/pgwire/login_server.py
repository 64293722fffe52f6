"""One client logs in to us: the server's side of a login, from the request to the verdict.

    trust ──────────────────────────────────────────────────────────► LoggedIn
    reject ─────────────────────────────────────────────────────────► LoginRefused
    md5    ── request, salt ──► answer ─────────────────────────────► either
    scram  ── mechanisms ──► choice ── challenge ──► proof ─────────► either

In: what the role may log in with, and the bytes of the client. Out: bytes for the client, and at
the end a verdict, with the keys by which the role can be logged in to a server if there are any.

Invariants: no key without the client's proof of it; a role that does not exist is refused with the
same messages as one whose password was wrong; whatever a client sends, the outcome is a verdict
and never an exception.

The words and codes of refusals are PostgreSQL's, because clients and people look for them.

Deliberately unknown here: which roles exist, what pg_hba.conf would ask of them, TLS, and time.
Who drives this sets a deadline.
"""

from __future__ import annotations

import enum
import hmac
from dataclasses import dataclass, field

from metako.pgwire import authentication as auth
from metako.pgwire.keys import Md5Hash, ScramKeys
from metako.pgwire.reader import Message, MessageReader
from metako.pgwire.scram import MESSAGE_BYTES_MAX, ScramServer
from metako.pgwire.startup import PgWireError, SqlState, error_response
from metako.pgwire.verifier import ScramVerifier

PASSWORD_BYTES_MAX = 65_535  # PostgreSQL's limit for the answer to a request for a password


@dataclass(frozen=True, slots=True)
class ScramLogin:
    """By SCRAM-SHA-256. `verifier_of` makes a mock verifier for those who have none."""

    verifier: ScramVerifier


@dataclass(frozen=True, slots=True)
class Md5Login:
    """By the md5 hash that is stored for the role; None takes its course and fails."""

    stored: Md5Hash | None


@dataclass(frozen=True, slots=True)
class TrustLogin:
    """Without any proof."""


@dataclass(frozen=True, slots=True)
class RejectLogin:
    """Not at all."""

    message: str
    sqlstate: SqlState = SqlState.INVALID_AUTHORIZATION


Credential = ScramLogin | Md5Login | TrustLogin | RejectLogin


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The client is who it says it is, and was told so by AuthenticationOk."""

    keys: ScramKeys | Md5Hash | None  # what logs the role in to a server; None by trust


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """The client is to be given `error`, and its connection to be closed."""

    error: bytes
    reason: str  # for the log; of the client's own bytes only the user's name is in it


@dataclass(frozen=True, slots=True)
class LoginStep:
    """What to do now: send first, then look at the outcome."""

    send: bytes  # b"" if there is nothing; does not contain a refusal's error
    outcome: LoggedIn | LoginRefused | None = None  # None: the client has to say more


class _State(enum.Enum):
    NEW = enum.auto()
    MD5 = enum.auto()  # the answer with the salt is awaited
    SASL_CHOICE = enum.auto()
    SASL_FIRST = enum.auto()  # a mechanism was chosen, and nothing said by it
    SASL_FINAL = enum.auto()
    DONE = enum.auto()


@dataclass(frozen=True, slots=True)
class LoginInputs:
    """What is drawn and looked up for one login alone."""

    nonce: bytes = field(repr=False)  # random, at least NONCE_BYTES_MIN bytes
    salt: bytes = field(repr=False)  # random, MD5_SALT_BYTES
    binding: bytes | None = None  # of our certificate on this connection; None: cannot be bound


class LoginServer:
    """See the module's docstring. `start` once, then `receive_untrusted` until an outcome."""

    def __init__(self, user: str, credential: Credential, inputs: LoginInputs) -> None:
        self._user = user
        self._credential = credential
        self._inputs = inputs
        self._state = _State.NEW
        self._reader = MessageReader(body_bytes_max=MESSAGE_BYTES_MAX)
        self._scram: ScramServer | None = None  # of a ScramLogin, once it began
        self._mechanism = ""  # the one that the client chose

    def start(self) -> LoginStep:
        """Return the request for the client, or the verdict if nothing has to be asked."""
        assert self._state is _State.NEW, "a login starts once"
        credential = self._credential
        match credential:
            case TrustLogin():
                return self._accept(b"", None)
            case RejectLogin():
                return self._refuse(credential.sqlstate, credential.message)
            case Md5Login():
                self._state = _State.MD5
                self._reader.body_bytes_max = PASSWORD_BYTES_MAX
                return LoginStep(auth.authentication_md5(self._inputs.salt))
            case ScramLogin():
                self._state = _State.SASL_CHOICE
                self._scram = ScramServer(
                    credential.verifier, nonce=self._inputs.nonce, binding=self._inputs.binding
                )
                return LoginStep(auth.authentication_sasl(self._scram.mechanisms))

    def receive_untrusted(self, data: bytes) -> LoginStep:
        """Take what the client sent; return what to do now.

        Not to be called before `start` or after an outcome. What came behind the client's last
        word is left for `take_rest`.
        """
        assert self._state not in (_State.NEW, _State.DONE), "no answer of the client is awaited"
        self._reader.receive(data)
        send = b""
        try:
            while (message := self._reader.next_untrusted()) is not None:
                step = self._answer(message)
                send += step.send
                if step.outcome is not None:
                    return LoginStep(send, step.outcome)
        except PgWireError as error:
            refusal = self._refuse(error.sqlstate, str(error), detail=error.detail)
            return LoginStep(send, refusal.outcome)
        return LoginStep(send)

    def take_rest(self) -> bytes:
        """Return what the client sent behind its login: the begin of its session."""
        return self._reader.take_rest()

    def _answer(self, message: Message) -> LoginStep:
        if message.kind != b"p":
            awaited = "password" if self._state is _State.MD5 else "SASL"
            raise PgWireError(f"expected {awaited} response, got message type {message.kind[0]}")
        match self._state:
            case _State.MD5:
                return self._check_md5(auth.parse_password_untrusted(message.body))
            case _State.SASL_CHOICE:
                choice = auth.parse_sasl_initial_untrusted(message.body)
                self._mechanism = choice.mechanism
                if choice.data is None:
                    self._state = _State.SASL_FIRST
                    return LoginStep(auth.authentication_sasl_continue(b""))
                return self._challenge(choice.data)
            case _State.SASL_FIRST:
                return self._challenge(message.body)
            case _State.SASL_FINAL:
                return self._check_proof(message.body)
            case _State.NEW | _State.DONE:
                raise AssertionError("no answer of the client is awaited")

    def _challenge(self, client_first: bytes) -> LoginStep:
        assert self._scram is not None
        answer = self._scram.first_untrusted(self._mechanism, client_first)
        self._state = _State.SASL_FINAL
        return LoginStep(auth.authentication_sasl_continue(answer))

    def _check_proof(self, client_final: bytes) -> LoginStep:
        assert self._scram is not None
        assert isinstance(self._credential, ScramLogin)
        proved = self._scram.final_untrusted(client_final)
        if proved is None:
            return self._refuse_password()
        keys = ScramKeys(proved.client_key, self._credential.verifier.server_key)
        return self._accept(auth.authentication_sasl_final(proved.message), keys)

    def _check_md5(self, password: bytes) -> LoginStep:
        assert isinstance(self._credential, Md5Login)
        stored = self._credential.stored
        if not password:
            return self._refuse(SqlState.INVALID_PASSWORD, "empty password returned by client")
        if stored is None or not hmac.compare_digest(password, stored.answer(self._inputs.salt)):
            return self._refuse_password()
        return self._accept(b"", stored)

    def _accept(self, last_word: bytes, keys: ScramKeys | Md5Hash | None) -> LoginStep:
        self._state = _State.DONE
        return LoginStep(last_word + auth.AUTHENTICATION_OK, LoggedIn(keys))

    def _refuse_password(self) -> LoginStep:
        return self._refuse(
            SqlState.INVALID_PASSWORD, f'password authentication failed for user "{self._user}"'
        )

    def _refuse(self, sqlstate: SqlState, message: str, *, detail: str = "") -> LoginStep:
        self._state = _State.DONE
        error = error_response(sqlstate, message, detail=detail)
        reason = f"{sqlstate}: {message}" + (f" {detail}" if detail else "")
        return LoginStep(b"", LoginRefused(error, reason))
