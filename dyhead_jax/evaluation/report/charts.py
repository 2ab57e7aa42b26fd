"""Line charts as SVG. Colours and the choice of what is shown are left to CSS classes of the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 420, 320  # units of the drawing, which scales with the page
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 44  # margins


@dataclass(frozen=True, slots=True)
class Line:
    """x, y: (n,), y from 0 to 1, NaN where there is nothing; css: classes; name: shown on hovering."""

    x: np.ndarray
    y: np.ndarray
    css: str
    name: str


@dataclass(frozen=True, slots=True)
class Axis:
    """The horizontal axis from low to high."""

    name: str
    low: float = 0.0
    high: float = 1.0

    def place(self, x: float) -> float:
        """The horizontal place of a value in the drawing."""
        return LEFT + (x - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)


def chart(lines: Sequence[Line], axis: Axis, y_name: str, description: str, mark: float | None = None) -> str:
    """An <svg>. description: for those who do not see it; mark: a value of the axis with a vertical line."""
    ticks = []
    for i in range(6):
        y = _height(i / 5)
        value = axis.low + i / 5 * (axis.high - axis.low)
        x = axis.place(value)
        ticks.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        ticks.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_tick(i / 5)}</text>')
        ticks.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_tick(value)}</text>'
        )
    marked = ""
    if mark is not None:
        x = axis.place(mark)
        anchor, shift = ("end", -6) if x > WIDTH / 2 else ("start", 6)
        marked = (
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="marked" x="{x + shift:.1f}" y="{HEIGHT - BOTTOM - 8}" text-anchor="{anchor}">'
            f"{mark:.2f}</text>"
        )
    drawn = "".join(
        f'<polyline class="line {line.css}" points="{_points(line, axis)}">'
        f"<title>{escape(line.name)}</title></polyline>"
        for line in lines
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">{"".join(ticks)}'
        f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axis.name)}</text>'
        f'<text class="axis" transform="translate(10 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>{drawn}{marked}</svg>"
    )


def _height(y: float) -> float:
    return HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def _points(line: Line, axis: Axis) -> str:
    """The corners of a line; points between two of equal height are left out."""
    known = ~np.isnan(line.y)
    x, y = line.x[known], line.y[known]
    flat = np.zeros(len(y), bool)
    flat[1:-1] = (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:])
    return " ".join(f"{axis.place(a):.1f},{_height(b):.1f}" for a, b in zip(x[~flat], y[~flat], strict=True))


def _tick(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"
