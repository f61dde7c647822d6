"""A provider LiteLLM does not know: a service of one's own, with a protocol of its own.

It is asked `POST {api_base}/complete {"prompt", "length"}`, answers `{"text", "read", "written"}`. The rest
(limits, budgets, retries, the cache, records) is as with any provider. What fails is raised as
`CustomLLMError` with the status it stands for: so a caller's mistake is told from the service's own.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
from litellm import CustomLLM, ModelResponse, Usage
from litellm.llms.custom_llm import CustomLLMError
from litellm.types.utils import GenericStreamingChunk

TIMEOUT_S = 30


class InHouse(CustomLLM):
    """Two doors: one answer, and the same as a stream."""

    async def acompletion(
        self,
        *,
        messages: list[dict[str, Any]],
        api_base: str | None,
        optional_params: dict[str, Any],
        model_response: ModelResponse,
        **_: object,
    ) -> ModelResponse:
        """The whole answer, with the tokens the service counted."""
        said = await _ask(api_base, messages, optional_params)
        model_response.choices[0].message.content = said["text"]
        model_response.choices[0].finish_reason = "stop"
        model_response.usage = Usage(prompt_tokens=said["read"], completion_tokens=said["written"])
        return model_response

    async def astreaming(
        self,
        *,
        messages: list[dict[str, Any]],
        api_base: str | None,
        optional_params: dict[str, Any],
        **_: object,
    ) -> AsyncIterator[GenericStreamingChunk]:
        """The answer word by word; the last piece carries the reason it ended and the tokens."""
        said = await _ask(api_base, messages, optional_params)
        for word in said["text"].split():
            yield _chunk(f"{word} ")
        counted = {"prompt_tokens": said["read"], "completion_tokens": said["written"]}
        yield _chunk("", end="stop", usage={**counted, "total_tokens": said["read"] + said["written"]})


async def _ask(base: str | None, messages: list[dict[str, Any]], params: dict[str, Any]) -> dict[str, Any]:
    prompt = "\n".join(f"{one['role']}: {one['content']}" for one in messages)
    body = {"prompt": prompt, "length": params.get("max_tokens", 100)}
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        try:
            answer = await client.post(f"{base}/complete", json=body)
        except httpx.HTTPError as fault:
            raise CustomLLMError(502, f"the service does not answer: {fault!r}") from fault
    if answer.status_code != 200:
        raise CustomLLMError(answer.status_code, answer.text[:200])
    found: dict[str, Any] = answer.json()
    return found


def _chunk(text: str, *, end: str = "", usage: dict[str, int] | None = None) -> GenericStreamingChunk:
    return GenericStreamingChunk(
        text=text, is_finished=bool(end), finish_reason=end, usage=usage, index=0, tool_use=None
    )


provider = InHouse()
