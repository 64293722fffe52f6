"""The picture of a proxy benchmark: one SVG file, without scripts, fonts or other files. Pure.

A row for each workload and number of clients, a dot for each contestant: on the left the rate as a
multiple of that without a proxy, on the right the CPU time of a thousand transactions. Both axes
are logarithmic. Colours follow the reader's light or dark mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape

from benchmarks.proxy.results import (
    METAKO,
    PGBOUNCER,
    TLS_SUFFIX,
    Figures,
    Place,
    is_direct,
    of_direct,
)
from benchmarks.svg import LogAxis, ends, picture, text

WIDTH = 900
LEFT_PANEL = (190, 510)
RIGHT_PANEL = (560, 880)
ROW_HEIGHT = 26
TOP = 96

_COLOURS = {
    METAKO: "#0969da",
    METAKO + TLS_SUFFIX: "#54aeff",
    PGBOUNCER: "#bc4c00",
    PGBOUNCER + TLS_SUFFIX: "#fb8f44",
    "pgbouncer-transaction": "#9a6700",
    "haproxy": "#1a7f37",
    "pgpool": "#8250df",
}
"""Of middle lightness, to be seen on white and on black."""
_COLOUR_OTHER = "#6e7781"

_STYLE = """
svg { font: 12px system-ui, sans-serif; --paper: #fff; --ink: #1f2328; --soft: #656d76;
  --line: #d0d7de; }
@media (prefers-color-scheme: dark) { svg { --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1;
  --line: #30363d; } }
.paper { fill: var(--paper); } text { fill: var(--ink); } .soft { fill: var(--soft); }
.head { font-weight: 600; font-size: 14px; } .small { font-size: 11px; }
.line { stroke: var(--line); } .one { stroke: var(--soft); stroke-dasharray: 5 3; }
.mid { text-anchor: middle; } .dot { fill-opacity: .75; }
""".strip()


def axis(values: Iterable[float], panel: tuple[float, float]) -> LogAxis:
    """Return an axis over a panel: 1, 2 and 5 of each decade have ticks; only 1 on a long one."""
    low, high = ends(values, 1.5)
    return LogAxis(low, high, *panel, (1, 2, 5) if high < 300 * low else (1,))


def svg(figures: Mapping[Place, Figures], *, title: str) -> str:
    """Return the picture; without any figures it has a title and axes only."""
    rows = list(dict.fromkeys((place.workload, place.clients) for place in figures))
    rates = {p: r for p in figures if (r := of_direct(p, figures)) is not None}
    costs = {p: c for p, f in figures.items() if (c := f.cpu_s_per_1000) is not None}
    end = TOP + ROW_HEIGHT * len(rows)
    height = end + 34
    seen = dict.fromkeys(place.contestant for place in figures)
    names = [name for name in seen if not is_direct(name)]
    parts = [
        *_legend(names),
        text(LEFT_PANEL[0], TOP - 14, "rate, of that without a proxy: more is better", "small"),
        text(RIGHT_PANEL[0], TOP - 14, "CPU s for 1000 transactions: less is better", "small"),
    ]
    for index, (workload, clients) in enumerate(rows):
        y = TOP + ROW_HEIGHT * index
        parts.append(f'<path class="line" d="M16 {y}H{WIDTH - 16}"/>')
        parts.append(text(16, y + 17, f"{workload}, {clients} clients", "small"))
    # What everybody is measured against is always on the axis.
    parts += _panel(rates, axis([*rates.values(), 1.0], LEFT_PANEL), rows, end, one=True)
    parts += _panel(costs, axis(costs.values(), RIGHT_PANEL), rows, end, one=False)
    return picture(WIDTH, height, title=title, style=_STYLE, parts=parts)


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], 22
    for name in names:
        parts.append(f'<circle class="dot" cx="{x}" cy="46" r="5" fill="{_colour(name)}"/>')
        parts.append(text(x + 10, 50, name, "small"))
        x += 40 + 7 * len(name)
    return parts


def _panel(
    values: Mapping[Place, float],
    scale: LogAxis,
    rows: Sequence[tuple[str, int]],
    end: float,
    *,
    one: bool,
) -> list[str]:
    parts = []
    for tick in scale.ticks():
        x = scale.x(tick)
        kind = "one" if one and tick == 1 else "line"
        parts.append(f'<path class="{kind}" d="M{x:.1f} {TOP}V{end}"/>')
        parts.append(text(x, end + 16, f"{tick:g}", "small soft mid"))
    for place, value in values.items():
        y = TOP + ROW_HEIGHT * (rows.index((place.workload, place.clients)) + 0.5)
        parts.append(
            f'<circle class="dot" cx="{scale.x(value):.1f}" cy="{y:.1f}" r="5"'
            f' fill="{_colour(place.contestant)}">'
            f"<title>{escape(place.contestant)} {value:.3g}</title></circle>"
        )
    return parts


def _colour(name: str) -> str:
    return _COLOURS.get(name, _COLOUR_OTHER)
