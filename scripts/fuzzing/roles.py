"""Roles with passwords, what servers store for them, and an undisturbed login by them."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import random
from dataclasses import dataclass

from fuzzing.mutation import Broken, some_text
from metako.pgwire.keys import ClientKey, Md5Hash, ScramKeys
from metako.pgwire.login_client import ConnectStep, LoginClient, ServerRefused
from metako.pgwire.login_server import LoggedIn, LoginRefused, LoginServer
from metako.pgwire.messages import (
    BackendKey,
    TransactionStatus,
    backend_key_data,
    notice_response,
    parameter_status,
    ready_for_query,
)
from metako.pgwire.negotiation import MINOR_LONG_KEYS
from metako.pgwire.reader import HEADER_BYTES
from metako.pgwire.startup import SqlState, error_of_fields, parse_error_untrusted
from metako.pgwire.verifier import ScramVerifier, parse_verifier

TURNS_MAX = 12  # of a dialogue; a login has five
SALT = b"sodium chloride!"
PASSWORDS = ("pencil", "pencils", "")
FIELDS_OF_ERRORS = frozenset("SVCMDH")

Keys = ScramKeys | Md5Hash | None


@dataclass(frozen=True, slots=True)
class Secret:
    """A role's password, and what is made of it."""

    scram: ScramKeys
    md5: Md5Hash
    stored_scram: str  # in pg_authid
    stored_md5: str

    @property
    def verifier(self) -> ScramVerifier:
        found = parse_verifier(self.stored_scram)
        assert found is not None
        return found


@functools.lru_cache(maxsize=1000)
def secret_of(user: str, password: str, *, salt: bytes = SALT, iterations: int = 1) -> Secret:
    """Return what PostgreSQL makes of a password."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    keys = ScramKeys(
        ClientKey(hmac.digest(salted, b"Client Key", "sha256")),
        hmac.digest(salted, b"Server Key", "sha256"),
    )
    parts = (salt, keys.client_key.stored_key(), keys.server_key)
    encoded_salt, stored, server = (base64.b64encode(part).decode() for part in parts)
    name = user.encode(errors="surrogateescape")
    digest = hashlib.md5(password.encode() + name, usedforsecurity=False).hexdigest()
    return Secret(
        keys,
        Md5Hash(f"md5{digest}".encode()),
        f"SCRAM-SHA-256${iterations}:{encoded_salt}${stored}:{server}",
        f"md5{digest}",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server says of a session to whom it has let in."""

    parameters: dict[str, str]
    key: BackendKey
    notices: int = 0

    def message(self) -> bytes:
        said = b"".join(parameter_status(*pair) for pair in self.parameters.items())
        said += notice_response("01000", "hello") * self.notices
        return said + backend_key_data(self.key) + ready_for_query(TransactionStatus.IDLE)


def some_settings(rng: random.Random, *, minor: int = 0) -> Settings:
    key_bytes = rng.choice((4, 32, 256)) if minor >= MINOR_LONG_KEYS else 4
    key = BackendKey(rng.getrandbits(32), rng.randbytes(key_bytes))
    return Settings({"TimeZone": "UTC", some_text(rng): some_text(rng)}, key, rng.randrange(3))


def converse(
    server: LoginServer, client: LoginClient, last: bytes
) -> tuple[LoggedIn | LoginRefused | None, ConnectStep]:
    """Let a client log in to a server; return the server's verdict, and what the client made of it.

    The verdict is None if the client has left before there was one.

    Args:
        last: what the server says to whom it has let in.
    """
    ours = server.start()
    for _ in range(TURNS_MAX):
        to_client = ours.send
        match ours.outcome:
            case LoggedIn():
                to_client += last
            case LoginRefused(error):
                to_client += error
        theirs = client.receive_untrusted(to_client)
        if ours.outcome is not None or theirs.outcome is not None:
            return ours.outcome, theirs
        ours = server.receive_untrusted(theirs.send)
    raise Broken("a login that nobody disturbs does not end")


# -- what must hold of every end ----------------------------------------------------------------


def check_refusal(refused: LoginRefused, *names: str) -> None:
    """What a client is refused with is an error of PostgreSQL, fit for a terminal.

    Args:
        names: of the client, as it gave them.
    """
    error = refused.error
    if error[:1] != b"E" or int.from_bytes(error[1:HEADER_BYTES], "big") != len(error) - 1:
        raise Broken(f"{error!r} is no error")
    fields = parse_error_untrusted(error[HEADER_BYTES:])
    known = {code.value for code in SqlState}
    if not {"S", "V", "C", "M"} <= fields.keys() <= FIELDS_OF_ERRORS or fields["C"] not in known:
        raise Broken(f"{error!r} is no error of PostgreSQL")
    if fields["S"] != "FATAL" or fields["V"] != "FATAL" or not fields["M"]:
        raise Broken(f"{error!r} does not end the connection")
    for text in (fields["M"], fields.get("D", ""), refused.reason):
        if all(map(str.isprintable, names)) and not text.isprintable():
            raise Broken(f"{refused} is not fit for a log")


def check_refused_by_server(refused: ServerRefused) -> None:
    """What a server refuses us with can be told to a client as it is."""
    told = {"S": "FATAL", "V": "FATAL", **refused.fields}
    again = parse_error_untrusted(error_of_fields(told)[HEADER_BYTES:])
    if again != told or "M" not in refused.fields:
        raise Broken(f"{refused} cannot be told to a client: {again}")
