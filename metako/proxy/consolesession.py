"""A client's session with the console, from its login to its end.

The login is the same as for any other database: pg_hba.conf says how, and the role's verifier
whether. Who cannot be judged here is refused, since there is no server to pass the login on to. Who
is let in has to be one of the admins.

Deliberately unknown here: what commands do.
"""

from __future__ import annotations

from metako import __version__
from metako.pgwire import startup as pg
from metako.pgwire.login_server import LoginRefused
from metako.pgwire.messages import (
    TransactionStatus,
    backend_key_data,
    notice_response,
    parameter_status,
    ready_for_query,
)
from metako.pgwire.negotiation import MINOR_LONG_KEYS, negotiate
from metako.pgwire.startup import PgWireError, SqlState
from metako.proxy import console, sockets
from metako.proxy.board import Board
from metako.proxy.clientlogin import log_client_in
from metako.proxy.console import Console, Failed, Verb
from metako.proxy.consoleframes import Part
from metako.proxy.credentials import Asking, CredentialSource
from metako.proxy.frames import WorkerEvent

CONSOLES_BEYOND = 8  # connections that are admitted beyond the limit, so that a full proxy has one
# What drivers look at before they send anything.
_SETTINGS = {
    "server_version": f"{__version__} (metako)",
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "integer_datetimes": "on",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "is_superuser": "on",
}


def _refused(sqlstate: SqlState, message: str, hint: str) -> bytes:
    return pg.error_response(sqlstate, message, hint=hint)


async def log_admin_in(
    board: Board,
    client: sockets.Connection,
    first: pg.Startup,
    asking: Asking,
    *,
    binding: bytes | None = None,
) -> tuple[bytes, bool]:
    """Return what the client is told, and whether it may use the console.

    The caller sets the deadline. Raises one of `sockets.BROKEN`.

    Args:
        binding: of our certificate, if the client has seen it.
    """
    source: CredentialSource | None = board.credentials
    credential = None if source is None else await source.credential(asking)
    if source is None or credential is None:
        board.refused += 1
        return _refused(
            SqlState.INVALID_AUTHORIZATION,
            f'the login of "{asking.user}" to the console cannot be judged by this node',
            "It takes a pg_hba line with trust, md5 or scram-sha-256, and an agent whose PostgreSQL"
            " runs; try another node.",
        ), False
    said, outcome = await log_client_in(
        client, asking.user, credential, negotiate(first), binding=binding
    )
    if outcome is None:
        return b"", False
    if isinstance(outcome, LoginRefused):
        board.refused += 1
        if outcome.reason.startswith(SqlState.INVALID_PASSWORD):
            source.forget(asking.user)
        return said + outcome.error, False
    if asking.user not in board.admins:
        board.refused += 1
        return said + _refused(
            SqlState.INSUFFICIENT_PRIVILEGE,
            f'"{asking.user}" may not use the console',
            f'Only users in `proxy.admin_users` may. A database named "{console.DATABASE}" cannot'
            " be reached through the proxy.",
        ), False
    return said, True


async def converse(
    board: Board, client: sockets.Connection, first: pg.Startup, said: bytes
) -> bytes:
    """Serve an admin until it leaves; return the last message for it. Raises `sockets.BROKEN`."""
    talk = Console()
    long_keys = negotiate(first).minor >= MINOR_LONG_KEYS
    # Nothing is cancelled by it: commands take a few seconds at most.
    issued = board.cancels.issue(lambda: None, long_keys=long_keys)
    try:
        settings = {**_SETTINGS, "application_name": first.parameter("application_name") or ""}
        said += b"".join(parameter_status(*pair) for pair in settings.items())
        said += backend_key_data(issued.key) + ready_for_query(TransactionStatus.IDLE)
        while True:
            await sockets.send_all(client, said)
            if talk.ended:
                return b""
            data = await sockets.receive_some(client)
            if not data:
                return b""
            said = talk.receive_untrusted(data)
            while talk.pending:
                said += await _answer(board, talk, first.parameter("user") or "")
    except PgWireError as error:
        board.malformed += 1
        return pg.error_response(error.sqlstate, str(error))
    finally:
        board.cancels.take_back(issued)


async def _answer(board: Board, talk: Console, user: str) -> bytes:
    command = talk.pending[0]
    if command.verb is not Verb.SHOW:
        given = (("user", user), ("command", command.verb.value))
        aim = (("database", command.database), ("client", command.client))
        detail = (*given, *(pair for pair in aim if pair[1] is not None))
        board.report(WorkerEvent("INFO", "a command was given at the console", detail))
    if board.console is None:
        part = Part(Failed("this proxy has no console"))
    else:
        part = await board.console.do(command)
    notices = b"".join(notice_response("00000", text) for text in part.notices)
    return notices + talk.answer(part.outcome)
