"""`metako pause`, `resume` and `restart`: arguments in, calls and exit codes out."""

from __future__ import annotations

from typing import Annotated

import typer

from metako.cli.failure import reported
from metako.cli.options import Config, Json, chosen, node_name, timeout_option
from metako.cli.target import agent_socket
from metako.model.errors import UsageError
from metako.model.orders import (
    RESTART_TIMEOUT_DEFAULT_S,
    TIMEOUT_DEFAULT_S,
    TIMEOUT_MAX_S,
    TIMEOUT_MIN_S,
)

Follow = Annotated[
    float,
    timeout_option("Stop watching after so long.", low=TIMEOUT_MIN_S, high=TIMEOUT_MAX_S),
]


def add_upkeep_commands(app: typer.Typer) -> None:
    """Add the commands to the command line, in this order."""
    app.command("pause")(reported(_pause))
    app.command("resume")(reported(_resume))
    app.command("restart")(reported(_restart))


def _pause(
    ctx: typer.Context,
    config: Config = None,
    timeout: Follow = float(TIMEOUT_DEFAULT_S),
    as_json: Json = False,
) -> int:
    """Have nobody take over from the present primary, until `metako resume`.

    If the primary is lost nobody takes writes until it is back; it leads again by itself then. A
    switchover or failover that is ordered works as ever.

    Asks the agent of this machine, by its socket: run it on any node, as the agent's user.
    """
    from metako.cli.pause import pause_cluster

    return pause_cluster(agent_socket(chosen(ctx, config)), timeout_s=timeout, as_json=as_json)


def _resume(
    ctx: typer.Context,
    config: Config = None,
    timeout: Follow = float(TIMEOUT_DEFAULT_S),
    as_json: Json = False,
) -> int:
    """End a pause: another node takes over again if need be.

    If nobody leads, the node of this machine stands for election, and this follows it until there
    is a primary.

    Asks the agent of this machine, by its socket: run it on any node, as the agent's user.
    """
    from metako.cli.pause import resume_cluster

    return resume_cluster(agent_socket(chosen(ctx, config)), timeout_s=timeout, as_json=as_json)


def _restart(
    ctx: typer.Context,
    nodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="NODE", show_default=False, help="Whose server [all]."),
    ] = None,
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout: Annotated[
        float,
        timeout_option(
            "Leave the others as they are unless a server is back by then.",
            low=TIMEOUT_MIN_S,
            high=TIMEOUT_MAX_S,
        ),
    ] = float(RESTART_TIMEOUT_DEFAULT_S),
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Leave those as they are whose turn has not come.")
    ] = False,
    agent: Annotated[
        bool,
        typer.Option(
            "--agent",
            help="Replace the agent of this machine by the program that is installed now; "
            "PostgreSQL goes on.",
        ),
    ] = False,
    proxy: Annotated[
        bool,
        typer.Option(
            "--proxy",
            help="Replace the workers of this machine's proxy by new processes; clients stay "
            "connected.",
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Restart PostgreSQL, one server at a time, and follow it to the end.

    Each is back and streams before the next one's turn. The primary is the last: it hands over to
    another node first. Says first what it does, and asks.

    Asks the agent of this machine, by its socket: run it on any node, as the agent's user.
    """
    from metako.cli.restart import cancel_restart, restart_servers
    from metako.cli.restart_agent import restart_agent
    from metako.cli.restart_proxy import restart_proxy

    names = [node_name(node) for node in nodes or ()]
    if cancel and names:
        raise UsageError("--cancel leaves all as they are that are left: leave out the names")
    socket = agent_socket(chosen(ctx, config))
    if (agent or proxy) and (cancel or names or (agent and proxy)):
        option = "--agent" if agent else "--proxy"
        raise UsageError(f"{option} is about that of this machine alone: leave out the rest")
    if proxy:
        return restart_proxy(socket, timeout_s=timeout, as_json=as_json)
    if agent:
        return restart_agent(socket, timeout_s=timeout, as_json=as_json)
    if cancel:
        return cancel_restart(socket, as_json=as_json)
    return restart_servers(socket, names, timeout_s=timeout, confirmed=yes, as_json=as_json)
