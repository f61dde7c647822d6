"""Stored responses of a provider: read, deleted, cancelled, listed and compacted at their own deployment.

LiteLLM's handlers route by an id of LiteLLM's own, rebuild each answer, and stream none of them. Invariants:
LiteLLM says where a deployment is and how it is signed in, the bytes are the caller's and the provider's; a
call that names a deployment reaches its account, or none.
"""

import json
from collections.abc import AsyncGenerator
from importlib import import_module
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import call_outcome, litellm_internals
from llm_proxy.sidecar.call_outcome import Attempt, CallOutcome
from llm_proxy.sidecar.catalog import PROVIDER_KEY
from llm_proxy.sidecar.event_stream import EVENT_STREAM
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.process_log import log_line
from llm_proxy.sidecar.responses import (
    Receive,
    Scope,
    Send,
    configured_secrets,
    error_body,
    read_body,
    request_header,
    send_json,
    send_result,
)

PREFIX = "/v1/responses/"
DEPLOYMENT_HEADER, GROUP_HEADER = b"x-llmp-deployment", b"x-llmp-group"
ACCOUNT_FIELDS = ("api_base", "base_url", "api_key", "organization", "litellm_credential_name", "api_version")
"""Parameters of a deployment that say in whose account its responses are."""
GONE = error_body("The deployment no longer exists.", "invalid_request_error", "deployment_gone")
DEFAULT_TIMEOUT_S = 600.0
COUNTED_FIELDS = ("input", "instructions", "parallel_tool_calls", "reasoning", "text", "tool_choice", "tools")
"""What OpenAI's count takes of a request, and the gateway can answer for."""
COUNT_TIMEOUT_S = 10.0


class Place(NamedTuple):
    """Where a deployment's responses are.

    Attributes:
        url: Of its `/responses`, with the provider's own query.
        headers: Its credentials.
        model: The model's name at the provider.
    """

    url: str
    headers: dict[str, str]
    model: str
    provider: str
    timeout_s: float


def header(scope: Scope, name: bytes) -> str:
    """Return a header of the gateway's; empty without one."""
    return unquote(request_header(scope, name))


def same_account(group: str, deployment: str) -> frozenset[str]:
    """Return the ids of a group's deployments in the account of a deployment; of all, if they share one.

    A deployment whose key was exchanged has another id: then the group's only account is the right one.
    """
    router, serving = litellm_internals.router(), litellm_internals.groups_serving(group)
    members = [one for one in router.model_list if str(one["model_name"]) in serving]
    wanted = router.get_deployment(model_id=deployment)
    accounts = {_id_of(one): _account(as_object(one["litellm_params"])) for one in members}
    if wanted is not None:
        account = _account(wanted.litellm_params.model_dump(exclude_none=True))
        return frozenset(one for one, its in accounts.items() if its == account)
    return frozenset(accounts) if len(set(accounts.values())) == 1 else frozenset()


def _id_of(deployment: Json) -> str:
    return str(as_object(deployment.get("model_info")).get("id") or "")


def _account(params: Json) -> tuple[str, ...]:
    return tuple(str(params.get(name) or "") for name in ACCOUNT_FIELDS)


async def respond(scope: Scope, receive: Receive, send: Send, outcome: CallOutcome) -> None:
    """Pass one request about stored responses to its provider, and the answer back.

    A request that names no deployment goes to one of its group.
    """
    group, named = header(scope, GROUP_HEADER), header(scope, DEPLOYMENT_HEADER)
    with call_outcome.outcome_in_context(outcome):
        chosen = await _choose(group, named)
        if chosen is None:
            await send_json(send, 404, GONE)
            return
        place, raw = _place(chosen), await read_body(receive) or b""
        response = await _ask(place, scope, _with_model(raw, place.model) if raw else b"")
        outcome.without_cache = True
        try:
            result = await _result(response, _id_of(chosen))
        except BaseException:
            await response.aclose()
            raise
        await send_result(result, [], outcome, scope, receive, send)


async def _choose(group: str, named: str) -> Json | None:
    """Return the deployment to ask; None if the one that is named is gone."""
    router = litellm_internals.router()
    if not named:
        chosen: Json = await router.async_get_available_deployment(model=group, request_kwargs={})
        return chosen
    account = same_account(group, named)
    found = next((one for one in router.model_list if _id_of(one) in account), None)
    exact = next((one for one in router.model_list if _id_of(one) == named and named in account), found)
    if exact is None:
        return None
    info, params = as_object(exact.get("model_info")), as_object(exact["litellm_params"])
    attempt = Attempt(group, _id_of(exact), str(params.get("model") or ""))
    attempt.provider, attempt.sent = str(info.get(PROVIDER_KEY) or ""), True
    call_outcome.record_attempt(attempt)
    return as_object(exact)


