"""Log in to a server for a client that has logged in to us.

In: the client's startup parameters and the keys that its login yielded. Out: a session on the
server that waits for its first query.

Deliberately unknown here: which server, and when to try again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import trio

from metako.pgwire import startup as pg
from metako.pgwire.keys import Md5Hash, ScramKeys
from metako.pgwire.login_client import LoginClient, Refusal, ServerReady, ServerRefused
from metako.pgwire.negotiation import OPTION_PREFIX
from metako.proxy import sockets
from metako.proxy.clientlogin import NONCE_BYTES
from metako.proxy.legs import Failure, Opened, Refused
from metako.proxy.passing import FIRST_MESSAGE_TIMEOUT_S
from metako.proxy.pool import Key
from metako.proxy.tls import TlsTransport

# The whole login. A backend may wait for locks on catalogues before it is ready, as a client that
# connects without us would.
LOGIN_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class LogIn:
    """See the module's docstring. An `Opening`, to be used for any number of logins.

    Two that are equal but for their keys lead to interchangeable sessions. The keys are its own.
    """

    parameters: tuple[tuple[str, str], ...]  # of the startup packet; "user" is among them
    minor: int  # of protocol 3, as the client speaks it
    keys: ScramKeys | Md5Hash | None = field(repr=False)  # None: the server has to trust us

    def wipe(self) -> None:
        """Overwrite the keys: nobody will log in with them again."""
        match self.keys:
            case ScramKeys():
                self.keys.client_key.wipe()
            case Md5Hash():
                self.keys.wipe()
            case None:
                pass

    def pool_key(self, user: str, database: str) -> Key:
        """Return whose legs are like those that this one opens."""
        own = ("user", "database")
        rest = tuple(sorted(pair for pair in self.parameters if pair[0] not in own))
        return Key(user, database, rest)

    async def converse(self, server: sockets.Connection, where: str) -> Opened | Refused | Failure:
        """Log in; see `Opening`."""
        login = LoginClient(
            dict(self.parameters),
            self.keys,
            nonce=secrets.token_bytes(NONCE_BYTES),
            binding=server.binding() if isinstance(server, TlsTransport) else None,
            minor=self.minor,
        )
        reason = f"{where} said nothing for {FIRST_MESSAGE_TIMEOUT_S:g} s"
        until = trio.current_time() + LOGIN_TIMEOUT_S
        with trio.move_on_after(FIRST_MESSAGE_TIMEOUT_S) as scope:
            await sockets.send_all(server, login.start())
            while True:
                data = await sockets.receive_some(server)
                if not data:
                    return Failure(f"{where} closed the connection before it let us in")
                scope.deadline = until
                reason = f"{where} did not let us in within {LOGIN_TIMEOUT_S:g} s"
                step = login.receive_untrusted(data)
                await sockets.send_all(server, step.send)
                if isinstance(step.outcome, ServerReady):
                    return Opened(login.take_rest(), step.outcome)
                if step.outcome is not None:
                    return _refusal(step.outcome, where)
        return Failure(reason)


def session_parameters(first: pg.Startup) -> tuple[tuple[str, str], ...]:
    """Return what a client asked of its session, without options of the protocol."""
    return tuple(
        (name, value)
        for name, value in dict(first.parameters).items()
        if not name.startswith(OPTION_PREFIX)
    )


def _refusal(refused: ServerRefused, where: str) -> Refused | Failure:
    message = refused.fields["M"]
    error = pg.error_of_fields({"S": "FATAL", "V": "FATAL", **refused.fields})
    match refused.reason:
        case Refusal.NOT_YET:
            return Failure(f"{where}: {message}")
        case Refusal.FULL:
            return Failure(f"{where}: {message}", error)
        case Refusal.KEY_REFUSED | Refusal.UNANSWERABLE | Refusal.OTHER:
            return Refused(error, message, refused.reason)
