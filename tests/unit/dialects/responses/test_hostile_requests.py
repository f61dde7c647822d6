"""Bodies nobody should send, and answers no provider should give: an error of ours, never an exception."""

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.dialects.responses.chat_frames import SEAL, context, ending, frame, stream

from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.dialects.responses.dialect import ResponsesDialect
from llm_proxy.errors import APIError

DIALECT = ResponsesDialect(SEAL)
MODELS = ModelIndex(
    "m",
    {"m": frozenset({"hosted_vllm"}), "claude": frozenset({"anthropic"}), "native": frozenset({"openai"})},
    speaks_natively=lambda group, _: group == "native",
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "x", "auto", "direct", "grammar", "local", "client", "data:,x", "http://10.0.0.1/"]),
)
ITEM_TYPES = [
    *("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
    *("reasoning", "item_reference", "additional_tools", "tool_search_call", "tool_search_output"),
    *("local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output", "apply_patch_call"),
    *("apply_patch_call_output", "web_search_call", "compaction", "alien"),
]
PART_TYPES = ["input_text", "output_text", "refusal", "input_image", "input_file", "input_audio", "alien"]
TOOL_TYPES = [
    *("function", "custom", "namespace", "web_search", "tool_search", "local_shell", "shell", "apply_patch"),
    *("mcp", "allowed_tools", "grammar", "json_schema", "alien"),
]
NAMES = [
    *("type", "role", "content", "id", "call_id", "name", "namespace", "arguments", "output", "input"),
    *("text", "refusal", "image_url", "file_id", "file_data", "detail", "filename", "tools", "mode"),
    *("summary", "encrypted_content", "action", "operation", "status", "format", "schema", "strict"),
    *("description", "parameters", "environment", "execution", "allowed_callers", "definition", "syntax"),
    *("input_audio", "data", "prompt_cache_breakpoint"),
]
FIELDS = [
    *("input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "stream"),
    *("max_output_tokens", "top_logprobs", "temperature", "store", "background", "prompt", "conversation"),
    *("previous_response_id", "parallel_tool_calls", "truncation", "client_metadata", "user", "model"),
    *("prompt_cache_key", "service_tier", "messages", "top_k", "extra_body", "stream_options"),
]
TYPES = st.sampled_from([*ITEM_TYPES, *PART_TYPES, *TOOL_TYPES])
ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=6).flatmap(
            lambda fields: st.fixed_dictionaries(
                {}, optional={"type": TYPES, "role": ROLES, "name": st.just("x"), "call_id": st.just("x")}
            ).map(lambda named: {**fields, **named})
        ),
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5)


@settings(deadline=None, max_examples=300)
@given(BODIES, st.sampled_from(["m", "claude", "native"]), st.lists(VALUES, max_size=4))
def test_any_body_is_a_call_or_an_error_of_ours(body: Any, model: str, items: Any) -> None:
    encoded = orjson.dumps({"model": model, "input": items, **body})
    refused: APIError | None = None
    try:
        assert orjson.dumps(DIALECT.parse("responses", encoded, NO_OPTIONS, MODELS, BodyLimits()).body)
    except APIError as error:
        refused = error
    assert refused is None or (refused.status in {400, 404} and orjson.dumps(DIALECT.error(refused)))


DELTA_NAMES = [
    *("content", "refusal", "reasoning", "reasoning_content", "thinking_blocks", "tool_calls", "function"),
    *("annotations", "url_citation", "images", "image_url", "url", "index", "id", "name", "arguments"),
    *("thinking", "signature", "data", "custom", "input", "token", "logprob", "bytes", "top_logprobs"),
]
DELTAS: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(DELTA_NAMES), inner, max_size=5)
    ),
    max_leaves=12,
)
TOOLS: list[Any] = [
    {"type": "custom", "name": "x"},
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "apply_patch"},
]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.dictionaries(st.sampled_from(DELTA_NAMES), DELTAS, max_size=4), max_size=4), DELTAS)
def test_any_answer_is_a_stream_that_ends(deltas: Any, logprobs: Any) -> None:
    renderer = stream(context(tools=TOOLS))
    for delta in deltas:
        renderer.feed(frame(delta, logprobs={"content": logprobs}))
    renderer.feed(ending())
    assert b'"response.completed"' in renderer.end(ResponseMeta())
