"""We log in to a server: the client's side of a login, from the startup packet to ReadyForQuery.

    STARTED ─┬─ Ok ─────────────────────────────────────────────────────┐
             ├─ md5 request ──► AWAITING_OK ── Ok ──────────────────────┤
             └─ mechanisms ───► SASL_CONTINUE ── challenge ──►          │
                    SASL_FINAL ── signature ──► AWAITING_OK ── Ok ──────┤
                                                                        ▼
             ServerReady ◄── ReadyForQuery ── settings, cancel key ── SETTING_UP

In: the parameters of the session, keys instead of a password, and the bytes of the server. Out:
bytes for the server, and at the end what the server said of the session, or why there is none.

Invariants: once SCRAM has begun, no AuthenticationOk is believed before the server's signature;
no answer holds a key that a server without the role's verifier can read (md5 answers are as weak as
md5 is); what a server can make us keep is bounded.

A server may also let us in without any request, as pg_hba.conf's `trust` does, and has then proved
nothing. Who has to know that it is the right one verifies its certificate.

Deliberately unknown here: TLS, time and retries. Who drives this sets a deadline.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from metako.pgwire import authentication as auth
from metako.pgwire import messages
from metako.pgwire.keys import Md5Hash, ScramKeys
from metako.pgwire.negotiation import MINOR_LONG_KEYS, MINOR_PLAIN, parse_negotiate_untrusted
from metako.pgwire.reader import HEADER_BYTES, Message, MessageReader
from metako.pgwire.scram import ScramClient
from metako.pgwire.startup import (
    FIRST_MESSAGE_BYTES_MAX,
    PgWireError,
    SqlState,
    parse_error_untrusted,
    startup_packet,
)

LOGIN_BYTES_MAX = 1 << 20  # all that a server may send; it sends less than a thousandth of that
NOTICES_MAX = 50  # kept; those behind them are dropped


class Refusal(enum.StrEnum):
    """Why there is no session, as far as it decides what to do next."""

    NOT_YET = "the server takes nobody now"  # it starts, stops or recovers
    FULL = "the server has too many connections"
    KEY_REFUSED = "the server refused the key"  # the password was changed: read the verifier anew
    UNANSWERABLE = "the server asked for what cannot be answered"  # its pg_hba.conf has to change
    OTHER = "the server refused"


_REFUSALS: dict[str, Refusal] = {
    SqlState.CANNOT_CONNECT_NOW: Refusal.NOT_YET,
    SqlState.ADMIN_SHUTDOWN: Refusal.NOT_YET,
    SqlState.CRASH_SHUTDOWN: Refusal.NOT_YET,
    SqlState.TOO_MANY_CONNECTIONS: Refusal.FULL,
    SqlState.INVALID_PASSWORD: Refusal.KEY_REFUSED,
}


@dataclass(frozen=True, slots=True)
class ServerReady:
    """The session exists and waits for its first query."""

    parameters: dict[str, str]  # reported settings, in the order of their first report
    process_id: int  # 0 if the server told none
    secret_key: bytes = field(repr=False)  # b"" if the server told none
    minor: int  # of protocol 3, as negotiated
    notices: tuple[dict[str, str], ...]  # fields by their one-letter codes


@dataclass(frozen=True, slots=True)
class ServerRefused:
    """There is no session; the connection is to be closed."""

    reason: Refusal
    sqlstate: str  # of the server's error, or of what is to be told to a client
    fields: dict[str, str]  # of the server's error; "M" is always there

    @property
    def retryable(self) -> bool:
        """Whether the same login may succeed later, or at once at another server."""
        return self.reason in (Refusal.NOT_YET, Refusal.FULL)


@dataclass(frozen=True, slots=True)
class ConnectStep:
    """What to do now: send first, then look at the outcome."""

    send: bytes
    outcome: ServerReady | ServerRefused | None = None  # None: the server has to say more


class _State(enum.Enum):
    STARTED = enum.auto()
    SASL_CONTINUE = enum.auto()
    SASL_FINAL = enum.auto()
    AWAITING_OK = enum.auto()
    SETTING_UP = enum.auto()
    DONE = enum.auto()


class LoginClient:
    """See the module's docstring. `start` once, then `receive_untrusted` until an outcome."""

    def __init__(
        self,
        parameters: Mapping[str, str],
        keys: ScramKeys | Md5Hash | None,
        *,
        nonce: bytes,
        binding: bytes | None = None,
        minor: int = MINOR_PLAIN,
    ) -> None:
        """Take what the login is about.

        Args:
            parameters: of the startup packet; "user" is among them.
            keys: what the role logs in with; None if the server is to trust us.
            nonce: drawn for this login alone, at least NONCE_BYTES_MIN bytes.
            binding: data of the server's certificate, or None if the connection cannot be bound.
            minor: of the protocol to ask for; a server may speak an older one.
        """
        assert minor in (MINOR_PLAIN, MINOR_LONG_KEYS), minor
        self._startup_parameters = dict(parameters)
        self._keys = keys
        self._nonce = nonce
        self._binding = binding
        self._minor = minor
        self._state = _State.STARTED
        self._reader = MessageReader(body_bytes_max=FIRST_MESSAGE_BYTES_MAX)
        self._scram: ScramClient | None = None  # once a mechanism was chosen
        self._login_bytes = 0  # of all bodies so far, and a header for each
        self._negotiated = False  # the server has named its version
        self._parameters: dict[str, str] = {}
        self._key = messages.BackendKey(0, b"")
        self._notices: list[dict[str, str]] = []

    def start(self) -> bytes:
        """Return the startup packet.

        Raises:
            ValueError: the parameters do not fit into one.
        """
        return startup_packet(self._startup_parameters, minor=self._minor)

    def receive_untrusted(self, data: bytes) -> ConnectStep:
        """Take what the server sent; return what to do now.

        Not to be called after an outcome. What came behind ReadyForQuery is left for `take_rest`.

        Raises:
            PgWireError: the server broke the protocol, or does not know the role's verifier. The
                login is over and the connection is to be closed.
        """
        assert self._state is not _State.DONE, "the login is over"
        self._reader.receive(data)
        send = b""
        while (message := self._reader.next_untrusted()) is not None:
            self._login_bytes += HEADER_BYTES + len(message.body)
            if self._login_bytes > LOGIN_BYTES_MAX:
                raise PgWireError("the server does not come to the end of a login")
            step = self._answer(message)
            send += step.send
            if step.outcome is not None:
                self._state = _State.DONE
                return ConnectStep(send, step.outcome)
        return ConnectStep(send)

    def take_rest(self) -> bytes:
        """Return what the server sent behind ReadyForQuery."""
        return self._reader.take_rest()

    def _answer(self, message: Message) -> ConnectStep:
        match message.kind:
            case b"E":
                return ConnectStep(b"", _refused(parse_error_untrusted(message.body)))
            case b"N":
                fields = parse_error_untrusted(message.body)
                if len(self._notices) < NOTICES_MAX:
                    self._notices.append(fields)
                return ConnectStep(b"")
            case b"v" if self._state is _State.STARTED and not self._negotiated:
                self._accept_version(message.body)
                return ConnectStep(b"")
            case b"R":
                return self._authenticate(auth.parse_authentication_untrusted(message.body))
            case _ if self._state is _State.SETTING_UP:
                return self._set_up(message)
        raise PgWireError("the server sent something that does not belong to a login")

    def _accept_version(self, body: bytes) -> None:
        offer = parse_negotiate_untrusted(body, requested_minor=self._minor)
        if any(option not in self._startup_parameters for option in offer.options):
            raise PgWireError("the server refuses an option that was not asked for")
        self._minor = offer.minor
        self._negotiated = True

    def _authenticate(self, request: auth.Authentication) -> ConnectStep:
        match self._state, request:
            case ((_State.STARTED | _State.AWAITING_OK), auth.AuthenticationOk()):
                self._state = _State.SETTING_UP
                return ConnectStep(b"")
            case _State.STARTED, _:
                return self._take_request(request)
            case _State.SASL_CONTINUE, auth.AuthenticationSaslContinue():
                assert self._scram is not None
                self._state = _State.SASL_FINAL
                return ConnectStep(auth.sasl_response(self._scram.final_untrusted(request.data)))
            case _State.SASL_FINAL, auth.AuthenticationSaslFinal():
                assert self._scram is not None
                self._scram.verify_untrusted(request.data)
                self._state = _State.AWAITING_OK
                return ConnectStep(b"")
        raise PgWireError("the server's request does not belong here")

    def _take_request(self, request: auth.Authentication) -> ConnectStep:
        """Answer the first request of a server."""
        match request, self._keys:
            case auth.AuthenticationMd5(), Md5Hash():
                self._state = _State.AWAITING_OK
                return ConnectStep(auth.password_message(self._keys.answer(request.salt)))
            case auth.AuthenticationSasl(), ScramKeys():
                scram = ScramClient(self._keys, nonce=self._nonce, binding=self._binding)
                choice = scram.first(request.mechanisms)
                if choice is None:
                    return _unanswerable("a SASL mechanism other than SCRAM-SHA-256")
                self._scram = scram
                self._state = _State.SASL_CONTINUE
                return ConnectStep(auth.sasl_initial_response(*choice))
            case ((auth.AuthenticationSaslContinue() | auth.AuthenticationSaslFinal()), _):
                raise PgWireError("the server's request does not belong here")
        return _unanswerable(_describe(request))

    def _set_up(self, message: Message) -> ConnectStep:
        match message.kind:
            case b"S":
                name, value = messages.parse_parameter_status_untrusted(message.body)
                # Most sessions of a server are told the same, and keep it for long.
                self._parameters[sys.intern(name)] = sys.intern(value)
                return ConnectStep(b"")
            case b"K":
                long_keys = self._minor >= MINOR_LONG_KEYS
                self._key = messages.parse_backend_key_untrusted(message.body, long_keys=long_keys)
                return ConnectStep(b"")
            case b"Z":
                if messages.parse_ready_untrusted(message.body) is not (
                    messages.TransactionStatus.IDLE
                ):
                    raise PgWireError("the server begins a session inside a transaction")
                return ConnectStep(b"", self._ready())
        raise PgWireError("the server sent something that does not belong to a login")

    def _ready(self) -> ServerReady:
        return ServerReady(
            self._parameters,
            self._key.process_id,
            self._key.secret_key,
            self._minor,
            tuple(self._notices),
        )


def _describe(request: auth.Authentication) -> str:
    match request:
        case auth.AuthenticationCleartext():
            return "the password in clear"
        case auth.AuthenticationMd5():
            return "an md5 password"
        case auth.AuthenticationSasl():
            return "SCRAM-SHA-256"
        case auth.AuthenticationOther():
            return f"authentication of kind {request.code}"
    return "an answer"


def _unanswerable(wanted: str) -> ConnectStep:
    text = f"the server asks for {wanted}, and there is no key that answers this"
    fields = {"M": text, "C": SqlState.INVALID_AUTHORIZATION.value}
    return ConnectStep(
        b"", ServerRefused(Refusal.UNANSWERABLE, SqlState.INVALID_AUTHORIZATION.value, fields)
    )


def _refused(fields: dict[str, str]) -> ServerRefused:
    sqlstate = fields.get("C", "")
    return ServerRefused(_REFUSALS.get(sqlstate, Refusal.OTHER), sqlstate, {"M": "", **fields})
