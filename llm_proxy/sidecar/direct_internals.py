"""What `direct_calls` uses of LiteLLM: its router's choice, its affinity, and what it makes of an answer.

The names are listed in `litellm_internals`, as every other.
"""

import copy
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import catalog, litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped

ANSWER_HOOK = "transform_parsed_response_dict"
"""By it a provider's class in LiteLLM changes an answer that OpenAI's SDK got."""
KEPT_OF_RESPONSES = ("id", "created_at", "model", "object", "service_tier", "status", "usage")
IDLE_CALLBACKS = frozenset(
    {"DeploymentAffinityCheck", "ModelRateLimitingCheck", "_PROXY_SensitiveDataRoutingHandler"}
)
"""Classes of LiteLLM's callbacks that every proxy has: two checks of its router, and one for guardrails."""
CACHE_LISTENER = "cache"
"""LiteLLM's own cache among its callbacks; a call of a type that it serves is direct only without it."""


def names_of_aliases() -> frozenset[str]:
    """Return the names that stand for a model group."""
    library = litellm_internals.litellm_module()
    return frozenset(library.model_alias_map) | frozenset(
        as_object(litellm_internals.router().model_group_alias)
    )


def wildcard_deployments(group: str) -> list[Json]:
    """Return the deployments that serve a name by a wildcard, each with the model of that name."""
    found: list[Json] = litellm_internals.router().pattern_router.get_deployments_by_pattern(model=group)
    return found


async def choose_deployment(group: str, field: str, content: Untyped, options: Json) -> Untyped:
    """Return the deployment that the router chooses for a call with these texts; raise what it raises."""
    return await litellm_internals.router().async_get_available_deployment(
        model=group, request_kwargs=options, specific_deployment=None, **{field: content}
    )


async def choose_healthy(group: str) -> Untyped:
    """Return the deployment that the router's simple strategy chooses for a group; None if all cool down."""
    router = litellm_internals.router()
    found: list[Untyped] = router.get_all_deployments(model_name=group) or wildcard_deployments(group)
    ids = [one["model_info"]["id"] for one in found]
    cooling = await router.cooldown_cache.async_get_active_cooldowns(model_ids=ids, parent_otel_span=None)
    if cooling:
        cooled = {one for one, _ in cooling}
        found = [one for one in found if one["model_info"]["id"] not in cooled]
    if len(found) < 2:
        return found[0] if found else None
    choose, alias_of = litellm_internals.router_module().simple_shuffle, router.get_model_from_alias
    return choose(resolve_model_alias=alias_of, healthy_deployments=found, model=group, request_kwargs={})


async def claim_affinity(deployment: Untyped, user: str) -> None:
    """Pin the running call's name to its deployment, as LiteLLM does before it sends a request."""
    metadata = {
        "deployment_model_name": deployment["model_name"],
        "model_info": deployment["model_info"],
        "user_api_key_hash": user,
    }
    for check in litellm_internals.litellm_module().callbacks:
        if isinstance(check, litellm_internals.affinity_check_class()):
            await check.async_pre_call_deployment_hook({"metadata": metadata}, None)


def client_exceptions() -> Untyped:
    """Return a context that raises the exceptions of LiteLLM's HTTP client."""
    return _aiohttp_transport().map_aiohttp_exceptions()


@cache
def _aiohttp_transport() -> Untyped:
    return import_module("litellm.llms.custom_httpx.aiohttp_transport")


@cache
def _answer_functions() -> tuple[Untyped, ...]:
    converted = import_module("litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response")
    return (
        converted.convert_to_model_response_object,
        import_module("litellm.litellm_core_utils.core_helpers").process_response_headers,
        import_module("litellm.proxy.utils").model_dump_with_preserved_fields,
        import_module("litellm.proxy.common_request_processing").cost_headers,
        import_module(
            "litellm.router_utils.router_callbacks.track_deployment_metrics"
        ).increment_deployment_successes_for_current_minute,
        import_module("litellm.litellm_core_utils.llm_response_utils.get_headers").get_response_headers,
    )


def takes_answer_unchanged(logging: Untyped) -> bool:
    """Whether LiteLLM takes the answer that OpenAI's SDK got for a logged attempt as it is."""
    library, provider = litellm_internals.litellm_module(), logging.custom_llm_provider
    try:
        known = library.LlmProviders(provider)
    except ValueError:
        return True  # LiteLLM's own answer for a server of OpenAI's format
    config: Untyped = library.ProviderConfigManager.get_provider_chat_config(
        model=logging.model, provider=known
    )
    base = import_module("litellm.llms.base_llm.chat.transformation").BaseConfig
    hook: Untyped = getattr(config, ANSWER_HOOK, None)
    return hook is None or hook.__func__ is getattr(base, ANSWER_HOOK)


