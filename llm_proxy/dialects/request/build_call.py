"""Builds a `Call` from a parsed body in OpenAI's schema; every dialect's `parse` ends here.

Invariants: a stream always requests its usage, `wants_usage` says whether the caller did; `body` is in
schema order, streaming and extra fields last, with the resolved model group as its `model`.
"""

from typing import Any, NamedTuple

from llm_proxy.dialects.call import GUARDRAILS_FIELD, UNBOUNDED_TOKENS, Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ServingGroup
from llm_proxy.dialects.request.field_policy import (
    partition_fields,
    place_extra_fields,
    requested_max_tokens,
)
from llm_proxy.dialects.request.file_bytes import linked_file_bytes
from llm_proxy.dialects.request.kept_at_google import GOOGLE, refuse_kept_at_google
from llm_proxy.dialects.request.model_resolution import find_served, providers_for, resolve
from llm_proxy.dialects.request.openai_schema import FIELDS, parse_messages
from llm_proxy.dialects.request.requested_quantities import requested_quantities
from llm_proxy.dialects.request.url_guard import reject_private_urls
from llm_proxy.dialects.request.validators import invalid, missing, wrong_type
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.endpoints import BYTE_ENDPOINTS, ENDPOINTS, OPAQUE_ENDPOINTS, Endpoint, endpoint_paths
from llm_proxy.errors import BadRequest, ModelNotFound
from llm_proxy.identity import NO_ATTRIBUTION, Attribution, parse_tags
from llm_proxy.json_access import Json, as_list, is_array

MAX_ID_CHARS = 256
OPENAI_RANGE_PROVIDERS = frozenset({"openai", "text-completion-openai", "azure", "azure_text"})
"""Providers that reject a number outside of OpenAI's published ranges; others have ranges of their own."""
_METADATA_IDS = (
    ("microdao_id", "tenant"),
    ("agent_id", "agent"),
    ("session_id", "session"),
    ("channel_id", "channel"),
    ("run_id", "run"),
)
"""The fields of `metadata` that name a tenant, agent ..., as older services call them."""
_MAX_TOKENS_FIELDS = ("max_completion_tokens", "max_tokens")


class ParseContext(NamedTuple):
    """How a body came in: its dialect and endpoint, and what its fields do not say."""

    dialect: str
    endpoint: Endpoint
    size_bytes: int
    model_optional: bool = False
    reports_usage: bool = False


_NO_PROVIDERS: frozenset[str] = frozenset()


def build_call(
    parsed: Json,
    context: ParseContext,
    options: RequestOptions,
    models: ModelIndex,
    limits: BodyLimits,
    attribution: Attribution | None = None,
) -> Call:
    """Returns the call of a body in OpenAI's schema.

    Args:
        parsed: The body; it is not changed.
        context: Its dialect and endpoint, and its size.
        options: What the headers say.
        models: The names of the catalog.
        limits: The bounds of a body.
        attribution: What the dialect's own fields state; by default what OpenAI's `user` and `metadata` do.

    Raises:
        BadRequest: Naming the field at fault, by schema or rule.
        ModelNotFound: No group serves the model.
    """
    parsed, file_bytes = _with_parsed_messages(context.endpoint, parsed, limits)
    parsed, requested = split_guardrails(parsed, models.guardrails)
    fields, extra, metadata, out_of_range = partition_fields(context.endpoint, parsed)
    _reject_missing(context.endpoint, fields)
    model = choose_model(fields.get("model"), context, options, models)
    serving = find_served(model, options.provider, models)
    providers = _providers(serving.name, models, out_of_range) if extra or out_of_range else _NO_PROVIDERS
    body: Json = fields | requested | {"model": serving.name}
    streaming, wants_usage = _stream(context.endpoint, body)
    body |= _placed(context.endpoint, extra, providers) if extra else {}
    call = Call(
        endpoint=context.endpoint,
        dialect=context.dialect,
        model=model,
        group=serving.group,
        body=body,
        streaming=streaming,
        wants_usage=streaming and (wants_usage or context.reports_usage),
        attribution=attribution or parse_attribution(metadata, fields.get("user")),
        max_tokens=_max_tokens(context.endpoint, fields, extra),
        prompt_bytes=context.size_bytes - file_bytes,
        choices=max(fields.get("n", 1), fields.get("best_of", 1)),
        cache=options.cache,
        timeout_s=options.timeout_s,
        quantities=requested_quantities(context.endpoint, fields, options.files),
        files=options.files,
    )
    return _apply_rules(call, serving, limits)


