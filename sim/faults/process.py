"""Faults of processes and hosts: ended, frozen, started, stopped, starved.

A part that is ended by force leaves the others as they are. What brings agent, PostgreSQL and proxy
workers back is production code, so only the end of a host or an agent takes `for`; the end of a
pause always has to be named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from sim.faults.arguments import Argument, ArgumentError, Open, Type
from sim.faults.fault import FOR, Fault
from sim.faults.kind import (
    NODES,
    Family,
    FaultKind,
    Skipped,
    Undo,
    choice,
    nodes_of,
    number,
    text,
    together,
    whole,
)
from sim.faults.site import Site
from sim.faults.surface import FaultyNode

Verb = Callable[[FaultyNode], object]

_KILL: Mapping[str, Verb] = {
    "host": lambda node: node.kill_host(),
    "agent": lambda node: node.kill_agent(),
    "guard": lambda node: node.kill_guard(),
    "postgres": lambda node: node.kill_postgres(),
    "proxy": lambda node: node.kill_proxy(),
    "backend": lambda node: node.kill_backend(),
    "receiver": lambda node: node.kill_receiver(),
    "sender": lambda node: node.kill_sender(),
    "startup": lambda node: node.kill_startup(),
}
_PAUSE: Mapping[str, Verb] = {
    "host": lambda node: node.pause_host(),
    "agent": lambda node: node.pause_agent(),
    "guard": lambda node: node.pause_guard(),
    "postgres": lambda node: node.pause_postgres(),
    "proxy": lambda node: node.pause_proxy(),
    "backend": lambda node: node.pause_backend(),
    "sender": lambda node: node.pause_sender(),
}
_RESUME: Mapping[str, Verb] = {
    "host": lambda node: node.resume_host(),
    "agent": lambda node: node.resume_agent(),
    "guard": lambda node: node.resume_guard(),
    "postgres": lambda node: node.resume_postgres(),
    "proxy": lambda node: node.resume_proxy(),
    "backend": lambda node: node.resume_backend(),
    "sender": lambda node: node.resume_sender(),
}
RESTARTED = ("host", "agent")
"""Parts that nobody but the operator starts again."""
BURNERS_PER_CORE_MAX = 64


def each(
    site: Site, fault: Fault, verb: Verb, undo: Verb | None, why: str
) -> Undo | Skipped | None:
    """Do something to every node of the fault; skip it if there was nothing to do on any."""
    done = [name for name in nodes_of(fault) if verb(site.node(name)) is not False]
    if not done:
        return Skipped(why)
    if undo is None:
        return None
    return together(partial(undo, site.node(name)) for name in done)


def _start(node: FaultyNode) -> None:
    if not node.agent_up:
        node.start()


def _start_agent(node: FaultyNode) -> None:
    # An agent does not come back on a host that has been switched off since.
    if node.host_up:
        _start(node)


def _kill(site: Site, fault: Fault) -> Undo | Skipped | None:
    what = text(fault, "what")
    undo = {"host": _start, "agent": _start_agent}.get(what)
    return each(site, fault, _KILL[what], undo, f"no {what} runs there")


def _kill_relation(arguments: Mapping[str, Open]) -> None:
    what = arguments.get("what", "host")
    if FOR in arguments and what not in RESTARTED:
        raise ArgumentError(
            f"'for' has no meaning for {what}",
            "the agent starts it again by itself; remove 'for'",
        )


def _pause(site: Site, fault: Fault) -> Undo | Skipped | None:
    what = text(fault, "what")
    return each(site, fault, _PAUSE[what], _RESUME[what], f"no {what} runs there")


def _resume(site: Site, fault: Fault) -> Undo | Skipped | None:
    return each(site, fault, _RESUME[text(fault, "what")], None, "nothing is paused there")


def _do_start(site: Site, fault: Fault) -> Undo | Skipped | None:
    def start(node: FaultyNode) -> bool:
        return not node.agent_up and node.start() is not False

    return each(site, fault, start, None, "it runs")


def _stop(site: Site, fault: Fault) -> Undo | Skipped | None:
    return each(site, fault, lambda node: node.stop(), _start_agent, "no agent runs there")


def _slow_agent(site: Site, fault: Fault) -> Undo | Skipped | None:
    step_ms = number(fault, "step") / 1e6

    def verb(node: FaultyNode) -> object:
        return node.slow_agent(step_ms)

    return each(site, fault, verb, lambda node: node.slow_agent(0), "no agent runs there")


def _burn(site: Site, fault: Fault) -> Undo | Skipped | None:
    per_core = whole(fault, "per_core")
    return each(
        site,
        fault,
        lambda node: node.burn(per_core),
        lambda node: node.burn(0),
        "its cores are busy already",
    )


def _what(doc: str, *parts: str) -> Argument:
    return choice("what", doc, *parts)


KINDS: tuple[FaultKind, ...] = (
    FaultKind(
        "kill",
        Family.PROCESS,
        "End something by force: power off, or kill -9. Nobody says goodbye.",
        (NODES, _what("what ends", *_KILL)),
        _kill,
        lasting=True,
        relation=_kill_relation,
    ),
    FaultKind(
        "pause",
        Family.PROCESS,
        "Freeze something with SIGSTOP. The clocks go on.",
        (NODES, _what("what stands still", *_PAUSE)),
        _pause,
        lasting=True,
    ),
    FaultKind(
        "resume",
        Family.PROCESS,
        "Let something that is paused go on.",
        (NODES, _what("what goes on", *_RESUME)),
        _resume,
        cures=("pause",),
    ),
    FaultKind(
        "start",
        Family.PROCESS,
        "Start the host, or the agent on a host that runs.",
        (NODES,),
        _do_start,
        cures=("kill", "stop"),
    ),
    FaultKind(
        "stop",
        Family.PROCESS,
        "Stop the agent in the clean way (SIGTERM), and with it everything of the node.",
        (NODES,),
        _stop,
        lasting=True,
    ),
    FaultKind(
        "slow_agent",
        Family.PROCESS,
        "Starve the agent of CPU: each of its steps takes so long.",
        (NODES, Argument("step", Type.DURATION, "time a step takes", default=20_000_000, low=1)),
        _slow_agent,
        lasting=True,
    ),
    FaultKind(
        "burn",
        Family.PROCESS,
        "Keep every core of a host busy, with processes of the same priority as all others.",
        (
            NODES,
            Argument(
                "per_core", Type.COUNT, "processes", default=2, low=1, high=BURNERS_PER_CORE_MAX
            ),
        ),
        _burn,
        lasting=True,
    ),
)
