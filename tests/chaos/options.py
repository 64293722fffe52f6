"""The options of `scripts/chaos`."""

from __future__ import annotations

import argparse
from pathlib import Path

from chaos.rig import RECOVERY_LIMIT_S
from chaos.starving import BURNERS_PER_CORE
from metako.config.profiles import TIMING_MS
from sim.faults.process import BURNERS_PER_CORE_MAX

NODES_MAX = 9
BURN_MINUTES = 10.0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Break a real cluster, node by node in network namespaces, under clients that "
        "write down what they were promised; then check that every promise was kept.",
        epilog="Needs root, on Linux. Everything but the evidence is gone when it ends, also by "
        "Ctrl-C; a second Ctrl-C ends it at once, without a verdict.",
    )
    found.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME|FILE",
        help="play this one; may be repeated (default: all of the library that are for real hosts)",
    )
    _add_matrix(found)
    found.add_argument(
        "--minutes",
        type=float,
        default=0,
        help="go on for so long, with rounds of random faults between the scenarios; for so long "
        f"only, with --matrix; with --burn {BURN_MINUTES:g} if it is not given",
    )
    found.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    found.add_argument("--extra-faults", action="store_true", help="add random faults to each")
    _add_cluster(found)
    found.add_argument("--bindir", default=None, help="PostgreSQL's programs; embedded:18, …")
    found.add_argument(
        "--rate", type=float, default=10, help="operations of each client in a second"
    )
    found.add_argument(
        "--recover-within",
        type=float,
        default=RECOVERY_LIMIT_S,
        metavar="SECONDS",
        help="after the peace, until every node streams again",
    )
    found.add_argument(
        "--dir", type=Path, help="an empty directory for the evidence (default: a new one in /tmp)"
    )
    found.add_argument("--json", action="store_true", help="the verdict as JSON on stdout")
    found.add_argument(
        "--list", action="store_true", help="every scenario, and why not; or every cell"
    )
    return found


def number(text: str) -> int:
    """Return a number of things, of which there is at least one."""
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def _add_matrix(found: argparse.ArgumentParser) -> None:
    matrix = found.add_argument_group(
        "the matrix", "Every process of every node is killed, stopped and cut off by itself."
    )
    matrix.add_argument("--matrix", action="store_true", help="play it, instead of scenarios")
    matrix.add_argument(
        "--pairs", type=number, default=0, metavar="N", help="N pairs instead, drawn with the seed"
    )
    matrix.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CELL",
        help="play this one, or a pair with a + between; may be repeated",
    )
    matrix.add_argument("--first", metavar="CELL", help="begin with this one")
    burn = found.add_argument_group("the cores")
    burn.add_argument(
        "--burn", action="store_true", help="keep every core busy, and let nobody be deposed"
    )
    burn.add_argument(
        "--per-core",
        type=int,
        choices=range(1, BURNERS_PER_CORE_MAX + 1),
        default=BURNERS_PER_CORE,
        metavar="N",
        help=f"busy processes for each (default: {BURNERS_PER_CORE})",
    )


def _add_cluster(found: argparse.ArgumentParser) -> None:
    cluster = found.add_argument_group(
        "the cluster", "Without any of these the first scenario that is named has its own."
    )
    cluster.add_argument(
        "--nodes",
        type=int,
        choices=range(1, NODES_MAX + 1),
        metavar="N",
        help="with data (default: 3)",
    )
    cluster.add_argument(
        "--witnesses", type=int, choices=range(NODES_MAX), metavar="N", help="besides (default: 0)"
    )
    cluster.add_argument(
        "--acks", type=int, metavar="K", help="standbys that confirm a commit (default: 1)"
    )
    cluster.add_argument("--durability", choices=("quorum", "strict"), help="default: quorum")
    cluster.add_argument(
        "--timing", choices=tuple(TIMING_MS), help="profile of timing (default: default)"
    )
