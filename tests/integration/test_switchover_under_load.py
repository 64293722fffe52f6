"""What clients that are busy notice of planned switchovers: pgbench through all proxies.

Each run says how many transactions there were, for how long none ended, and how many clients lost
their connection, told by which SQLSTATE; `pytest -s` shows it. What is claimed:

- who only reads, and little at a time, notices nothing but a pause;
- who is between two transactions keeps the connection: nobody loses it at a BEGIN;
- who loses it is told what that means, and that is true: a transaction whose client was told 57P01
  is not there, one whose end was answered is, and only after 08007 it may be or not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import trio
from drivers_kit import Proxies, proxies_of, run_program
from harness import run_metako
from load_kit import IN_DOUBT, ROLLED_BACK, Heard, pgbench_load, timeline
from shared_cluster import SharedCluster

from metako.demo.cluster import LocalCluster
from metako.postgres.install import find_installation
from metako.postgres.osuser import resolve_os_user

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FULL = os.environ.get("METAKO_TEST_FULL", "") not in ("", "0")
SWITCHOVERS = 10 if FULL else 1  # of each load
CLIENTS = 8
RAMP_S, TAIL_S = 0.5, 1.0  # before and after the switchover
SCHEMA = "under_load"
SCALE = 2
HEALTHY_TIMEOUT_S = 60.0
GAP_MAX_S = 10.0

PACED = r"""
\set aid random(1, 200000)
begin;
update pgbench_accounts set abalance = abalance + 1 where aid = :aid;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :aid, 1, now());
end;
\sleep 30 ms
"""
SINGLE = r"""
\set aid random(1, 200000)
insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :aid, 1, now());
\sleep 30 ms
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients do."""

    options: Sequence[str]  # of pgbench; "{}" is where the script is
    script: str = ""
    begin: int = -1  # the command that begins a transaction; -1: each is one of its own


READS = {
    "prepared reads": Load(("-M", "prepared", "-S")),
    "simple reads": Load(("-M", "simple", "-S")),
}
WRITES = {
    "TPC-B": Load(("-M", "prepared"), begin=4),
    "transactions with pauses": Load(("-M", "prepared", "-f", "{}"), PACED, begin=1),
    "single statements": Load(("-M", "extended", "-f", "{}"), SINGLE),
}


@pytest.fixture(scope="module")
def pgbench(test_bindir: str | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    user = resolve_os_user(None)
    return find_installation(test_bindir, user, tmp_path_factory.mktemp("i")).program("pgbench")


@pytest.fixture(scope="module")
def proxies(shared_cluster: SharedCluster, pgbench: Path) -> Iterator[Proxies]:
    found = proxies_of(trio.run(shared_cluster.healthy))
    drop = f"drop schema if exists {SCHEMA} cascade"
    with psycopg.connect(found.dsn(), autocommit=True) as connection:
        connection.execute(f"{drop}; create schema {SCHEMA}".encode())
    environment = {**found.environment(), "PGOPTIONS": f"-c search_path={SCHEMA}"}
    run_program(pgbench, "-i", "-q", "-s", SCALE, environment=environment)
    yield found
    with psycopg.connect(found.dsn(), autocommit=True) as connection:
        connection.execute(drop.encode())


def history_rows(proxies: Proxies) -> int:
    with psycopg.connect(proxies.dsn()) as connection:
        row = connection.execute(f"select count(*) from {SCHEMA}.pgbench_history".encode())
        return int((row.fetchone() or (0,))[0])


async def switched_over_under(
    cluster: LocalCluster, proxies: Proxies, pgbench: Path, name: str, options: Sequence[str]
) -> tuple[Heard, str]:
    """Switch over once; return what the clients were told, and the story of it."""
    await cluster.wait_healthy(timeout_s=HEALTHY_TIMEOUT_S)
    async with pgbench_load(pgbench, proxies, SCHEMA, options, clients=CLIENTS) as heard:
        await trio.sleep(RAMP_S)
        since_s, node = time.time(), cluster.nodes[0]
        order = ("switchover", "-c", str(node.config_path), "--json")
        result = await run_metako(*order, cwd=node.directory)
        assert result.returncode == 0, result.stderr
        await trio.sleep(TAIL_S)
    story = timeline(cluster, heard, since_s)
    sys.stdout.write(
        f"{name}: {heard.processed} transactions, none for {heard.gap_s:.2f} s,"
        f" {len(heard.lost)} of {CLIENTS} clients lost: {dict(heard.errors)}\n"
    )
    return heard, story


@pytest.mark.parametrize("name", READS)
async def test_readers_notice_nothing_but_a_pause(
    name: str, cluster: LocalCluster, proxies: Proxies, pgbench: Path
) -> None:
    for _ in range(SWITCHOVERS):
        heard, story = await switched_over_under(
            cluster, proxies, pgbench, name, READS[name].options
        )
        assert not heard.lost, story
        assert heard.gap_s < GAP_MAX_S, story


@pytest.mark.parametrize("name", WRITES)
async def test_writers_are_told_the_truth(
    name: str, cluster: LocalCluster, proxies: Proxies, pgbench: Path, tmp_path: Path
) -> None:
    load = WRITES[name]
    script = tmp_path / "load.sql"
    script.write_text(load.script)
    options = [option.format(script) for option in load.options]
    for _ in range(SWITCHOVERS):
        before = await trio.to_thread.run_sync(history_rows, proxies)
        heard, story = await switched_over_under(cluster, proxies, pgbench, name, options)
        assert {lost.told for lost in heard.lost} <= {ROLLED_BACK, IN_DOUBT}, story
        assert all(lost.command > load.begin for lost in heard.lost), story
        done = await trio.to_thread.run_sync(history_rows, proxies) - before
        assert heard.processed <= done <= heard.processed + heard.errors[IN_DOUBT], story
