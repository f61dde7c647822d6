"""The success event of a cache hit, with `cache_hit: true`, for the call log and the operator's callbacks.

Invariants: one event a hit, after the answer was sent; a hit that only the call log receives is a row and no
event.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.call_log import CallLog, ServedBy, row_of_hit
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.responses import CALL_ID_HEADER, HeaderList, Scope, request_header

TEXT_FIELDS = ("content", "refusal", "reasoning_content", "reasoning")


class CacheHit(NamedTuple):
    """One replayed answer.

    Attributes:
        body: The call.
        usage: The usage object of the answer.
        received_at_s: When the call came in, in seconds since the epoch.
        head: The stored headers' lines, which say who served it.
        read_response: Returns the answer: a JSON object or a stream's frames.
    """

    body: Json
    usage: Json
    received_at_s: float
    head: bytes
    read_response: Callable[[], bytes]


ReportHit = Callable[[CacheHit, Scope], None]
"""Emits the event of a hit; takes the call's ASGI scope."""


def headers_in(head: bytes) -> HeaderList:
    """Return the headers in the lines of a head."""
    pairs = (line.partition(b": ") for line in head.split(b"\r\n") if line)
    return [(name, value) for name, _, value in pairs]


def hit_reporter(call_log: CallLog | None, *, observed: bool) -> ReportHit:
    """Return the function that reports hits.

    Args:
        call_log: The call log; None without one.
        observed: Whether the operator has callbacks; then the event passes through LiteLLM's logging.
    """

    def report(hit: CacheHit, scope: Scope) -> None:
        if observed and scope["path"].endswith("/completions"):  # LiteLLM's event holds OpenAI's form
            event = _emit_litellm_event(call_log, hit, scope)
            litellm_internals.logging_worker().ensure_initialized_and_enqueue(async_coroutine=event)
        elif call_log is not None:
            _log_hit(call_log, hit, scope)

    return report


def _served_by(headers: Mapping[bytes, bytes]) -> ServedBy:
    deployment, name, group = (_name_in(headers, one) for one in ROUTING_HEADERS)
    return ServedBy(group, deployment, *_split_model(name))


ROUTING_HEADERS = (b"x-litellm-model-id", b"x-litellm-model-name", b"x-litellm-model-group")


