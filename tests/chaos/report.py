"""The readable report of a run: one HTML file that needs nothing else.

In: a run's directory with `history.jsonl` and, if the checker has run, `verdict.json`. Out: a page
with its own style, script and data, which a browser opens without a network. The page shows what
the history says and judges nothing; the verdict is the checker's.

    python -m chaos.report DIR [--out FILE] [--verdict FILE]

Exits with 0, or with 3 and a sentence on stderr if history or verdict cannot be read or the page
cannot be written.

What is shown is computed in `report_data`; the files of `report_assets/` draw it. Colours, elements
and the tools for a canvas are the simulator's, so that both pages look and read alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from chaos.report_data import document
from chaos.report_read import (
    HISTORY,
    VERDICT,
    History,
    HistoryError,
    Row,
    read_history,
    read_verdict,
)
from sim.timeline import assemble, asset

EXIT_UNREADABLE = 3
PAGE = "report.html"
SCRIPTS = (
    "text.js",  # times and names as words
    "view.js",  # visible range, cursor, address of a view
    "layout.js",  # where every lane is
    "charts.js",  # draw axis, faults, writes per second, latency
    "lanes.js",  # draw nodes and clients
    "hover.js",  # what is under the pointer, in words
    "tables.js",  # verdict, violations, outages, state at the cursor, after the run
    "main.js",  # start; mouse and keys
)
SHARED = ("elements.js", "theme.js")  # of the simulator's page; they stand before our own


def render(history: History, verdict: Row | None) -> str:
    """Return the page of a run as HTML."""
    scripts = (*map(asset, SHARED), *map(_asset, SCRIPTS))
    return assemble(_asset("page.html"), _asset("page.css"), scripts, document(history, verdict))


def write_report(directory: Path, out: Path | None = None, verdict: Path | None = None) -> Path:
    """Write the page of the run in a directory and return where it is.

    Args:
        out: default: `report.html` in the directory.
        verdict: default: `verdict.json` in the directory, which may be missing; one that is named
            must be there.

    Raises:
        HistoryError: history or verdict cannot be read; nothing was written.
        OSError: the page could not be written; a part of it may be there.
    """
    history = read_history(directory / HISTORY)
    found = read_verdict(verdict or directory / VERDICT)
    if found is None and verdict is not None:
        raise HistoryError(f"cannot read {verdict}: no such file")
    path = out or directory / PAGE
    path.write_text(render(history, found), encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m chaos.report", description="Report of a run.")
    parser.add_argument("directory", metavar="DIR", type=Path, help=f"holds {HISTORY}")
    parser.add_argument("--out", metavar="FILE", type=Path, help=f"default: DIR/{PAGE}")
    parser.add_argument("--verdict", metavar="FILE", type=Path, help=f"default: DIR/{VERDICT}")
    options = parser.parse_args(arguments)
    try:
        path = write_report(options.directory, options.out, options.verdict)
    except HistoryError as error:
        sys.stderr.write(f"chaos.report: {error}\n")
        return EXIT_UNREADABLE
    except OSError as error:
        sys.stderr.write(f"chaos.report: cannot write {error.filename}: {error.strerror}\n")
        return EXIT_UNREADABLE
    sys.stdout.write(f"{path}\n")
    return 0


def _asset(name: str) -> str:
    return (resources.files("chaos") / "report_assets" / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
