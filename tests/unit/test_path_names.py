"""Names in paths: one segment that no client takes out, and the same name behind it."""

from urllib.parse import unquote, urljoin

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.path_names import api_segment, name_in, page_segment

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.text("./~2FE7%\\", min_size=1)


@given(NAMES)
def test_a_pages_segment_gives_the_name_back_and_has_no_slash(name: str) -> None:
    segment = page_segment(name)
    assert name_in(unquote(segment)) == name
    assert "/" not in unquote(segment)
    assert unquote(segment) not in (".", "..")
    assert urljoin("http://x/tenants/", segment) == f"http://x/tenants/{segment}"


@given(NAMES)
def test_a_client_sends_the_apis_segment_as_it_is(name: str) -> None:
    sent = httpx.Request("GET", f"http://x/v1/runs/{api_segment(name)}").url.raw_path.decode()
    assert unquote(sent.removeprefix("/v1/runs/")) == name
    assert sent.count("/") == 3


@pytest.mark.parametrize("name", ["night-run", "a b", "sk-llmp-abc", "x.y", "gr\u00f6\u00dfe"])
def test_usual_names_stay_as_they_are(name: str) -> None:
    assert unquote(page_segment(name)) == name == unquote(api_segment(name))
