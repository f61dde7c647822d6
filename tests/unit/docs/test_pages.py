"""The documentation's pages: in the navigation, short, with links and anchors that lead somewhere."""

import re
from collections import Counter
from pathlib import Path

import markdown
import pytest
from doc_pages import DOCS, ROOT, anchors, links, navigation, pages, site, text_of, tokens

MAX_LINES = 300
GENERATED = {
    "docs/configuration.md",
    "docs/python_client_reference.md",
    "docs/litellm/settings.md",
    "docs/litellm/patches.md",
    "docs/doctor.md",
    *(page for page in pages() if page.startswith("docs/api/")),
}
"""Reference pages that a script of `scripts/` writes: as long as what they list."""
INSIDE = [page for page in pages() if page.startswith("docs/")]
_ELSEWHERE = re.compile(r"[a-z]+:")
RENDERED = {"fence": "<pre", "list_item_open": "<li>", "table_open": "<table", "heading_open": "<h"}


def test_every_page_is_in_the_navigation_once() -> None:
    """But the runbooks, which their own page lists."""
    listed = Counter(navigation())
    assert [name for name, times in listed.items() if times > 1] == []
    runbooks = {path.relative_to(DOCS).as_posix() for path in (DOCS / "runbooks").glob("LlmProxy*.md")}
    assert sorted(page.removeprefix("docs/") for page in INSIDE) == sorted({*listed} | runbooks)


@pytest.mark.parametrize("page", INSIDE)
def test_a_page_is_short(page: str) -> None:
    """Longer ones are split by task."""
    assert page in GENERATED or len(text_of(page).splitlines()) <= MAX_LINES


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    """A link names a file and an anchor that are there; pages of the site link only to the site."""
    wrong: list[str] = []
    for line, target in links(page):
        if _ELSEWHERE.match(target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (page in INSIDE and not path.resolve().is_relative_to(DOCS)):
            wrong.append(f"{page}:{line} {target}: no such page")
        elif anchor and anchor not in anchors(path.resolve().relative_to(ROOT).as_posix()):
            wrong.append(f"{page}:{line} {target}: no such heading")
    assert wrong == []


def test_redirects_lead_to_pages() -> None:
    """A page that moved answers at its old path."""
    redirects = site()["plugins"].get("redirects", {}).get("redirect_maps", {})
    for old, new in redirects.items():
        assert not (DOCS / old).exists(), old
        assert (DOCS / new.partition("#")[0]).exists(), new


@pytest.mark.parametrize("page", INSIDE)
def test_the_site_shows_what_github_shows(page: str) -> None:
    """Python-Markdown wants an empty line before a list, and four spaces before a nested one."""
    html = markdown.markdown(
        text_of(page), extensions=["admonition", "attr_list", "tables", "pymdownx.superfences"]
    )
    github = Counter(token.type for token in tokens(page))
    theirs = {kind: github[kind] for kind in RENDERED}
    ours = {
        kind: len(re.findall(rf"{start}[1-6]\b", html)) if kind == "heading_open" else html.count(start)
        for kind, start in RENDERED.items()
    }
    assert ours == theirs


def test_a_picture_has_words_for_who_does_not_see_it() -> None:
    """Its alternative text says what it shows."""
    for page in pages():
        for block in tokens(page):
            for part in block.children or []:
                assert part.type != "image" or part.content, f"{page}: {part.attrs.get('src')}"


def test_every_picture_is_shown() -> None:
    """A picture that no page shows is old."""
    shown = {
        (Path(ROOT / page).parent / target).resolve()
        for page in pages()
        for _, target in links(page)
        if not _ELSEWHERE.match(target)
    }
    kept = {path.resolve() for kind in ("*.png", "*.svg") for path in DOCS.rglob(kind)}
    assert sorted(str(path) for path in kept - shown) == []
