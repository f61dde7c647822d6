"""Whether a call failed while its request was put into its provider's words, and at which field.

LiteLLM trusts what it translates: a tool without a function, an image without a URL are a KeyError of its
own, which it reports as the provider's failure. Invariants: pure; what was raised by a connection, or by a
library of a provider's credentials, is never the request's fault; the answer's translation does not count.
"""

from collections.abc import Iterable, Iterator

from llm_proxy.sidecar import provider_error

TRANSLATING = frozenset(
    {
        "get_optional_params", "get_optional_params_embeddings", "validate_and_fix_openai_messages",
        "validate_chat_completion_user_messages", "validate_chat_completion_tool_choice",
        "transform_request", "async_transform_request", "_async_transform_request", "_transform_request",
        "transform_request_body", "async_transform_request_body", "sync_transform_request_body",
        "_transform_request_body", "_transform_messages", "convert_to_anthropic_image_obj",
        "convert_to_gemini_tool_call_invoke", "_gemini_convert_messages_with_history",
        "_count_messages", "_count_content_list",
    }
)  # fmt: skip
"""LiteLLM's functions that read a request; the last two count tokens nobody stated."""

ELSEWHERE = frozenset({"aiohttp", "boto3", "botocore", "google", "httpcore", "httpx", "openai", "requests"})
FIELDS = (
    ("_count_", "messages"),
    ("tool_choice", "tool_choice"),
    ("tool_call", "messages"),
    ("tool_result", "messages"),
    ("thinking_blocks", "messages"),
    ("response_format", "response_format"),
    ("web_search", "web_search_options"),
    ("thinking", "thinking"),
    ("reasoning_effort", "reasoning_effort"),
    ("message", "messages"),
    ("image", "messages"),
    ("content", "messages"),
    ("function", "tools"),
    ("tool", "tools"),
)
"""Part of a function's name -> the field it reads; the first that fits."""


def field(error: BaseException | None) -> str | None:
    """The field that could not be translated, as far as can be told; None when that was not what failed."""
    causes = list(provider_error.chain(error))
    if any(isinstance(cause, OSError) or _home(cause) in ELSEWHERE for cause in causes):
        return None
    for cause in causes:
        names = list(_functions(cause))
        if not TRANSLATING.isdisjoint(names):
            return _named(reversed(names)) or ("request" if "get_optional_params" in names else "messages")
    return None


def _home(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _functions(error: BaseException) -> Iterator[str]:
    """The functions an error passed through, outermost first."""
    at = error.__traceback__
    while at is not None:
        yield at.tb_frame.f_code.co_name
        at = at.tb_next


def _named(functions: Iterable[str]) -> str | None:
    for name in functions:
        for part, found in FIELDS:
            if part in name:
                return found
    return None
