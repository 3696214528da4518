"""The report's charts as inline SVG: no library, no script, colours from the page's style so that dark mode works."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 42
COLORS = 8  # --s0 … --s7 in the page's style
DASHES = ("", "7 4", "2 3")


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (at - low) / ((high - low) or 1) * (self.end - self.start), 2)


def series_style(index: int) -> str:
    """Return the stroke of the series `index`: a colour, and a dash pattern once the colours are used up."""
    dash = DASHES[index // COLORS % len(DASHES)]
    return f"stroke:var(--s{index % COLORS})" + (f";stroke-dasharray:{dash.replace(' ', ',')}" if dash else "")


def curves(series: Mapping[str, Mapping[int, float]], *, title: str, percent: bool, x_label: str = "epoch") -> str:
    """Return a line for each series, epoch -> value.

    Args:
        series: Name -> values; the order gives the colours. Empty series are left out of the picture.
        title: What the chart shows, for those who cannot see it.
        percent: Whether values are fractions, shown as percentages from 0.
        x_label: Label of the x axis.
    """
    points = [(x, y) for values in series.values() for x, y in values.items()]
    if not points:
        return ""
    ys = [y for _, y in points]
    ticks = nice_ticks(0.0, max(ys), 5)
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    x = Scale(x_low, max(x_high, x_low + 1), LEFT, WIDTH - RIGHT)
    y = Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, _integer_ticks(x_low, x_high), ticks, x_label=x_label, percent=percent)]
    dots = x_high - x_low <= 30
    for index, (name, values) in enumerate(series.items()):
        if not values:
            continue
        path = " ".join(f"{x(at)},{y(value)}" for at, value in sorted(values.items()))
        last = values[max(values)]
        shown = f"{100 * last:.1f} %" if percent else f"{last:.3g}"
        parts.append(f'<g class="series"><title>{escape(name)}: {shown}</title>')
        parts.append(f'<polyline points="{path}" style="{series_style(index)}"/>')
        for at, value in sorted(values.items()) if dots else ():
            parts.append(f'<circle cx="{x(at)}" cy="{y(value)}" r="2.6" style="fill:var(--s{index % COLORS})"/>')
        parts.append("</g>")
    return _svg(title, parts)


def scatter(
    points: Sequence[tuple[str, float, float]],
    *,
    title: str,
    x_label: str,
    width: int = WIDTH,
    percent: bool = True,
    more: bool = True,
) -> str:
    """Return named points (name, x > 0, y), and the line of those that none beats in both.

    Args:
        points: Name, x and y of each.
        title: What the chart shows, for those who cannot see it.
        x_label: Label of the x axis.
        width: Of the picture.
        percent: Whether y are fractions, shown as percentages.
        more: Whether more of y is better.
    """
    if not points:
        return ""
    xs, ys = [x for _, x, _ in points], [y for _, _, y in points]
    log = max(xs) / min(xs) > 8
    if log:
        x_ticks = _log_ticks(min(xs), max(xs))
        low, high = min(xs) / 1.3, max(xs) * 1.5
        x_ticks = [tick for tick in x_ticks if low <= tick <= high]
    else:
        x_ticks = nice_ticks(0.0, max(xs) * 1.12, 6)
        low, high = 0.0, x_ticks[-1]
    y_ticks = nice_ticks(max(0.0, min(ys) - 0.05), max(ys), 5)
    x = Scale(low, high, LEFT, width - RIGHT, log)
    y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, x_ticks, y_ticks, x_label=x_label, percent=percent)]
    front = pareto([(name, at, value if more else -value) for name, at, value in points])
    if len(front) > 1:
        path = " ".join(f"{x(points[i][1])},{y(points[i][2])}" for i in front)
        parts.append(f'<polyline class="front" points="{path}"/>')
    placed = [(x(at) - 6, x(at) + 6, y(value) + 4) for _, at, value in points]
    for index, (name, at, value) in enumerate(points):
        px, py = x(at), y(value)
        wide = 7.2 * len(name) + 12
        left = px + wide > width - 4
        start = px - wide if left else px + 7
        row = _free_row(py + 4, start, start + wide, placed)
        placed.append((start, start + wide, row))
        tip = f"{name}: {f'{100 * value:.1f} %' if percent else f'{value:.3g}'} in {at:.3g} ms"
        parts.append(f'<circle cx="{px}" cy="{py}" r="5.5" style="fill:var(--s{index % COLORS})">')
        parts.append(f"<title>{escape(tip)}</title></circle>")
        anchor, text_x = ("end", px - 9) if left else ("start", px + 9)
        parts.append(
            f'<text class="name" x="{text_x:.1f}" y="{row:.1f}" text-anchor="{anchor}" '
            f'style="fill:var(--s{index % COLORS})">{escape(name)}</text>'
        )
    return _svg(title, parts, width)


def pareto(points: Sequence[tuple[str, float, float]]) -> list[int]:
    """Return the points that no other beats in both: smaller x and larger y; by x."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][2])):
        if not front or points[i][2] > points[front[-1]][2]:
            front.append(i)
    return front


def _free_row(wanted: float, start: float, end: float, placed: Sequence[tuple[float, float, float]]) -> float:
    """Return the height nearest to `wanted` at which a name from `start` to `end` covers no other."""
    rows = [wanted + sign * 13 * i for i in range(HEIGHT // 13) for sign in (1, -1)]
    for row in rows:
        inside = TOP < row < HEIGHT - BOTTOM
        if inside and not any(abs(row - r) < 13 and start < b and a < end for a, b, r in placed):
            return row
    return wanted


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round values that enclose low..high, about `count` of them."""
    span = high - low if high > low else 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _integer_ticks(low: int, high: int) -> list[float]:
    step = max(1, math.ceil((high - low) / 7))
    step = next(s for s in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 10**6) if s >= step)
    return [float(tick) for tick in range(math.ceil(low / step) * step, high + 1, step)] or [float(low)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in (1, 2, 5)]


def _frame(
    x: Scale,
    y: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    *,
    x_label: str,
    percent: bool,
) -> str:
    """Grid, ticks and axis labels."""
    floor = HEIGHT - BOTTOM
    parts = []
    for tick in y_ticks:
        at, text = y(tick), f"{100 * tick:.3g}" + (" %" if tick == y_ticks[-1] else "") if percent else f"{tick:.3g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{x.end}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in x_ticks:
        parts.append(f'<line class="tick" x1="{x(tick)}" x2="{x(tick)}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text x="{x(tick)}" y="{floor + 17}" text-anchor="middle">{tick:.4g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{x.end}" y1="{floor}" y2="{floor}"/>')
    middle = (LEFT + x.end) / 2
    parts.append(f'<text class="label" x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join(parts)


def _svg(title: str, parts: Sequence[str], width: int = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )
