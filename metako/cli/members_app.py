"""`metako members` and its commands `add` and `remove`: arguments in, calls and exit codes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metako.cli.failure import reported
from metako.cli.options import (
    ASK_TIMEOUT_S,
    Api,
    Config,
    Json,
    Timeout,
    chosen,
    node_name,
    timeout_option,
)
from metako.cli.target import agent_socket, api_url

FOLLOW_TIMEOUT_S = 60.0
FOLLOW_TIMEOUT_MAX_S = 604_800.0
"""A week: a copy of a large database takes days."""

Node = Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="Its name.")]
Follow = Annotated[
    float,
    timeout_option(
        "Stop watching after so long; the change itself goes on.", low=1, high=FOLLOW_TIMEOUT_MAX_S
    ),
]
NoWait = Annotated[
    bool,
    typer.Option("--no-wait", help="Only give the order, and do not watch what becomes of it."),
]


def build_members_app() -> typer.Typer:
    """Return `metako members`, to be added to the command line."""
    app = typer.Typer(rich_markup_mode=None)
    app.callback(invoke_without_command=True)(_members)
    app.command("add")(reported(_add))
    app.command("remove")(reported(_remove))
    return app


def _members(
    ctx: typer.Context,
    config: Config = None,
    api: Api = None,
    as_json: Json = False,
    timeout: Timeout = ASK_TIMEOUT_S,
) -> None:
    """List the members; add one, remove one."""
    if ctx.invoked_subcommand is None:
        reported(_list)(chosen(ctx, config, api), api, as_json, timeout)
    if api is not None or as_json or timeout != ASK_TIMEOUT_S:
        name = ctx.invoked_subcommand
        raise typer.BadParameter(f"options of {name} come after it: metako members {name} NODE …")
    ctx.obj = chosen(ctx, config)


def _list(config: Path | None, api: str | None, as_json: bool, timeout_s: float) -> int:
    from metako.cli.status import show_members

    return show_members(api_url(config, api), timeout_s=timeout_s, as_json=as_json)


def _add(
    ctx: typer.Context,
    node: Node,
    config: Config = None,
    learner: Annotated[
        bool, typer.Option("--learner", help="Without a vote; a voter loses the one that it has.")
    ] = False,
    timeout: Follow = FOLLOW_TIMEOUT_S,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> int:
    """Take in a node whose agent runs, and follow it to its vote.

    It copies the data first, and gets a vote as soon as it has caught up. A learner gets its vote
    likewise, and a member whose durable record was lost is taken in again.

    Asks the agent of this machine, by its socket: run it on any member, as the agent's user.
    """
    from metako.cli.members import add_member

    return add_member(
        agent_socket(chosen(ctx, config)),
        node_name(node),
        learner=learner,
        timeout_s=None if no_wait else timeout,
        as_json=as_json,
    )


def _remove(
    ctx: typer.Context,
    node: Node,
    config: Config = None,
    timeout: Follow = FOLLOW_TIMEOUT_S,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> int:
    """Have a node be no member any more, and follow it to the end.

    It leaves once no commit waits for it. Its PostgreSQL is stopped then, its data stay.

    Asks the agent of this machine, by its socket: run it on any member, as the agent's user.
    """
    from metako.cli.members import remove_member

    return remove_member(
        agent_socket(chosen(ctx, config)),
        node_name(node),
        timeout_s=None if no_wait else timeout,
        as_json=as_json,
    )