def _place(deployment: Json) -> Place:
    library, utils = litellm_internals.litellm_module(), litellm_internals.utils_module()
    params = {name: value for name, value in as_object(deployment["litellm_params"]).items() if value}
    utils.load_credentials_from_list(params)
    base = params.get("api_base") or params.get("base_url")
    model, provider, key, found_base = library.get_llm_provider(
        model=params["model"],
        custom_llm_provider=params.get("custom_llm_provider"),
        api_base=base,
        api_key=params.get("api_key"),
    )
    params |= {"api_key": key or params.get("api_key"), "api_base": base or found_base}
    config = library.ProviderConfigManager.get_provider_responses_api_config(
        provider=library.LlmProviders(provider), model=model
    )
    typed = import_module("litellm.types.router").GenericLiteLLMParams(**params)
    headers = config.validate_environment(headers={}, model=model, litellm_params=typed)
    if params.get("organization"):
        headers["OpenAI-Organization"] = str(params["organization"])
    headers |= {str(name): str(value) for name, value in as_object(params.get("extra_headers")).items()}
    url = config.get_complete_url(api_base=params["api_base"], litellm_params=params)
    timeout = params.get("timeout")
    return Place(
        str(url),
        headers,
        model,
        provider,
        float(timeout) if isinstance(timeout, int | float) else DEFAULT_TIMEOUT_S,
    )


def _with_model(raw: bytes, model: str) -> bytes:
    body = as_object(json.loads(raw))
    return json.dumps(body | {"model": model}).encode() if "model" in body else raw


async def _ask(place: Place, scope: Scope, body: bytes) -> Untyped:
    """Return the provider's response, its body unread; raise `httpx.HTTPStatusError` for an error."""
    rest = scope["raw_path"].decode("latin-1").removeprefix(PREFIX)
    query = scope.get("query_string", b"").decode("latin-1")
    return await _request(place, scope["method"], (rest, query), body)


async def _request(place: Place, method: str, target: tuple[str, str], body: bytes) -> Untyped:
    handlers = import_module("litellm.llms.custom_httpx.http_handler")
    client = handlers.get_async_httpx_client(llm_provider=place.provider).client
    address = urlsplit(place.url)
    query = "&".join(one for one in (address.query, target[1]) if one)
    url = urlunsplit(address._replace(path=f"{address.path}/{target[0]}", query=query))
    request = client.build_request(
        method, url, headers=place.headers, content=body or None, timeout=place.timeout_s
    )
    response = await client.send(request, stream=True, follow_redirects=False)
    if not response.is_success:
        await response.aread()
        response.raise_for_status()
    return response


async def count_input(group: str, body: Json) -> int | None:
    """Return the tokens of a body's input as a provider of the group counts them; None if it does not."""
    sent = {name: body[name] for name in COUNTED_FIELDS if name in body}
    try:
        chosen = await litellm_internals.router().async_get_available_deployment(
            model=group, request_kwargs={}
        )
        place = _place(chosen)._replace(timeout_s=COUNT_TIMEOUT_S)
        raw = json.dumps(sent | {"model": place.model}).encode()
        response = await _request(place, "POST", ("input_tokens", ""), raw)
        counted = as_object(json.loads(await response.aread())).get("input_tokens")
        await response.aclose()
    except Exception as error:  # noqa: BLE001 -- whatever it is, the tokenizer counts
        log_line(f"a provider does not count tokens: {type(error).__name__}")
        return None
    return counted if isinstance(counted, int) else None


async def _result(response: Untyped, deployment: str) -> Untyped:
    responses, head = import_module("starlette.responses"), {"x-litellm-model-id": deployment}
    if str(response.headers.get("content-type") or "").startswith(EVENT_STREAM):
        return responses.StreamingResponse(_events(response), headers=head, media_type=EVENT_STREAM)
    raw = await response.aread()
    await response.aclose()
    return responses.Response(raw, headers=head, media_type="application/json")


async def _events(response: Untyped) -> AsyncGenerator[bytes]:
    try:
        async for chunk in response.aiter_bytes():
            yield chunk
    finally:
        await response.aclose()


async def send_failure(send: Send, error: Exception, outcome: CallOutcome) -> None:
    """Send a provider's error, or that it could not be reached; headers say what it was."""
    outcome.set_error_if_none(error)
    headers = outcome.error_headers(configured_secrets(litellm_internals.router()))
    status = call_outcome.status_of_error(error) or 502
    body = error_body("The provider did not carry out the request.", "server_error", "provider_error")
    await send_json(send, status, body, [*headers, *outcome.headers()])
