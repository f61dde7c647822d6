"""Which calls may pass LiteLLM by, and what LiteLLM sent to a provider for a call of the same form.

Pure. Invariants: a template holds no messages and no input of a call, but its other fields (tools, schemas).
A call uses it only if all but messages or input, and the values of `FREE_FIELDS`, is equal to the call it was
learned from. LiteLLM gets a call with a field that is not known here; no template is made of a request that
LiteLLM changed beyond its fields.
"""

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat
from typing import Any

import orjson

from llm_proxy.endpoints import NATIVE_ENDPOINTS, Endpoint
from llm_proxy.json_access import Json, as_list, as_object, is_array, is_object

MESSAGES = "messages"
CONTENT_FIELDS: Mapping[Endpoint, str] = {
    "chat.completions": MESSAGES,
    "embeddings": "input",
    "responses": "input",
    "messages": MESSAGES,
}
"""Operation -> the field of its texts."""
PARAMETERS: frozenset[str] = frozenset(
    {
        *("audio", "extra_body", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs"),
        *("max_completion_tokens", "max_tokens", "modalities", "n", "parallel_tool_calls", "prediction"),
        *("presence_penalty", "prompt_cache_key", "reasoning_effort", "response_format"),
        *("safety_identifier", "seed", "service_tier", "stop", "store", "stream", "temperature"),
        *("tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options"),
        *("dimensions", "encoding_format", "stream_options"),
    }
)
"""Fields of OpenAI's that LiteLLM only translates."""
NATIVE_PARAMETERS: Mapping[Endpoint, frozenset[str]] = {
    "responses": frozenset(
        {
            *(
                "client_metadata",
                "include",
                "instructions",
                "max_output_tokens",
                "max_tool_calls",
                "metadata",
            ),
            *("parallel_tool_calls", "previous_response_id", "prompt_cache_key", "prompt_cache_retention"),
            *("reasoning", "safety_identifier", "service_tier", "store", "stream", "stream_options"),
            *("temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user"),
        }
    ),
    "messages": frozenset(
        {
            *("context_management", "max_tokens", "metadata", "output_config", "output_format"),
            *("service_tier", "stop_sequences", "stream", "system", "temperature", "thinking", "tool_choice"),
            *("tools", "top_k", "top_p"),
        }
    ),
}
"""Fields of native calls that reach the provider as they are, or fitted to the model by their value."""
LITELLM_TOOLS = ("mcp", "advisor")
"""Beginnings of the types of tools that LiteLLM may run itself."""
LONG_NUMBER = re.compile(rb"[0-9]{19}")
"""Matches a body that may hold a number which orjson would round."""
STREAMED: frozenset[Endpoint] = frozenset({"chat.completions", "responses", "messages"})
LITELLM_CONTROLS = frozenset({"cache", "disable_fallbacks"})
"""Fields that the gateway adds for LiteLLM: no provider gets them, and an answered call needs neither."""
FREE_FIELDS = (
    *("client_metadata", "instructions", "metadata", "previous_response_id", "prompt_cache_key"),
    *("safety_identifier", "seed", "system", "user"),
)
"""Fields whose value LiteLLM passes on or drops, whatever it is."""
FORM_HEADERS = frozenset({b"anthropic-beta", b"anthropic-version"})
"""Headers of a call that reach the provider."""
REQUEST_HEADERS = frozenset(
    {
        *(b"accept", b"accept-encoding", b"authorization", b"connection", b"content-length", b"content-type"),
        *(b"host", b"traceparent", b"user-agent", b"x-litellm-call-id", b"x-llmp-affinity"),
        *(b"x-llmp-deployment", b"x-llmp-group", b"x-llmp-optional-fields"),
        *FORM_HEADERS,
    }
)
"""Headers of a call by which LiteLLM does nothing else."""
PROVIDER_HEADERS = frozenset(
    {
        *("accept", "accept-encoding", "authorization", "connection", "content-length", "content-type"),
        *("cookie", "host", "openai-organization", "openai-project", "user-agent"),
        *("anthropic-beta", "anthropic-version", "x-api-key"),
    }
)
"""Headers of a provider's request that are the same for each call, beside those of `SDK_PREFIX`."""
SDK_PREFIX = "x-stainless-"
OMITTED_HEADERS = frozenset({"content-length", "cookie", "host"})
"""The HTTP client adds length and host; a cookie came with the answer to another call."""
DEPLOYMENT_PARAMETERS = frozenset(
    {
        *("model", "custom_llm_provider", "api_base", "base_url", "api_key", "organization", "timeout"),
        *(
            "stream_timeout",
            "request_timeout",
            "num_retries",
            "max_retries",
            "weight",
            "order",
            "drop_params",
        ),
        *("temperature", "top_p", "max_tokens", "extra_body", "allowed_openai_params"),
        *("additional_drop_params", "use_in_pass_through"),
    }
)
"""Parameters of a deployment that only the request's translation, or a failed call, depends on."""
LIMITS = ("rpm", "tpm", "itpm", "otpm")
"""A deployment's limits for a minute: calls, tokens, and tokens of one side."""
ADDRESSES = ("http://", "https://", "www.")
"""LiteLLM fetches a file whose id begins so, and sends it."""
MAX_DEPTH = 100
"""Of texts; orjson writes 254, and Python compares fewer than 500."""
MAX_KEY_BYTES = 256
MAX_CALL_ID_CHARS = 100


@dataclass(frozen=True, slots=True)
class DirectCall:
    """A call as far as it may pass LiteLLM by.

    Attributes:
        endpoint: The operation.
        group: The requested model group.
        content: The texts.
        parameters: Everything else that LiteLLM translates.
        form: What a template must have been learned from.
        without_cache: Whether no cache may answer it or keep its answer.
    """

    endpoint: Endpoint
    group: str
    content: Any
    parameters: Json
    form: Hashable
    without_cache: bool = False

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return self.parameters.get("stream") is True


@dataclass(frozen=True, slots=True)
class BodyTemplate:
    """The body that LiteLLM sent.

    Attributes:
        content_field: Which field gets the texts.
        before: The fields that stand before it.
        after: The fields behind it.
        free: The fields that get the call's own value.
        size_bytes: What the other fields take.
    """

    content_field: str
    before: Json
    after: Json
    free: tuple[str, ...]
    size_bytes: int = 0

    def fill(self, call: DirectCall) -> bytes:
        """Return the body of another call of the same form."""
        own = {name: call.parameters[name] for name in self.free}
        return orjson.dumps({**self.before, self.content_field: call.content, **self.after, **own})


def read_call(
    endpoint: Endpoint,
    raw: bytes,
    optional_fields: tuple[str, ...],
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> DirectCall | None:
    """Return a call that may pass LiteLLM by; None for one that may not."""
    try:
        body = as_object(orjson.loads(raw))
    except ValueError:
        return None
    content_field = CONTENT_FIELDS[endpoint]
    group, given = body.pop("model", None), body.pop(content_field, None)
    content = _without_nulls(given) if endpoint == "chat.completions" else given
    parameters = {name: value for name, value in body.items() if name not in LITELLM_CONTROLS}
    if not isinstance(group, str) or not content or not _are_passed_on(endpoint, parameters, raw):
        return None
    streams = parameters.get("stream") or False
    if not isinstance(streams, bool) or (streams and endpoint not in STREAMED):
        return None
    if "stream_options" in parameters and not streams:
        return None
    fixed = {name: value for name, value in parameters.items() if name not in FREE_FIELDS}
    try:
        free = tuple(
            (name, form_of(parameters[name]), bool(parameters[name]))
            for name in FREE_FIELDS
            if name in parameters
        )
        key, structure = orjson.dumps(fixed), form_of(given)
    except (TypeError, RecursionError):  # nested too deeply
        return None
    if len(key) > MAX_KEY_BYTES:
        key = blake2b(key).digest()
    cache = as_object(body.get("cache"))
    without_cache = cache.get("no-cache") is True and cache.get("no-store") is True
    own = tuple(pair for pair in headers if pair[0] in FORM_HEADERS)
    form = (endpoint, key, free, structure, optional_fields, own)
    return DirectCall(endpoint, group, content, parameters, form, without_cache)


def _are_passed_on(endpoint: Endpoint, parameters: Json, raw: bytes) -> bool:
    """Whether LiteLLM does nothing with a call's fields but translate them or pass them on."""
    if endpoint not in NATIVE_ENDPOINTS:
        return parameters.keys() <= PARAMETERS
    if not parameters.keys() <= NATIVE_PARAMETERS[endpoint] or LONG_NUMBER.search(raw):
        return False
    kinds = (as_object(tool).get("type") for tool in as_list(parameters.get("tools")))
    return not any(isinstance(kind, str) and kind.startswith(LITELLM_TOOLS) for kind in kinds)


def _without_nulls(content: Any) -> Any:  # noqa: ANN401 -- of JSON
    """Return texts as LiteLLM sends them: messages without fields that are null."""
    return [
        {name: member for name, member in one.items() if member is not None} if is_object(one) else one
        for one in as_list(content)
    ]


def form_of(value: object, depth: int = 0) -> Hashable:
    """Return a value's form: its structure, with the values of `role` and `type`, without its texts.

    Texts are of one form, but for empty and blank ones; an address also has the form of its beginning.
    Raises `RecursionError` for a value that is nested more than `MAX_DEPTH` deep.
    """
    if isinstance(value, str):
        return ("blank", value) if not value.strip() else "text"
    if depth > MAX_DEPTH:
        raise RecursionError
    if is_array(value):
        return "list", frozenset(map(form_of, value, repeat(depth + 1)))
    if is_object(value):
        return tuple((name, _form_of_member(name, member, depth + 1)) for name, member in value.items())
    return type(value).__name__


def _form_of_member(name: str, member: object, depth: int) -> Hashable:
    if isinstance(member, str) and name in {"role", "type"}:
        return member
    if isinstance(member, str) and name == "file_id":
        return "address" if member.startswith(ADDRESSES) else form_of(member)
    if isinstance(member, str) and name in {"url", "image_url", "file_data"}:
        return member.partition(":")[0][:16], member.rpartition(".")[2][:8] if len(member) < 4096 else ""
    return form_of(member, depth)


def learn_body(sent: bytes, call: DirectCall, content_field: str) -> BodyTemplate | None:
    """Return the template of a body that LiteLLM sent; None if it changed the texts or a free value."""
    try:
        body = as_object(orjson.loads(sent))
    except ValueError:
        return None
    if body.get(content_field) != call.content:
        return None
    given = [name for name in FREE_FIELDS if name in call.parameters and name in body]
    if any(body[name] != call.parameters[name] for name in given):
        return None
    names = [name for name in body if name not in given]
    at = names.index(content_field)
    before, after = names[:at], names[at + 1 :]
    return BodyTemplate(
        content_field,
        {name: body[name] for name in before},
        {name: body[name] for name in after},
        tuple(given),
        len(sent) - len(orjson.dumps(call.content)),
    )


def learn_headers(sent: Mapping[str, str]) -> dict[str, str] | None:
    """Return the headers of a provider's request for other calls; None if one may be this call's own."""
    given = {name.lower(): value for name, value in sent.items()}
    if not all(name in PROVIDER_HEADERS or name.startswith(SDK_PREFIX) for name in given):
        return None
    return {name: value for name, value in given.items() if name not in OMITTED_HEADERS}


def states_limit(deployment: Json) -> bool:
    """Whether a deployment states a limit in any of the places where LiteLLM looks for one."""
    places = (deployment, *(as_object(deployment.get(one)) for one in ("litellm_params", "model_info")))
    return any(place.get(name) is not None for place in places for name in LIMITS)


def may_serve(deployment: Json) -> bool:
    """Whether a deployment's calls depend on nothing but the request: no limits, no credentials by name.

    Nor does their cost depend on the time that LiteLLM measures.
    """
    params, info = as_object(deployment.get("litellm_params")), as_object(deployment.get("model_info"))
    if states_limit(deployment):
        return False
    if any("_cost_per_second" in name and value for name, value in {**params, **info}.items()):
        return False
    stated = {name for name, value in params.items() if value not in (None, False)}
    return all(name in DEPLOYMENT_PARAMETERS or "cost" in name for name in stated)
