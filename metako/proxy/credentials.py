"""What a client may log in to the proxy with, as its server would ask it.

In: who asks, the agent's welcome, and what the agent says of roles. Out: a `Credential` for
`pgwire.login_server`, or None: it cannot be judged here, and the server itself is to do the login.

What is stored for a role is kept for a few seconds, and for a minute while no agent can tell, so
that logins go on through its restarts. A failed proof has it read anew: the password may have been
changed, or the standby that was read from lagged behind. How often that may happen to one role is
bounded, because anybody can fail.

Invariants: nobody is let in by less than the first matching line of pg_hba.conf asks for. A role
that does not exist, or has no password that is valid, gets a mock and so fails like others. What is
kept is bounded, names of nobody apart from those of roles: they cannot push each other out. Whoever
comes while a role is asked for waits for that answer, and goes on if the one who asked leaves.

Source: ClientAuthentication and CheckPWChallengeAuth (src/backend/libpq/auth.c) for what a method
means with which stored password, and for the words of refusals.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol, assert_never

import trio

from metako.model.rolelogin import RoleLogin
from metako.pgwire.keys import Md5Hash
from metako.pgwire.login_server import Credential, Md5Login, RejectLogin, ScramLogin, TrustLogin
from metako.pgwire.startup import SqlState
from metako.pgwire.verifier import ScramVerifier, mock_verifier, parse_verifier
from metako.proxy.hba import (
    Asks,
    Certificate,
    Client,
    NoLine,
    Rules,
    Unjudged,
    certificate_wanted,
    judge,
    parse_hba,
)
from metako.proxy.loginframes import Welcome

FRESH_S = 5.0  # what an agent has said is not asked again for so long
KEPT_S = 60.0  # while no agent can tell; afterwards the server itself has to do the login
ROLES_MAX = 2000  # roles that are kept
STRANGERS_MAX = 500  # names that are kept although there is no such role
ANSWER_TIMEOUT_S = 1.0
UNTOLD_S = 1.0  # after an agent could not tell, what is kept is used at once for so long
REREADS_MAX = 3  # of one role in a row, after failed proofs
REREADS_PER_S = 0.5  # that it may have in the long run

_METHODS = frozenset({"trust", "cert", "reject", "scram-sha-256", "md5"})  # judged here
_TRUSTING = ("trust", "cert")  # once what they ask of certificates was judged
_NO_ENTRY = "no pg_hba.conf entry for"
_NO_REPLICATION = "no pg_hba.conf entry for replication connection from"


@dataclass(frozen=True, slots=True)
class Asking:
    """Who wants to log in, and how."""

    user: str
    database: str
    address: str  # of the client, as numbers
    tls: bool
    replication: bool = False  # physical; `replication=database` is none
    port: int = 0  # of the client
    certifies: bool = False  # clients on TLS are asked for a certificate
    certified: bool = False  # this one has shown one that was verified
    common_name: str | None = None  # of that certificate; None if there is none


class CredentialSource(Protocol):
    """Says what a client may log in with."""

    async def credential(self, asking: Asking) -> Credential | None:
        """Return it, or None: it cannot be judged here, let the server itself do the login."""

    def trusts(self, asking: Asking) -> bool:
        """Return whether the client is let in without a word; False also if that takes time."""

    def forget(self, user: str) -> None:
        """A proof has failed, or a server refused the key: read anew before the next login."""


class Agent(Protocol):
    """What is needed of the link to the agent; see `control.AgentLink`."""

    @property
    def answering(self) -> bool: ...

    @property
    def welcome(self) -> Welcome | None: ...

    async def wait_welcome(self) -> Welcome | None: ...

    async def ask(self, user: str) -> RoleLogin | None: ...


@dataclass(slots=True, eq=False)
class _Kept:
    """What is known of a role."""

    found: bool
    secret: ScramVerifier | Md5Hash | None = field(repr=False)  # None: nothing that can be used
    has_password: bool  # something is stored, of whatever form
    read_at: float  # seconds
    doubted: bool = False  # read it anew as soon as that is allowed
    rereads: float = REREADS_MAX  # that are left, as of `counted_at`
    counted_at: float = 0.0

    def wipe(self) -> None:
        if isinstance(self.secret, Md5Hash):
            self.secret.wipe()


@dataclass(slots=True, eq=False)
class _Asked:
    """A question to the agent that is under way."""

    done: trio.Event = field(default_factory=trio.Event)
    untold: bool = False  # when done: the agent could not tell, nor could it a moment later


class Credentials:
    """See the module's docstring. Implements `CredentialSource`."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._judged_by: Welcome | None = None  # the one that `_rules` are of
        self._rules = Rules(())
        # By name; the one that was used longest ago first.
        self._roles: OrderedDict[str, _Kept] = OrderedDict()
        self._strangers: OrderedDict[str, _Kept] = OrderedDict()
        self._being_asked: dict[str, _Asked] = {}
        # The agent could not tell a moment ago: who is kept does not wait for it. In seconds.
        self._untold_until = -math.inf

    async def credential(self, asking: Asking) -> Credential | None:
        """Return what the client may log in with; None: let the server itself do the login.

        Takes two seconds at most, and next to nothing for a role that is kept. If cancelled, others
        who wait for the same role go on.
        """
        welcome = await self._agent.wait_welcome()
        if welcome is None:
            return None
        method = self._method(asking, welcome)
        if isinstance(method, str):
            return await self._by_method(method, asking, welcome)
        return method

    def trusts(self, asking: Asking) -> bool:
        """Return whether the first matching line asks for nothing, if an agent has told of it."""
        welcome = self._agent.welcome
        return welcome is not None and self._method(asking, welcome) in _TRUSTING

    def _method(self, asking: Asking, welcome: Welcome) -> str | RejectLogin | None:
        """Return by which method the client is to log in; None: that is not for us to judge."""
        if welcome.hba is None:
            return None
        if welcome is not self._judged_by:
            self._judged_by, self._rules = welcome, parse_hba(welcome.hba)
        client = Client(
            asking.user, asking.database, asking.address, asking.tls, asking.replication
        )
        match judge(self._rules, client):
            case Unjudged():
                return None
            case NoLine():
                return RejectLogin(_refusal(asking, by_line=False))
            case Asks(method) as asks:
                wanted = certificate_wanted(asks)
                if wanted is None or method not in _METHODS:
                    return None
                if wanted is not Certificate.NONE and not asking.certifies:
                    return None
                return _judge_certificate(asking, wanted, method) or method
            case unknown:
                assert_never(unknown)

    async def _by_method(self, method: str, asking: Asking, welcome: Welcome) -> Credential | None:
        if method in _TRUSTING:
            return TrustLogin()
        if method == "reject":
            return RejectLogin(_refusal(asking, by_line=True))
        kept = await self._known(asking.user)
        if kept is None:
            return None
        if method == "md5" and isinstance(kept.secret, Md5Hash):
            # Of its own: ours is wiped when it is replaced, and this login may still go on.
            return Md5Login(Md5Hash(kept.secret.reveal()))
        # A server asks by SCRAM where something is stored that is no hash.
        if method == "md5" and not kept.has_password and welcome.md5:
            return Md5Login(None)
        if isinstance(kept.secret, ScramVerifier):
            return ScramLogin(kept.secret)
        return ScramLogin(
            mock_verifier(asking.user, secret=welcome.mock_secret, iterations=welcome.iterations)
        )

    def forget(self, user: str) -> None:
        """A proof has failed, or a server refused the key: read anew before the next login."""
        kept = self._find(user)
        if kept is not None:
            kept.doubted = True

    # -- what is kept -------------------------------------------------------------------------

    async def _known(self, user: str) -> _Kept | None:
        """Return what is known of a role, asked for if need be; None if that cannot be told."""
        deadline = trio.current_time() + ANSWER_TIMEOUT_S
        while not self._is_fresh(user):
            told = self._agent.answering and trio.current_time() >= self._untold_until
            if not told and (kept := self._if_it_must_do(user)) is not None:
                return kept
            asked = self._being_asked.get(user)
            if asked is None:
                return await self._ask(user, deadline) or self._if_it_must_do(user)
            with trio.move_on_at(deadline):
                await asked.done.wait()
            if asked.untold or not asked.done.is_set():
                return self._if_it_must_do(user)
            # It is fresh now, or the one who asked has left.
        return self._find(user)

    async def _ask(self, user: str, deadline: float) -> _Kept | None:
        self._being_asked[user] = asked = _Asked()
        self._spend_reread(user)
        role: RoleLogin | None = None
        try:
            with trio.move_on_at(deadline):
                role = await self._agent.ask(user)
            if role is None:
                asked.untold, self._untold_until = True, trio.current_time() + UNTOLD_S
        finally:
            del self._being_asked[user]
            asked.done.set()
        return None if role is None else self._keep(user, role)

    def _is_fresh(self, user: str) -> bool:
        kept = self._find(user)
        if kept is None or trio.current_time() - kept.read_at > FRESH_S:
            return False
        # The last reading that is allowed may be under way.
        may_be_read = user in self._being_asked or self._rereads_left(kept) >= 1
        return not kept.doubted or not may_be_read

    def _if_it_must_do(self, user: str) -> _Kept | None:
        """Return what is kept for when nobody can be asked, but nothing that is in doubt."""
        kept = self._find(user)
        if kept is None or kept.doubted or trio.current_time() - kept.read_at > KEPT_S:
            return None
        return kept

    def _rereads_left(self, kept: _Kept) -> float:
        gained = (trio.current_time() - kept.counted_at) * REREADS_PER_S
        return min(kept.rereads + gained, REREADS_MAX)

    def _spend_reread(self, user: str) -> None:
        kept = self._find(user)
        if kept is not None and kept.doubted:
            kept.rereads = max(0.0, self._rereads_left(kept) - 1)
            kept.counted_at = trio.current_time()

    def _find(self, user: str) -> _Kept | None:
        for held in (self._roles, self._strangers):
            if user in held:
                held.move_to_end(user)
                return held[user]
        return None

    def _keep(self, user: str, role: RoleLogin) -> _Kept:
        now = trio.current_time()
        secret, has_password = _usable(role.stored), role.stored is not None
        kept = _Kept(role.found, secret, has_password, read_at=now, counted_at=now)
        former = self._roles.pop(user, None) or self._strangers.pop(user, None)
        if former is not None:
            kept.rereads, kept.counted_at = former.rereads, former.counted_at
            former.wipe()
        held, most = (self._roles, ROLES_MAX) if role.found else (self._strangers, STRANGERS_MAX)
        held[user] = kept
        while len(held) > most:
            _, oldest = held.popitem(last=False)
            oldest.wipe()
        return kept


