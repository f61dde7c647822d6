"""Every snippet of every page is run, or says why not; `make snippets` runs those that are marked so."""

import json
import re
import tomllib

import pytest
import yaml
from command_words import unknown_in
from doc_pages import KINDS, PARSED, PLAIN, ROOT, Fence, fences, pages

from llm_proxy.setting_sources import names_of
from llm_proxy.settings import Settings
from llm_proxy.stack import process_specs

SHELL = ("sh", "bash", "console")
MIN_REASON_WORDS = 3
_COMMAND_IN_TEXT = re.compile(
    r"^\s*(?:\$ |(?:llm-proxy|curl|make|docker|kubectl|helm|pip|uvx?|npm|git) \S)", re.MULTILINE
)
COMPOSE = frozenset(
    re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
) | {"COMPOSE_PROFILES"}
"""Variables that only the compose file reads."""
ALL = [fence for page in pages() for fence in fences(page)]


def _fault(fence: Fence) -> str:
    """Returns what is wrong with a fence and its mark, or an empty text."""
    match fence.kind:
        case None:
            by_alarms = fence.page.startswith("docs/runbooks/LlmProxy")  # test_runbooks, `make alarms`
            needless = by_alarms or fence.language in (*PARSED, *PLAIN)
            return "" if needless else "no mark: run, same as, tested, not run"
        case "not run":
            return "" if len(fence.value.split()) >= MIN_REASON_WORDS else "no reason"
        case "same as" | "tested":
            return _other_fault(fence)
        case "file":
            return "" if fence.value else "no name"
        case _:
            return "" if fence.kind in KINDS else f"unknown mark {fence.kind}"


def _other_fault(fence: Fence) -> str:
    """Returns what is wrong with a mark that names another file."""
    path = ROOT / fence.value
    if not path.is_file():
        return f"{fence.value}: no such file"
    text = path.read_text(encoding="utf-8")
    if fence.kind == "same as":
        return "" if f"\n{fence.text}" in f"\n{text}" else f"not the text of {fence.value}"
    return "" if fence.page.removeprefix("docs/") in text else f"{fence.value} does not name {fence.page}"


def test_every_snippet_is_run_or_says_why_not() -> None:
    """By its mark; JSON, YAML, TOML and settings are read here, and text holds no command."""
    faults = [f"{fence} [{fence.language}]: {fault}" for fence in ALL if (fault := _fault(fence))]
    faults += [f"{fence}: no language" for fence in ALL if not fence.language]
    faults += [
        f"{fence}: a command in plain text"
        for fence in ALL
        if fence.language in PLAIN and fence.kind is None and _COMMAND_IN_TEXT.search(fence.text)
    ]
    assert faults == []


@pytest.mark.parametrize("fence", [one for one in ALL if one.language in PARSED], ids=str)
def test_data_is_well_formed(fence: Fence) -> None:
    """As the program that gets it would read it."""
    match fence.language:
        case "json":
            json.loads(fence.text)
        case "yaml":
            assert list(yaml.safe_load_all(fence.text))
        case "ini":
            assert _unknown_settings(fence.text) == set()
        case _:
            assert tomllib.loads(fence.text)


def _unknown_settings(text: str) -> set[str]:
    """Returns the variables of an environment file that nothing of ours reads."""
    settings = {name for field in Settings.model_fields for name in names_of(Settings, field)}
    settings |= {str(one) for one in vars(process_specs).values() if isinstance(one, str)}
    named = {line.partition("=")[0] for line in text.splitlines() if line and not line.startswith("#")}
    return {name for name in named if name not in settings | COMPOSE}


@pytest.mark.parametrize("page", pages())
def test_commands_exist(page: str) -> None:
    """Each command and option of `llm-proxy`, each target of `make`, whether it is run or not."""
    shown = [fence for fence in fences(page) if fence.language in SHELL or not fence.language]
    assert {str(fence): unknown for fence in shown if (unknown := unknown_in(fence.text))} == {}
