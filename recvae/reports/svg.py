"""Small charts as SVG text for the diagnosis page.

Matplotlib, which draws all other figures, is not used here for three reasons. The page is one file without scripts that
follows the reader's light or dark theme and prints: so colours must be CSS classes (``c0`` .. ``c4``, ``off``,
``grid``, ``axis``), where Matplotlib writes fixed colours into each element. Every mark has a ``<title>``, which a
browser shows as a tooltip: Matplotlib's SVG has none. And ``recvae diagnose --out`` works without the extra ``[plot]``.
The map of items also places labels so that none covers another, which Matplotlib does not do. All text is escaped here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recvae.reports.text import in_html as escape

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 26, 34  # margins of a chart, in its own units
_FONT = 11


@dataclass(frozen=True)
class Line:
    """A curve: its name, the points, and half the height of each error bar, if any."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    errors: Sequence[float | None] = ()
    style: str = "c0"


@dataclass(frozen=True)
class Bar:
    """A bar: its name, its value, half the height of its error bar; ``about`` is the tooltip."""

    name: str
    value: float
    error: float | None = None
    about: str = ""
    style: str = "c0"


@dataclass(frozen=True)
class Point:
    """A point of a map; ``label`` is written beside it where there is room, ``about`` is the tooltip.

    A point with a label has a ring, also where there is no room for the label.
    """

    x: float
    y: float
    size: float
    about: str
    label: str = ""
    style: str = "c0"