def _name_in(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("utf-8", "replace")


def _log_hit(call_log: CallLog, hit: CacheHit, scope: Scope) -> None:
    call_id = request_header(scope, CALL_ID_HEADER)
    if call_id:
        served = _served_by(dict(headers_in(hit.head)))
        call_log.post(row_of_hit(call_id, served, hit.usage, hit.received_at_s))


async def _emit_litellm_event(call_log: CallLog | None, hit: CacheHit, scope: Scope) -> None:
    """Emit the event as LiteLLM does for its own hits; if that fails, write it to the call log."""
    started = datetime.fromtimestamp(hit.received_at_s)  # noqa: DTZ006 -- LiteLLM's clock
    try:
        log, result = await _build_event(hit, scope)
    except Exception:
        if call_log is not None:
            _log_hit(call_log, hit, scope)
        raise
    ended = datetime.now()  # noqa: DTZ005 -- LiteLLM's clock
    await log.async_success_handler(result=result, start_time=started, end_time=ended, cache_hit=True)
    log.handle_sync_success_callbacks_for_async_calls(
        result=result, start_time=started, end_time=ended, cache_hit=True
    )


async def _build_event(hit: CacheHit, scope: Scope) -> tuple[Untyped, Untyped]:
    """Return LiteLLM's logging object of the call, and its response object."""
    chat = scope["path"].endswith("/chat/completions")
    data, log = await _prepare_call(hit, scope, "acompletion" if chat else "atext_completion")
    headers = dict(headers_in(hit.head))
    served, name = _served_by(headers), _name_in(headers, b"x-litellm-model-name")
    of_router = {"model_group": served.group, "model_info": {"id": served.deployment}}
    metadata = {**as_object(data.get("metadata")), **of_router, "deployment": name}
    params = {"metadata": metadata, "proxy_server_request": data.get("proxy_server_request")}
    log.update_environment_variables(
        model=served.model,
        user=data.get("user"),
        optional_params={},
        litellm_params=params | of_router | {"custom_llm_provider": served.provider, "api_base": ""},
        input=data.get("messages") or data.get("prompt") or "",
        stream=hit.body.get("stream") is True,
        custom_llm_provider=served.provider,
    )
    log.caching_details = {"cache_hit": True, "cache_duration_ms": None}
    answer = await asyncio.to_thread(lambda: parse_stored_response(hit.read_response()))
    return log, _litellm_response(answer, "ModelResponse" if chat else "TextCompletionResponse")


class ProxyLoggingWithoutHooks:
    """LiteLLM's proxy logging without its pre-call hook, for a call that is answered already."""

    def __init__(self, runner: Untyped) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> Untyped:
        """Return any other attribute of the wrapped object."""
        return getattr(self._runner, name)

    async def pre_call_hook(self, *, data: Json, **_: object) -> Json:
        """Return the call unchanged."""
        return data


async def _prepare_call(hit: CacheHit, scope: Scope, route: str) -> tuple[Json, Untyped]:
    proxy = litellm_internals.proxy_module()
    scope["app"] = proxy.app
    body = {**hit.body, "metadata": dict(as_object(hit.body.get("metadata")))}
    data, log = await litellm_internals.request_processing_class()(
        data=body
    ).common_processing_pre_call_logic(
        request=proxy.Request(scope),
        general_settings=proxy.general_settings,
        user_api_key_dict=litellm_internals.gateway_user(scope["path"]),
        version=proxy.version,
        proxy_logging_obj=ProxyLoggingWithoutHooks(proxy.proxy_logging_obj),
        proxy_config=proxy.proxy_config,
        route_type=route,
        llm_router=proxy.llm_router,
    )
    return as_object(data), log


def _litellm_response(answer: Json, kind: str) -> Untyped:
    """Return LiteLLM's response object; without fields its types reject, such as images without an index."""
    response = getattr(litellm_internals.litellm_module(), kind)
    try:
        return response(**answer)
    except (AttributeError, KeyError, TypeError, ValueError):
        for choice in map(as_object, as_list(answer.get("choices"))):
            message = as_object(choice.get("message"))
            choice["message"] = {"role": "assistant", "content": message.get("content")}
        return response(**answer)


def _split_model(name: str) -> tuple[str, str]:
    provider, _, model = name.partition("/")
    return (provider, model) if model else ("", provider)


def parse_stored_response(raw: bytes) -> Json:
    """Return a stored answer as one object; a stream's frames are joined."""
    if not raw.startswith(b"data:"):
        return as_object(json.loads(raw))
    answer: Json = {}
    choices: dict[int, Json] = {}
    for line in raw.split(b"\n"):
        if line.startswith(b"data: {"):
            chunk = as_object(json.loads(line[6:]))
            answer |= {name: value for name, value in chunk.items() if value is not None}
            for choice in map(as_object, as_list(chunk.get("choices"))):
                at = choice.get("index") or 0
                _add_chunk_choice(
                    choices.setdefault(at, {"index": at, "texts": {}, "rest": {}, "calls": {}}), choice
                )
    chat = answer.get("object") != "text_completion"
    answer["choices"] = [_join_choice(choices[at], chat=chat) for at in sorted(choices)]
    return answer | {"object": "chat.completion" if chat else "text_completion"}


def _add_chunk_choice(joined: Json, choice: Json) -> None:
    delta = as_object(choice.get("delta"))
    for name, value in [*delta.items(), ("text", choice.get("text"))]:
        if isinstance(value, str) and name in {*TEXT_FIELDS, "text"}:
            joined["texts"].setdefault(name, []).append(value)
        elif name == "tool_calls":
            for call in map(as_object, as_list(value)):
                kept = joined["calls"].setdefault(call.get("index") or 0, {"function": {}, "arguments": []})
                function = as_object(call.get("function"))
                kept["arguments"].append(str(function.get("arguments") or ""))
                kept["function"] |= {key: text for key, text in function.items() if text}
                kept |= {key: text for key, text in call.items() if key != "function" and text}
        elif value is not None:
            joined["rest"][name] = value
    if choice.get("finish_reason"):
        joined["finish_reason"] = choice["finish_reason"]


def _join_choice(joined: Json, *, chat: bool) -> Json:
    texts = {name: "".join(pieces) for name, pieces in joined["texts"].items()}
    choice: Json = {"index": joined["index"], "finish_reason": joined.get("finish_reason")}
    if not chat:
        return choice | texts
    message: Json = {"role": "assistant", "content": None, **joined["rest"], **texts}
    calls = [joined["calls"][at] for at in sorted(joined["calls"])]
    for call in calls:
        call["function"]["arguments"] = "".join(call.pop("arguments"))
    return choice | {"message": message | ({"tool_calls": calls} if calls else {})}
