"""Ask a node's API, for the command line: synchronous, standard library only, plain HTTP.

In: the base URL of a node or the path of its agent's socket, and a deadline. Out: the decoded JSON
of `GET /status`, and the agent's answer to an order.

Invariant: whatever goes wrong - nobody listens, somebody else does, the answer is cut short - is
one `UnreachableError` that names what was asked and says what to do. Proxies from the environment
are not used: the API is asked directly, or loopback addresses would be asked of a stranger.

Deliberately unaware of what the answer means, and of the web server on the other side.
"""

from __future__ import annotations

import http.client
import json
import struct
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import SO_PEERCRED, SOL_SOCKET

from metako import unixsocket
from metako.model.errors import PrivilegeError, UnreachableError, UsageError

ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""Larger than the status of a thousand members; whatever sends more is not an agent."""
ORDER_ANSWER_TIMEOUT_S = 15.0
"""For the answer to an order; the agent itself gives up after 10 s (`runtime.orders`)."""

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of who listens; unix(7), SO_PEERCRED

HINT = "is the agent running? `systemctl status metako`, or start it with `metako run -c FILE`"


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What an agent answered to an order."""

    accepted: bool
    reason: str  # for people; "" when there is none
    order_id: str  # "" unless the leader answered
    target: str | None  # of a switchover, as the leader has it, or the member; None unless answered


def fetch_status(url: str, timeout_s: float) -> dict[str, object]:
    """Return the body of `GET /status` of the node whose API is at `url`.

    Args:
        url: `http://host:port`, `host:port` or the address of any of its paths' parents.
        timeout_s: bound on the connection and on each read.

    Raises:
        UnreachableError: nobody answers there, or whoever does is not a metako agent.
        UsageError: `url` is not an HTTP address.
    """
    base, path, connection = _connect(url, timeout_s)
    return _status(connection, f"{path}/status", base)


def fetch_history(url: str, timeout_s: float, limit: int) -> list[object]:
    """Return the newest entries of the history that the node whose API is at `url` knows.

    Raises:
        UnreachableError: nobody answers there, or whoever does is no agent of this version.
        UsageError: `url` is not an HTTP address.
    """
    base, path, connection = _connect(url, timeout_s)
    code, answer = _exchange(connection, "GET", f"{path}/history?limit={limit}", base)
    data = _object(answer)
    entries = data.get("history") if data is not None and code == 200 else None
    if not isinstance(entries, list):
        raise UnreachableError(f"{base} shows no history: is it an agent of this version?")
    return entries


def base_url(url: str) -> str:
    """Return `http://host:port` without a trailing slash.

    Raises:
        UsageError: another scheme, no host, or a port out of range.
    """
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urllib.parse.urlsplit(text)
        valid = parts.scheme == "http" and bool(parts.hostname)
        _ = parts.port  # raises if it is out of range
    except ValueError:
        valid = False
    if not valid or any(character.isspace() for character in text):
        raise UsageError(f"not the address of an API: {url!r}; expected http://HOST:PORT")
    return f"http://{parts.netloc}{parts.path.rstrip('/')}"


def _connect(url: str, timeout_s: float) -> tuple[str, str, http.client.HTTPConnection]:
    """Return the base of an API's address, its path, and a connection for one request to it."""
    base = base_url(url)
    parts = urllib.parse.urlsplit(base)
    assert parts.hostname, base
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    return base, parts.path, connection


