"""Runs the snippets of the documentation that are marked to be run: `make snippets`; ARGS="-k quickstart"."""

import shutil

import pytest
from doc_pages import fences, pages
from page_session import Folder, PageSession

RUN = [page for page in pages() if any(fence.kind == "run" for fence in fences(page))]
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("page", RUN)
def test_the_snippets_of_a_page_run(page: str, folder: Folder) -> None:
    """In order; the first that does not do what the page says ends the page, whose files then go."""
    session, before = PageSession(folder), set(folder.path.iterdir())
    try:
        for fence in fences(page):
            assert session.fault(fence) == ""
    finally:
        for made in set(folder.path.iterdir()) - before:
            if made.is_dir():
                shutil.rmtree(made)
            else:
                made.unlink()
