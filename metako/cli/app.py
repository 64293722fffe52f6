"""The commands of metako and their options.

In: arguments. Out: calls into the rest of the program and an exit code. Each command is a few
lines: it picks what the options name, calls, and lets `failure.reported` deal with errors.

`metako --config FILE` without a command runs the agent, as the original program did.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from typing import Annotated

import typer
from typer.core import TyperGroup

from metako import __version__
from metako.cli.failure import reported
from metako.cli.loading import everything_kept
from metako.cli.members_app import build_members_app
from metako.cli.options import ASK_TIMEOUT_S, Api, Config, Json, Timeout, chosen, timeout_option
from metako.cli.output import write_json, write_line
from metako.cli.target import agent_socket, api_url, load_config, psql_url
from metako.cli.upkeep_app import add_upkeep_commands
from metako.model.errors import UsageError
from metako.model.orders import TIMEOUT_DEFAULT_S, TIMEOUT_MAX_S, TIMEOUT_MIN_S
from metako.model.status import HISTORY_MAX

WATCH_INTERVAL_S = 1.0
LOG_LINES = 20
LOG_LINES_MAX = 1_000_000
EXIT_USAGE = 2


class _InOrder(TyperGroup):
    """Lists its commands as below; typer would have those that have commands of their own last."""

    def list_commands(self, _ctx: object) -> list[str]:
        names = list(self.commands)
        names.insert(names.index("status") + 1, names.pop(names.index("members")))
        return names


def build_app() -> typer.Typer:
    """Return the command line, ready to be called."""
    app = typer.Typer(
        name="metako",
        cls=_InOrder,
        help="High availability for PostgreSQL, without a coordinator.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_main)
    app.command("run")(reported(_run))
    app.command("status")(reported(_status))
    app.add_typer(build_members_app(), name="members")
    app.command("switchover")(reported(_switchover))
    app.command("failover")(reported(_failover))
    add_upkeep_commands(app)
    app.command("history")(reported(_history))
    app.command("logs")(reported(_logs))
    app.command("check")(reported(_check))
    app.command("dsn")(reported(_dsn))
    app.command("keygen")(reported(_keygen))
    # The demo's options are its own: they are parsed by its own command, loaded when asked for.
    app.command(
        "demo",
        help="Start a cluster of three nodes on this machine, to look at and to break.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(reported(_demo))
    app.command(
        "simulate",
        help="Play clusters in virtual time, with faults: the same as python -m sim.",
        add_help_option=False,
        context_settings={
            "ignore_unknown_options": True,
            "allow_extra_args": True,
            "allow_interspersed_args": False,
        },
    )(reported(_simulate))
    app.command("version")(reported(_version))
    return app


def _main(
    ctx: typer.Context,
    config: Config = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        write_line(f"metako {__version__}")
        raise typer.Exit(0)
    ctx.obj = config
    if ctx.invoked_subcommand is not None:
        return
    if config is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(EXIT_USAGE)
    reported(_run)(ctx, config)


def _run(ctx: typer.Context, config: Config = None) -> int:
    """Run the agent of one node until it is told to stop."""
    with everything_kept():
        from metako.config import check_runnable
        from metako.runtime.tlsfiles import check_tls_files

        node = load_config(chosen(ctx, config))
        check_runnable(node)
        check_tls_files(node)
        # Loaded last: a mistake in the file is told without waiting for drivers and cryptography.
        from metako.runtime.node import run_node

    return run_node(node)


def _status(
    ctx: typer.Context,
    config: Config = None,
    api: Api = None,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds between two pictures.")
    ] = WATCH_INTERVAL_S,
    timeout: Timeout = ASK_TIMEOUT_S,
) -> int:
    """Show the cluster as one node sees it. Exits with 1 while there is no primary."""
    from metako.cli.status import show_status, watch_status

    url = api_url(chosen(ctx, config, api), api)
    if watch:
        return watch_status(url, timeout_s=timeout, interval_s=interval, as_json=as_json)
    return show_status(url, timeout_s=timeout, as_json=as_json)


def _switchover(
    ctx: typer.Context,
    config: Config = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="NODE", help="[default: the cluster chooses]")
    ] = None,
    timeout: Annotated[
        float,
        timeout_option(
            "Give up unless the target is ready to take over by then.",
            low=TIMEOUT_MIN_S,
            high=TIMEOUT_MAX_S,
        ),
    ] = float(TIMEOUT_DEFAULT_S),
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Later: HH:MM[:SS], +10m, +2h, or a date and time. Does not wait for it.",
        ),
    ] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Give up the one under way, or the one for later.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Make another node the primary, without losing a commit, and follow it to the end.

    With --at it is begun at that time, if the same node leads then and the target is fit.

    Asks the agent of this machine, by its socket: run it on any node, as the agent's user.
    """
    from metako.cli.at_time import parse_at
    from metako.cli.switchover import cancel_switchover, plan_switchover, switch_over

    if cancel and (to is not None or at is not None):
        raise UsageError("--cancel gives up whatever there is: leave out --to and --at")
    moment = parse_at(at, datetime.now(UTC).astimezone()) if at is not None else None
    socket = agent_socket(chosen(ctx, config))
    if cancel:
        return cancel_switchover(socket, as_json=as_json)
    if moment is not None:
        return plan_switchover(socket, to=to, timeout_s=timeout, at=moment, as_json=as_json)
    return switch_over(socket, to=to, timeout_s=timeout, as_json=as_json)


