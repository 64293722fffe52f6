"""The faults that the demo injects, by name. Each is made of real signals to real processes."""

from __future__ import annotations

import enum
from typing import assert_never

from metako.demo.cluster import LocalCluster


class Fault(enum.StrEnum):
    KILL_PRIMARY = "kill-primary"  # SIGKILL to the primary's postmaster; its agent lives
    KILL_HOST = "kill-host"  # SIGKILL to every process of the primary's node
    PAUSE_HOST = "pause-host"  # SIGSTOP to every process of the primary's node


async def inject(cluster: LocalCluster, fault: Fault, node: str) -> None:
    """Break `node`. If cancelled, the fault may be half injected.

    Raises:
        MetakoError: there was nothing to break.
    """
    match fault:
        case Fault.KILL_PRIMARY:
            cluster.kill_postmaster(node)
        case Fault.KILL_HOST:
            await cluster.kill_host(node)
        case Fault.PAUSE_HOST:
            await cluster.pause_host(node)
        case _:
            assert_never(fault)


def bring_back(cluster: LocalCluster, fault: Fault, node: str) -> None:
    """Undo the fault as far as an operator would have to; the agent does the rest."""
    match fault:
        case Fault.KILL_PRIMARY:
            pass  # the agent is alive and brings its server back by itself
        case Fault.KILL_HOST:
            cluster.start_agent(node)
        case Fault.PAUSE_HOST:
            cluster.resume(node)
        case _:
            assert_never(fault)
