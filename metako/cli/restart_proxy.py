"""`metako restart --proxy`: have the workers of this node's proxy replaced by new processes.

In: the path of the agent's socket. Out: what became of it in a line or as JSON, and an exit code:
0 once all workers are new ones, 1 if some are not, 11 if no agent answers, 12 if it is another
user's.

Clients notice nothing of it: each worker hands its connections to the one that takes its place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from metako.api.client import LocalAgent
from metako.cli.follow import finish


@dataclass(frozen=True, slots=True)
class ProxyRestart:
    """What became of it."""

    ok: bool
    reason: str
    replaced: int  # workers

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return asdict(self) | {"reason": self.reason or None}


def restart_proxy(path: Path, *, timeout_s: float, as_json: bool) -> int:
    """Have the workers of the agent that listens at `path` replaced.

    Args:
        path: of the agent's socket.
        timeout_s: for all of them together.

    Raises:
        MetakoError: no agent answers, it has no proxy, or a worker was not replaced.
    """
    replaced, failures = LocalAgent(path).restart_proxy(timeout_s)
    reason = ""
    if failures:
        reason = f"{'; '.join(failures)}. The old one goes on; see `metako logs`"
    done = ProxyRestart(not failures, reason, replaced)
    workers = "1 worker was" if replaced == 1 else f"{replaced} workers were"
    return finish(done, f"{workers} replaced; clients stay connected", as_json=as_json)
