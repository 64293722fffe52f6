"""What the pictures of the benchmarks share: a frame, text, and logarithmic axes. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr


@dataclass(frozen=True, slots=True)
class LogAxis:
    """A value to a place between `left` and `right`, by its logarithm."""

    low: float
    high: float
    left: float
    right: float
    steps: tuple[float, ...]  # multiples of the powers of ten that get a tick

    def x(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.left + share * (self.right - self.left)

    def ticks(self) -> list[float]:
        """Return the values within the axis that get a tick."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values = [m * 10.0**e for e in range(first, last + 1) for m in self.steps]
        return [v for v in values if self.low <= v <= self.high]


def ends(values: Iterable[float], room: float) -> tuple[float, float]:
    """Return where a logarithmic axis of these values ends, with a factor of room at both ends."""
    positive = [value for value in values if value > 0] or [1.0]
    return min(positive) / room, max(positive) * room


def text(x: float, y: float, words: str, classes: str = "") -> str:
    """Return words at a place."""
    named = f' class="{classes}"' if classes else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}>{escape(words)}</text>'


def picture(width: float, height: float, *, title: str, style: str, parts: Sequence[str]) -> str:
    """Return a file with a heading and what is drawn on its paper."""
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img" aria-label={quoteattr(title)}>',
        f"<title>{escape(title)}</title><style>{style}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        text(16, 26, title, "head"),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"
