"""`metako restart --agent`: have the agent of this machine replaced by the program of now.

In: the path of the agent's socket. Out: what became of it in a line or as JSON, and an exit code:
0 once a new agent answers, 1 if none does in time, 11 if no agent answers to begin with, 12 if it
is another user's.

PostgreSQL, its guard and the proxy's workers go on meanwhile; the new agent adopts them. Whoever
listens at the socket is told by a signal, so that this works however the agent was started.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from metako.api.client import LocalAgent
from metako.cli.follow import POLL_INTERVAL_S, STATUS_TIMEOUT_S, finish
from metako.model.errors import MetakoError, PrivilegeError, UnreachableError


@dataclass(frozen=True, slots=True)
class AgentRestart:
    """What became of it."""

    ok: bool
    reason: str
    pid: int
    after_s: float | None = None  # None: no new agent was seen
    agent_version: str | None = None  # of the new one

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return asdict(self) | {"reason": self.reason or None}


def restart_agent(path: Path, *, timeout_s: float, as_json: bool) -> int:
    """Have the agent that listens at `path` replaced, and wait for the new one.

    Args:
        path: of the agent's socket.
        timeout_s: for the new agent to answer.

    Raises:
        MetakoError: no agent answers, it may not be signalled, or no new one came.
    """
    agent = LocalAgent(path)
    before = agent.status(STATUS_TIMEOUT_S).get("boot_epoch")
    pid = agent.process()
    try:
        os.kill(pid, signal.SIGUSR2)
    except ProcessLookupError:
        raise UnreachableError(f"{path}: its agent, process {pid}, has ended meanwhile") from None
    except PermissionError:
        raise PrivilegeError(
            f"process {pid} is another user's: run this as the user of the agent, or as root"
        ) from None
    began_s = time.monotonic()
    while time.monotonic() - began_s < timeout_s:
        time.sleep(POLL_INTERVAL_S)
        try:
            status = agent.status(STATUS_TIMEOUT_S)
        except MetakoError:
            continue  # between the two
        if status.get("boot_epoch") != before:
            after_s, version = time.monotonic() - began_s, status.get("agent_version")
            done = AgentRestart(True, "", pid, round(after_s, 3), str(version))
            text = f"the agent was replaced after {after_s:.1f} s, it is version {version} now"
            return finish(done, text, as_json=as_json)
    why = f"no new agent answers after {timeout_s:g} s: see `metako logs`, or the system's journal"
    return finish(AgentRestart(False, why, pid), "", as_json=as_json)
