"""Builds the `Call` of a body that reaches its provider as it was sent: in an API of its own.

Invariants: the provider judges the body, except for a name that LiteLLM would read as its own, a link into a
private network and the model; nothing is added but the model group and a key's cap on the answer.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ServingGroup
from llm_proxy.dialects.request.build_call import (
    ParseContext,
    apply_max_tokens_cap,
    choose_model,
    parse_attribution,
    reject_wrong_mode,
    split_guardrails,
)
from llm_proxy.dialects.request.field_policy import reject_litellm_names
from llm_proxy.dialects.request.model_resolution import find_served
from llm_proxy.dialects.request.url_guard import url_error
from llm_proxy.dialects.request.validators import invalid, missing, wrong_type
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.endpoints import ENDPOINTS, Endpoint
from llm_proxy.errors import BadRequest
from llm_proxy.identity import Attribution
from llm_proxy.json_access import CONTAINERS, Json, as_object, is_array, is_object


class NativeFields(NamedTuple):
    """What the gateway reads of an endpoint's body.

    Attributes:
        max_tokens: The field that bounds the answer, below the object that holds it, if one does.
        links: Fields, at any depth of `linked`, whose strings a provider fetches.
        linked: The top-level fields that may hold such links.
        data: Fields whose strings are files, which count little as a prompt.
        opaque: Fields below which nothing is a link: what tools were called with.
        published: Published names of this endpoint that LiteLLM would read at another one.
    """

    max_tokens: tuple[str, ...]
    links: frozenset[str]
    linked: tuple[str, ...]
    data: frozenset[str]
    opaque: frozenset[str]
    published: frozenset[str] = frozenset()


_SCHEMAS = (
    *("parameters", "parametersJsonSchema", "parameters_json_schema"),
    *("responseJsonSchema", "response_json_schema"),
)
NATIVE_FIELDS: dict[Endpoint, NativeFields] = {
    "responses": NativeFields(
        ("max_output_tokens",),
        frozenset({"image_url", "file_url", "server_url"}),
        ("input", "tools", "prompt"),
        frozenset({"image_url", "file_data", "data", "encrypted_content"}),
        frozenset({"parameters", "action"}),
        frozenset({"stream", "stream_options"}),
    ),
    "messages": NativeFields(
        ("max_tokens",),
        frozenset({"url"}),
        ("messages", "mcp_servers", "system"),
        frozenset({"data", "signature", "encrypted_content"}),
        frozenset({"input", "citations"}),
        frozenset({"stream", "fallbacks"}),
    ),
    "generate_content": NativeFields(
        ("generationConfig", "maxOutputTokens"),
        frozenset({"fileUri", "file_uri", "url"}),
        ("contents", "systemInstruction", "tools"),
        frozenset({"data", "thoughtSignature", "thought_signature"}),
        frozenset({"args", "response", "partMetadata", "part_metadata", *_SCHEMAS}),
    ),
}


def resolve_group(
    parsed: Json, context: ParseContext, options: RequestOptions, models: ModelIndex
) -> tuple[str, str]:
    """Returns the model's name, and its group; raises `BadRequest` or `ModelNotFound`."""
    name, serving = _find_model(parsed, context, options, models)
    return name, serving.name


def _find_model(
    parsed: Json, context: ParseContext, options: RequestOptions, models: ModelIndex
) -> tuple[str, ServingGroup]:
    model: Any = parsed.get("model")
    if model is not None and (type(model) is not str or not model):
        raise wrong_type("model", "a string", model)
    name = choose_model(model, context, options, models)
    return name, find_served(name, options.provider, models)


def build_native_call(
    parsed: Json,
    context: ParseContext,
    options: RequestOptions,
    models: ModelIndex,
    limits: BodyLimits,
    attribution: Attribution | None = None,
) -> Call:
    """Returns the call of a body for the endpoint of `context`, in the endpoint's own schema.

    Args:
        parsed: The body; it is not changed.
        context: Its dialect and endpoint, and its size.
        options: What the headers say.
        models: The names of the catalog.
        limits: The bounds of a body.
        attribution: What the dialect's own fields state; by default what `metadata` and `user` do.

    Raises:
        BadRequest: Naming the field at fault.
        ModelNotFound: No group serves the model.
    """
    native = NATIVE_FIELDS[context.endpoint]
    parsed, requested = split_guardrails(parsed, models.guardrails)
    _reject_unusable(parsed, context.endpoint, native, limits)
    model, serving = _find_model(parsed, context, options, models)
    streaming: Any = parsed.get("stream")
    if streaming is not None and type(streaming) is not bool:
        raise wrong_type("stream", "a boolean", streaming)
    metadata, user = parsed.get("metadata"), parsed.get("user")
    named = metadata if is_object(metadata) else {}
    call = Call(
        endpoint=context.endpoint,
        dialect=context.dialect,
        model=model,
        group=serving.group,
        body={**parsed, **requested, "model": serving.name},
        streaming=streaming is True,
        wants_usage=streaming is True,
        attribution=attribution or parse_attribution(named, user if type(user) is str else None),
        max_tokens=_max_tokens(parsed, native.max_tokens),
        prompt_bytes=context.size_bytes - _check_links(parsed, native, limits),
        cache=options.cache,
        timeout_s=options.timeout_s,
    )
    reject_wrong_mode(call, serving)
    return call if limits.max_tokens_cap is None else within_cap(call, limits.max_tokens_cap)