def _placed(endpoint: Endpoint, extra: Json, providers: frozenset[str]) -> Json:
    """The model's own fields as they are sent; a form has no `extra_body`."""
    if ENDPOINTS[endpoint].files:
        return {name: extra[name] for name in sorted(extra)}
    return place_extra_fields(endpoint, extra, providers)


def _reject_missing(endpoint: Endpoint, fields: Json) -> None:
    for name in ENDPOINTS[endpoint].required:
        if name not in fields:
            raise missing(name)


def split_guardrails(parsed: Json, known: frozenset[str]) -> tuple[Json, Json]:
    """Returns the body without its guardrails, and they apart; where none is configured the field is unknown.

    Raises `BadRequest` for a name that no guardrail has.
    """
    given = parsed.get(GUARDRAILS_FIELD)
    if not known or GUARDRAILS_FIELD not in parsed:
        return parsed, {}
    if given is not None and not is_array(given):
        raise wrong_type(GUARDRAILS_FIELD, "an array of names", given)
    names: list[str] = []
    for at, name in enumerate(as_list(given)):
        if not isinstance(name, str) or name not in known:
            raise invalid(f"{GUARDRAILS_FIELD}[{at}]", "no guardrail has this name.")
        names.append(name)
    others = {name: value for name, value in parsed.items() if name != GUARDRAILS_FIELD}
    return others, {GUARDRAILS_FIELD: names} if names else {}


def _apply_rules(call: Call, serving: ServingGroup, limits: BodyLimits) -> Call:
    reject_wrong_mode(call, serving)
    if not limits.private_urls:
        reject_private_urls(call.body)
    if not GOOGLE.isdisjoint(serving.providers):
        refuse_kept_at_google(call.endpoint, call.body)
    return call if limits.max_tokens_cap is None else apply_max_tokens_cap(call, limits.max_tokens_cap)


def reject_wrong_mode(call: Call, serving: ServingGroup) -> None:
    """Raises BadRequest for a model that serves other endpoints than this call's; it names those."""
    endpoints = serving.endpoints
    if endpoints is None or call.endpoint in endpoints:
        return
    if call.endpoint == "completions" and "chat.completions" in endpoints:  # LiteLLM or the provider judges
        return
    paths = ", ".join(f"`{path}`" for path in endpoint_paths(endpoints))
    other = f"; it is served by {paths}" if paths else ", nor by another endpoint of this gateway"
    raise BadRequest(
        f"The model '{call.model[:200]}' is not served by this endpoint{other}.",
        param="model",
        code="model_not_supported",
    )


def apply_max_tokens_cap(call: Call, cap: int) -> Call:
    """Returns the call with at most `cap` completion tokens; a call that requests none gets the cap.

    The body keeps the fields it states a maximum in. What has no completion stays as it is.
    Raises BadRequest for a larger maximum in a provider's own field, which is never rewritten.
    """
    has_none = FIELDS[call.endpoint].keys().isdisjoint(_MAX_TOKENS_FIELDS)
    if has_none or (call.max_tokens is not None and call.max_tokens <= cap):
        return call
    own = requested_max_tokens({**call.body, **(call.body.get("extra_body") or {})})
    if own is not None and own > cap:
        raise BadRequest(
            f"This API key may ask for at most {cap} completion tokens.",
            param="max_tokens",
            code="integer_above_max_value",
        )
    stated = {name: call.body[name] for name in _MAX_TOKENS_FIELDS if call.body.get(name) is not None}
    capped = {name: length if 0 < length < cap else cap for name, length in stated.items()}
    return call._replace(body=call.body | (capped or {"max_tokens": cap}), max_tokens=cap)


def _with_parsed_messages(endpoint: Endpoint, parsed: Json, limits: BodyLimits) -> tuple[Json, int]:
    """The body with its messages checked, and how many of its bytes are images, files and audio."""
    if endpoint == "chat.completions" and parsed.get("messages") is not None:
        messages, file_bytes = parse_messages(parsed["messages"], limits.max_messages)
        return {**parsed, "messages": messages}, file_bytes
    return parsed, linked_file_bytes(endpoint, parsed)


