"""Who is let in: lines, roles, certificates and an agent that tells of them, and logins by that.

A case is a minute or two of a proxy: clients come, passwords and lines change, and the agent is
slow or silent at times. What each client may log in with is compared with what a server would ask
that has the same lines and the roles as the agent has told them last; then the client tries to get
in, with the right key or another.

Source: ClientAuthentication, CheckPWChallengeAuth and CheckCertAuth of src/backend/libpq/auth.c,
get_password_type of crypt.c.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import trio
import trio.testing

from fuzzing import hbaserver, roles
from fuzzing.mutation import Broken
from fuzzing.rules import draw_lines, some_client
from metako.model.rolelogin import RoleLogin
from metako.pgwire.keys import Md5Hash
from metako.pgwire.login_client import LoginClient, ServerReady, ServerRefused
from metako.pgwire.login_server import (
    Credential,
    LoggedIn,
    LoginInputs,
    LoginServer,
    Md5Login,
    RejectLogin,
    ScramLogin,
    TrustLogin,
)
from metako.pgwire.startup import SqlState
from metako.pgwire.verifier import SALT_BYTES
from metako.proxy.credentials import (
    ANSWER_TIMEOUT_S,
    FRESH_S,
    KEPT_S,
    REREADS_MAX,
    Asking,
    Credentials,
)
from metako.proxy.hba import Client
from metako.proxy.loginframes import Welcome

USERS = ("anna", "anna", "olga", "nobody")
CLIENTS_MAX = 6
GAPS_S = (0.0, 0.05, 0.4, 1.5, FRESH_S - 0.5, FRESH_S + 0.5, 30.0, KEPT_S + 2)
LATER_S = 0.001  # nothing happens at the same time, so a seed plays the same every time
GARBAGE = ("", "pencil", "md5zz", "SCRAM-SHA-256$1:x", "md5" + "A" * 32, "SCRAM-SHA-512$1:a$b:c")
METHODS = ("md5", "md5", "scram-sha-256", "scram-sha-256", "trust", "cert", "reject")
MOCK_SECRET = bytes(range(32))
_MD5_STORED = re.compile(r"md5[0-9a-f]{32}\Z")


# -- the world ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Told:
    """An answer of the agent that has arrived."""

    stored: str | None
    at: float
    number: int  # among all that has happened


@dataclass(frozen=True, slots=True)
class _Forgotten:
    """A role is to be read anew."""

    at: float
    number: int  # among all that has happened


@dataclass
class _Agent:
    """Knows the roles; takes too long or cannot tell if there is trouble."""

    rng: random.Random
    welcome: Welcome | None
    stored: dict[str, str | None]  # by the names of roles
    troubled: bool
    answering: bool = True
    told: dict[str, _Told] = field(default_factory=dict)  # the last answer on each role
    asked: Counter[str] = field(default_factory=Counter)  # how often it is over, by names
    happened: Iterator[int] = field(default_factory=itertools.count)

    async def wait_welcome(self) -> Welcome | None:
        await trio.lowlevel.checkpoint()
        return self.welcome

    async def ask(self, user: str) -> RoleLogin | None:
        role = RoleLogin(user in self.stored, self.stored.get(user))
        try:
            takes_s = (0.0, 0.3, 0.7, 1.2) if self.troubled else (0.0, 0.3)
            await trio.sleep(self.rng.choice(takes_s))
        finally:
            self.asked[user] += 1
        if not self.answering:
            return None
        self.told[user] = _Told(role.stored, trio.current_time(), next(self.happened))
        return role


@dataclass
class _World:
    agent: _Agent
    source: Credentials
    client: Client  # for whom the lines were drawn
    forgotten: dict[str, list[_Forgotten]] = field(default_factory=dict)  # by names
    results: dict[int, str] = field(default_factory=dict)


def _some_stored(rng: random.Random, user: str) -> str | None:
    secret = roles.secret_of(user, rng.choice(roles.PASSWORDS))
    kinds = (secret.stored_scram, secret.stored_scram, secret.stored_md5)
    return rng.choice((*kinds, None, rng.choice(GARBAGE)))


def _some_lines(rng: random.Random, client: Client) -> list[str]:
    if rng.random() < 0.25:
        return draw_lines(rng, client)
    certificate = rng.choice(("", "", "", "clientcert=verify-ca", "clientcert=verify-full"))
    if rng.random() < 0.3:
        return [f"hostssl all all all {rng.choice(METHODS)} {certificate}"]
    return [f"host all all all {rng.choice(('md5', 'md5', 'scram-sha-256', 'trust', 'reject'))}"]


def _some_welcome(rng: random.Random, client: Client) -> Welcome | None:
    if rng.random() < 0.03:
        return None
    lines = tuple(_some_lines(rng, client)) if rng.random() < 0.97 else None
    return Welcome(MOCK_SECRET, bytes(32), lines, iterations=1, md5=rng.random() < 0.3)


def fuzz_admission(rng: random.Random) -> str:
    """Play some clients that come to a proxy whose roles, lines and agent change meanwhile."""
    return trio.run(_play, rng, clock=trio.testing.MockClock(autojump_threshold=0))


async def _play(rng: random.Random) -> str:
    client = some_client(rng)
    stored = {user: _some_stored(rng, user) for user in (*USERS[:-1], client.user)}
    own = random.Random(rng.getrandbits(32))  # noqa: S311 - repeatable on purpose
    agent = _Agent(own, _some_welcome(rng, client), stored, troubled=rng.random() < 0.4)
    world = _World(agent, Credentials(agent), client)
    at = begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(rng.randint(1, CLIENTS_MAX)):
            its_own, change = rng.getrandbits(32), rng.getrandbits(32)
            nursery.start_soon(_serve, world, number, at, its_own)
            if rng.random() < 0.4:
                nursery.start_soon(_change, world, at + LATER_S / 2, change)
            at += LATER_S + rng.choice(GAPS_S)
    most = len(USERS) * (1 + REREADS_MAX + (trio.current_time() - begun) * 0.8) + CLIENTS_MAX
    if agent.asked.total() > most:
        raise Broken(f"the agent was asked {agent.asked}, {most} times would do")
    return f"admission {world.results[0]}"


async def _change(world: _World, at: float, seed: int) -> None:
    await trio.sleep_until(at)
    rng, agent = random.Random(seed), world.agent  # noqa: S311 - repeatable on purpose
    match rng.randrange(4):
        case 0:
            agent.welcome = _some_welcome(rng, world.client)
        case 1 if agent.troubled:
            agent.answering = not agent.answering
        case _:
            user = rng.choice(USERS)
            agent.stored[user] = _some_stored(rng, user)


# -- a client -----------------------------------------------------------------------------------


def _some_asking(rng: random.Random, client: Client) -> Asking:
    user = client.user if rng.random() < 0.3 else rng.choice(USERS)
    certifies = rng.random() < 0.7
    certified = client.tls and certifies and rng.random() < 0.7
    return Asking(
        user,
        client.database,
        client.address,
        client.tls,
        client.replication,
        certifies=certifies,
        certified=certified,
        common_name=rng.choice((user, user, "olga", f"{user}\0x", None)) if certified else None,
    )


async def _serve(world: _World, number: int, at: float, seed: int) -> None:
    rng, agent = random.Random(seed), world.agent  # noqa: S311 - repeatable on purpose
    asking = _some_asking(rng, world.client)
    await trio.sleep_until(at)
    begun, welcome = trio.current_time(), agent.welcome
    with trio.move_on_after(0.2 if rng.random() < 0.1 else math.inf) as scope:
        found = await world.source.credential(asking)
    if scope.cancelled_caught:
        world.results[number] = "left"
        return
    spent_s = trio.current_time() - begun
    if spent_s > ANSWER_TIMEOUT_S + LATER_S:
        raise Broken(f"{asking} waited for {spent_s} s")
    _check(world, asking, welcome, begun, found)
    world.results[number] = _try_to_get_in(rng, world, asking, found)


def _check(
    world: _World, asking: Asking, welcome: Welcome | None, begun: float, found: Credential | None
) -> None:
    """Raise Broken if a server would ask something else of this client."""
    agent = world.agent
    asked = asked_by_server(asking, welcome)
    if not isinstance(asked, str):
        if found != asked:
            raise Broken(f"{asking} by {welcome} is asked {found}, and by a server {asked}")
        return
    told = agent.told.get(asking.user)
    if found is None:
        if not agent.troubled:
            raise Broken(f"{asking} is not judged, though the agent answers")
        return
    if told is None or told.at < begun - KEPT_S:
        raise Broken(f"{asking} is asked {found} by an answer that is too old")
    assert welcome is not None
    expected = asked_by_password(asked, asking, told.stored, welcome)
    if not _is_asked(found, expected):
        raise Broken(f"{asking} by {told} is asked {found}, and by a server {expected}")
    is_fresh = told.at >= begun - FRESH_S
    forgotten = world.forgotten.get(asking.user, [])
    doubted = any(told.number < one.number and one.at <= begun for one in forgotten)
    # Who fails again and again does not have it read again and again.
    if doubted and (not is_fresh or agent.asked[asking.user] <= REREADS_MAX):
        raise Broken(f"{asking} is asked {found} by what is in doubt")
    if not is_fresh and not agent.troubled:
        raise Broken(f"{asking} is asked {found} by what is not read anew")


def _try_to_get_in(
    rng: random.Random, world: _World, asking: Asking, found: Credential | None
) -> str:
    """Log in; raise Broken if somebody gets in, or does not, who should not or should."""
    if found is None:
        return "left to the server"
    told = world.agent.told.get(asking.user)
    stored = None if told is None else told.stored
    secret = roles.secret_of(asking.user, rng.choice(roles.PASSWORDS))
    keys: roles.Keys = rng.choice((secret.scram, secret.md5, None))
    if rng.random() < 0.8:
        keys = secret.md5 if isinstance(found, Md5Login) else secret.scram
    match found:
        case ScramLogin():
            fits = stored == secret.stored_scram and keys is secret.scram
        case Md5Login():
            fits = stored == secret.stored_md5 and keys is secret.md5
        case TrustLogin() | RejectLogin():
            fits = isinstance(found, TrustLogin)
    server = LoginServer(asking.user, found, LoginInputs(rng.randbytes(18), rng.randbytes(4)))
    client = LoginClient({"user": "x"}, keys, nonce=rng.randbytes(18))
    verdict, theirs = roles.converse(server, client, roles.some_settings(rng).message())
    kind = type(found).__name__
    if isinstance(verdict, LoggedIn) != fits:
        raise Broken(f"{asking} is asked {found} with {stored} stored: {verdict} for {keys}")
    if isinstance(verdict, LoggedIn):
        if not isinstance(theirs.outcome, ServerReady):
            raise Broken(f"{asking} was let in and understood {theirs}")
        return f"{kind} let in"
    if not isinstance(theirs.outcome, ServerRefused):
        raise Broken(f"{asking} was refused and understood {theirs}")
    roles.check_refused_by_server(theirs.outcome)
    if verdict is None:
        return f"{kind} not answered"
    roles.check_refusal(verdict, asking.user, asking.database)
    if verdict.reason.startswith(SqlState.INVALID_PASSWORD) and rng.random() < 0.8:
        world.source.forget(asking.user)
        forgotten = _Forgotten(trio.current_time(), next(world.agent.happened))
        world.forgotten.setdefault(asking.user, []).append(forgotten)
    return f"{kind} refused"


# -- a server -----------------------------------------------------------------------------------


def asked_by_server(asking: Asking, welcome: Welcome | None) -> Credential | str | None:
    """Return what a server asks of a client; the method if it asks for a password.

    None is what is left to a server: what nobody else knows, or can do.
    """
    if welcome is None or welcome.hba is None:
        return None
    client = Client(asking.user, asking.database, asking.address, asking.tls, asking.replication)
    line = hbaserver.verdict(hbaserver.read(welcome.hba), client)
    if isinstance(line, hbaserver.Unknown):
        return None
    if line is None:
        return RejectLogin(_words(asking, "no pg_hba.conf entry for", "from "))
    if line.method not in METHODS or len(line.options) > 1:
        return None
    certificate = _certificate_level(line)
    if certificate is None or (certificate and not asking.certifies):
        return None
    if certificate and not asking.certified:
        return RejectLogin("connection requires a valid client certificate")
    if line.method == "reject":
        return RejectLogin(_words(asking, "pg_hba.conf rejects", "for "))
    if certificate == "verify-full" and asking.common_name != asking.user:
        # A server would ask for the password first, and then refuse whatever it was.
        name = {"cert": "certificate", "trust": '"trust"'}.get(line.method, "password")
        code = SqlState.INVALID_PASSWORD if name == "password" else SqlState.INVALID_AUTHORIZATION
        return RejectLogin(f'{name} authentication failed for user "{asking.user}"', code)
    return TrustLogin() if line.method in ("trust", "cert") else line.method


def _certificate_level(line: hbaserver.Line) -> str | None:
    """Return what is asked of the certificate, "" for nothing, None if that cannot be told."""
    level = "".join(line.options)
    known = ("", "clientcert=verify-ca", "clientcert=verify-full")
    if level not in known or (line.method == "cert" and level == known[1]):
        return None
    return "verify-full" if line.method == "cert" else level.partition("=")[2]


def _words(asking: Asking, begin: str, preposition: str) -> str:
    """Return a server's words for whom it does not even ask for a password."""
    rejects = begin.endswith("rejects")
    where = f'host "{asking.address}", user "{asking.user}"'
    encryption = "SSL encryption" if asking.tls else "no encryption"
    if asking.replication:
        return f"{begin} replication connection {preposition}{where}, {encryption}"
    connection = " connection for" if rejects else ""
    return f'{begin}{connection} {where}, database "{asking.database}", {encryption}'


def asked_by_password(
    method: str, asking: Asking, stored: str | None, welcome: Welcome
) -> Credential | None:
    """Return what a server asks that has this `rolpassword`; None is SCRAM that must fail."""
    is_md5 = welcome.md5 if stored is None else _MD5_STORED.match(stored) is not None
    if method == "md5" and is_md5:
        return Md5Login(None if stored is None else Md5Hash(stored.encode()))
    for password in roles.PASSWORDS:
        secret = roles.secret_of(asking.user, password)
        if secret.stored_scram == stored:
            return ScramLogin(secret.verifier)
    return None


def _is_asked(found: Credential, expected: Credential | None) -> bool:
    if expected is not None:
        return found == expected
    mock = found.verifier if isinstance(found, ScramLogin) else None
    return mock is not None and mock.mock and (len(mock.salt), mock.iterations) == (SALT_BYTES, 1)
