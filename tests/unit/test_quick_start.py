"""What `metako run` does before a primary's lease is renewed, and what it leaves for later.

An agent that is replaced has what is left of the lease for all of it.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import trio
from program_kit import run_python

from metako.cli.loading import everything_kept
from metako.config import load
from metako.model.ids import Address, NodeId
from metako.runtime.hello import HelloResult, HelloUnreachable
from metako.runtime.startup import HELLO_IN_A_HURRY_S, HELLO_TIMEOUT_S, greet
from metako.runtime.transport import Transport

FILE = """
node: {name: n1, witness: true, state_dir: state}
cluster:
  bootstrap_node: n2
  members:
    - {name: n1, host: 127.0.0.1}
    - {name: n2, host: 127.0.0.2}
gossip: {key: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}
"""

# The program up to where it opens its sockets: from there on nothing is loaded but HTTP.
UNTIL_THE_NODE_RUNS = """
import sys; sys.argv = ['metako', 'run', '-c', {path!r}]
import trio; trio.run = lambda *_args: False
from metako.runtime import startup
startup.prepare = lambda config: startup.Prepared(config, None, None)  # touches the machine
from metako.cli.main import main
try: main()
except SystemExit as e: assert e.code == 0, e.code
later = {{'hypercorn', 'starlette', 'h11', 'h2', 'wsproto', 'rich', 'metako.config.legacy_schema',
         'metako.api.server', 'metako.proxy.worker', 'metako.proxy.session'}}
assert 'metako.runtime.node' in sys.modules
assert not later & set(sys.modules), later & set(sys.modules)
from metako.runtime import node
node._load_http()
assert {{'hypercorn', 'starlette', 'metako.api.server'}} <= set(sys.modules)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.slow
def test_http_and_what_only_other_files_need_are_loaded_after_the_node_runs(file: Path) -> None:
    result = run_python(UNTIL_THE_NODE_RUNS.format(path=str(file)))
    assert result.returncode == 0, result.stderr


def test_no_garbage_is_looked_for_while_the_program_is_loaded() -> None:
    before = gc.get_freeze_count()
    try:
        with everything_kept():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
        with pytest.raises(KeyError), everything_kept():
            raise KeyError
        assert gc.isenabled()
    finally:
        gc.unfreeze()


@dataclass
class SilentPeers:
    """A transport whose peers are off."""

    asked: list[NodeId] = field(default_factory=list)

    async def hello(self, _address: Address, node: NodeId, *, timeout_s: float) -> HelloResult:
        self.asked.append(node)
        await trio.sleep(timeout_s)
        return HelloUnreachable("timed out")


@pytest.mark.parametrize(("in_a_hurry", "takes_s"), [(False, 1.0), (True, 0.25)])
async def test_peers_that_are_off_hardly_delay_an_agent_that_takes_over(
    in_a_hurry: bool, takes_s: float, file: Path, autojump_clock: trio.testing.MockClock
) -> None:
    peers = SilentPeers()
    await greet(cast("Transport", peers), load(file), in_a_hurry=in_a_hurry)
    assert peers.asked == ["n2"]
    assert trio.current_time() == takes_s
    assert (HELLO_TIMEOUT_S, HELLO_IN_A_HURRY_S) == (1.0, 0.25)
