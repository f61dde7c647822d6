"""The fallbacks of the model groups, drawn: groups in columns by their distance from a group that falls back.

Invariants: pure; a cycle ends the drawing at its first repetition; units are pixels of the drawing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 190, 34, 70, 14
_MAX_NAME_CHARS = 24


@dataclass(frozen=True, slots=True)
class Box:
    """A group: its corner at the top left, and its place in the order of its fallbacks."""

    name: str
    shown: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Arrow:
    """A fallback: from the right of one box to the left of another."""

    source: str
    target: str
    order: int
    path: str


@dataclass(frozen=True, slots=True)
class FallbackGraph:
    """The drawing.

    Attributes:
        sentences: The same for readers who do not see it.
    """

    width: int
    height: int
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    sentences: tuple[str, ...]


def draw_fallbacks(fallbacks: Mapping[str, Sequence[str]]) -> FallbackGraph | None:
    """Returns the drawing of the groups that have fallbacks or are one; None without any."""
    edges = {name: list(dict.fromkeys(targets)) for name, targets in fallbacks.items() if targets}
    if not edges:
        return None
    columns = _columns(edges)
    boxes = {
        name: Box(name, _short(name), column * (BOX_WIDTH + GAP_X), row * (BOX_HEIGHT + GAP_Y))
        for column, names in enumerate(columns)
        for row, name in enumerate(names)
    }
    arrows = tuple(
        Arrow(name, target, order, _path(boxes[name], boxes[target]))
        for name, targets in edges.items()
        for order, target in enumerate(targets, 1)
    )
    rows = max(len(names) for names in columns)
    return FallbackGraph(
        len(columns) * (BOX_WIDTH + GAP_X) - GAP_X,
        rows * (BOX_HEIGHT + GAP_Y) - GAP_Y,
        tuple(boxes.values()),
        arrows,
        tuple(f"{name} falls back to {', then '.join(targets)}." for name, targets in edges.items()),
    )


def _columns(edges: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Returns the groups by column: each one right of the groups that fall back to it, cycles aside."""
    depths: dict[str, int] = {}

    def visit(name: str, depth: int, seen: frozenset[str]) -> None:
        if name in seen or depths.get(name, -1) >= depth:
            return
        depths[name] = depth
        for target in edges.get(name, ()):
            visit(target, depth + 1, seen | {name})

    targets = {target for one in edges.values() for target in one}
    for name in sorted(edges, key=lambda one: one in targets):
        if name not in depths:
            visit(name, 0, frozenset())
    columns: list[list[str]] = [[] for _ in range(max(depths.values()) + 1)]
    for name, depth in depths.items():
        columns[depth].append(name)
    return columns


def _path(source: Box, target: Box) -> str:
    """Returns the curve of an arrow, as the `d` of an SVG path."""
    middle = BOX_HEIGHT // 2
    x1, y1, x2, y2 = source.x + BOX_WIDTH, source.y + middle, target.x, target.y + middle
    bend = GAP_X // 2
    return f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2 - 6} {y2}"


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME_CHARS else f"{name[: _MAX_NAME_CHARS - 1]}…"
