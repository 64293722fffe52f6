"""Real agents tell a worker what is stored for a role, and only a worker of their own user."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg
import pytest
import trio

from metako.config import load
from metako.demo.cluster import LocalCluster
from metako.demo.layout import APP_USER, DATABASE, NodeLayout
from metako.model.ids import NodeId
from metako.model.rolelogin import RoleLogin
from metako.model.routing import RoutingTable
from metako.pgwire.login_server import RejectLogin, ScramLogin
from metako.pgwire.verifier import parse_verifier
from metako.postgres.rolelogin import MARK
from metako.postgres.settings import REPLICATION_ROLE
from metako.proxy.control import AgentLink
from metako.proxy.credentials import Asking, Credentials
from metako.proxy.frames import Hello, Stats
from metako.proxy.loginframes import Welcome
from metako.runtime.paths import proxy_socket, socket_dir

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT_S = 30.0
ROLES = """
begin;
set local password_encryption = md5;
drop role if exists ask_md5, ask_nologin, ask_expired, ask_later;
create role ask_md5 login password 'x';
set local password_encryption = 'scram-sha-256';
create role ask_nologin password 'x';
create role ask_expired login password 'x' valid until '2001-01-01';
commit
"""


class Listener:
    """What a worker's board sees; nothing of it matters here."""

    def agent_came(self) -> None: ...

    def agent_went(self) -> None: ...

    def receive_welcome(self, _: Welcome) -> None: ...

    def receive_table(self, _: RoutingTable) -> None: ...

    def stats(self) -> Stats:
        return Stats()


@asynccontextmanager
async def linked(node: NodeLayout) -> AsyncIterator[AgentLink]:
    """Connect to a node's agent as one of its workers does."""
    hello = Hello(os.getpid(), 99, NodeId(node.name), "127.0.0.1", 1)
    link = AgentLink(proxy_socket(load(node.config_path)), hello)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, Listener(), lambda: None)
        yield link
        nursery.cancel_scope.cancel()


def rows(node: NodeLayout, statement: str) -> list[tuple[object, ...]]:
    """Ask the node's own server as the superuser, over the agent's own way."""
    where = f"host={socket_dir(load(node.config_path))} port={node.postgres_port}"
    with psycopg.connect(f"{where} user=postgres dbname=postgres", autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def stored(node: NodeLayout, role: str) -> str:
    return str(rows(node, f"select rolpassword from pg_authid where rolname = '{role}'")[0][0])


async def told(link: AgentLink, role: str) -> RoleLogin:
    with trio.fail_after(TIMEOUT_S):
        while (answer := await link.ask(role)) is None:  # noqa: ASYNC110 - of another process
            await trio.sleep(0.05)
    return answer


async def check_credentials(link: AgentLink, leader: NodeLayout) -> None:
    """The demo's lines ask everybody for SCRAM, and nobody may come as the replication role."""
    source = Credentials(link)
    asking = Asking(APP_USER, DATABASE, "127.0.0.1", tls=False)
    verifier = parse_verifier(stored(leader, APP_USER))
    assert verifier is not None
    assert await source.credential(asking) == ScramLogin(verifier)
    for user in ("ask_nobody", "ask_nologin", "ask_expired", "ask_md5"):
        credential = await source.credential(replace(asking, user=user))
        assert isinstance(credential, ScramLogin)
        assert credential.verifier.mock
    refused = await source.credential(replace(asking, user=REPLICATION_ROLE))
    assert isinstance(refused, RejectLogin)
    assert refused.message.startswith("pg_hba.conf rejects connection for host")


async def test_every_agent_tells_what_the_catalogue_says(cluster: LocalCluster) -> None:
    primary = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    leader = cluster.node(primary.node)
    rows(leader, ROLES)
    welcomes: list[Welcome | None] = []
    for node in cluster.nodes:
        async with linked(node) as link:
            welcomes.append(await link.wait_welcome())
            assert await told(link, APP_USER) == RoleLogin(True, stored(leader, APP_USER))
            with trio.fail_after(TIMEOUT_S):  # a standby replays a moment later
                while not (await told(link, "ask_expired")).found:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            assert await told(link, "ask_md5") == RoleLogin(True, stored(leader, "ask_md5"))
            assert await told(link, "ask_nologin") == RoleLogin(True, None)
            assert await told(link, "ask_expired") == RoleLogin(True, None)
            assert await told(link, "ask_nobody") == RoleLogin(False, None)
            await check_credentials(link, leader)
    assert all(welcome is not None for welcome in welcomes)
    assert len({welcome.mock_secret for welcome in welcomes if welcome is not None}) == 1


async def test_the_primary_makes_the_function_and_the_standbys_have_it(
    cluster: LocalCluster,
) -> None:
    await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    look = "select obj_description(oid, 'pg_proc') from pg_proc where proname = 'role_login'"
    with trio.fail_after(TIMEOUT_S):
        for node in cluster.nodes:
            while rows(node, look) != [(MARK,)]:  # noqa: ASYNC110 - of another process
                await trio.sleep(0.2)
    for node in cluster.nodes:
        async with linked(node) as link:
            assert await told(link, APP_USER) == RoleLogin(True, stored(node, APP_USER))


async def test_questions_go_on_after_the_agent_was_replaced(cluster: LocalCluster) -> None:
    primary = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    node = next(node for node in cluster.nodes if node.name != primary.node)
    async with linked(node) as link:
        before = await told(link, APP_USER)
        welcome = link.welcome
        pid = cluster.stop_agent(node.name)  # hangs
        assert link.answering
        assert await link.ask(APP_USER) is None
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(TIMEOUT_S):
            while link.answering:  # noqa: ASYNC110 - of another process
                await trio.sleep(0.02)
        assert await link.ask(APP_USER) is None
        with trio.fail_after(TIMEOUT_S):
            while not cluster.dead_nodes():  # noqa: ASYNC110 - of another process
                await trio.sleep(0.02)
        cluster.start_agent(node.name)
        assert await told(link, APP_USER) == before
        assert link.welcome == welcome


async def test_the_socket_is_for_the_agents_user_alone(cluster: LocalCluster) -> None:
    await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    for node in cluster.nodes:
        mode = proxy_socket(load(node.config_path)).stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)


async def test_nothing_stored_is_in_any_log(cluster: LocalCluster) -> None:
    """After all of the above, on whatever node."""
    primary = await cluster.wait_healthy(timeout_s=TIMEOUT_S)
    leader = cluster.node(primary.node)
    secrets = [stored(leader, APP_USER).split("$")[-1], stored(leader, APP_USER)]
    secrets += stored(leader, APP_USER).split("$")[-1].split(":")
    for node in cluster.nodes:
        async with linked(node) as link:
            await told(link, APP_USER)
        for log in (node.log_path, node.stderr_path):
            text = log.read_text(errors="replace")
            assert not [secret for secret in secrets if secret in text]
