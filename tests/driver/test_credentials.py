"""What a client may log in to the proxy with: methods, stored passwords, and what is kept."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import trio
import trio.testing

from metako.model.rolelogin import RoleLogin
from metako.pgwire.keys import Md5Hash
from metako.pgwire.login_server import (
    Credential,
    Md5Login,
    RejectLogin,
    ScramLogin,
    TrustLogin,
)
from metako.pgwire.startup import SqlState
from metako.pgwire.verifier import mock_verifier, parse_verifier
from metako.proxy import credentials
from metako.proxy.credentials import (
    ANSWER_TIMEOUT_S,
    FRESH_S,
    KEPT_S,
    REREADS_MAX,
    REREADS_PER_S,
    Asking,
    Credentials,
)
from metako.proxy.loginframes import Welcome

SECRET = bytes(range(32))
KEY = base64.b64encode(bytes(32)).decode()
SCRAM = f"SCRAM-SHA-256$4096:c2FsdHNhbHQ=${KEY}:{KEY}"
OTHER_SCRAM = f"SCRAM-SHA-256$4096:b3RoZXI=${KEY}:{KEY}"
MD5 = "md5" + 32 * "0"
ANNA = Asking("anna", "shop", "10.1.2.3", tls=False)


def welcome(*lines: str, md5: bool = False) -> Welcome:
    return Welcome(
        SECRET, SECRET, lines or ("host all all all scram-sha-256",), iterations=5000, md5=md5
    )


@dataclass
class FakeAgent:
    """Answers at once from `stored`, unless told otherwise."""

    welcome: Welcome | None = field(default_factory=welcome)
    stored: dict[str, str | None] = field(default_factory=lambda: {"anna": SCRAM, "olga": MD5})
    answering: bool = True
    asked: list[str] = field(default_factory=list)
    before_answer: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint

    async def wait_welcome(self) -> Welcome | None:
        await trio.lowlevel.checkpoint()
        return self.welcome

    async def ask(self, user: str) -> RoleLogin | None:
        self.asked.append(user)
        await self.before_answer()
        if not self.answering:
            await trio.sleep(ANSWER_TIMEOUT_S)
            return None
        return RoleLogin(user in self.stored, self.stored.get(user))


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
def source(agent: FakeAgent) -> Credentials:
    return Credentials(agent)


def scram(credential: Credential | None) -> str:
    """Return the salt of a login by SCRAM, with a mark if it is a mock's."""
    assert isinstance(credential, ScramLogin), credential
    return ("mock " if credential.verifier.mock else "") + credential.verifier.salt.decode(
        errors="replace"
    )


# -- methods ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["scram-sha-256", "md5"])
async def test_a_scram_verifier_is_for_scram_whatever_the_line_says(
    agent: FakeAgent, source: Credentials, method: str
) -> None:
    agent.welcome = welcome(f"host all all all {method}")
    verifier = parse_verifier(SCRAM)
    assert verifier is not None
    assert await source.credential(ANNA) == ScramLogin(verifier)


async def test_an_md5_hash_is_for_md5_alone(agent: FakeAgent, source: Credentials) -> None:
    olga = replace(ANNA, user="olga")
    agent.welcome = welcome("host all all all md5")
    stored = Md5Hash.parse(MD5)
    assert await source.credential(olga) == Md5Login(stored)
    agent.welcome = welcome("host all all all scram-sha-256")
    assert scram(await source.credential(olga)).startswith("mock ")


@pytest.mark.parametrize("stored", [{}, {"bert": None}, {"bert": "nonsense"}])
async def test_who_has_no_usable_password_gets_a_mock(
    agent: FakeAgent, source: Credentials, stored: dict[str, str | None]
) -> None:
    agent.stored = stored
    expected = mock_verifier("bert", secret=SECRET, iterations=5000)
    for method in ("scram-sha-256", "md5"):
        agent.welcome = welcome(f"host all all all {method}")
        assert await source.credential(replace(ANNA, user="bert")) == ScramLogin(expected)


async def test_mocks_are_by_md5_where_new_passwords_are(
    agent: FakeAgent, source: Credentials
) -> None:
    agent.welcome = welcome("host all all all md5", md5=True)
    assert await source.credential(replace(ANNA, user="nobody")) == Md5Login(None)
    agent.welcome = welcome(md5=True)
    assert scram(await source.credential(replace(ANNA, user="nobody"))).startswith("mock ")


