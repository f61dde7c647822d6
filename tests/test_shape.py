"""The project's shape: sizes of files and functions, bases, names, module docstrings, background tasks."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for folder in ("llm_proxy", "tests", "scripts", "bench", "clients")
    for path in (ROOT / folder).rglob("*.py")
)
CLIENT = [path for path in FILES if "llm_proxy_service" in path.parts]
PACKAGE = [path for path in FILES if path.is_relative_to(ROOT / "llm_proxy")]
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_DOCSTRING_LINES = 500, 50, 6
MIN_MEDIAN_LINES = 110
VAGUE_FILE = re.compile(r"utils?|helpers?|common|core|base|misc|managers?|services?|handlers?", re.IGNORECASE)
VAGUE_CLASS = re.compile(r"(Abstract|Base)[A-Z]\w*|\w*(Manager|Service|Handler|Helper|Processor|Impl|Utils?)")
OLDER_NAMES = {"LLMProxyService", "SyncLLMProxyService"}
"""In the code of the older service's users."""
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def faults(path: Path) -> Iterator[str]:
    """What is out of shape in one file."""
    text = path.read_text(encoding="utf-8")
    if len(text.splitlines()) > MAX_FILE_LINES:
        yield f"{len(text.splitlines())} lines, {MAX_FILE_LINES} at most"
    if VAGUE_FILE.fullmatch(path.stem) or VAGUE_FILE.fullmatch(path.parent.name):
        yield "the name says nothing of what the file holds"
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, FUNCTION)
            and node.end_lineno
            and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
        ):
            yield f"{node.name} is longer than {MAX_FUNCTION_LINES} lines"
        if isinstance(node, ast.ClassDef) and len(node.bases) > 1:
            yield f"{node.name} has several base classes"
        if (
            isinstance(node, ast.ClassDef)
            and VAGUE_CLASS.fullmatch(node.name)
            and node.name not in OLDER_NAMES
        ):
            yield f"{node.name} says nothing of what it is"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_its_shape(path: Path) -> None:
    """A fault here is repaired by cutting the file along its sense, never by raising the number."""
    assert list(faults(path)) == []


@pytest.mark.parametrize("path", [*PACKAGE, *CLIENT], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_owns_in_six_lines(path: Path) -> None:
    """The module docstring is there, and short enough to be read first."""
    stated = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert stated
    assert len(stated.splitlines()) <= MAX_DOCSTRING_LINES


def test_a_class_name_is_used_once() -> None:
    """A name found by a search finds one class."""
    names = Counter(
        node.name
        for path in PACKAGE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []


def test_modules_are_whole_concepts() -> None:
    """Few small files: the median module of the package is long enough to hold one concept."""
    lengths = [
        len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE if path.name != "__init__.py"
    ]
    assert median(lengths) >= MIN_MEDIAN_LINES


AWAITED = {
    "identity/postgres_store.py",
    "identity/key_cache.py",
    "ledger/migration_runner.py",
    "schema/indexes.py",
    "upstream/monitor.py",
    "admission/renewal.py",
    "sidecar/disconnects.py",
    "sidecar/event_channel.py",
    "console/watched_gateway.py",
}
"""Modules that await their tasks, or read their results: a failure there is not silent."""


def test_tasks_are_made_in_one_place() -> None:
    """`background.BackgroundLoop` and `spawn` supervise or report what no one awaits."""
    package = ROOT / "llm_proxy"
    made = {
        str(path.relative_to(package))
        for path in PACKAGE
        if re.search(r"\b(create_task|ensure_future)\(", path.read_text(encoding="utf-8"))
    }
    assert made - {"background.py"} == AWAITED
