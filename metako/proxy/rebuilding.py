"""Log in for a client that had a session already, and make the new one what the old one was.

In: the client's login, and what its session consists of. Out: a session that has the same settings
and prepared statements, and what the client is to be told of settings that are reported.

Deliberately unknown here: what is rebuilt and in which order (`rebuild`), and which server it is.
"""

from __future__ import annotations

import trio

from metako.pgwire import startup as pg
from metako.pgwire.lastwords import is_fatal
from metako.pgwire.login_client import Refusal
from metako.pgwire.reader import MessageReader
from metako.proxy import sockets
from metako.proxy.legs import Failure, Opened, Opening, Refused
from metako.proxy.rebuild import Progress, Rebuild
from metako.proxy.tracked import Tracked

REBUILD_TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = pg.FIRST_MESSAGE_BYTES_MAX  # of one message
ANSWERS_BYTES_MAX = 1 << 20  # of all; to each request belong a few short ones


class Rebuilt:
    """See the module's docstring. An `Opening`, for one move, however many attempts that takes."""

    def __init__(self, login: Opening, tracked: Tracked) -> None:
        self._login = login
        self._tracked = tracked
        # News of all attempts: `tracked` takes them for told, also if the attempt was in vain.
        self._news = b""

    async def converse(self, server: sockets.Connection, where: str) -> Opened | Refused | Failure:
        """Log in and rebuild the session; see `Opening`."""
        opened = await self._login.converse(server, where)
        if not isinstance(opened, Opened):
            return opened
        assert opened.ready is not None, "only sessions of our own logins are rebuilt"
        rebuild = Rebuild(self._tracked, opened.ready.parameters)
        reader = MessageReader(body_bytes_max=ANSWER_BYTES_MAX)
        reader.receive(opened.said)
        with trio.move_on_after(REBUILD_TIMEOUT_S) as scope:
            failure = await _carry_out(server, rebuild, reader)
        if scope.cancelled_caught:
            return Failure(f"{where} did not rebuild a session within {REBUILD_TIMEOUT_S:g} s")
        if failure:
            return Failure(f"{where}: {failure}")
        if rebuild.failure:
            return Refused(b"", rebuild.failure, Refusal.OTHER)
        self._news += rebuild.news
        return Opened(self._news + reader.take_rest(), opened.ready)


async def _carry_out(server: sockets.Connection, rebuild: Rebuild, reader: MessageReader) -> str:
    """Return once `rebuild` has succeeded or failed; or why it is worth another attempt."""
    await sockets.send_all(server, rebuild.data)
    progress = rebuild.conclude()
    received = 0
    while progress is Progress.UNDER_WAY:
        message = reader.next_untrusted()
        if message is None:
            data = await sockets.receive_some(server)
            received += len(data)
            if not data or received > ANSWERS_BYTES_MAX:
                return "the session ended while it was rebuilt"
            reader.receive(data)
        elif message.kind == b"E" and is_fatal(message.body):
            return pg.parse_error_untrusted(message.body).get("M", "")
        else:
            progress = rebuild.receive(*message)
    return ""