def _usable(stored: str | None) -> ScramVerifier | Md5Hash | None:
    if stored is None:
        return None
    return Md5Hash.parse(stored) or parse_verifier(stored)


def _judge_certificate(asking: Asking, wanted: Certificate, method: str) -> RejectLogin | None:
    """Return PostgreSQL's words for a client whose certificate is not as wanted."""
    if wanted is Certificate.NONE:
        return None
    if not asking.certified:
        return RejectLogin("connection requires a valid client certificate")
    # Of one that is rejected in any case the server does not compare the name.
    if wanted is Certificate.ANY or method == "reject" or asking.common_name == asking.user:
        return None
    # The server asks for a password before it compares the name, and says the same.
    by_password = method in ("scram-sha-256", "md5")
    code = SqlState.INVALID_PASSWORD if by_password else SqlState.INVALID_AUTHORIZATION
    means = {"cert": "certificate", "trust": '"trust"'}.get(method, "password")
    return RejectLogin(f'{means} authentication failed for user "{asking.user}"', code)


def _refusal(asking: Asking, *, by_line: bool) -> str:
    """Return PostgreSQL's words for a client that a line rejects, or that no line is for."""
    if asking.replication:
        words = "rejects replication connection for" if by_line else _NO_REPLICATION
    else:
        words = "rejects connection for" if by_line else _NO_ENTRY
    database = "" if asking.replication else f', database "{asking.database}"'
    encryption = "SSL encryption" if asking.tls else "no encryption"
    host = f'host "{asking.address}", user "{asking.user}"{database}, {encryption}'
    return f"pg_hba.conf {words} {host}" if by_line else f"{words} {host}"
