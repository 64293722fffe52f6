"""Host names to addresses, without ever making the send path wait for a name server.

`lookup` answers at once: from the literal itself, or from what was found before. What is unknown or
stale is looked up in the background; a stale answer is used until the new one is there, because an
address that moved costs one datagram and a name server that is down must not cost the cluster.

Limits: HOSTS_MAX names, LOOKUPS_MAX look-ups at a time, each at most LOOKUP_TIMEOUT_S.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import OrderedDict
from dataclasses import dataclass

import trio

FRESH_S = 60.0
RETRY_S = 5.0
"""After a look-up that failed."""
LOOKUP_TIMEOUT_S = 5.0
LOOKUPS_MAX = 8
HOSTS_MAX = 1024


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is known of a name."""

    address: str | None  # None: never found
    refresh_at_s: float  # on trio's clock


class Resolver:
    """Addresses of one family, that of the socket which will send to them.

    Args:
        family: AF_INET or AF_INET6; with the latter IPv4 addresses come in their mapped form.
    """

    def __init__(self, family: socket.AddressFamily) -> None:
        self._family = family
        self._known: OrderedDict[str, _Entry] = OrderedDict()  # last used at the end
        self._running: set[str] = set()  # names being looked up

    def lookup(self, host: str, nursery: trio.Nursery) -> str | None:
        """Return an address at once, None if none is known; start a look-up if one is due."""
        literal = as_literal(host, self._family)
        if literal is not None:
            return literal
        entry = self._known.get(host)
        is_due = entry is None or trio.current_time() >= entry.refresh_at_s
        if is_due and host not in self._running and len(self._running) < LOOKUPS_MAX:
            self._running.add(host)
            nursery.start_soon(self._refresh, host)
        if entry is None:
            return None
        self._known.move_to_end(host)
        return entry.address

    async def resolve(self, host: str) -> str | None:
        """Return an address, looked up now unless a fresh one is known; None if there is none.

        If cancelled, what was known stays known.
        """
        literal = as_literal(host, self._family)
        if literal is not None:
            return literal
        entry = self._known.get(host)
        if entry is None or trio.current_time() >= entry.refresh_at_s:
            await self._look_up(host)
        return self._known[host].address

    async def _refresh(self, host: str) -> None:
        try:
            await self._look_up(host)
        finally:
            self._running.discard(host)

    async def _look_up(self, host: str) -> None:
        found: str | None = None
        with trio.move_on_after(LOOKUP_TIMEOUT_S):
            found = await self._ask(host)
        old = self._known.get(host)
        address = found if found is not None or old is None else old.address
        wait_s = FRESH_S if found is not None else RETRY_S
        self._known[host] = _Entry(address, trio.current_time() + wait_s)
        self._known.move_to_end(host)
        while len(self._known) > HOSTS_MAX:
            self._known.popitem(last=False)

    async def _ask(self, host: str) -> str | None:
        flags = socket.AI_V4MAPPED if self._family == socket.AF_INET6 else 0
        try:
            answers = await trio.socket.getaddrinfo(
                host, None, family=self._family, type=socket.SOCK_DGRAM, flags=flags
            )
        except (OSError, UnicodeError):
            return None
        return str(answers[0][4][0]) if answers else None


def as_literal(host: str, family: socket.AddressFamily) -> str | None:
    """Return the address if `host` is a literal that the family can reach, else None."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return host if family == socket.AF_INET else f"::ffff:{host}"
    return host if family == socket.AF_INET6 else None