class _Frame:
    """A chart's area, its scales and its SVG elements so far."""

    def __init__(self, title: str, x: tuple[float, float], y: tuple[float, float], size: tuple[int, int]) -> None:
        self.title, self.size = title, size
        self.x, self.y = x, y
        self.left: float = _LEFT
        self.right: float = size[0] - _RIGHT
        self.top, self.bottom = _TOP, size[1] - _BOTTOM
        self.parts: list[str] = []

    def across(self, value: float) -> float:
        low, high = self.x
        return self.left + (self.right - self.left) * (value - low) / (high - low)

    def down(self, value: float) -> float:
        low, high = self.y
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def y_axis(self) -> None:
        for value in ticks(*self.y):
            y = f"{self.down(value):.1f}"
            self.parts.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}"/>')
            self.parts.append(text(self.left - 6, self.down(value) + 4, tick_name(value), anchor="end"))

    def x_axis(self, places: Sequence[tuple[float, str]], label: str) -> None:
        y = self.bottom
        self.parts.append(f'<line class="axis" x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}"/>')
        self.parts += [text(self.across(place), y + 14, name, anchor="middle") for place, name in places]
        below = y + (30 if places else 16)
        self.parts.append(text((self.left + self.right) / 2, below, label, anchor="middle", style="quiet"))

    def level(self, value: float) -> None:
        """Draw a dashed line across, on a wider line in the paper's colour, so that it is visible on bars."""
        ends = f'x1="{self.left}" x2="{self.right}" y1="{self.down(value):.1f}" y2="{self.down(value):.1f}"'
        self.parts.append(f'<line class="halo" {ends}/><line class="mark" {ends}/>')

    def svg(self) -> str:
        return _svg(self.title, self.size, [text(4, 14, self.title, style="head"), *self.parts])


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    log_x: bool = False,
    from_zero: bool = False,
    mark: float | None = None,
    size: tuple[int, int] = (380, 220),
) -> str:
    """Return curves over one axis; ``log_x`` spaces powers of ten evenly, ``mark`` is a dashed line at a place.

    ``from_zero`` lets the axis of values that are not negative begin at 0.
    """
    place: Callable[[float], float] = math.log10 if log_x else float
    xs = [place(x) for line in lines for x in line.xs]
    reach = [_reach(line) for line in lines]
    lows = [y - e for line, errors in zip(lines, reach, strict=True) for y, e in zip(line.ys, errors, strict=True)]
    highs = [y + e for line, errors in zip(lines, reach, strict=True) for y, e in zip(line.ys, errors, strict=True)]
    frame = _Frame(title, _widened(min(xs), max(xs), 0.0), _widened(min(lows), max(highs), 0.06), size)
    if from_zero and min(lows) >= 0:
        frame.y = (0.0, frame.y[1])
    frame.y_axis()
    if log_x:
        frame.x_axis(_apart(frame, [(place(x), f"{x:,.0f}") for x in sorted({*lines[0].xs})]), x_label)
    else:
        whole = [x for x in ticks(*frame.x, most=6) if x == int(x)]
        frame.x_axis([(x, tick_name(x)) for x in whole], x_label)
    if mark is not None:
        middle = f"{frame.across(place(mark)):.1f}"
        frame.parts.append(f'<line class="mark" x1="{middle}" x2="{middle}" y1="{frame.top}" y2="{frame.bottom}"/>')
    for line, errors in zip(lines, reach, strict=True):
        dots = [(frame.across(place(x)), frame.down(y)) for x, y in zip(line.xs, line.ys, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        frame.parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        for (x, y), at, value, error in zip(dots, line.xs, line.ys, errors, strict=True):
            if error:
                frame.parts.append(_whisker(x, frame.down(value - error), frame.down(value + error)))
            said = f"{line.name + ', ' if line.name else ''}{x_label} {at:,g}: {value:,.5g}"
            frame.parts.append(_dot(x, y, 2.5 if len(dots) < 40 else 1.2, said, line.style))
    keys = " ".join(f'<tspan class="{line.style}">{escape(line.name)}</tspan>' for line in lines if line.name)
    if keys:
        frame.parts.append(f'<text class="key" x="{frame.right}" y="14" text-anchor="end">{keys}</text>')
    return frame.svg()


def _apart(frame: _Frame, places: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the named places of an axis without those whose names would touch; the last always stays."""
    kept: list[tuple[float, str]] = []
    for place, name in reversed(places):
        room = 0.3 * _FONT * (len(name) + len(kept[-1][1])) + 6 if kept else 0.0
        if not kept or frame.across(kept[-1][0]) - frame.across(place) >= room:
            kept.append((place, name))
    return kept[::-1]


def _reach(line: Line) -> list[float]:
    return [error or 0.0 for error in line.errors] or [0.0] * len(line.ys)


def bar_chart(
    title: str,
    bars: Sequence[Bar],
    *,
    x_label: str,
    level: float | None = None,
    least: float = 0.0,
    log_y: bool = False,
    size: tuple[int, int] = (380, 220),
) -> str:
    """Return bars from zero, named where there are few; ``level`` is a dashed line at a height.

    The axis goes up to ``least`` at least, so that negligible bars look small, and a text says so. With
    ``log_y`` heights are powers of ten, from the level of the smallest value above 1e-6.
    """

    def height(value: float) -> float:
        return math.log10(max(value, 1e-6)) if log_y else value

    values = [height(bar.value + sign * (bar.error or 0.0)) for bar in bars for sign in (-1, 1)]
    values += [] if level is None else [height(level)]
    values += [] if log_y else [least]
    low = math.floor(min(values) - 0.3) if log_y else min(0.0, *values)
    frame = _Frame(title, (-0.6, len(bars) - 0.4), _widened(low, max(values), 0.0), size)
    frame.y = (low, max(frame.y[1], low + 1e-9) + 0.06 * (frame.y[1] - low))
    if log_y:
        frame.parts += _powers(frame)
    else:
        frame.y_axis()
    few = len(bars) <= 12
    frame.x_axis([(n, bar.name) for n, bar in enumerate(bars)] if few else [], x_label)
    width = (frame.right - frame.left) / (len(bars) + 0.2) * (0.62 if few else 0.86)
    base = frame.down(low if log_y else 0.0)
    for n, bar in enumerate(bars):
        x, y = frame.across(n), frame.down(height(bar.value))
        top, tall = min(y, base), max(abs(base - y), 0.4)
        frame.parts.append(
            f'<rect class="{bar.style}" x="{x - width / 2:.2f}" y="{top:.1f}" width="{width:.2f}" height="{tall:.1f}">'
            f"<title>{escape(bar.about or f'{bar.name}: {bar.value:,.4g}')}</title></rect>"
        )
        if bar.error:
            frame.parts.append(_whisker(x, frame.down(bar.value - bar.error), frame.down(bar.value + bar.error)))
    if level is not None:
        frame.level(height(level))
    largest = max(bar.value for bar in bars)
    if not log_y and largest < 0.01 * least:  # the bars are invisible, and without a text the chart looks broken
        middle = (frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2
        frame.parts.append(text(*middle, f"none above {largest:.2g}", anchor="middle", style="label"))
    return frame.svg()


def _powers(frame: _Frame) -> list[str]:
    parts = []
    for power in range(math.ceil(frame.y[0]), math.floor(frame.y[1]) + 1):
        y = frame.down(power)
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(frame.left - 6, y + 4, f"{10.0**power:g}", anchor="end"))
    return parts


def scatter(title: str, points: Sequence[Point], *, size: tuple[int, int] = (960, 640)) -> str:
    """Return a map: a dot per point, its label where it covers no other label. The first points come first."""
    xs, ys = [point.x for point in points], [point.y for point in points]
    frame = _Frame(title, _widened(min(xs), max(xs), 0.04), _widened(min(ys), max(ys), 0.04), size)
    longest = max(len(point.label) for point in points)
    frame.left, frame.right = 8, size[0] - min(8 + 0.56 * _FONT * longest, size[0] / 4)  # room for labels on the right
    frame.top, frame.bottom = 8, size[1] - 8
    dots, labels, taken = [], [], []  # type: tuple[list[str], list[str], list[tuple[float, float, float, float]]]
    for point in points:
        if point.label:  # no label may cover a dot that has one too
            x, y = frame.across(point.x), frame.down(point.y)
            taken.append((x - point.size, y - point.size, x + point.size, y + point.size))
    for point in points:
        x, y = frame.across(point.x), frame.down(point.y)
        dots.append(_dot(x, y, point.size, point.about, f"{point.style} named" if point.label else point.style))
        found = _room(x, y, point, size, taken) if point.label else None
        if found is not None:
            box, anchor = found
            taken.append(box)
            at = {"start": box[0], "middle": (box[0] + box[2]) / 2, "end": box[2]}[anchor]
            labels.append(text(at, box[3] - 3, point.label, anchor=anchor, style="label"))
    return _svg(title, size, [*reversed(dots), *labels])  # the first points are drawn last, on top


def _room(
    x: float, y: float, point: Point, size: tuple[int, int], taken: Sequence[tuple[float, float, float, float]]
) -> tuple[tuple[float, float, float, float], str] | None:
    """Return a box (left, top, right, bottom) for a point's label, and its anchor; None where there is no room.

    Beside the dot if there is room, else above or below it. The width of a character is estimated as 0.56 of
    the font's size, rather too much than too little.
    """
    wide, off = 0.56 * _FONT * len(point.label) + 4, point.size + 3
    beside = ((x + off, "start"), (x - off - wide, "end"))
    over = ((x - wide / 2, "middle"), (x - 4, "start"), (x + 4 - wide, "end"))
    heights = ((0.0, beside), (-8.0, beside), (8.0, beside), (-off - 5, over), (off + 5, over))
    for start, dy, anchor in ((start, dy, anchor) for dy, places in heights for start, anchor in places):
        box = (start, y + dy - 7, start + wide, y + dy + 7)
        inside = box[0] > 0 and box[2] < size[0] and box[1] > 0 and box[3] < size[1]
        if inside and not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
        ):
            return box, anchor
    return None


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return about ``most`` round numbers from ``low`` to ``high``, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_name(value: float) -> str:
    """Return a tick's number in few characters."""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e7 else f"{value:g}"


def text(x: float, y: float, words: str, *, anchor: str = "start", style: str = "") -> str:
    """Return one line of text at a place."""
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _dot(x: float, y: float, radius: float, about: str, style: str) -> str:
    return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{escape(about)}</title></circle>'


def _whisker(x: float, low: float, high: float) -> str:
    return f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'


def _widened(low: float, high: float, by: float) -> tuple[float, float]:
    """Return a range with some room around it, never an empty one."""
    if high - low < 1e-12 * max(1.0, abs(low), abs(high)):
        room = abs(high) * 0.1 or 1.0
        return low - room, high + room
    return low - by * (high - low), high + by * (high - low)


def _svg(title: str, size: tuple[int, int], parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(title)}">' + "".join(parts) + "</svg>"
    )
