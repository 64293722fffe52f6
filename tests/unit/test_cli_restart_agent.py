"""`metako restart --agent`: who is told, and what is said of the agent that comes next."""

import json
import os
import signal

import pytest
from agent_kit import node_with_agent, scripted_agent
from typer.testing import CliRunner

from metako.api.client import LocalAgent
from metako.cli import restart_agent
from metako.cli.app import build_app
from metako.model.errors import UnreachableError

OLD = {"node": "n3", "members": [], "boot_epoch": 7, "agent_version": "1.0"}
NEW = OLD | {"boot_epoch": 8, "agent_version": "1.1"}


@pytest.fixture
def node(short_directory, monkeypatch):
    node = node_with_agent(short_directory, monkeypatch)
    monkeypatch.setattr(restart_agent, "time", node.time)
    return node


@pytest.fixture
def told():
    """Take the signal, as the agent does whose socket this process has."""
    signals = []
    before = signal.signal(signal.SIGUSR2, lambda number, _frame: signals.append(number))
    yield signals
    signal.signal(signal.SIGUSR2, before)


def run(node, *args):
    arguments = ["restart", "--agent", "-c", str(node.file), *args]
    return CliRunner().invoke(build_app(), arguments)


def test_the_listener_is_told_and_the_next_agent_waited_for(node, told):
    with scripted_agent(node.socket, [OLD, OLD, None, NEW], (500, {})):
        result = run(node)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "the agent was replaced after 0.3 s, it is version 1.1 now\n"
    assert told == [signal.SIGUSR2]


def test_json_says_which_process_it_is(node, told):
    with scripted_agent(node.socket, [OLD, NEW], (500, {})):
        result = run(node, "--json")
    assert json.loads(result.stdout) == {
        "ok": True,
        "reason": None,
        "pid": os.getpid(),
        "after_s": 0.1,
        "agent_version": "1.1",
    }
    assert len(told) == 1


def test_an_agent_that_does_not_come_back_is_a_failure(node, told):
    with scripted_agent(node.socket, [OLD, OLD], (500, {})):
        result = run(node, "--timeout", "2")
    assert result.exit_code == 1
    assert "no new agent answers after 2 s" in result.stderr
    assert len(told) == 1


def test_without_an_agent_nobody_is_told(node, told):
    result = run(node)
    assert (result.exit_code, told) == (11, [])
    with pytest.raises(UnreachableError, match="no agent listens at"):
        LocalAgent(node.socket).process()