def answer_object(document: Json, headers: dict[str, str], logging: Untyped) -> Untyped:
    """Return LiteLLM's object of a complete answer: of a chat, or of embeddings."""
    library = litellm_internals.litellm_module()
    embeds = "data" in document
    made = library.EmbeddingResponse() if embeds else library.ModelResponse(choices=[])
    hidden = {"custom_llm_provider": logging.custom_llm_provider, "region_name": None, "headers": headers}
    result = _answer_functions()[0](
        response_object=document,
        model_response_object=made,
        response_type="embedding" if embeds else "completion",
        hidden_params=hidden,
        _response_headers=headers,
    )
    result._hidden_params = hidden  # noqa: SLF001 -- where LiteLLM keeps them
    return result


@cache
def _native_classes() -> tuple[Untyped, Untyped, Untyped]:
    return (
        import_module("litellm.types.llms.openai").ResponsesAPIResponse,
        import_module("litellm.responses.utils").ResponseAPILoggingUtils,
        litellm_internals.litellm_module().AnthropicConfig(),
    )


def response_object(document: Json) -> Untyped:
    """Return LiteLLM's object of a response, without its texts."""
    kept = {name: document[name] for name in KEPT_OF_RESPONSES if name in document}
    return _native_classes()[0].model_validate({**kept, "output": []})