async def test_what_is_stored_in_no_known_form_is_for_scram_as_at_a_server(
    agent: FakeAgent, source: Credentials
) -> None:
    agent.welcome = welcome("host all all all md5", md5=True)
    agent.stored["bert"] = "nonsense"
    assert scram(await source.credential(replace(ANNA, user="bert"))).startswith("mock ")


async def test_trust_and_reject_ask_nobody(agent: FakeAgent, source: Credentials) -> None:
    agent.welcome = welcome("host shop all all trust", "host other all all reject")
    assert await source.credential(ANNA) == TrustLogin()
    rejected = await source.credential(replace(ANNA, database="other"))
    assert isinstance(rejected, RejectLogin)
    assert rejected.sqlstate is SqlState.INVALID_AUTHORIZATION
    assert await source.credential(replace(ANNA, database="third")) != rejected
    assert agent.asked == []


@pytest.mark.parametrize(
    "line",
    [
        "host all all all password",
        "host all all all ldap ldapserver=x",
        "host all all all gss",
        "hostssl all all all cert",
        "hostssl all all all scram-sha-256 clientcert=verify-full",
        "hostssl all all all trust clientcert=verify-ca",
        "host all +staff all trust",
        "host all all somewhere.example reject",
        "nonsense",
    ],
)
async def test_what_is_not_for_here_is_left_to_the_server(
    agent: FakeAgent, source: Credentials, line: str
) -> None:
    agent.welcome = welcome(line, "host all all all trust")
    assert await source.credential(replace(ANNA, tls=True)) is None
    assert agent.asked == []


async def test_without_a_welcome_or_lines_nobody_is_judged(
    agent: FakeAgent, source: Credentials
) -> None:
    agent.welcome = Welcome(SECRET, SECRET, None)
    assert await source.credential(ANNA) is None
    agent.welcome = None
    assert await source.credential(ANNA) is None


async def test_the_newest_lines_hold(agent: FakeAgent, source: Credentials) -> None:
    agent.welcome = welcome("host all all all trust")
    assert await source.credential(ANNA) == TrustLogin()
    agent.welcome = welcome("host all all all reject")
    assert isinstance(await source.credential(ANNA), RejectLogin)


# -- what is kept -----------------------------------------------------------------------------


