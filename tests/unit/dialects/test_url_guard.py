"""Which links a request may carry for somebody behind us to fetch."""

# ruff: noqa: RUF001 -- signs that look like others are what is tested

from typing import Any

import pytest

from llm_proxy.dialects.request.url_guard import reject_private_urls
from llm_proxy.errors import BadRequest


def field_refused(body: dict[str, Any]) -> str | None:
    """Which field is refused for its link; None when the request passes."""
    try:
        reject_private_urls(body)
    except BadRequest as refused:
        return refused.param
    return None


def test_a_link_hides_behind_nothing_however_long() -> None:
    """And costs no time."""
    for link in ("\n" * 5000, "ht" + "\n" * 5000 + "tp://10.0.0.1/", "http://" + "a." * 10**6 + "com/"):
        assert field_refused(image(link)) == "messages[0].content[1].image_url.url"
    assert field_refused(image("https://example.com/" + "a" * 16_000)) is None


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
        "https://münchen.example.com/ü",
        "https://xn--mnchen-3ya.example/",
        "https://例え.テスト.jp/",
        "https://a_b.example.com:443/a b",
        "https://r3---sn-1.example.com/",
        "http://[64:ff9b::93.184.215.14]/",
        "http://[2002:5db8:d70e::1]/",
        "http://3.example.com/",
        "see http://127.0.0.1/",
        "note: http",
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
        # tabs and line ends go before anything is read
        "ht\ntp://169.254.169.254/",
        "h\tt\rt\np:/\n/10.0.0.1/",
        "\thttp://10.0.0.1/",
        "http\t://10.0.0.1/",
        "http:\n//10.0.0.1/",
        "http://10.0\n.0.1/",
        "http://exa\tmple.com/",
        "/\n/10.0.0.1/",
        "f\nile:///etc/passwd",
        "\x00http://10.0.0.1/",
        "\x1fhttp://10.0.0.1/",
        "\u3000http://10.0.0.1/",
        "\ufeffhttp://example.com/",
        "\u200bhttp://10.0.0.1/",
        "\xa0http://10.0.0.1/",
        "\u2028http://10.0.0.1/",
        "ｈｔｔｐ://10.0.0.1/",
        # slashes and users
        "http:/10.0.0.1/",
        "http:10.0.0.1/",
        "http:\\\\10.0.0.1/",
        "http:/\\10.0.0.1/",
        "\\\\10.0.0.1\\x",
        "/\\10.0.0.1/",
        "http:///10.0.0.1/",
        "http://example.com:80@10.0.0.1/",
        "http://@10.0.0.1/",
        "http://a:b@example.com/",
        "http://10.0.0.1#@example.com/",
        "http://10.0.0.1?@example.com/",
        "http://example.com\\.10.0.0.1/",
        "http://10.0.0.1%2f@example.com/",
        "http://10.0.0.1%00.example.com/",
        "http://10.0.0.1%20.example.com/",
        # other digits, letters and full stops
        "http://１６９.２５４.１６９.２５４/",
        "http://127。0。0.1/",
        "http://127．0．0．1/",
        "http://127｡0｡0｡1/",
        "http://①②⑦.⓪.⓪.①/",
        "http://١٢٧.٠.٠.١/",
        "http://۱۲۷.۰.۰.۱/",
        "http://१२७.०.०.१/",
        "http://𝟏𝟐𝟕.𝟎.𝟎.𝟏/",
        "http://０ｘ７ｆ．１/",
        "http://¹²⁷.⁰.⁰.¹/",
        "http://x.ⓛⓞⓒⓐⓛ/",
        "http://ｌｏｃａｌｈｏｓｔ/",
        "http://LocalHost。/",
        "http://x.ＬＡＮ/",
        "http://loc\u00adalhost/",
        "http://x.lo\u200bcal/",
        "http://%e2%93%9b%e2%93%9e%e2%93%92/",
        "http://x.%ef%bc%ac%ef%bc%a1%ef%bc%ae/",
        "http://℀.example.com/",
        "http://[::ⓕⓕⓕⓕ:7f00:1]/",
        # old spellings of IPv4
        "http://017700000001/",
        "http://0x7f000001/",
        "http://0X7F.1/",
        "http://127.0.1/",
        "http://0x7f.0x0.0x0.0x1/",
        "http://00000177.0.0.1/",
        "http://10.0.0.1./",
        "http://10.0.0.1../",
        "http://4294967296/",
        "http://1.2.3.4.5/",
        "http://example.0x7f/",
        "http://example.1/",
        "http://127.0.0.08/",
        "http://168.63.129.16/",
        "http://0.0.0.0:80/",
        "http://255.255.255.255/",
        "http://198.18.0.1/",
        "http://192.0.0.192/",
        "http://192.0.0.9/",
        "http://192.88.99.1/",
        "http://100.100.100.200/",
        "http://[64:ff9b::c000:c0]/",
        "http://[3fff::1]/",
        "http://[2001:2::1]/",
        "http://192.0.2.1/",
        "http://240.0.0.1/",
        # IPv4 within IPv6, and IPv6 of one's own
        "http://[::127.0.0.1]/",
        "http://[::a00:1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[0:0:0:0:0:ffff:a00:1]/",
        "http://[::ffff:0:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[64:ff9b:1::a00:1]/",
        "http://[64:ff9b:1:a00:0:100::]/",
        "http://[2002:a9fe:a9fe::1]/",
        "http://[2001:0:a00:1::]/",
        "http://[2001:0:4136:e378:8000:63bf:f5ff:fffe]/",
        "http://[fe80::1]/",
        "http://[fe80::5efe:10.0.0.1]/",
        "http://[2606:2800::5efe:10.0.0.1]/",
        "http://[2606:2800::200:5efe:a00:1]/",
        "http://[fec0::1]/",
        "http://[fc00::1]/",
        "http://[::]/",
        "http://[ff02::1]/",
        "http://[2001:db8::1]/",
        "http://[100::1]/",
        "http://[4000::1]/",
        "http://[2606:2800::1%25lo]/",
        "http://[2606:2800::1%lo]/",
        "http://[v1.x]/",
        "http://[::1%00]/",
        "http://[::1].example.com/",
        # names of private networks
        "http://vault.default.svc/",
        "http://vault.default.svc.cluster.local/",
        "http://vault.default/",
        "http://x.home.arpa/",
        "http://nas.lan/",
        "http://git.corp/",
        "http://x.localhost/",
        "http://x.internal./",
        "http://x.intranet/",
        "http://x.localdomain/",
        "http://x.private/",
        "http://x.service.consul/",
        "http://router/",
        "http://_/",
        "http://1.0.0.127.in-addr.arpa/",
        "http://metadata/",
        "http://x.onion/",
    ],
)
def test_a_link_into_a_private_network_or_nowhere_sound_is_refused_by_name(url: str) -> None:
    """In every spelling a resolver would take."""
    with pytest.raises(BadRequest) as refused:
        reject_private_urls(image(url))
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
        ({}, {"server_url": "http://0/"}, "tools[0].server_url"),
        ({}, {"type": "function", "function": {}, "server_url": "http://0/"}, "tools[0].server_url"),
        (
            {"type": "text", "text": "x", "image_url": {"url": "http://0/"}},
            {},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "http://0/"}},
            {},
            "messages[0].content[0].input_audio.data",
        ),
        ({"type": "file", "file": {"file_data": "http://0/"}}, {}, "messages[0].content[0].file.file_data"),
        (
            {"type": "video_url", "video_url": {"url": "http://0/"}},
            {},
            "messages[0].content[0].video_url.url",
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "http://0/"}},
            {},
            "messages[0].content[0].source.url",
        ),
        (
            {"type": "tool_result", "content": [{"a": {"b": {"c": [{"d": {"e": [{"url": "http://0/"}]}}]}}}]},
            {},
            "messages[0].content[0].content[0].a.b.c[0].d.e[0].url",
        ),
    ],
)
def test_links_are_found_wherever_a_part_or_a_tool_holds_them(
    part: dict[str, Any], tool: dict[str, Any], field: str
) -> None:
    """Images, files, parts of a kind not known yet, tool servers."""
    assert field_refused({"messages": [{"role": "user", "content": [part]}], "tools": [tool]}) == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (
            {"messages": [{"role": "assistant", "images": [{"url": "http://0/"}]}]},
            "messages[0].images[0].url",
        ),
        ({"input": ["http://0/", {"image": "http://0/"}]}, "input[0].image"),
        ({"mcp_servers": [{"type": "url", "url": "http://0/"}]}, "mcp_servers[0].url"),
        ({"image_url": "http://0/"}, "image_url"),
        ({"image_urls": ["http://0/"]}, "image_urls[0]"),
        ({"plugins": [{"id": "x", "options": {"endpoint": "http://0/"}}]}, "plugins[0].options.endpoint"),
    ],
)
def test_links_are_found_beside_messages_and_tools(body: dict[str, Any], field: str) -> None:
    """In whatever a provider may be told to fetch."""
    assert field_refused(body) == field


def test_text_is_not_a_link_whatever_it_says() -> None:
    """A prompt may speak of any address; so may a function's description."""
    said = {
        "messages": [{"role": "user", "content": "what is at http://127.0.0.1/?"}],
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "http://10.0.0.1/"}},
            {"type": "function", "name": "f", "description": "http://10.0.0.1/"},
        ],
        "response_format": {"json_schema": {"schema": {"$id": "http://localhost/a"}}},
        "metadata": {"page": "http://localhost/a"},
        "prompt": "http://10.0.0.1/",
    }
    assert field_refused(said) is None
    assert field_refused({"messages": "not a list", "tools": {}, "input": ["http://127.0.0.1/"]}) is None