def within_cap(call: Call, cap: int) -> Call:
    """Returns a call of any endpoint with at most `cap` completion tokens.

    Raises BadRequest as `apply_max_tokens_cap` does.
    """
    if call.operation is not None or (call.max_tokens is not None and call.max_tokens <= cap):
        return call
    native = NATIVE_FIELDS.get(call.endpoint)
    if native is None:
        return apply_max_tokens_cap(call, cap)
    return call._replace(body=_bounded(call.body, native.max_tokens, cap), max_tokens=cap)


def _bounded(body: Json, path: Sequence[str], cap: int) -> Json:
    """Returns the body with the most tokens at a path."""
    first, *below = path
    return body | {first: _bounded(as_object(body.get(first)), below, cap) if below else cap}


_INSTEAD_OF_INPUT = ("prompt", "previous_response_id")


def _check_links(parsed: Json, native: NativeFields, limits: BodyLimits) -> int:
    """Rejects a link into a private network; returns the bytes of the files in the body."""
    file_bytes = 0
    for name, text in _strings(parsed, native):
        if name in native.links and not limits.private_urls and url_error(text) is not None:
            raise _link_error(parsed, native)
        file_bytes += len(text) if name in native.data else 0
    return file_bytes


def _link_error(parsed: Json, native: NativeFields) -> BadRequest:
    """Returns the error of a body with a link that is not sent on; it names the first of them."""
    errors = ((path, url_error(text)) for path, name, text in _named(parsed, native) if name in native.links)
    path, error = next((path, error) for path, error in errors if error is not None)
    return BadRequest(f"Invalid '{path}': {error}.", param=path, code="invalid_url")


def _reject_unusable(parsed: Json, endpoint: Endpoint, native: NativeFields, limits: BodyLimits) -> None:
    (required,) = ENDPOINTS[endpoint].required
    value: Any = parsed.get(required)
    if value is None and (endpoint != "responses" or not any(parsed.get(one) for one in _INSTEAD_OF_INPUT)):
        raise missing(required)
    if is_array(value) and len(value) > limits.max_messages:
        reason = f"array too long. Expected at most {limits.max_messages}, but got {len(value)}."
        raise invalid(required, reason, "array_above_max_length")
    reject_litellm_names(parsed, native.published)


def _max_tokens(parsed: Json, path: Sequence[str]) -> int | None:
    *above, last = path
    holder, name = parsed, ".".join(path)
    for one in above:
        holder = as_object(holder.get(one))
    requested: Any = holder.get(last)
    if requested is None:
        return None
    if type(requested) is not int:
        raise wrong_type(name, "an integer", requested)
    if requested < 0:
        raise invalid(name, "expected a value of at least 0.", "integer_below_min_value")
    return requested


def _strings(parsed: Json, native: NativeFields) -> Iterator[tuple[str, str]]:
    """Yields the field and text of every string of `links` and `data`, those that `_named` yields.

    It makes no paths, and looks at no value that neither is named nor holds others.
    """
    named, opaque = native.links | native.data, native.opaque
    waiting: list[Any] = [parsed[name] for name in native.linked if parsed.get(name).__class__ in CONTAINERS]
    while waiting:
        value = waiting.pop()
        inner: Collection[Any] = value
        if value.__class__ is dict:
            if not named.isdisjoint(value):
                yield from ((name, value[name]) for name in named & value.keys() if type(value[name]) is str)
            inner = value.values() if opaque.isdisjoint(value) else _without(value, opaque)
        types = [*map(type, inner)]
        if not CONTAINERS.isdisjoint(types):
            waiting += compress(inner, map(CONTAINERS.__contains__, types))


def _without(value: Json, opaque: frozenset[str]) -> list[Any]:
    """Returns what an object holds outside of `opaque`."""
    return [inner for name, inner in value.items() if name not in opaque]


def _named(parsed: Json, native: NativeFields) -> Iterator[tuple[str, str, str]]:
    """Yields the path, field and text of every string of `links` and `data`."""
    named = native.links | native.data
    waiting: list[tuple[str, object]] = [(name, parsed[name]) for name in native.linked if name in parsed]
    while waiting:
        path, value = waiting.pop()
        if is_array(value):
            waiting += [(f"{path}[{at}]", one) for at, one in enumerate(value) if not isinstance(one, str)]
        elif is_object(value):
            for name, inner in value.items():
                if isinstance(inner, str):
                    if name in named:
                        yield f"{path}.{name}", name, inner
                elif name not in native.opaque:
                    waiting.append((f"{path}.{name}", inner))
