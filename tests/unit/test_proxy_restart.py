"""`metako restart --proxy` and the path of the API behind it: what is asked, and what is told."""

from __future__ import annotations

import json

import pytest
from agent_kit import node_with_agent, scripted_agent
from test_api_orders import Sink, request
from typer.testing import CliRunner

from metako.cli.app import build_app
from metako.proxy.renewal import Renewals

PATH = "/proxy/restart"


class Fleet(Sink):
    """A node whose workers are replaced as the test says."""

    def __init__(self, outcome) -> None:
        super().__init__()
        self.outcome = outcome

    async def renew_proxy(self):
        return self.outcome


@pytest.fixture
def node(short_directory, monkeypatch):
    return node_with_agent(short_directory, monkeypatch)


def run(node, *args):
    return CliRunner().invoke(build_app(), ["restart", "--proxy", "-c", str(node.file), *args])


async def test_the_api_tells_how_many_were_replaced() -> None:
    response = await request(Fleet((1, ["worker 2: no"])), path=PATH)
    assert response.status_code == 200
    assert response.json() == {"replaced": 1, "failures": ["worker 2: no"]}


async def test_nobody_else_may_ask_for_it_and_there_may_be_no_proxy() -> None:
    response = await request(None, path=PATH)
    assert response.status_code == 403
    assert "run `metako restart --proxy` there" in response.json()["error"]
    response = await request(Fleet((0, [])), path=PATH)
    assert response.status_code == 503
    assert "proxy.enabled" in response.json()["error"]


@pytest.mark.parametrize(
    ("answer", "code", "out", "err"),
    [
        ((200, {"replaced": 1, "failures": []}), 0, "1 worker was replaced", ""),
        ((200, {"replaced": 2, "failures": []}), 0, "2 workers were replaced", ""),
        ((200, {"replaced": 0, "failures": ["worker 1: no"]}), 1, "", "worker 1: no. The old"),
        ((503, {"error": "this node has no proxy"}), 11, "", "this node has no proxy"),
        ((404, {"error": "not found"}), 11, "", "not found"),
        ((200, {"something": "else"}), 11, "", "not as a metako agent does"),
    ],
)
def test_the_command_says_what_became_of_it(node, answer, code, out, err) -> None:
    with scripted_agent(node.socket, [], answer) as asked:
        result = run(node)
    assert (result.exit_code, asked) == (code, [("POST", PATH, "")])
    assert out in result.stdout
    assert err in result.stderr


def test_a_failure_as_json(node) -> None:
    with scripted_agent(node.socket, [], (200, {"replaced": 1, "failures": ["worker 2: no"]})):
        result = run(node, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert (told["ok"], told["replaced"]) == (False, 1)
    assert told["reason"].startswith("worker 2: no.")


@pytest.mark.parametrize("more", [["--agent"], ["n2"], ["--cancel"]])
def test_it_is_about_this_machine_alone(node, more) -> None:
    result = run(node, *more)
    assert result.exit_code == 2
    assert "alone: leave out the rest" in result.stderr


async def test_who_takes_no_order_is_told_in_time(autojump_clock) -> None:
    renewals = Renewals()
    assert await renewals.renew() == (0, [])
    renewals.workers = 2
    assert await renewals.renew() == (
        0,
        ["worker 1: nobody took the order", "worker 2: nobody took the order"],
    )