def _failover(
    ctx: typer.Context,
    config: Config = None,
    lost: Annotated[
        list[str] | None,
        typer.Option(
            "--lost",
            metavar="NODE",
            help="A member that is off for good: go on without it and its vote. May be repeated. "
            "The other one of a pair has to be off now, and stays a member.",
        ),
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Do not ask: the loss is accepted.")
    ] = False,
    timeout: Annotated[
        float,
        timeout_option("Stop watching after so long.", low=TIMEOUT_MIN_S, high=TIMEOUT_MAX_S),
    ] = float(TIMEOUT_DEFAULT_S),
    as_json: Json = False,
) -> int:
    """Make the node of this machine the primary, although commits may be lost by it.

    For when the primary is gone for good, together with every standby that is sure to have all
    commits, and the cluster therefore waits. It still takes a majority of the voters, of those
    that are not --lost. Says first what it may cost, and asks. While somebody leads, use
    `metako switchover`.
    """
    from metako.cli.failover import fail_over

    return fail_over(
        agent_socket(chosen(ctx, config)),
        lost=lost or (),
        accepted=accept_loss,
        timeout_s=timeout,
        as_json=as_json,
    )


def _history(
    ctx: typer.Context,
    config: Config = None,
    api: Api = None,
    count: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=HISTORY_MAX, help="Entries to show.")
    ] = LOG_LINES,
    elections: Annotated[bool, typer.Option("--elections", help="Elections only.")] = False,
    as_json: Json = False,
    timeout: Timeout = ASK_TIMEOUT_S,
) -> int:
    """Show what was decided: elections and how long their parts took, and every other change."""
    from metako.cli.history import show_history

    return show_history(
        api_url(chosen(ctx, config, api), api),
        limit=count,
        elections_only=elections,
        timeout_s=timeout,
        as_json=as_json,
    )


def _logs(
    ctx: typer.Context,
    config: Config = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    count: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=LOG_LINES_MAX, help="Lines to begin with.")
    ] = LOG_LINES,
    as_json: Json = False,
) -> int:
    """Show the node's log file, readable; it survives rotation when followed."""
    from metako.cli.logs import show_logs

    return show_logs(load_config(chosen(ctx, config)), follow=follow, count=count, as_json=as_json)


def _check(ctx: typer.Context, config: Config = None, as_json: Json = False) -> int:
    """Check a configuration file without starting anything."""
    from metako.config import check_runnable
    from metako.runtime.tlsfiles import check_tls_files
    from metako.runtime.watchdog import check_watchdog_device

    node = load_config(chosen(ctx, config))
    # The remarks come first: they help whoever has to supply what is missing.
    if not as_json:
        for note in node.notes:
            write_line(f"note: {note}")
    check_runnable(node)
    check_tls_files(node)
    seen = check_watchdog_device(node)
    if as_json:
        notes = [*node.notes, *([seen] if seen else [])]
        write_json({"ok": True, "file": str(node.path), "notes": notes})
        return 0
    if seen:
        write_line(f"note: {seen}")
    write_line(f"{node.path}: correct; node {node.node.name} of cluster {node.cluster.name}")
    return 0


def _dsn(
    ctx: typer.Context,
    config: Config = None,
    password: Annotated[
        bool, typer.Option("--password", help="Include the password; mind who looks on.")
    ] = False,
) -> int:
    """Print the URL under which psql and applications reach the cluster."""
    write_line(psql_url(load_config(chosen(ctx, config)), with_password=password))
    return 0


def _keygen() -> int:
    """Print a new gossip key, to be given to every node of a cluster."""
    from metako.config import generate_key

    write_line(generate_key())
    return 0


def _demo(ctx: typer.Context) -> int:
    from metako.demo.command import demo_command

    demo = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    demo.command("demo")(demo_command)
    demo(ctx.args, prog_name="metako demo")  # ends in SystemExit, which `reported` understands
    return 0


def _simulate(ctx: typer.Context) -> int:
    from metako.cli.simulate import run_simulator

    run_simulator(ctx.args)
    return 0


def _version(as_json: Json = False) -> int:
    """Print the version of metako and of what it runs on."""
    facts = {
        "metako": __version__,
        "python": platform.python_version(),
        "platform": f"{os.uname().sysname} {os.uname().release} {os.uname().machine}",
    }
    if as_json:
        write_json(facts)
        return 0
    for name, value in facts.items():
        write_line(f"{name} {value}")
    return 0
