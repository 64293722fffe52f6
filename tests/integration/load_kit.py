"""pgbench through every proxy of a cluster at once: what it did, and what its clients were told.

A client of pgbench ends with the connection that it loses, and says of which error. Its words hold
no SQLSTATE; but the details that the proxy tells are its own, and each belongs to one. Words that
reach a client unasked are shown by libpq as a line of their own, and the client's next statement
then fails without any.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import trio
from drivers_kit import Proxies

from metako.demo.cluster import LocalCluster
from metako.proxy import loss

LASTS_S = 300  # at most
ENDS_TIMEOUT_S = 60.0
ROLLED_BACK, IN_DOUBT = "57P01", "08007"
DETAILS = {
    told.detail: told.sqlstate.value for told in (loss.ROLLED_BACK, loss.NOT_DONE, loss.UNKNOWN)
}
SERVERS_WORDS = "FATAL:  terminating connection due to administrator command"  # also 57P01
UNSPECIFIC = "perhaps the backend died while processing"
_ABORTED = re.compile(r"client \d+ (?:script \d+ )?aborted in command (\d+)")
_PROCESSED = re.compile(r"number of transactions actually processed: (\d+)")


@dataclass(frozen=True, slots=True)
class Said:
    """A line of a pgbench's stderr."""

    at_s: float  # seconds since the epoch
    proxy: int  # its port
    text: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A client that lost its connection."""

    command: int  # of its script, from 0
    told: str  # the SQLSTATE, or the words if they are not known


@dataclass(slots=True)
class Heard:
    """What the clients of a load were told, and what they got done."""

    processed: int = 0  # transactions of which the end was answered
    said: list[Said] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)  # when each transaction ended
    running: list[trio.Process] = field(default_factory=list)

    @property
    def lost(self) -> list[Lost]:
        found = []
        for port in sorted({line.proxy for line in self.said}):
            own = [line.text for line in self.said if line.proxy == port]
            unasked = sum(text == SERVERS_WORDS for text in own)
            for text, after in itertools.pairwise([*own, ""]):
                if (aborted := _ABORTED.search(text)) is None:
                    continue
                told = DETAILS.get(after.removeprefix("DETAIL:").strip())
                if told is None and SERVERS_WORDS in text:
                    told = ROLLED_BACK
                elif told is None and UNSPECIFIC in text and unasked:
                    unasked -= 1
                    told = ROLLED_BACK
                found.append(Lost(int(aborted[1]), told or text))
        return found

    @property
    def errors(self) -> Counter[str]:
        """How many clients were told what."""
        return Counter(lost.told for lost in self.lost)

    @property
    def gap_s(self) -> float:
        """The longest time in which no transaction of any client ended."""
        return max((b - a for a, b in itertools.pairwise(sorted(self.ended_s))), default=0.0)


@asynccontextmanager
async def pgbench_load(
    pgbench: Path, proxies: Proxies, schema: str, options: Sequence[object], *, clients: int
) -> AsyncIterator[Heard]:
    """Run `clients` clients, spread over the proxies, until this is left."""
    heard = Heard()
    async with trio.open_nursery() as nursery:
        for index, port in enumerate(proxies.ports):
            share = len(range(index, clients, len(proxies.ports)))
            argv = [pgbench, "-n", "-c", share, "--verbose-errors", "--failures-detailed"]
            argv += ["-T", LASTS_S]
            environment = {**proxies.environment(port), "PGOPTIONS": f"-c search_path={schema}"}
            nursery.start_soon(_run, [*argv, *options], environment, port, heard)
        yield heard
        for process in heard.running:
            if process.returncode is None:
                process.send_signal(signal.SIGALRM)  # its time is up: the end of its own alarm
        nursery.cancel_scope.deadline = trio.current_time() + ENDS_TIMEOUT_S
    assert not nursery.cancel_scope.cancelled_caught, "pgbench does not end"


async def _run(
    argv: Sequence[object], environment: dict[str, str], port: int, heard: Heard
) -> None:
    log = trio.Path(f"/tmp/pgbench-{port}-{os.getpid()}")  # pgbench adds its own pid
    process = await trio.lowlevel.open_process(
        [*map(str, argv), "-l", f"--log-prefix={log}"],
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    heard.running.append(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hear, process.stderr, port, heard)
            out = b""
            async for piece in process.stdout:
                out += piece
        await process.wait()
        found = _PROCESSED.search(out.decode())
        assert found is not None, (out, heard.said)
        heard.processed += int(found[1])
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        with trio.CancelScope(shield=True):
            await _read_log(trio.Path(f"{log}.{process.pid}"), heard)


async def _read_log(path: trio.Path, heard: Heard) -> None:
    if not await path.exists():
        return
    for line in (await path.read_text()).splitlines():
        # client, transaction, its duration, script, and when it ended, in s and µs
        words = line.split()
        heard.ended_s.append(int(words[4]) + int(words[5]) / 1e6)
    await path.unlink()


async def _hear(stream: trio.abc.ReceiveStream, port: int, heard: Heard) -> None:
    rest = b""
    async for piece in stream:
        *lines, rest = (rest + piece).split(b"\n")
        heard.said += [Said(time.time(), port, line.decode()) for line in lines]


def timeline(cluster: LocalCluster, heard: Heard, since_s: float) -> str:
    """Return what agents, proxies and clients said from then on, in order, with the seconds."""
    found = [(line.at_s, f"client of {line.proxy}: {line.text}") for line in heard.said]
    for node in cluster.nodes:
        for raw in node.log_path.read_text().splitlines():
            line = json.loads(raw)
            at_s = datetime.fromisoformat(line["time"]).timestamp()
            if at_s >= since_s and line.get("event") != "status":
                found.append((at_s, f"{node.name}: {line['msg']}"))
    return "\n".join(f"{at_s - since_s:8.3f} {text}" for at_s, text in sorted(found))
