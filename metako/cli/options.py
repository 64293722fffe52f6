"""Options that several commands have, and which file they mean.

In: nothing. Out: types for the signatures of commands, from which typer makes their options.
Deliberately unaware of what the commands do with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from metako.cli.target import DEFAULT_CONFIG
from metako.model.errors import UsageError

ASK_TIMEOUT_S = 3.0

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        readable=False,  # that it cannot be read is told by whoever reads it, with its own code
        help=f"Configuration file of the node [{DEFAULT_CONFIG}].",
    ),
]
Api = Annotated[
    str | None, typer.Option("--api", metavar="URL", help="Ask the API at this URL instead.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, max=60, help="Seconds to wait for the agent.")
]


def timeout_option(text: str, *, low: float, high: float) -> OptionInfo:
    """Return the option `--timeout` of a command that follows what it has ordered."""
    option: OptionInfo = typer.Option("--timeout", metavar="SECONDS", min=low, max=high, help=text)
    return option


def chosen(ctx: typer.Context, config: Path | None, api: str | None = None) -> Path | None:
    """Return the file of this command, else the one given before it: `metako -c FILE status`."""
    if config is not None or api is not None:
        return config
    return ctx.obj if isinstance(ctx.obj, Path) else None


def node_name(text: str) -> str:
    """Return the name of a node as it was typed.

    Raises:
        UsageError: no node can have it.
    """
    from metako.config.schema import NAME

    if NAME.fullmatch(text) is None:
        raise UsageError(f"not the name of a node: {text!r}")
    return text
