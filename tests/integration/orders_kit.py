"""Orders of an operator to the nodes of a cluster, and what is to be seen before and after."""

from __future__ import annotations

import json
from dataclasses import replace

import trio
from harness import assert_rows_exactly_once, run_metako
from own_cluster import blocked, eventually, status

from metako.demo.cluster import LocalCluster

COMMAND_TIMEOUT_S = 90.0


async def order(cluster, asked, command, *options):
    """Run a command, of one word or two, on a node; return its exit code, its JSON and stderr."""
    node = cluster.node(asked)
    result = await run_metako(
        *(*command.split(), "-c", str(node.config_path), "--json", *options),
        cwd=node.directory,
        timeout_s=COMMAND_TIMEOUT_S,
    )
    told = json.loads(result.stdout) if result.stdout else {}
    return result.returncode, told, result.stderr.decode()


async def failover(cluster, name, *options):
    """Run `metako failover` on a node, as `order` does."""
    return await order(cluster, name, "failover", *options)


async def nobody_leads(cluster, name, seconds):
    """Wait until a node shows that there is no primary, and that none comes for a while."""

    async def waits():
        return "no primary" in await blocked(cluster, name)

    await eventually(waits, f"{name} shows that nobody leads")
    with trio.move_on_after(seconds):
        while True:
            assert (await status(cluster, name))["primary"] is None
            await trio.sleep(0.2)


async def until_dead(cluster, asked, *names):
    """Wait until a node holds others for dead: before that they may be alive to it."""

    async def dead():
        members = (await status(cluster, asked))["members"]
        return all(m["state"] == "dead" for m in members if m["node"] in names)

    await eventually(dead, f"{asked} holds {', '.join(names)} for dead")


async def assert_rows_exactly_once_on_members(cluster, writer):
    """Claim what `assert_rows_exactly_once` does, of the members that answer and hold data."""
    views = await cluster.views()
    data = [n for n in cluster.nodes if n.name in views and not n.witness]
    shown = LocalCluster(replace(cluster.layout, nodes=tuple(data)))
    await assert_rows_exactly_once(shown, writer)
