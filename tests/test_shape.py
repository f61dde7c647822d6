"""The house keeps its shape: short files and functions, one base class at most, names that say something."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path for room in ("llm_proxy", "tests", "scripts", "bench") for path in (ROOT / room).rglob("*.py")
)
LONGEST_FILE, LONGEST_FUNCTION = 500, 50
VAGUE_FILE = re.compile(r"utils?|helpers?|common|core|base|misc|managers?|services?|handlers?", re.IGNORECASE)
VAGUE_CLASS = re.compile(r"(Abstract|Base)[A-Z]\w*|\w*(Manager|Service|Handler|Helper|Processor|Impl|Utils?)")
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def faults(path: Path) -> Iterator[str]:
    """What is out of shape in one file."""
    text = path.read_text(encoding="utf-8")
    if len(text.splitlines()) > LONGEST_FILE:
        yield f"{len(text.splitlines())} lines, {LONGEST_FILE} at most"
    if VAGUE_FILE.fullmatch(path.stem) or VAGUE_FILE.fullmatch(path.parent.name):
        yield "the name says nothing of what the file holds"
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, FUNCTION)
            and node.end_lineno
            and node.end_lineno - node.lineno >= LONGEST_FUNCTION
        ):
            yield f"{node.name} is longer than {LONGEST_FUNCTION} lines"
        if isinstance(node, ast.ClassDef) and len(node.bases) > 1:
            yield f"{node.name} has several base classes"
        if isinstance(node, ast.ClassDef) and VAGUE_CLASS.fullmatch(node.name):
            yield f"{node.name} says nothing of what it is"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_keeps_the_shape_of_the_house(path: Path) -> None:
    """A fault here is repaired by cutting the file along its sense, never by raising the number."""
    assert list(faults(path)) == []


AWAITED = {
    "identity/postgres_store.py",
    "identity/key_cache.py",
    "ledger/store.py",
    "upstream/monitor.py",
    "admission/renewal.py",
}
"""Where somebody awaits the task, or hears of its end: a failure there is not silent."""


def test_tasks_are_made_in_one_place() -> None:
    """`background.Loop` and `background.spawn`: what nobody awaits is supervised, or at least reported."""
    room = ROOT / "llm_proxy"
    made = {
        str(path.relative_to(room))
        for path in room.rglob("*.py")
        if re.search(r"\b(create_task|ensure_future)\(", path.read_text(encoding="utf-8"))
    }
    assert made - {"background.py"} == AWAITED