@lru_cache(maxsize=256)
def _header_names(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the names of LiteLLM's headers of an answer, each with the given one whose value it has."""
    given = dict(zip(names, names, strict=True))
    made: Json = _answer_functions()[1](given)
    return tuple(made.items())


def _renamed(headers: Json) -> Json:
    """Return LiteLLM's headers of an answer; its function looks at no value but whether it is empty."""
    if not all(type(value) is str and value for value in headers.values()):
        found: Json = _answer_functions()[1](headers)
        return found
    return {name: headers[given] for name, given in _header_names(tuple(headers))}


@lru_cache(maxsize=256)
def _may_state_cost(names: tuple[str, ...]) -> bool:
    return any(name == catalog.STATED_COST_HEADER for name, _ in _header_names(names))


def native_hidden(headers: dict[str, str]) -> Json:
    """Return what LiteLLM keeps beside the answer to a native call, if a cost may be among it."""
    return {"additional_headers": _renamed(headers)} if _may_state_cost(tuple(headers)) else {}


def chat_hidden(headers: dict[str, str]) -> Json:
    """Return what LiteLLM keeps beside the answer to a chat, of the answer's headers."""
    return {"additional_headers": _answer_functions()[5](headers)}


def chat_usage(usage: Untyped) -> Untyped:
    """Return the usage of a response as LiteLLM logs it."""
    return _native_classes()[1].transform_response_api_usage_to_chat_usage(usage)


def message_object(document: Json, logging: Untyped) -> Untyped:
    """Return LiteLLM's object of a message, without its texts."""
    usage: Json = document["usage"]
    thoughts = [str(as_object(one).get("thinking") or "") for one in as_list(document["content"])]
    stated = {"service_tier": usage["service_tier"]} if isinstance(usage.get("service_tier"), str) else {}
    library = litellm_internals.litellm_module()
    made = library.ModelResponse(id=document.get("id"), choices=[], model=logging.model, **stated)
    made.usage = _native_classes()[2].calculate_usage(
        usage_object=usage, reasoning_content="".join(thoughts) or None, completion_response=document
    )
    return made


def price(result: Untyped, logging: Untyped) -> tuple[float | None, Untyped]:
    """Return what an answer cost, and the parts of the cost."""
    logging.cost_breakdown = None
    return price_of_stream(result, logging)


def price_of_stream(result: Untyped, logging: Untyped) -> tuple[float | None, Untyped]:
    """Return the same of a stream, whose parts may be known since it was completed."""
    model_id = as_object(logging.litellm_params.get("model_info")).get("id")
    cost: float | None = logging.response_cost_calculator(
        result=result, litellm_model_name=logging.model, router_model_id=model_id
    )
    return cost, logging.cost_breakdown


def hidden_of_stream(logging: Untyped, headers: dict[str, str]) -> Json:
    """Return what LiteLLM keeps beside the answer of a stream."""
    return {
        "custom_llm_provider": logging.model_call_details.get("custom_llm_provider"),
        "model_id": as_object(logging.litellm_params.get("model_info")).get("id"),
        "additional_headers": _renamed(headers),
        "response_cost": None,
    }


def states_cost(hidden: Json) -> bool:
    """Whether the provider stated the answer's cost in its headers."""
    return catalog.STATED_COST_HEADER in hidden["additional_headers"]


def known_prices() -> tuple[int, int]:
    """Return what distinguishes LiteLLM's list of prices from another one."""
    prices = litellm_internals.litellm_module().model_cost
    return id(prices), len(prices)


def price_entries(model: str, logging: Untyped) -> dict[str, Json]:
    """Return the entries of the list of prices by which an answer of this model may be priced."""
    library, details = litellm_internals.litellm_module(), logging.model_call_details
    provider, info = details.get("custom_llm_provider"), as_object(logging.litellm_params.get("model_info"))
    given = (model, logging.model, info.get("id"), info.get("base_model"), details.get("base_model"))
    names = {str(one) for one in given if one}
    names |= {f"{provider}/{one}" for one in names} | {one.partition("/")[2] for one in names}
    found = {name: library.model_cost[name] for name in names if name in library.model_cost}
    for name in names:
        with suppress(Exception):  # LiteLLM knows no such model
            key = library.get_model_info(model=name, custom_llm_provider=provider)["key"]
            found[key] = library.model_cost[key]
    return found


def price_entry(name: str) -> object:
    """Return an entry of the list of prices; None if there is none."""
    found: object = litellm_internals.litellm_module().model_cost.get(name)
    return found


def answer_with_usage(
    answer_id: str, usage: Json, tier: str | None, logging: Untyped, hidden: Json, model: str = ""
) -> Untyped:
    """Return LiteLLM's object of an answer without its texts; `model` is the deployment's without one."""
    library = litellm_internals.litellm_module()
    stated = {"service_tier": tier} if tier else {}
    made = library.ModelResponse(id=answer_id, choices=[], model=model or logging.model, **stated)
    made.usage = library.Usage(**usage)
    made._hidden_params = {**hidden}  # noqa: SLF001 -- where LiteLLM keeps them
    return made


def stream_object(pricing: Untyped, headers: dict[str, str]) -> Untyped:
    """Return LiteLLM's object for a provider's stream, without the stream."""
    logging = copy.copy(pricing)
    logging.cost_breakdown = None
    logging.model_call_details = {**logging.model_call_details}
    make = litellm_internals.stream_wrapper_class()
    provider = logging.custom_llm_provider
    return make(None, logging.model, logging, custom_llm_provider=provider, _response_headers=headers)


def complete_stream(stream: Untyped, messages: Untyped) -> Untyped:
    """Return LiteLLM's object of the complete answer, of a stream's chunks."""
    build = litellm_internals.litellm_module().stream_chunk_builder
    result = build(chunks=stream.chunks, messages=messages, logging_obj=stream.logging_obj)
    stream._propagate_usage_cost_to_hidden_params(result, stream.custom_llm_provider)  # noqa: SLF001 -- as LiteLLM ends a stream
    return result


def cost_headers(cost: float | str, logging: Untyped, breakdown: Untyped) -> Json:
    """Return LiteLLM's headers of a cost."""
    logging.cost_breakdown = breakdown
    found: Json = _answer_functions()[3](cost, logging)
    return found


def answer_of_endpoint(result: Untyped, model: str) -> Json:
    """Return what LiteLLM's endpoint returns of a complete answer: under the requested name."""
    result.model = model
    found: Json = _answer_functions()[2](result, exclude_unset=True)
    return found


def count_success(deployment: str) -> None:
    """Count a success of a deployment, which cooldowns depend on."""
    _answer_functions()[4](litellm_router_instance=litellm_internals.router(), deployment_id=deployment)


def has_no_listeners() -> bool:
    """Whether nothing receives the calls but LiteLLM's router, its checks, and our own callback."""
    library, own = litellm_internals.litellm_module(), litellm_internals.router()
    if own is None or library.pre_call_rules or library.post_call_rules:
        return False
    return all(
        one == CACHE_LISTENER
        or type(one).__name__ in IDLE_CALLBACKS
        or type(one).__module__.startswith("llm_proxy.")
        or getattr(one, "__self__", None) is own
        for listed in litellm_internals.callback_lists()
        for one in listed
    )


def cached_call_types() -> frozenset[str]:
    """Return the types of calls that LiteLLM's own cache answers."""
    cache = litellm_internals.litellm_module().cache
    return frozenset(map(str, cache.supported_call_types or ())) if cache is not None else frozenset()
