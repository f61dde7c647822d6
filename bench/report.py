"""Results: `docs/NAME.json`, one small file, and the marked parts of `docs/NAME.md`; plots as SVG.

A page's words are written by hand. What a run measured stands between `<!-- KEY -->` and `<!-- end -->`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench import ROOT

Json = dict[str, Any]
Points = Sequence[tuple[float, float]]
WIDTH, PANEL, LEFT, GAP = 860, 170, 70, 52
COLOURS = ("#1f6fb4", "#d1603d", "#4b8b3b", "#8a5aa8", "#7a7a7a")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; columns after the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list; `None.` when it is empty."""
    return "".join(f"* {line}\n" for line in lines) or "None.\n"


def write(name: str, facts: Json, parts: Mapping[str, str], out: Path, plot: str = "") -> None:
    """Writes facts, plot and page below `out`; raises `KeyError` for a part whose mark the page lacks."""
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for key, text in parts.items():
        mark = re.search(rf"(?<=<!-- {key} -->\n).*?(?=<!-- end -->)", page, re.DOTALL)
        if mark is None:
            raise KeyError(key)
        page = f"{page[: mark.start()]}\n{text.strip()}\n\n{page[mark.end() :]}"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(page, encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
    if plot:
        (out / f"{name}.svg").write_text(plot, encoding="utf-8")


def bars(title: str, values: Mapping[str, float]) -> str:
    """Horizontal bars on a logarithmic scale."""
    ordered = sorted(values.items(), key=lambda pair: pair[1])
    lines = [f'<text x="8" y="20" font-weight="bold">{escape(title)}</text>']
    for at, (name, value) in enumerate(ordered):
        top, width = 36 + 30 * at, 380 * math.log10(value) / math.log10(ordered[-1][1])
        colour = COLOURS[0] if name.startswith("llm-proxy") else "#a0aec0"
        lines.append(f'<text x="232" y="{top + 15}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect x="240" y="{top}" width="{width:.0f}" height="20" fill="{colour}"/>')
        lines.append(f'<text x="{248 + width:.0f}" y="{top + 15}">{value:,.0f}</text>')
    return _svg(30 * len(ordered) + 40, lines)


def curves(title: str, panels: Mapping[str, Mapping[str, Points]]) -> str:
    """Panels of named curves below one another; points are (minutes, value)."""
    last = max((x for panel in panels.values() for curve in panel.values() for x, _ in curve), default=1.0)
    lines = [f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>']
    for number, (name, panel) in enumerate(panels.items()):
        lines += _panel(name, panel, 40 + number * (PANEL + GAP), max(last, 1e-9))
    return _svg(40 + len(panels) * (PANEL + GAP), lines)


def _panel(title: str, panel: Mapping[str, Points], top: int, last: float) -> list[str]:
    most = max((y for curve in panel.values() for _, y in curve), default=1.0) or 1.0
    inner, base, high = WIDTH - LEFT - 20, top + PANEL, PANEL - 20
    lines = [f'<text x="{LEFT}" y="{top + 12}">{escape(title)}</text>']
    for quarter in range(5):
        y, x = base - quarter / 4 * high, LEFT + quarter / 4 * inner
        lines.append(f'<path d="M{LEFT} {y:.0f}h{inner}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{most * quarter / 4:.3g}</text>'
        )
        minutes = f"{last * quarter / 4:.0f} min"
        lines.append(f'<text x="{x:.0f}" y="{base + 15}" text-anchor="middle">{minutes}</text>')
    for at, (name, curve) in enumerate(panel.items()):
        points = " ".join(f"{LEFT + x / last * inner:.1f},{base - y / most * high:.1f}" for x, y in curve)
        colour, x = COLOURS[at % len(COLOURS)], WIDTH - 20 - 90 * (len(panel) - 1 - at)
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        lines.append(f'<text x="{x}" y="{top + 12}" text-anchor="end" fill="{colour}">{escape(name)}</text>')
    return lines


def _svg(height: int, lines: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif"'
    )
    white = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([f'{head} font-size="12">', white, *lines, "</svg>", ""])
