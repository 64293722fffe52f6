"""The demo that a person plays with: a live table, keys that break things, a steady writer.

It starts the cluster, keeps the screen fresh and carries out what the user asks for, until `quit`.
Stopping the cluster is the caller's business.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import assert_never

import trio
from rich.console import Console
from rich.live import Live

from metako.demo.client import ClientError
from metako.demo.cluster import LocalCluster
from metako.demo.faults import Fault, inject
from metako.demo.keys import Action, read_actions
from metako.demo.logs import LogEvent, LogTail, merge
from metako.demo.screen import Screen, event_line
from metako.demo.view import active_primary
from metako.demo.writer import Writer
from metako.model.errors import MetakoError, UnreachableError

REFRESH_S = 0.25
ACTIONS_MAX = 8
TABLE_TIMEOUT_S = 10.0


async def run_interactive(
    cluster: LocalCluster, *, rows_per_second: float, say: Callable[[str], None]
) -> None:
    """Start the cluster and obey the user until he quits.

    If cancelled, the terminal is restored; the cluster is left as it is.

    Raises:
        UnreachableError: the cluster did not come up.
    """
    first = await cluster.start()
    writer = Writer(cluster.layout, rows_per_second=rows_per_second)
    try:
        await writer.create_table(timeout_s=TABLE_TIMEOUT_S)
    except ClientError as error:
        raise UnreachableError(f"{error}\n{cluster.describe_logs()}") from None
    waits = f"commits wait for {first.sync_k} of {', '.join(first.sync)}" if first.sync else ""
    say(f"{first.node} is the primary; {waits or 'commits wait for no standby'}")
    for node in cluster.nodes:
        say(f"psql {cluster.layout.dsn(node)}   # through {node.name}")
    screen = Screen(cluster.layout, record=writer.record)
    play = Play(cluster, screen)
    send, receive = trio.open_memory_channel[Action](ACTIONS_MAX)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        nursery.start_soon(_show, cluster, screen)
        nursery.start_soon(read_actions, send)
        async for action in receive:
            if action is Action.QUIT:
                break
            try:
                screen.note = await play.act(action)
            except MetakoError as error:
                screen.note = str(error).splitlines()[0]
            if not sys.stdout.isatty():
                say(screen.note)
        nursery.cancel_scope.cancel()


class Play:
    """Carries out the user's wishes and remembers which hosts are frozen."""

    def __init__(self, cluster: LocalCluster, screen: Screen) -> None:
        self._cluster = cluster
        self._screen = screen
        self._paused: list[str] = []  # in the order in which they were frozen

    async def act(self, action: Action) -> str:
        """Do it and return what was done, in one line.

        Raises:
            MetakoError: it could not be done.
        """
        match action:
            case Action.KILL_PRIMARY:
                return await self._break(Fault.KILL_PRIMARY)
            case Action.KILL_HOST:
                return await self._break(Fault.KILL_HOST)
            case Action.PAUSE_HOST:
                return await self._break(Fault.PAUSE_HOST)
            case Action.RESUME:
                return self._resume()
            case Action.TOGGLE_PAUSE:
                return self._resume() if self._paused else await self._break(Fault.PAUSE_HOST)
            case Action.RESTART:
                return self._restart()
            case Action.QUIT:
                return "quitting"
            case _:
                assert_never(action)

    async def _break(self, fault: Fault) -> str:
        primary = active_primary(await self._cluster.views())
        if primary is None:
            return f"{fault}: there is no primary at the moment"
        await inject(self._cluster, fault, primary.node)
        if fault is Fault.PAUSE_HOST:
            self._paused.append(primary.node)
        self._update()
        return f"{fault}: {primary.node}"

    def _resume(self) -> str:
        if not self._paused:
            return "no host is paused"
        names = ", ".join(self._paused)
        for name in self._paused:
            self._cluster.resume(name)
        self._paused.clear()
        self._update()
        return f"resumed {names}"

    def _restart(self) -> str:
        names = self._cluster.dead_nodes()
        for name in names:
            self._cluster.start_agent(name)
        self._update()
        return f"restarted {', '.join(names)}" if names else "no node is dead"

    def _update(self) -> None:
        self._screen.paused = tuple(self._paused)
        self._screen.dead = tuple(self._cluster.dead_nodes())


async def _show(cluster: LocalCluster, screen: Screen) -> None:
    tails = [LogTail(node.name, node.log_path) for node in cluster.nodes]
    console = Console()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            while True:  # ends with the demo's nursery
                await _refresh(cluster, screen, tails)
                live.update(screen.renderable(), refresh=True)
                await trio.sleep(REFRESH_S)
    console.print("commands, one a line: kill-primary kill-host pause-host resume restart quit")
    line = ""
    while True:  # ends with the demo's nursery
        for event in await _refresh(cluster, screen, tails):
            console.print(event_line(event), markup=False, highlight=False, soft_wrap=True)
        primary = active_primary(screen.views)
        name = primary.node if primary else "none"
        if f"primary: {name}" != line:
            line = f"primary: {name}"
            console.print(f"{line}; {screen.write_line()}", markup=False, soft_wrap=True)
        await trio.sleep(REFRESH_S)


async def _refresh(cluster: LocalCluster, screen: Screen, tails: list[LogTail]) -> list[LogEvent]:
    screen.views = await cluster.views()
    screen.dead = tuple(cluster.dead_nodes())
    return screen.add_events(merge(tail.read_new() for tail in tails))
