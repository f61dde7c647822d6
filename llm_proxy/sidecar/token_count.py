"""Counts a prompt's tokens: at a provider that counts Anthropic's bodies, else with the model's tokenizer.

Invariants: no tokenizer is downloaded and no link of a prompt is followed; a part without a known size counts
nothing; a body that LiteLLM cannot count is an answer of its own, never an exception.
"""

from llm_proxy.json_access import Json, as_list, as_object, is_array
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.process_log import log_line

COUNTED_PARTS = frozenset({"text", "image_url", "file"})


async def count_tokens(body: Json) -> tuple[int, Json]:
    """Return status and body of the answer: `{"input_tokens": N}`, or why it cannot be counted.

    `native` says that the messages, tools and system prompt are Anthropic's; else they are a chat's.
    """
    native = body.get("native") is True
    messages = as_list(body.get("messages"))
    proxy = litellm_internals.proxy_module()
    try:
        counted = await proxy.count_request_tokens(
            request=proxy.TokenCountRequest(
                model=body.get("model"),
                messages=messages if native else [_with_countable_parts(as_object(one)) for one in messages],
                tools=body.get("tools") or None,
                system=body.get("system") if native else None,
            ),
            call_endpoint=native,
            messages_format="anthropic" if native else "openai",
        )
    except Exception as error:  # noqa: BLE001 -- LiteLLM raises anything, with a prompt in its text
        log_line(f"tokens not counted: {type(error).__name__}")
        return 422, {"error": {"message": "The tokens of this prompt cannot be counted."}}
    return 200, {"input_tokens": int(counted.total_tokens)}


def _with_countable_parts(message: Json) -> Json:
    if not is_array(message.get("content")):
        return message
    parts = as_list(message["content"])
    return message | {"content": [one for one in parts if as_object(one).get("type") in COUNTED_PARTS]}
