"""Links and inline files that do not come as far as the provider: the error names their place."""

import httpx
import pytest
from loopback import NO_TLS
from running_stack import Json, RunningStack, script

UNREACHABLE = "https://pictures.example.com/x.png?signature=hidden"
INLINE = ("claude", "native-claude", "gemini", "native-gemini")


def image(url: str) -> Json:
    """A part with an image."""
    return {"type": "image_url", "image_url": {"url": url}}


def file(**fields: str) -> Json:
    """A part with a document."""
    return {"type": "file", "file": fields}


async def ask(stack: RunningStack, model: str, part: Json) -> httpx.Response:
    """A chat whose third message has the part behind a text."""
    content = [{"type": "text", "text": "x " + script(do="ok")}, part]
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": content},
    ]
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as client:
        body = {"model": model, "messages": messages, "max_tokens": 50}
        return await client.post(f"{stack.url}/v1/chat/completions", headers=stack.auth, json=body)


@pytest.mark.parametrize(
    ("model", "part", "field"),
    [
        ("gemini", image(UNREACHABLE), "image_url.url"),
        ("gemini", file(file_id=UNREACHABLE), "file.file_id"),
        ("claude", file(file_data=UNREACHABLE, filename="a.pdf"), "file.file_data"),
        ("plain", file(file_id=UNREACHABLE), "file.file_id"),
    ],
    ids=["image", "document", "document-as-data", "document-for-openai"],
)
async def test_a_link_that_could_not_be_fetched_is_no_rejection_of_the_provider(
    stack: RunningStack, model: str, part: Json, field: str
) -> None:
    """The provider was not asked; the caller does not learn what the network said, the record does."""
    before = len(await stack.calls())
    reply = await ask(stack, model, part)
    error, place = reply.json()["error"], f"messages[2].content[1].{field}"
    assert (reply.status_code, error["code"], error["param"]) == (400, "url_not_fetched", place)
    assert error["message"] == f"The link in '{place}' could not be fetched for the provider."
    assert len(await stack.calls()) == before
    story = await stack.story(reply.headers["x-request-id"])
    assert "Unable to fetch" in story["provider_message"]
    assert "hidden" not in str(story)


@pytest.mark.parametrize("model", INLINE)
@pytest.mark.parametrize("url", ["abc", "data:xx", "data:image/png,abc"])
async def test_a_malformed_image_is_named(stack: RunningStack, model: str, url: str) -> None:
    """Also that of a document."""
    for part, field in ((image(url), "image_url.url"), (file(file_data=url, filename="a"), "file.file_data")):
        reply = await ask(stack, model, part)
        error, place = reply.json()["error"], f"messages[2].content[1].{field}"
        assert (reply.status_code, error["code"], error["param"]) == (400, "unsupported_value", place)
        assert place in error["message"]


async def test_responses_name_their_own_field(stack: RunningStack) -> None:
    """Not the chat's."""
    for url, code in ((UNREACHABLE, "url_not_fetched"), ("abc", "unsupported_value")):
        parts = [{"type": "input_text", "text": script(do="ok")}, {"type": "input_image", "image_url": url}]
        body = {"model": "gemini", "input": [{"role": "user", "content": parts}]}
        async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as client:
            reply = await client.post(f"{stack.url}/v1/responses", headers=stack.auth, json=body)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (400, code, "input")
        assert "messages" not in error["message"]
