"""What pages of a configured origin may send."""

import httpx
import pytest
from starlette.responses import PlainTextResponse

from llm_proxy.edge.dispatcher import ALLOWED_HEADERS, EXPOSED_HEADERS, with_cors
from llm_proxy.edge.request import READ_HEADERS

ORIGIN = "https://app.example"
NEVER_A_PAGE_S = {
    *(b"content-encoding", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"),
    b"x-forwarded-for",
}
"""Headers that a browser writes itself, or a proxy."""


@pytest.mark.parametrize(
    "headers",
    [
        "authorization,content-type,openai-beta,openai-organization,openai-project,x-stainless-helper-method",
        "anthropic-beta,anthropic-dangerous-direct-browser-access,anthropic-version,content-type,x-api-key",
        "content-type,x-goog-api-client,x-goog-api-key",
        "authorization,x-stainless-custom-poll-interval,x-stainless-poll-helper",
    ],
)
async def test_a_page_may_send_what_its_sdk_sends(headers: str) -> None:
    """The preflight of OpenAI's, Anthropic's and Google's SDKs; not that of another origin."""
    transport = httpx.ASGITransport(app=with_cors(PlainTextResponse("called"), (ORIGIN,)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
        ours = await client.options("/v1/messages", headers=asked | {"Origin": ORIGIN})
        other = await client.options("/v1/messages", headers=asked | {"Origin": "https://evil.example"})
    assert (ours.status_code, ours.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers


def test_a_page_may_send_every_header_that_is_read() -> None:
    """And read the request's id by both its names."""
    assert {name.encode() for name in ALLOWED_HEADERS} >= READ_HEADERS - NEVER_A_PAGE_S
    assert {"x-request-id", "request-id"} <= {*EXPOSED_HEADERS}
