"""Files and members of classes that the README and the pages of `docs/` name exist."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from doc_pages import pages

from llm_proxy.sidecar.patches.registry import SPEEDING_UP

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for page in pages() if not page.startswith(("docs/litellm/", "clients/", "deploy/"))]
FOLDERS = ("bench", "clients", "deploy", "docs", "examples", "llm_proxy", "scripts", "tests")
NOT_OURS = {"litellm-config.imported.yaml", "keys.yaml", "sitecustomize.py", "docs/pythons.md", "notes.md"}
"""Written by the operator, by an attacker, by `make test-pythons`, by `make release`."""
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|md|lua|sql|toml|svg|yaml)")
_IN_CONTAINER = re.compile(r"docker compose (?:exec|run)(?: --?[A-Za-z-]+)* ([a-z][\w-]*)(?: ([^\s`]+))?")
_MEMBER = re.compile(r"([A-Z]\w+)\.([a-z_]\w+)")


def _quoted(page: str) -> list[str]:
    return _QUOTED.findall(_FENCED.sub("", (ROOT / page).read_text(encoding="utf-8")))


@cache
def _files() -> str:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
    names = (path.relative_to(ROOT).as_posix() for path in [*found, *ROOT.glob("*.*")])
    return "".join(f"/{name}\n" for name in names)


def _members(class_definition: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(class_definition):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


@cache
def _classes() -> dict[str, set[str]]:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "llm_proxy").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {node.name: {*_members(node)} for node in nodes if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """A name without its folder is the end of some file's path."""
    named = {text for text in _quoted(page) if _FILE.fullmatch(text)} - NOT_OURS
    assert sorted(name for name in named if f"/{name}\n" not in _files()) == []


@pytest.mark.parametrize("page", PAGES)
def test_named_members_of_classes_exist(page: str) -> None:
    """`Class.member` of a class of the gateway is defined in it."""
    found = [match for text in _quoted(page) if (match := _MEMBER.match(text))]
    named = {(match[1], match[2]) for match in found if match[1] in _classes()}
    assert sorted(pair for pair in named if pair[1] not in _classes()[pair[0]]) == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_containers_name_a_service_and_a_program_that_it_has(page: str) -> None:
    """The images have no `llm-proxy` on their PATH."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    commands = _IN_CONTAINER.findall((ROOT / page).read_text(encoding="utf-8"))
    assert [name for name, program in commands if name not in services or program == "llm-proxy"] == []


def test_classes_of_the_architecture_exist() -> None:
    """Every CamelCase name of the page is a class or a type of the gateway."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "llm_proxy").rglob("*.py"))
    named = {
        name
        for text in _quoted("docs/architecture.md")
        for name in re.findall(r"\b[A-Z][a-z]+(?:[A-Z]\w+)+", text)
    }
    assert (
        sorted(name for name in named if not re.search(rf"^(?:class )?{name}\b", source, re.MULTILINE)) == []
    )


def test_the_sidecar_s_page_names_what_can_be_left_out() -> None:
    """Its table has a row for each part that only saves CPU."""
    text = (ROOT / "docs/sidecar.md").read_text(encoding="utf-8")
    table = text.partition("| name | without it |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(SPEEDING_UP)
