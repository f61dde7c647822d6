"""Counts a prompt's tokens: at a provider that counts native bodies, else with the model's tokenizer.

Invariants: no tokenizer is downloaded and no link of a prompt is followed; a part without a known size counts
nothing; a body that LiteLLM cannot count is an answer of its own, never an exception.
"""

from llm_proxy.json_access import Json, as_list, as_object, is_array, is_object
from llm_proxy.sidecar import litellm_internals, response_state
from llm_proxy.sidecar.process_log import log_line

COUNTED_PARTS = frozenset({"text", "image_url", "file"})
NO_TEXTS = frozenset(
    {
        *("cache_control", "data", "encrypted_content", "id", "signature", "tool_use_id", "type"),
        *("fileUri", "file_uri", "mimeType", "mime_type", "role", "thoughtSignature", "thought_signature"),
    }
)
"""Fields of Anthropic's blocks and Google's parts that are no part of a prompt's text."""


async def count_tokens(body: Json) -> tuple[int, Json]:
    """Return status and body of the answer: `{"input_tokens": N}`, or why it cannot be counted.

    `native` says that the messages, tools and system prompt are Anthropic's; else they are a chat's.
    `responses` is a native body of Responses, which its provider counts; else the chat beside it counts.
    `google` has the contents, instruction and tools of a native body of Google's.
    """
    if responses := as_object(body.get("responses")):
        counted = await response_state.count_input(str(body.get("model")), responses)
        if counted is not None:
            return 200, {"input_tokens": counted}
    if google := as_object(body.get("google")):
        counted = await _count(body | google, [], native=True)
        if counted is None:  # the provider does not say
            counted = await _count(body, [{"role": "user", "content": _text_of(google)}])
        return _answer(counted)
    messages = [as_object(one) for one in as_list(body.get("messages"))]
    if body.get("native") is True:
        counted = await _count(body, messages, native=True)
        if counted is None:  # neither the provider nor LiteLLM knows each of the blocks
            counted = await _count(
                body, [one | {"content": _text_of(one.get("content"))} for one in messages]
            )
    else:
        counted = await _count(body, [_with_countable_parts(one) for one in messages])
    return _answer(counted)


def _answer(counted: int | None) -> tuple[int, Json]:
    if counted is None:
        return 422, {"error": {"message": "The tokens of this prompt cannot be counted."}}
    return 200, {"input_tokens": counted}


async def _count(body: Json, messages: list[Json], *, native: bool = False) -> int | None:
    proxy = litellm_internals.proxy_module()
    try:
        counted = await proxy.count_request_tokens(
            request=proxy.TokenCountRequest(
                model=body.get("model"),
                messages=messages or None,
                contents=body.get("contents"),
                tools=body.get("tools") or None,
                system=body.get("system"),
            ),
            call_endpoint=native,
            messages_format="anthropic" if native else "openai",
        )
    except Exception as error:  # noqa: BLE001 -- LiteLLM raises anything, with a prompt in its text
        log_line(f"tokens not counted: {type(error).__name__}")
        return None
    return int(counted.total_tokens)


def _text_of(value: object) -> str:
    """Every text in a value, but for files and signatures."""
    if isinstance(value, str):
        return value
    if is_object(value):
        return " ".join(_text_of(one) for name, one in value.items() if name not in NO_TEXTS)
    return " ".join(map(_text_of, as_list(value)))


def _with_countable_parts(message: Json) -> Json:
    if not is_array(message.get("content")):
        return message
    parts = as_list(message["content"])
    return message | {"content": [one for one in parts if as_object(one).get("type") in COUNTED_PARTS]}
