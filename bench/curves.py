"""Curves as a hand-written SVG: a few panels under one another over one time axis. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, PANEL, LEFT, RIGHT, GAP = 860, 190, 70, 20, 52
COLOURS = ("#1f6fb4", "#d1603d", "#4b8b3b", "#8a5aa8", "#7a7a7a")
FONT = 'font-family="sans-serif" font-size="12"'
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: a title with its unit, and named curves of (minutes, value)."""

    title: str
    curves: dict[str, Points]


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The whole plot."""
    height = 40 + len(panels) * (PANEL + GAP)
    last = max((x for panel in panels for points in panel.curves.values() for x, _ in points), default=1.0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        lines += _panel(panel, 40 + number * (PANEL + GAP), max(last, 1e-9))
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Panel, top: float, last: float) -> list[str]:
    highest = _round_up(max((y for points in panel.curves.values() for _, y in points), default=1.0))
    inner, base = WIDTH - LEFT - RIGHT, top + 20 + PANEL - 20

    def place(x: float, y: float) -> str:
        return f"{LEFT + x / last * inner:.1f},{base - y / highest * (PANEL - 20):.1f}"

    lines = [f'<text x="{LEFT}" y="{top + 12:.0f}">{escape(panel.title)}</text>']
    for step in range(5):
        y = base - step / 4 * (PANEL - 20)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">'
            f"{highest * step / 4:g}</text>"
        )
        x = LEFT + step / 4 * inner
        lines.append(
            f'<text x="{x:.0f}" y="{base + 15:.0f}" text-anchor="middle" fill="#555">'
            f"{last * step / 4:.0f} min</text>"
        )
    at = WIDTH - RIGHT
    for number, (name, points) in enumerate(reversed(panel.curves.items())):
        colour = COLOURS[(len(panel.curves) - 1 - number) % len(COLOURS)]
        path = " ".join(place(x, y) for x, y in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        lines.append(
            f'<text x="{at}" y="{top + 12:.0f}" text-anchor="end" fill="{colour}">{escape(name)}</text>'
        )
        at -= 9 * len(name) + 12
    return lines


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 4, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 4, 5, 10) if step * power >= value)
