"""Put style, scripts and data into one page.

In: the lines of a trace. Out: HTML that refers to nothing outside of itself. The files of
`assets/` are read from the package; which scripts there are and in which order is said here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from sim.timeline.columns import read

SCRIPTS = (
    "elements.js",  # make elements
    "data.js",  # decode the columns, search them
    "words.js",  # say in words what an event is
    "theme.js",  # colours, hatches, text on a canvas
    "model.js",  # what each lane shows, as intervals
    "view.js",  # visible range, cursor, address of a view
    "layout.js",  # where every lane is
    "lanes.js",  # draw the nodes: who is writable, agents, servers, steps, log
    "rights.js",  # draw leases and holds, and what commits wait for
    "clients.js",  # draw operations and how far commits were acknowledged
    "faults.js",  # draw faults over the lanes, and the strip above them: axis, labels, phases
    "arrows.js",  # draw messages, the violation and the cursor
    "markers.js",  # draw the numbers of the causes, and what is selected
    "minimap.js",  # draw the whole run in small
    "panel.js",  # header, bar, causes
    "state.js",  # the state of every node at the cursor
    "details.js",  # everything that the trace says of what is selected
    "events.js",  # the list of events
    "help.js",  # signs and keys, explained
    "pointer.js",  # what is under the pointer; mouse and keys
    "main.js",  # start
)
STYLE = "page.css"
FRAME = "page.html"
STYLE_SLOT, SCRIPT_SLOT, DATA_SLOT = "/*style*/", "/*script*/", "/*data*/"


def render(lines: Iterable[str]) -> str:
    """Return the page of a run as HTML.

    Args:
        lines: the trace, as it was written; one that ends early gives a page that says so.
    """
    return assemble(asset(FRAME), asset(STYLE), map(asset, SCRIPTS), read(lines).document())


def write_html(lines: Iterable[str], path: str | Path) -> None:
    """Write the page of a run to a file.

    Raises:
        OSError: the file could not be written; a part of it may be there.
    """
    Path(path).write_text(render(lines), encoding="utf-8")


def assemble(frame: str, style: str, scripts: Iterable[str], document: object) -> str:
    """Return a page that refers to nothing outside of itself.

    Args:
        frame: HTML with a slot each for style, data and script, in this order.
        document: what the scripts find as JSON in the element "data".

    Raises:
        ValueError: a slot is missing, or a number is not finite.
    """
    before, rest = frame.split(STYLE_SLOT)
    between, rest = rest.split(DATA_SLOT)
    after, end = rest.split(SCRIPT_SLOT)
    data = json.dumps(document, separators=(",", ":"), allow_nan=False)
    # Inside of <script> only "<" can end the element or open a comment; in JSON it may be
    # written as an escape wherever it occurs. All else is ASCII already.
    data = data.replace("<", "\\u003c")
    return "".join((before, style, between, data, after, "\n".join(scripts), end))


def asset(name: str) -> str:
    """Return a file of the page; other pages share some."""
    return (resources.files("sim.timeline") / "assets" / name).read_text(encoding="utf-8")
