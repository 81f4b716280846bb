"""Plots as inline SVG, for pages that need nothing else: axes with ticks, lines, dots, bars, intervals, a legend."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

BLUE, ORANGE, GREY, INK = "#2b5fa8", "#c4572c", "#9aa5b1", "#3b4754"
# Told apart by people who do not see all colours (Paul Tol's muted scheme).
COLORS = (BLUE, ORANGE, "#117733", "#aa4499", "#ddaa33", "#44aa99", "#882255", "#6699cc", "#999933", "#332288")

Point = Sequence[float]
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 44
_LEGEND_LINE, _LETTER = 17, 7
_BAR, _BAR_LABEL, _BAR_LENGTH = 24, 170, 340


class Plot:
    """One plot, drawn over from back to front.

    Args:
        x, y: the ends of the axes.
        x_label, y_label: what they show.
        width, height: of the whole, pixels.
        legend: where it stands.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str = "",
        y_label: str = "",
        *,
        width: int = 400,
        height: int = 320,
        legend: Literal["top left", "bottom right"] = "top left",
    ) -> None:
        self._x = x if x[1] > x[0] else (x[0] - 0.5, x[0] + 0.5)
        self._y = y if y[1] > y[0] else (y[0] - 0.5, y[0] + 0.5)
        self._labels = (x_label, y_label)
        self._width, self._height = width, height
        self._parts: list[str] = []
        self._legend: list[tuple[str, str]] = []
        self._legend_at = legend

    def line(self, points: Iterable[Point], color: str = BLUE, label: str = "", *, dashed: bool = False) -> "Plot":
        """Draw through points; with a label, name the line in the legend."""
        path = " ".join(f"{self._at_x(x):.1f},{self._at_y(y):.1f}" for x, y in points)
        dash = " stroke-dasharray='5 4'" if dashed else ""
        width = 1.2 if dashed else 2
        self._parts.append(f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='{width}'{dash}/>")
        if label:
            self._legend.append((label, color))
        return self

    def dots(
        self, points: Iterable[Point], color: str = BLUE, titles: Sequence[str] = (), *, radius: float = 4.0
    ) -> "Plot":
        """Draw a dot a point; titles are shown where a pointer rests on them."""
        for place, (x, y) in enumerate(points):
            title = f"<title>{escape(titles[place])}</title>" if titles else ""
            at = f"cx='{self._at_x(x):.1f}' cy='{self._at_y(y):.1f}' r='{radius:g}'"
            self._parts.append(f"<circle {at} fill='{color}' fill-opacity='.8'>{title}</circle>")
        return self

    def intervals(self, intervals: Iterable[tuple[float, float, float]], color: str = BLUE) -> "Plot":
        """Draw vertical intervals: x, their low and their high end."""
        for x, low, high in intervals:
            at = f"x1='{self._at_x(x):.1f}' x2='{self._at_x(x):.1f}'"
            ends = f"y1='{self._at_y(low):.1f}' y2='{self._at_y(high):.1f}'"
            self._parts.append(f"<line {at} {ends} stroke='{color}' stroke-opacity='.55'/>")
        return self

    def bars(self, bars: Iterable[tuple[float, float, float]], color: str = BLUE, label: str = "") -> "Plot":
        """Draw bars from the bottom up: their left and right end, and their height."""
        bottom = self._at_y(self._y[0])
        for left, right, height in bars:
            x, top = self._at_x(left), self._at_y(height)
            size = f"width='{max(self._at_x(right) - x - 1, 0.5):.1f}' height='{max(bottom - top, 0):.1f}'"
            self._parts.append(f"<rect x='{x:.1f}' y='{top:.1f}' {size} fill='{color}' fill-opacity='.6'/>")
        if label:
            self._legend.append((label, color))
        return self

    def svg(self, description: str) -> str:
        """Return the plot; those who cannot see it are told the description."""
        box = f"viewBox='0 0 {self._width} {self._height}' width='{self._width}' height='{self._height}'"
        drawn = f"{self._axes()}{''.join(self._parts)}{self._names()}"
        return f"<svg role='img' aria-label='{escape(description, quote=True)}' {box}>{drawn}</svg>"

    def _at_x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (self._width - _LEFT - _RIGHT) * (min(max(value, low), high) - low) / (high - low)

    def _at_y(self, value: float) -> float:
        low, high = self._y
        bottom = self._height - _BOTTOM
        return bottom - (bottom - _TOP) * (min(max(value, low), high) - low) / (high - low)

    def _axes(self) -> str:
        right, bottom = self._width - _RIGHT, self._height - _BOTTOM
        parts = [
            f"<line class='grid' x1='{_LEFT}' x2='{right}' y1='{self._at_y(tick):.1f}' y2='{self._at_y(tick):.1f}'/>"
            f"<text x='{_LEFT - 7}' y='{self._at_y(tick) + 4:.1f}' text-anchor='end'>{number(tick)}</text>"
            for tick in ticks(*self._y)
        ]
        parts += [
            f"<line class='grid' y1='{_TOP}' y2='{bottom}' x1='{self._at_x(tick):.1f}' x2='{self._at_x(tick):.1f}'/>"
            f"<text x='{self._at_x(tick):.1f}' y='{bottom + 16}' text-anchor='middle'>{number(tick)}</text>"
            for tick in ticks(*self._x)
        ]
        x_label, y_label = map(escape, self._labels)
        middle, center = (_TOP + bottom) / 2, (_LEFT + right) / 2
        parts.append(
            f"<text class='label' x='{center}' y='{self._height - 8}' text-anchor='middle'>{x_label}</text>"
            f"<text class='label' transform='translate(13 {middle}) rotate(-90)' text-anchor='middle'>{y_label}</text>"
        )
        return "".join(parts)

    def _names(self) -> str:
        if not self._legend:
            return ""
        x, y = _LEFT + 8, _TOP + 6
        if self._legend_at == "bottom right":
            longest = max(len(label) for label, _ in self._legend)
            x = self._width - _RIGHT - 28 - _LETTER * longest
            y = self._height - _BOTTOM - 4 - _LEGEND_LINE * len(self._legend)
        return "".join(
            f"<rect x='{x}' y='{y + place * _LEGEND_LINE}' width='11' height='11' fill='{color}'/>"
            f"<text x='{x + 16}' y='{y + 10 + place * _LEGEND_LINE}'>{escape(label)}</text>"
            for place, (label, color) in enumerate(self._legend)
        )


def bar_list(items: Sequence[tuple[str, float]], description: str) -> str:
    """Return a horizontal bar a share, 0 to 1, under each other."""
    most = max((share for _, share in items), default=0.0) or 1.0
    bars = "".join(
        f"<text x='0' y='{place * _BAR + 16}'>{escape(name)}</text>"
        f"<rect x='{_BAR_LABEL}' y='{place * _BAR + 4}' width='{_BAR_LENGTH * share / most:.1f}' "
        f"height='{_BAR - 8}' fill='{BLUE}' fill-opacity='.8'/>"
        f"<text x='{_BAR_LABEL + 6 + _BAR_LENGTH * share / most:.1f}' y='{place * _BAR + 16}'>{share:.0%}</text>"
        for place, (name, share) in enumerate(items)
    )
    width, height = _BAR_LABEL + _BAR_LENGTH + 60, len(items) * _BAR
    box = f"viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
    return f"<svg role='img' aria-label='{escape(description, quote=True)}' {box}>{bars}</svg>"


def span(values: Iterable[float], margin: float = 0.04) -> tuple[float, float]:
    """Return an axis that holds values, with a margin at either end; 0 to 1 where there are none."""
    found = list(values)
    if not found:
        return 0.0, 1.0
    low, high = min(found), max(found)
    edge = (high - low) * margin or abs(high) * margin or 1.0
    return low - edge, high + edge


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between two, at most so many steps."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    # A whole multiple of the step: sums of it would drift off.
    return [(first + place) * step for place in range(math.floor(high / step + 1e-9) - first + 1)]


def number(value: float) -> str:
    """Return a tick's number, short."""
    if value == 0:
        return "0"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:.4g}"