def _providers(group: str, models: ModelIndex, out_of_range: BadRequest | None) -> frozenset[str]:
    """Returns the providers that may serve the call; raises the range error if one has OpenAI's ranges."""
    providers = providers_for(group, models)
    if out_of_range is not None and not OPENAI_RANGE_PROVIDERS.isdisjoint(providers):
        raise out_of_range
    return providers


def parse_attribution(metadata: Json, user: str | None) -> Attribution:
    """Returns the tenant, user, tags ... that a body names; raises for an id that is no short string."""
    if not metadata and not user:
        return NO_ATTRIBUTION
    found: dict[str, str] = {}
    for key, field in _METADATA_IDS:
        value = metadata.get(key)
        if value is not None:
            found[field] = _parse_id(value, f"metadata.{key}")
    tags = parse_tags(metadata["tags"], "metadata.tags") if "tags" in metadata else ()
    return Attribution(user=_end_user(user) if user else None, tags=tags, **found)


def _end_user(user: str) -> str | None:
    """OpenAI's `user` for our records: printable, and short enough."""
    printable = user if user.isprintable() else "".join(char for char in user if char.isprintable())
    return printable[:MAX_ID_CHARS] or None


def _parse_id(value: Any, path: str) -> str:  # noqa: ANN401 -- unchecked JSON
    if type(value) is not str:
        raise wrong_type(path, "a string", value)
    name: str = value.replace("\0", "")
    if not name or len(name) > MAX_ID_CHARS or not name.isprintable():
        raise invalid(path, f"expected 1 to {MAX_ID_CHARS} printable characters.")
    return name


def choose_model(
    model: str | None, context: ParseContext, options: RequestOptions, models: ModelIndex
) -> str:
    """Returns the model of a request that may omit it; raises `BadRequest` where it may not."""
    model = options.model or model
    if model is not None:
        return model
    if context.endpoint in models.default_models:
        return models.default_models[context.endpoint]
    if context.endpoint in OPAQUE_ENDPOINTS:
        return _only_model(context.endpoint, models)
    if context.endpoint != "embeddings":
        if context.model_optional or options.may_omit_model:
            return models.default
        if models.default_chosen and _may_use(models.default, options, models):
            return models.default
    raise missing("model")


def _only_model(endpoint: Endpoint, models: ModelIndex) -> str:
    """Returns the only model that serves an endpoint and that the caller may use; raises for several."""
    names = [name for name in models.groups or () if name not in models.aliases]
    serving = [
        name for name in names if models.is_allowed(name) and endpoint in (models.endpoints(name) or ())
    ]
    if len(serving) != 1:
        raise missing("model")
    return serving[0]


def _may_use(model: str, options: RequestOptions, models: ModelIndex) -> bool:
    try:
        resolve(model, options.provider, models)
    except ModelNotFound:
        return False
    return True


def _stream(endpoint: Endpoint, body: Json) -> tuple[bool, bool]:
    """Makes a stream request its usage; returns whether it is one, and whether the caller requested usage."""
    streaming = body.pop("stream", False) is True
    if endpoint in BYTE_ENDPOINTS:
        return True, True
    options: Json | None = body.pop("stream_options", None)
    if not streaming:
        if options is not None:
            raise invalid("stream_options", "only allowed when 'stream' is true.")
        return False, False
    body["stream"] = True
    if endpoint in OPAQUE_ENDPOINTS:  # their last event states it
        return True, True
    body["stream_options"] = {**(options or {}), "include_usage": True}
    return True, options is not None and options.get("include_usage") is True


def _max_tokens(endpoint: Endpoint, fields: Json, extra: Json) -> int | None:
    """The requested length; in a chat 0 is none, because some providers take it for no limit."""
    requested: list[int] = []
    for name in _MAX_TOKENS_FIELDS:
        length = fields.get(name)
        if length or (length == 0 and endpoint == "completions"):
            requested.append(UNBOUNDED_TOKENS if length < 0 else length)
    if extra and (own_fields := requested_max_tokens(extra)) is not None:
        requested.append(own_fields)
    return max(requested) if requested else None
