"""Chats whose settings (all fields but `messages`) an earlier one had: they are checked and placed once.

Invariants: the call is the one that `build_call` returns; what is kept ends with its `ModelIndex`, which is
another one for each catalog and each list of allowed models; it holds no message, and only settings that were
accepted. Whatever is not plain goes through `build_call`.
"""

from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.request.build_call import ParseContext, build_call
from llm_proxy.dialects.request.openai_schema import are_plain
from llm_proxy.dialects.request_options import NO_OPTIONS, RequestOptions
from llm_proxy.json_access import Json

MAX_KEPT_SETTINGS = 32
"""Settings kept of one index; then they are learned anew."""
_REPEATED = frozenset(
    {
        "frequency_penalty", "logprobs", "max_completion_tokens", "max_tokens", "messages", "model", "n",
        "parallel_tool_calls", "presence_penalty", "store", "stream", "temperature", "top_logprobs", "top_p",
    }
)  # fmt: skip
"""Fields whose values a client repeats from call to call, all of them short."""
_SCALARS = frozenset[type]({str, int, float, bool, type(None)})


def build_chat(
    parsed: Json, context: ParseContext, options: RequestOptions, models: ModelIndex, limits: BodyLimits
) -> Call:
    """Returns the call of a body, as `build_call` does; raises what that raises."""
    messages = parsed.get("messages")
    if (
        options is not NO_OPTIONS
        or limits.max_tokens_cap is not None
        or context.endpoint != "chat.completions"
        or not parsed.keys() <= _REPEATED
        or not are_plain(messages, limits.max_messages)
    ):
        return build_call(parsed, context, options, models, limits)
    settings = {**parsed, "messages": None}
    values = tuple(settings.values())
    types = tuple(map(type, values))  # 1, 1.0 and True are one key of a dictionary
    if not _SCALARS.issuperset(types):
        return build_call(parsed, context, options, models, limits)
    key = (context.dialect, context.model_optional, context.reports_usage, tuple(settings), values, types)
    kept = models.repeated_settings.get(key)
    if kept is None:
        call = build_call(parsed, context, options, models, limits)
        if len(models.repeated_settings) >= MAX_KEPT_SETTINGS:
            models.repeated_settings.clear()
        models.repeated_settings[key] = call._replace(body=call.body | {"messages": []})
        return call
    return kept._replace(body=kept.body | {"messages": messages}, prompt_bytes=context.size_bytes)
