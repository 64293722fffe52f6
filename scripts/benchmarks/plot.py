"""The picture of a failover benchmark: one SVG file, without scripts, fonts or other files. Pure.

Above, a strip of dots for each fault and timing on a logarithmic time axis, a dot a round; below,
the median phases as stacked bars on a linear one. Colours follow the reader's light or dark mode.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.phases import REMAINDER, Phase
from benchmarks.results import ClientKind, Group
from benchmarks.svg import LogAxis, ends, picture, text
from benchmarks.targets import target_of

WIDTH = 900
LEFT = 150  # where the axes begin
RIGHT = 740  # where they end; the figures are beside
STRIP_HEIGHT = 52
BAR_HEIGHT = 30
LABEL_WIDTH_MIN = 26  # a narrower segment has no number in it

_STYLE = """
svg { font: 12px system-ui, sans-serif; --paper: #fff; --ink: #1f2328; --soft: #656d76;
  --line: #d0d7de; --kept: #0969da; --new: #bc4c00; --limit: #cf222e; }
@media (prefers-color-scheme: dark) { svg { --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1;
  --line: #30363d; --kept: #58a6ff; --new: #f0883e; --limit: #ff7b72; } }
.paper { fill: var(--paper); } text { fill: var(--ink); } .soft { fill: var(--soft); }
.head { font-weight: 600; font-size: 14px; } .small { font-size: 11px; }
.line { stroke: var(--line); } .limit { stroke: var(--limit); stroke-dasharray: 5 3; }
.limit99 { stroke: var(--limit); stroke-dasharray: 1.5 3; }
.kept { stroke: var(--kept); fill: var(--kept); } .new { stroke: var(--new); fill: var(--new); }
.dot { fill-opacity: .25; stroke-opacity: .7; }
.p50 { stroke-width: 3; } .p99 { stroke-width: 1.5; }
.num { font-size: 11px; text-anchor: middle; fill: #fff; } .end { text-anchor: end; }
.mid { text-anchor: middle; }
""".strip()

_COLOURS = {
    Phase.DETECT.value: "#6e7781",
    Phase.PRE_VOTE.value: "#2f81c7",
    Phase.VOTE.value: "#7d4cc4",
    Phase.DOCUMENT.value: "#bf4b8a",
    Phase.PROMOTE.value: "#bb4a1a",
    Phase.ACTIVATE.value: "#a3720a",
    Phase.ROUTE.value: "#2b7d46",
    Phase.WRITE.value: "#15808c",
    REMAINDER: "#b0302f",
}
"""Dark enough for white numbers, light enough for a black background."""


def log_axis(values_s: Sequence[float]) -> LogAxis:
    """Return an axis of seconds: 1, 2 and 5 of each decade have ticks; more on a short one."""
    low, high = ends(values_s, 1.25)
    return LogAxis(low, high, LEFT, RIGHT, (1, 2, 5) if high > 30 * low else (1, 1.5, 2, 3, 5, 7))


def svg(groups: Sequence[Group], *, title: str) -> str:
    """Return the picture; groups without an outage have no strip."""
    groups = [g for g in groups if any(g.outages(kind) for kind in ClientKind)]
    strips_top = 64
    strips_end = strips_top + STRIP_HEIGHT * len(groups)
    bars_top = strips_end + 104
    bars_end = bars_top + BAR_HEIGHT * len(groups)
    height = bars_end + 40
    parts = [
        *_strip_legend(48),
        *_strips(groups, strips_top, strips_end),
        text(16, bars_top - 56, "Where it goes: median of each phase, connections kept", "head"),
        *_phase_legend(bars_top - 32),
        *_bars(groups, bars_top, bars_end),
    ]
    return picture(WIDTH, height, title=title, style=_STYLE, parts=parts)


def _strip_legend(y: int) -> list[str]:
    return [
        f'<circle class="kept dot" cx="22" cy="{y - 4}" r="4"/>',
        text(32, y, "connections kept", "small"),
        f'<circle class="new dot" cx="146" cy="{y - 4}" r="4"/>',
        text(156, y, "a new connection for each write", "small"),
        f'<path class="kept p50" d="M352 {y - 11}v14"/>',
        f'<path class="kept p99" d="M360 {y - 11}v14"/>',
        text(368, y, "p50, p99", "small"),
        f'<path class="limit" d="M436 {y - 4}h26"/>',
        text(468, y, "target for p50", "small"),
        f'<path class="limit99" d="M560 {y - 4}h26"/>',
        text(592, y, "target for p99", "small"),
        text(RIGHT + 14, y, "p50 / p99 in ms", "small soft"),
    ]


def _strips(groups: Sequence[Group], top: int, end: int) -> list[str]:
    values = [s for g in groups for kind in ClientKind for s in g.outages(kind)]
    for group in groups:
        target = target_of(group)
        if target is not None:
            values += [target.p50_s, target.p99_s]
    axis = log_axis(values)
    parts = []
    for tick in axis.ticks():
        x = axis.x(tick)
        parts.append(f'<path class="line" d="M{x:.1f} {top}V{end}"/>')
        parts.append(text(x, end + 16, seconds(tick), "small soft mid"))
    for index, group in enumerate(groups):
        parts += _strip(group, axis, top + index * STRIP_HEIGHT)
    return parts


def _strip(group: Group, axis: LogAxis, y: int) -> list[str]:
    parts = [
        f'<path class="line" d="M16 {y}H{WIDTH - 16}"/>',
        text(16, y + 23, group.fault),
        text(16, y + 39, f"{group.timing}, n = {len(group.rounds)}", "small soft"),
    ]
    target = target_of(group)
    if target is not None:
        for name, value in (("limit", target.p50_s), ("limit99", target.p99_s)):
            x = axis.x(value)
            parts.append(f'<path class="{name}" d="M{x:.1f} {y + 2}v{STRIP_HEIGHT - 4}"/>')
    for kind, centre in ((ClientKind.KEPT, y + 15), (ClientKind.NEW, y + 37)):
        summary = group.outage(kind)
        if summary is None:
            continue
        # Behind the dots and longer than they are high: neither hides the other.
        for name, value in (("p50", summary.p50), ("p99", summary.p99)):
            x = axis.x(value)
            parts.append(f'<path class="{kind} {name}" d="M{x:.1f} {centre - 10}v20"/>')
        parts += [
            f'<circle class="{kind} dot" cx="{axis.x(s):.1f}" cy="{centre + wobble(i)}" r="3"/>'
            for i, s in enumerate(group.outages(kind))
        ]
        figures = f"{summary.p50 * 1000:.0f} / {summary.p99 * 1000:.0f}"
        parts.append(text(RIGHT + 14, centre + 4, figures, "small"))
    return parts


def wobble(index: int) -> int:
    """Return a shift by which dots at the same place stay apart; the same in every picture."""
    return (0, -3, 3, -2, 2)[index % 5]


def _phase_legend(y: int) -> list[str]:
    parts, x = [], 16
    for name, colour in _COLOURS.items():
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" rx="2" fill="{colour}"/>')
        parts.append(text(x + 14, y, name, "small"))
        x += 30 + 7 * len(name)
    return parts


def _bars(groups: Sequence[Group], top: int, end: int) -> list[str]:
    medians = [median_phases(group) for group in groups]
    longest = max((sum(m.values()) for m in medians), default=0.0) or 1.0
    scale = (RIGHT - LEFT) / longest
    step = _linear_step(longest)
    parts = []
    for i in range(int(longest / step) + 1):
        x = LEFT + i * step * scale
        parts.append(f'<path class="line" d="M{x:.1f} {top}V{end}"/>')
        parts.append(text(x, end + 16, seconds(i * step), "small soft mid"))
    for index, (group, phases) in enumerate(zip(groups, medians, strict=True)):
        y = top + index * BAR_HEIGHT
        parts.append(text(16, y + 19, group.name, "small"))
        x = float(LEFT)
        for name, value in phases.items():
            width = max(value * scale, 0.0)
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 5}" width="{width:.1f}" height="{BAR_HEIGHT - 10}"'
                f' fill="{_COLOURS[name]}">'
                f"<title>{escape(name)} {value * 1000:.0f} ms</title></rect>"
            )
            if width >= LABEL_WIDTH_MIN:
                parts.append(text(x + width / 2, y + 19, f"{value * 1000:.0f}", "num"))
            x += width
        total = sum(phases.values())
        parts.append(text(RIGHT + 14, y + 19, f"sum {total * 1000:.0f} ms", "small"))
    return parts


def median_phases(group: Group) -> dict[str, float]:
    """Return the median seconds of each phase and of the remainder, without those never measured.

    Their sum is near the median of the outage and need not be equal to it.
    """
    parts = group.durations(ClientKind.KEPT)
    result = {}
    for phase in Phase:
        values = [v for d in parts if (v := d.phases[phase]) is not None]
        if values:
            result[phase.value] = statistics.median(values)
    if parts:
        result[REMAINDER] = statistics.median(d.remainder_s for d in parts)
    return result


def _linear_step(longest: float) -> float:
    """Return a distance of ticks that gives three to ten of them."""
    rough = longest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough)


def seconds(value: float) -> str:
    """Return a tick's label: `50 ms`, `2 s`."""
    return f"{value * 1000:.0f} ms" if 0 < value < 1 else f"{value:g} s"