class LocalAgent:
    """The agent of this machine that listens at `socket`, which takes orders too.

    Each call is a connection of its own, so the agent may be restarted between two of them.

    Raises, from each method:
        UnreachableError: no agent listens there.
        PrivilegeError: one does, or may, and this user may not connect to it.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def status(self, timeout_s: float) -> dict[str, object]:
        """Return the body of `GET /status`; `timeout_s` bounds the connection and each read."""
        return _status(self._connection(timeout_s), "/status", str(self._socket))

    def process(self) -> int:
        """Return the id of the agent's process.

        Raises:
            UnreachableError: it cannot be seen from here.
        """
        try:
            with unixsocket.connect(self._socket) as connection:
                told = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
        except OSError as error:
            raise UnreachableError(
                f"no agent listens at {self._socket}: {error.strerror}"
            ) from None
        pid: int = _CREDENTIALS.unpack(told)[0]
        if not pid:
            raise UnreachableError(
                f"the agent at {self._socket} runs in another PID namespace: run this in its "
                "container"
            )
        return pid

    def order_switchover(
        self, to: str | None, timeout_s: float, at: str | None = None
    ) -> AgentAnswer:
        """Ask for a switchover to the node `to`, or to whom the leader chooses.

        Args:
            to: its name, or None.
            timeout_s: for the target, before anything is stopped.
            at: date and time with a zone, in ISO 8601; None: at once.
        """
        asked = {"to": to, "timeout_s": timeout_s} | ({"at": at} if at is not None else {})
        return self._order("POST", "/switchover", json.dumps(asked).encode())

    def cancel_switchover(self) -> AgentAnswer:
        """Ask for the switchover under way, or else the scheduled one, to be given up."""
        return self._order("DELETE", "/switchover")

    def order_failover(self, lost: Sequence[str] = ()) -> AgentAnswer:
        """Ask for this agent's own node to lead, whatever that may lose, without those `lost`."""
        body = json.dumps({"accept_loss": True, "lost": list(lost)}).encode()
        return self._order("POST", "/failover", body)

    def add_member(self, node: str, *, learner: bool) -> AgentAnswer:
        """Ask for `node` to be taken in, with a vote once it has caught up unless `learner`."""
        body = json.dumps({"node": node, "learner": learner}).encode()
        return self._order("POST", "/members", body)

    def remove_member(self, node: str) -> AgentAnswer:
        """Ask for `node` to be no member any more."""
        return self._order("DELETE", f"/members/{urllib.parse.quote(node, safe='')}")

    def pause(self) -> AgentAnswer:
        """Ask that nobody take over from the present primary."""
        return self._order("POST", "/pause")

    def resume(self) -> AgentAnswer:
        """Ask for the end of a pause."""
        return self._order("DELETE", "/pause")

    def restart(self, nodes: Sequence[str], timeout_s: float) -> AgentAnswer:
        """Ask for PostgreSQL to be restarted on `nodes`, or on all if none is named, one by one."""
        body = json.dumps({"nodes": list(nodes) or None, "timeout_s": timeout_s}).encode()
        return self._order("POST", "/restart", body)

    def cancel_restart(self) -> AgentAnswer:
        """Ask for those servers that are left to be left as they are."""
        return self._order("DELETE", "/restart")

    def restart_proxy(self, timeout_s: float) -> tuple[int, list[str]]:
        """Have the workers of this node's proxy replaced, and wait for it.

        Return how many were, and why others were not.

        Raises:
            UnreachableError: also if there is no proxy, or no answer within `timeout_s`.
        """
        asked = str(self._socket)
        connection = self._connection(timeout_s)
        code, answer = _exchange(connection, "POST", "/proxy/restart", asked)
        data = _object(answer)
        if data is None or code != 200:
            why = None if data is None else data.get("error")
            raise UnreachableError(f"{asked} does not restart the proxy: {why or code}")
        replaced, failures = data.get("replaced"), data.get("failures")
        if not isinstance(replaced, int) or not isinstance(failures, list):
            raise UnreachableError(f"{asked} answers, but not as a metako agent does")
        return replaced, [str(one) for one in failures]

    def _order(self, method: str, path: str, body: bytes = b"") -> AgentAnswer:
        asked = str(self._socket)
        connection = self._connection(ORDER_ANSWER_TIMEOUT_S)
        code, answer = _exchange(connection, method, path, asked, body)
        data = _object(answer)
        if data is None or code in (404, 405):
            raise UnreachableError(
                f"{asked} answers an order with {code}: is this an agent of this version, which "
                "takes orders?"
            )
        # Other codes than these are the agent's own words: the cluster was not asked, or is silent.
        reason = data.get("reason" if code in (202, 409) else "error")
        order_id, target = data.get("order"), data.get("to", data.get("node"))
        return AgentAnswer(
            accepted=code == 202 and data.get("accepted") is True,
            reason=reason if isinstance(reason, str) else "",
            order_id=order_id if isinstance(order_id, str) else "",
            target=target if isinstance(target, str) else None,
        )

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        return _UnixConnection(self._socket, timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket in the place of one to a port."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        try:
            self.sock = unixsocket.connect(self._path)
        except PermissionError:
            raise PrivilegeError(
                f"no permission to connect to the agent's socket {self._path}: run this as the "
                "user that runs the agent, or as root"
            ) from None
        self.sock.settimeout(self.timeout)


def _status(connection: http.client.HTTPConnection, path: str, asked: str) -> dict[str, object]:
    code, body = _exchange(connection, "GET", path, asked)
    if code != 200:
        raise UnreachableError(
            f"{asked} answers GET /status with {code}: is this the API of a metako agent?"
        )
    data = _object(body)
    if data is None or "node" not in data or "members" not in data:
        raise UnreachableError(f"{asked} answers, but not as a metako agent does")
    return data


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    asked: str,
    body: bytes | None = None,
) -> tuple[int, bytes]:
    """Send one request, close the connection, and return the code and body of the answer."""
    headers = {"Accept": "application/json", "Connection": "close"}
    if body:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(ANSWER_BYTES_MAX + 1)
    # A host or path that is no ASCII fails before anything is sent.
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise UnreachableError(f"no answer from {asked}: {_reason(error)}; {HINT}") from None
    finally:
        connection.close()


def _object(body: bytes) -> dict[str, object] | None:
    """Return the JSON object that `body` is, None if it is none or too large."""
    try:
        data = json.loads(body) if len(body) <= ANSWER_BYTES_MAX else None
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