async def test_an_answer_holds_for_seconds(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(3):
        await source.credential(ANNA)
    agent.stored["anna"] = OTHER_SCRAM
    await trio.sleep(FRESH_S - 0.1)
    assert scram(await source.credential(ANNA)) == "saltsalt"
    assert agent.asked == ["anna"]
    await trio.sleep(0.2)
    assert scram(await source.credential(ANNA)) == "other"


async def test_an_answer_holds_longer_while_no_agent_answers_but_not_for_ever(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    await source.credential(ANNA)
    agent.answering = False
    await trio.sleep(KEPT_S - 1)
    begun = trio.current_time()
    assert scram(await source.credential(ANNA)) == "saltsalt"
    assert trio.current_time() == begun
    await trio.sleep(2)
    assert await source.credential(ANNA) is None
    agent.answering = True
    assert scram(await source.credential(ANNA)) == "saltsalt"


async def test_nobody_waits_longer_than_the_limit(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    agent.before_answer = trio.sleep_forever
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(source.credential, ANNA)
    assert trio.current_time() - begun == pytest.approx(ANSWER_TIMEOUT_S)
    assert await source.credential(ANNA) is None
    assert len(agent.asked) <= 11


async def test_an_agent_that_hangs_does_not_take_away_what_is_kept(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    await source.credential(ANNA)
    agent.before_answer = trio.sleep_forever  # its connection is still there
    await trio.sleep(FRESH_S + 1)
    begun = trio.current_time()
    for _ in range(5):
        assert scram(await source.credential(ANNA)) == "saltsalt"
    assert trio.current_time() - begun == pytest.approx(ANSWER_TIMEOUT_S)  # the first one's


async def test_those_who_come_at_once_ask_once(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    agent.before_answer = partial(trio.sleep, 0.5)
    got: list[Credential | None] = []

    async def log_in() -> None:
        got.append(await source.credential(ANNA))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(log_in)
    assert agent.asked == ["anna"]
    assert [scram(one) for one in got] == ["saltsalt"] * 20


async def test_an_answer_that_cannot_be_told_is_shared_too(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    agent.before_answer = partial(trio.sleep, 0.2)
    agent.answering = False
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(source.credential, ANNA)
    assert len(agent.asked) == 1


async def test_those_who_wait_go_on_when_the_one_who_asked_leaves(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    agent.before_answer = partial(trio.sleep, 0.3)
    got: list[Credential | None] = []

    async def log_in(scope: trio.CancelScope) -> None:
        with scope:
            got.append(await source.credential(ANNA))

    leaving = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log_in, leaving)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5):
            nursery.start_soon(log_in, trio.CancelScope())
        await trio.testing.wait_all_tasks_blocked()
        leaving.cancel()
    assert [scram(one) for one in got] == ["saltsalt"] * 5
    assert agent.asked == ["anna", "anna"]


async def test_after_a_failed_proof_the_next_login_reads_anew(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    await source.credential(ANNA)
    agent.stored["anna"] = OTHER_SCRAM
    source.forget("anna")
    source.forget("nobody")
    assert scram(await source.credential(ANNA)) == "other"
    await source.credential(ANNA)
    assert len(agent.asked) == 2


@pytest.mark.parametrize("user", ["anna", "nobody"])
async def test_who_fails_all_the_time_does_not_have_it_read_all_the_time(
    agent: FakeAgent,
    source: Credentials,
    autojump_clock: trio.testing.MockClock,
    user: str,
) -> None:
    seconds = 100
    for _ in range(20 * seconds):
        await source.credential(replace(ANNA, user=user))
        source.forget(user)
        await trio.sleep(0.05)
    most = 1 + REREADS_MAX + seconds * (REREADS_PER_S + 1 / FRESH_S)
    assert seconds * REREADS_PER_S / 2 < len(agent.asked) <= most


async def test_who_comes_while_the_last_allowed_rereading_goes_on_waits_for_it(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    await source.credential(ANNA)
    for _ in range(REREADS_MAX - 1):
        source.forget("anna")
        await source.credential(ANNA)
    agent.stored["anna"] = OTHER_SCRAM
    agent.before_answer = partial(trio.sleep, 0.5)
    source.forget("anna")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.credential, ANNA)
        await trio.sleep(0.1)
        assert scram(await source.credential(ANNA)) == "other"
    assert len(agent.asked) == 1 + REREADS_MAX


async def test_what_is_in_doubt_is_not_used_for_want_of_an_answer(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    await source.credential(ANNA)
    source.forget("anna")
    agent.answering = False
    assert await source.credential(ANNA) is None


async def test_what_is_kept_is_bounded_and_strangers_push_out_no_role(
    agent: FakeAgent,
    source: Credentials,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(credentials, "ROLES_MAX", 3)
    monkeypatch.setattr(credentials, "STRANGERS_MAX", 3)
    agent.stored = dict.fromkeys([*"abcd", "anna"], SCRAM)
    await source.credential(ANNA)
    for number in range(10):
        await source.credential(replace(ANNA, user=f"x{number}"))
    for name in "ab":
        await source.credential(replace(ANNA, user=name))
    agent.asked.clear()
    await source.credential(ANNA)  # and is now the one that was used last
    for name in "cd":
        await source.credential(replace(ANNA, user=name))
    await source.credential(ANNA)
    assert agent.asked == ["c", "d"]
    await source.credential(replace(ANNA, user="a"))
    await source.credential(replace(ANNA, user="x9"))
    await source.credential(replace(ANNA, user="x0"))
    assert agent.asked == ["c", "d", "a", "x0"]


async def test_a_login_keeps_its_hash_when_the_kept_one_is_wiped(
    agent: FakeAgent, source: Credentials, autojump_clock: trio.testing.MockClock
) -> None:
    agent.welcome = welcome("host all all all md5")
    olga = replace(ANNA, user="olga")
    first = await source.credential(olga)
    kept = source._roles["olga"].secret
    agent.stored["olga"] = "md5" + 32 * "1"
    source.forget("olga")
    second = await source.credential(olga)
    assert first == Md5Login(Md5Hash.parse(MD5))
    assert second == Md5Login(Md5Hash.parse("md5" + 32 * "1"))
    assert isinstance(kept, Md5Hash)
    assert not any(kept.reveal())


async def test_nothing_that_is_kept_is_shown(agent: FakeAgent, source: Credentials) -> None:
    await source.credential(ANNA)
    await source.credential(replace(ANNA, user="olga"))
    shown = repr(source) + repr(source._roles) + repr(source._roles["anna"])
    assert KEY not in shown
    assert "000000" not in shown
    assert "x00" not in shown
