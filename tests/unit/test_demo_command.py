"""The demo's frame: whatever happens, the cluster is stopped, and the right error comes out."""

import os
import signal
from pathlib import Path

import pytest
import trio
from rich.console import Console

from metako.demo.cluster import LocalCluster
from metako.demo.command import Interrupted, with_cluster
from metako.demo.interactive import Play
from metako.demo.keys import Action
from metako.demo.layout import plan_layout
from metako.demo.logs import LogEvent
from metako.demo.screen import Screen, event_line
from metako.demo.view import MemberView, NodeView
from metako.demo.writer import Record
from metako.model.errors import UnreachableError


class FakeCluster(LocalCluster):
    """A cluster without processes, which counts how it is stopped and what is done to it."""

    def __init__(self) -> None:
        super().__init__(plan_layout(Path("/tmp/x"), nodes=2))
        self.stops = 0
        self.killed = False  # the orderly stop was cut short
        self.slow_stop = False
        self.done: list[str] = []

    async def stop(self, *, timeout_s: float = 1.0) -> None:
        self.stops += 1
        try:
            if self.slow_stop:
                os.kill(os.getpid(), signal.SIGTERM)
                await trio.sleep(timeout_s)
        except trio.Cancelled:
            self.killed = True
            raise

    async def views(self) -> dict[str, NodeView]:
        return {"n1": primary_view()}

    async def pause_host(self, name: str) -> list:
        self.done.append(f"pause {name}")
        return []

    def resume(self, name: str) -> None:
        self.done.append(f"resume {name}")

    def dead_nodes(self) -> list[str]:
        return ["n2"]

    def start_agent(self, name: str) -> None:
        self.done.append(f"start {name}")


def primary_view() -> NodeView:
    member = MemberView("n1", "alive", "primary", "running", 3, "0/3000060", 0)
    return NodeView(
        node="n1",
        term=4,
        role="leader",
        leader="n1",
        primary="n1",
        hold_ms=0,
        lease_ms=900,
        phase="active",
        document="4.2",
        timeline=3,
        sync=("n2",),
        sync_k=1,
        server_role="primary",
        blocked="",
        members=(member,),
    )


async def test_result_of_the_body_is_returned_after_the_stop():
    cluster = FakeCluster()

    async def body() -> int:
        assert cluster.stops == 0
        return 7

    assert await with_cluster(cluster, body) == 7
    assert cluster.stops == 1


async def test_error_of_the_body_comes_out_alone_and_the_cluster_is_stopped():
    cluster = FakeCluster()

    async def fail() -> None:
        raise UnreachableError("no primary")

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    with pytest.raises(UnreachableError, match="no primary"):
        await with_cluster(cluster, body)
    assert cluster.stops == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signal_ends_the_body_and_the_cluster_is_stopped_in_order(number):
    cluster = FakeCluster()

    async def body() -> None:
        os.kill(os.getpid(), number)
        await trio.sleep_forever()

    with trio.fail_after(5), pytest.raises(Interrupted) as caught:
        await with_cluster(cluster, body)
    assert caught.value.signal_number == number
    assert (cluster.stops, cluster.killed) == (1, False)


async def test_second_signal_cuts_the_orderly_stop_short():
    cluster = FakeCluster()
    cluster.slow_stop = True

    async def body() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()

    with trio.fail_after(5), pytest.raises(Interrupted):
        await with_cluster(cluster, body)
    assert cluster.killed


async def test_pause_key_freezes_the_primary_and_thaws_it_again():
    cluster = FakeCluster()
    screen = Screen(cluster.layout)
    play = Play(cluster, screen)
    assert await play.act(Action.TOGGLE_PAUSE) == "pause-host: n1"
    assert screen.paused == ("n1",)
    assert await play.act(Action.TOGGLE_PAUSE) == "resumed n1"
    assert screen.paused == ()
    assert await play.act(Action.RESUME) == "no host is paused"
    assert await play.act(Action.RESTART) == "restarted n2"
    assert cluster.done == ["pause n1", "resume n1", "start n2"]


def shown(screen: Screen) -> str:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - below
    with console.file:
        console.print(screen.renderable())
        return console.export_text()


def test_screen_shows_primary_silent_and_paused_nodes():
    cluster = FakeCluster()
    screen = Screen(cluster.layout, record=Record(acknowledged={1: 0.0}, errors=2))
    screen.views = {"n1": primary_view()}
    screen.add_events([LogEvent("n2", 0.0, "promoted", "INFO", "promoted to timeline 3")])
    text = shown(screen)
    assert "primary n1" in text
    assert "0/3000060" in text
    assert "900 ms" in text
    assert "silent" in text
    assert "promoted to timeline 3" in text
    assert "1 acknowledged" in text
    assert cluster.layout.app_password in text
    screen.paused = ("n1",)
    assert "host frozen" in shown(screen)


def test_routine_events_are_not_shown_unless_they_are_errors():
    screen = Screen(FakeCluster().layout)
    status = LogEvent("n1", 0.0, "status", "INFO", "all is well")
    crash = LogEvent("n1", 0.0, "", "ERROR", "internal error")
    assert screen.add_events([status, crash]) == [crash]
    assert event_line(crash).endswith("n1 ERROR internal error")
