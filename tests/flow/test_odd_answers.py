"""What a provider says, however oddly, as callers hear it: every dialect, whole and streamed."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from running_stack import RunningStack, script

Json = dict[str, Any]
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
ZERO = dict.fromkeys(USAGE, 0)
TEXT = "Hello\u2028you"


@dataclass(frozen=True, slots=True)
class Way:
    """A route, and where its dialect puts text and tokens."""

    path: str
    streams: bool
    total: str = "total_tokens"

    def body(self, raw: list[str]) -> Json:
        """A call that is answered with these bytes."""
        said = f"{script(do='raw', raw=[one.encode().decode('latin-1') for one in raw])} {uuid4()}"
        asked: Json = {"model": "p/odd", "messages": [{"role": "user", "content": said}]}
        if self.path.startswith("/v1"):
            asked |= {
                "stream": self.streams,
                "stream_options": {"include_usage": True} if self.streams else None,
            }
        elif self.path.startswith("/internal"):
            asked["stream"] = self.streams
        return asked


WAYS = (
    Way("/v1/chat/completions", streams=False),
    Way("/v1/chat/completions", streams=True),
    Way("/internal/llm/proxy", streams=False),
    Way("/internal/llm/proxy", streams=True),
    Way("/llm-proxy/generate", streams=False, total="totalTokens"),
    Way("/llm-proxy/stream", streams=True, total="totalTokens"),
)


def event(said: Json) -> str:
    """A frame on the provider's wire."""
    return f"data: {json.dumps(said, ensure_ascii=False)}\n\n"


def chunk(delta: Json, finish: str | None = None, **more: Any) -> Json:
    """A frame with one choice."""
    return (
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        | more
    )


def answer_of(usage: Json | None, finish: str = "stop", *, streams: bool) -> list[str]:
    """An answer that states this usage, in a stream after its end."""
    stated = {} if usage is None else {"usage": usage}
    if streams:
        frames = [chunk({"content": TEXT}), chunk({}, finish), chunk({"content": ""}, None, **stated)]
        return [*map(event, frames), "data: [DONE]\n\n"]
    message = {"role": "assistant", "content": TEXT}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return [
        json.dumps(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]} | stated
        )
    ]


async def asked(stack: RunningStack, way: Way, raw: list[str]) -> httpx.Response:
    """The gateway's answer."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        return await client.post(stack.url + way.path, headers=stack.auth, json=way.body(raw))


def heard(way: Way, response: httpx.Response) -> tuple[str, list[Json]]:
    """The text and each usage in an answer; its stream came to its end."""
    if not way.streams:
        documents = [response.json()]
    else:
        data = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        documents = [json.loads(one) for one in data[:-1]]
    text, usages = "", list[Json]()
    for document in documents:
        choices: list[Json] = document.get("choices", [])
        parts: list[Json] = [choice.get("delta") or choice.get("message") or {} for choice in choices] or [
            document
        ]
        text += "".join(part.get("content") or "" for part in parts)
        usages += [document["usage"]] if document.get("usage") else []
    return text, usages


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.path}-{way.streams}")
@pytest.mark.parametrize("usage", [USAGE, ZERO, None], ids=["stated", "zero", "unstated"])
async def test_usage_is_told_once_and_never_a_false_zero(
    stack: RunningStack, way: Way, usage: Json | None
) -> None:
    """As stated, zeros too; else counted or estimated, as it is recorded."""
    response = await asked(stack, way, answer_of(usage, streams=way.streams))
    assert response.status_code == 200, response.text
    text, usages = heard(way, response)
    assert text == TEXT
    assert len(usages) == 1
    assert "llmp_counted" not in response.text
    story = await stack.story(response.headers["x-request-id"])
    recorded = story["prompt_tokens"] + story["completion_tokens"]
    assert usages[0][way.total] == recorded
    assert recorded == usage["total_tokens"] if usage is not None else recorded > 20
    expected = {"provider"} if usage is not None else {"sidecar", "estimated"}
    assert story["usage_source"] in expected


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.path}-{way.streams}")
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (
            {"code": 429, "message": "slow", "metadata": {"headers": {"Retry-After": "7"}}},
            429,
            "rate_limit_exceeded",
        ),
        (
            {"code": 400, "message": "This model's maximum context length is 8192 tokens."},
            400,
            "context_length_exceeded",
        ),
        ({"code": 400, "message": "bad", "type": "invalid_request_error"}, 400, None),
    ],
)
async def test_a_failure_before_the_first_word_has_its_status(
    stack: RunningStack, way: Way, error: Json, status: int, code: str | None
) -> None:
    """Though the provider said 200."""
    raw = event({"error": error}) if way.streams else json.dumps({"error": error})
    response = await asked(stack, way, [raw])
    assert response.status_code == status, response.text
    assert response.headers.get("retry-after") == ("7" if status == 429 else None)
    said = response.json()
    found = said["code"] if "statusCode" in said else said["error"]["code"]
    assert code is None or found == code


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.path}-{way.streams}")
async def test_a_finish_reason_that_means_a_failure_is_one(stack: RunningStack, way: Way) -> None:
    """A 502, or with words out, an error event and no end mark."""
    response = await asked(stack, way, answer_of(USAGE, "error", streams=way.streams))
    assert response.status_code == (200 if way.streams else 502)
    assert "[DONE]" not in response.text
    assert "upstream_stream_cut" in response.text or not way.streams
