"""Which links a request may carry for somebody behind us to fetch."""

from typing import Any

import pytest

from llm_proxy.edge.links import refuse_private
from llm_proxy.errors import BadRequest


def field_refused(body: dict[str, Any]) -> str | None:
    """Which field is refused for its link; None when the request passes."""
    try:
        refuse_private(body)
    except BadRequest as refused:
        return refused.param
    return None


def image(url: str) -> dict[str, Any]:
    """A request that shows an image."""
    part = {"type": "image_url", "image_url": {"url": url}}
    return {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "see http://10.0.0.1"}, part]}]
    }


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "http://93.184.215.14/a.png",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/a.png",
        "data:image/png;base64,aGVsbG8=",
        "gs://bucket/a.png",
        "https://example.com:8443/a?next=http://127.0.0.1/",
        "file-abc123",
        "aGVsbG8gd29ybGQ=",
    ],
)
def test_a_public_link_passes_and_so_does_what_is_no_link(url: str) -> None:
    """Inline data, ids, object stores and public hosts are nobody's secret network."""
    assert field_refused(image(url)) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://0/",
        "http://10.1.2.3:8080/",
        "http://192.168.0.1/",
        "http://172.16.9.9/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fd00::1]/",
        "http://[2002:7f00:1::]/",
        "http://224.0.0.1/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://db/",
        "http://metadata.google.internal/",
        "http://printer.local/",
        "http://%31%32%37.0.0.1/",
        " http://127.0.0.1/",
        "HTTP://127.0.0.1/",
        "http://example.com@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://127.0.0.1\t.example.com/",
        "http:///etc/passwd",
        "http://[::1/",
        "http://example.com:99999/",
        "//127.0.0.1/a.png",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "ftp://10.0.0.1/x",
        "http://999.1.1.1/",
    ],
)
def test_a_link_into_a_private_network_or_nowhere_sound_is_refused_by_name(url: str) -> None:
    """In every spelling a resolver would take."""
    with pytest.raises(BadRequest) as refused:
        refuse_private(image(url))
    assert refused.value.param == "messages[0].content[1].image_url.url"
    assert refused.value.code == "invalid_url"
    assert "127.0.0.1" not in refused.value.message


@pytest.mark.parametrize(
    ("part", "tool", "field"),
    [
        ({"type": "image_url", "image_url": "http://10.0.0.1/"}, {}, "messages[0].content[0].image_url"),
        ({"type": "file", "file": {"file_id": "http://[::1]/"}}, {}, "messages[0].content[0].file.file_id"),
        ({"type": "x", "deep": [{"er": "http://0/"}]}, {}, "messages[0].content[0].deep[0].er"),
        ({}, {"type": "mcp", "server_url": "http://127.0.0.1:4000/mcp"}, "tools[0].server_url"),
    ],
)
def test_links_are_found_wherever_a_part_or_a_tool_holds_them(
    part: dict[str, Any], tool: dict[str, Any], field: str
) -> None:
    """Images, files, parts of a kind not known yet, tool servers."""
    assert field_refused({"messages": [{"role": "user", "content": [part]}], "tools": [tool]}) == field


def test_text_is_not_a_link_whatever_it_says() -> None:
    """A prompt may speak of any address; so may a function's description."""
    said = {
        "messages": [{"role": "user", "content": "what is at http://127.0.0.1/?"}],
        "tools": [{"type": "function", "function": {"name": "f", "description": "http://10.0.0.1/"}}],
    }
    assert field_refused(said) is None
    assert field_refused({"messages": "not a list", "tools": {}, "input": ["http://127.0.0.1/"]}) is None
