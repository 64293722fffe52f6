"""The commands of the simulator and their options.

In: arguments. Out: calls into the rest of the simulator and an exit code. Each command is a few
lines: it picks what the options name and calls; the modules that do the work are imported then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metako.cli.failure import reported

SEED_MAX = 2**63 - 1
SEEDS_MAX = 100_000_000
JOBS_MAX = 256
JOBS = 2

EXIT_CODES = """Exit codes: 0 no run failed; 1 a run failed, or was not the same when repeated; 2
wrong arguments; 3 a file cannot be read or is wrong; 130 interrupted; 143 terminated."""

Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=SEED_MAX, help="Number of the run.")
]
FirstSeed = Annotated[
    int, typer.Option("--first-seed", metavar="N", min=0, max=SEED_MAX, help="Seed to begin with.")
]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", metavar="N", min=1, max=JOBS_MAX, help="Processes that play.")
]
Limit = Annotated[
    float,
    typer.Option(
        "--limit", metavar="SECONDS", min=0.1, max=86400, help="CPU seconds that one run may use."
    ),
]
Mutation = Annotated[
    str | None,
    typer.Option("--mutation", metavar="NAME", help="Plant this bug (`list --mutations`)."),
]
Scenarios = Annotated[
    list[str] | None,
    typer.Option(
        "--scenario",
        "-s",
        metavar="NAME",
        help="Play this one (name or file) instead of all; may be repeated.",
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE.jsonl", help="Write every event to this file."),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE.html", help="Write a page that shows the run."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Leave nothing out.")]


def build_app() -> typer.Typer:
    """Return the command line, ready to be called."""
    app = typer.Typer(
        help=f"Play metako's clusters in virtual time, with faults.\n\n{EXIT_CODES}",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command("run")(reported(_run))
    app.command("swarm")(reported(_swarm))
    app.command("replay")(reported(_replay))
    app.command("mutate")(reported(_mutate))
    app.command("explore")(reported(_explore))
    app.command("list")(reported(_list))
    return app


def _run(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="Its name, or a file.")],
    seed: Seed = 0,
    trace: Trace = None,
    html: Html = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Write the faults of the run, for `replay`."),
    ] = None,
    mutation: Mutation = None,
    extra_faults: Annotated[
        bool, typer.Option("--extra-faults", help="Add the random faults that `swarm` adds.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Play one run and tell what happened. Exits with 1 if a promise was broken."""
    from sim.cli.run import Shown, run

    shown = Shown(trace, html, save, as_json, verbose)
    return run(scenario, seed, shown, mutation=mutation, extra_faults=extra_faults)


def _swarm(
    seeds: Annotated[
        int,
        typer.Option("--seeds", "-n", metavar="N", min=1, max=SEEDS_MAX, help="How many to play."),
    ] = 1000,
    first_seed: FirstSeed = 0,
    jobs: Jobs = JOBS,
    scenario: Scenarios = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="FILE",
            help="Keep a tally in this file, and go on at the first seed not played so far.",
        ),
    ] = None,
    save_dir: Annotated[
        Path | None,
        typer.Option("--save-dir", metavar="DIR", help="Save failing runs here, for `replay`."),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="End with the first seed that fails.")
    ] = False,
    verify: Annotated[
        float,
        typer.Option(
            "--verify",
            metavar="FRACTION",
            min=0,
            max=1,
            help="Fraction of the runs to repeat and compare.",
        ),
    ] = 0.0,
    mutation: Mutation = None,
    extra_faults: Annotated[
        bool,
        typer.Option(
            "--extra-faults/--no-extra-faults",
            help="Add random faults to those of the scenarios, or play these alone.",
        ),
    ] = True,
    limit: Limit = 60.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Play many seeds and sum up what happened.

    Each seed plays the scenario that is its turn. Exits with 1 if a run failed or, with --verify,
    was not the same when it was repeated.
    """
    from sim.cli.swarm import SwarmOptions, swarm
    from sim.swarm.pool import Workers

    return swarm(
        SwarmOptions(
            seeds=seeds,
            first_seed=first_seed,
            workers=Workers(min(jobs, seeds), limit),
            scenarios=tuple(scenario or ()),
            mutation=mutation,
            extra_faults=extra_faults,
            resume=resume,
            save_dir=save_dir,
            fail_fast=fail_fast,
            verify=verify,
            as_json=as_json,
            verbose=verbose,
        )
    )


def _replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A saved run.")],
    trace: Trace = None,
    html: Html = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Play the faults of a saved run. Exits with 0 if no promise is broken any more."""
    from sim.cli.run import Shown, replay

    return replay(file, Shown(trace, html, None, as_json, verbose))


def _mutate(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only this bug; may be repeated."),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", "-n", metavar="N", min=1, max=SEEDS_MAX, help="Seeds for a bug, at most."
        ),
    ] = 500,
    first_seed: FirstSeed = 0,
    jobs: Jobs = JOBS,
    scenario: Scenarios = None,
    every_seed: Annotated[
        bool, typer.Option("--all", help="Go on after the first catch, and count them.")
    ] = False,
    limit: Limit = 60.0,
    as_json: Json = False,
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="FILE.md", help="Write the table in Markdown, too."),
    ] = None,
) -> int:
    """Plant known bugs, one at a time, and see who catches them.

    Every bug is played with seed after seed until a check fails that holds without it. Exits with
    1 if fewer than 90 % are caught.
    """
    from sim.cli.mutate import MutateOptions, mutate
    from sim.swarm.pool import Workers

    return mutate(
        MutateOptions(
            only=tuple(only or ()),
            seeds=seeds,
            first_seed=first_seed,
            workers=Workers(jobs, limit),
            scenarios=tuple(scenario or ()),
            every_seed=every_seed,
            as_json=as_json,
            table=table,
        )
    )


def _explore(
    config: Annotated[
        list[str] | None,
        typer.Option("--config", metavar="NAME", help="Explore this one; may be repeated."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Explore within wider bounds: minutes to hours.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="RULE", help="Do not keep this rule; may be repeated."),
    ] = None,
    choices: Annotated[
        bool, typer.Option("--list", help="List the configurations and the rules.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Explore every interleaving of the agreement protocol within small bounds.

    No runs are played: an abstract model, which decides by the program's own rules, is taken
    through every order of steps, and every state is checked. Exits with 1 if a promise is broken,
    and tells the shortest way there. Without --config it explores `elections`.
    """
    from sim.cli.explore import ExploreOptions, explore, show_choices

    if choices:
        return show_choices(as_json=as_json)
    names, rules = tuple(config or ()), tuple(without or ())
    return explore(ExploreOptions(names, full=full, without=rules, as_json=as_json))


def _list(
    faults: Annotated[bool, typer.Option("--faults", help="The kinds of faults.")] = False,
    marks: Annotated[bool, typer.Option("--marks", help="The marks that runs reach.")] = False,
    mutations: Annotated[bool, typer.Option("--mutations", help="The bugs to plant.")] = False,
    checks: Annotated[bool, typer.Option("--checks", help="The promises watched.")] = False,
    as_json: Json = False,
) -> int:
    """List the scenarios, or what else there is."""
    from sim.cli.listing import CHECKS, FAULTS, MARKS, MUTATIONS, show_lists

    asked = {FAULTS: faults, MARKS: marks, MUTATIONS: mutations, CHECKS: checks}
    return show_lists([name for name, wanted in asked.items() if wanted], as_json=as_json)
