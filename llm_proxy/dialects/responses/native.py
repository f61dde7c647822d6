"""Responses that a provider makes and keeps: one that is created, and everything that is done with it later.

Pure. Invariants: an id of ours is opened before anything is sent, and the provider's own takes its place; no
other id is sent; the owner is checked by whoever knows the caller. Without a key to seal ids nothing is
stored. Source: https://platform.openai.com/docs/api-reference/responses.
"""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from llm_proxy.dialects.call import Call, Operation
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.request import ParseContext
from llm_proxy.dialects.request.native_call import build_native_call
from llm_proxy.dialects.request.validators import invalid, shown_name
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.dialects.response_ids import (
    PREVIOUS,
    ResponseIds,
    ResponseRef,
    response_not_found,
)
from llm_proxy.dialects.responses.schema import item_type
from llm_proxy.errors import BadRequest, model_not_found
from llm_proxy.identity import Caller
from llm_proxy.json_access import Json, as_objects, is_array

STORED_PATH = "/v1/responses/"
MAX_QUERY_CHARS = 4096
MAX_LISTED = 100
"""Items of a page."""
_LISTED = ("after", "before", "include", "limit", "order")
_IGNORED = frozenset({"api-version"})
"""Azure's clients send it; a deployment has its own."""
_NEED_STORE = ("background", PREVIOUS)


class StoredOperation(NamedTuple):
    """Something that is done with a stored response.

    Attributes:
        method: The HTTP method.
        suffix: What follows the id in the path.
        parameters: The query parameters that the provider gets.
        summary: One line for the OpenAPI page.
    """

    method: str
    suffix: str
    parameters: tuple[str, ...]
    summary: str


OPERATIONS: tuple[StoredOperation, ...] = (
    StoredOperation(
        "GET",
        "",
        ("include", "include_obfuscation", "starting_after", "stream"),
        "Return a stored response, whole or streamed.",
    ),
    StoredOperation("DELETE", "", (), "Delete a stored response."),
    StoredOperation("POST", "/cancel", (), "Cancel a response that is made in the background."),
    StoredOperation("GET", "/input_items", _LISTED, "List the input of a stored response, by pages."),
)


def native_response(
    checked: Json,
    context: ParseContext,
    options: RequestOptions,
    models: ModelIndex,
    limits: BodyLimits,
    ids: ResponseIds,
) -> Call:
    """Returns the call that makes a response at its provider.

    Raises:
        BadRequest: Naming the field at fault, or what cannot be stored without a key.
        NotFound: `previous_response_id` is no id of ours.
    """
    _require_key(checked, ids)
    if checked.get("conversation"):
        raise BadRequest(
            "'conversation' is not supported: every caller who knows a conversation's id could read it. "
            "Use 'previous_response_id'.",
            param="conversation",
            code="unsupported_parameter",
        )
    checked, items, pinned = open_items(checked, ids)
    previous: object = checked.get(PREVIOUS)
    if type(previous) is not str:
        call = build_native_call(checked, context, options, models, limits)
        return call._replace(response=pinned, items=items)
    ref = ids.open(previous, PREVIOUS)
    if not ref.deployment:
        raise BadRequest(
            "'previous_response_id' names a response that the gateway stores, and that this model's provider "
            "cannot read. Use the model that made it, or send the conversation so far in 'input'.",
            param=PREVIOUS,
            code="previous_response_not_found",
        )
    call = build_native_call({**checked, PREVIOUS: ref.own_id}, context, options, models, limits)
    return call._replace(response=ref, items=items)


def open_items(checked: Json, ids: ResponseIds) -> tuple[Json, tuple[ResponseRef, ...], ResponseRef | None]:
    """Returns a body with the provider's own ids of items, the items, and the first that only it knows.

    Raises `NotFound` for an item that only a provider knows and whose id is none of ours.
    """
    given = checked.get("input")
    if not is_array(given):
        return checked, (), None
    opened: list[ResponseRef] = []
    pinned: ResponseRef | None = None
    sent: list[object] = []
    for at, item in enumerate(as_objects(given)):
        name = "approval_request_id" if item.get("type") == "mcp_approval_response" else "id"
        token: object = item.get(name)
        ref = ids.open_item(token) if isinstance(token, str) else None
        if _is_kept(item) and isinstance(token, str):
            if ref is None:
                raise response_not_found(token, f"input[{at}].{name}")
            pinned = pinned or (ref if ref.deployment else None)
        if ref is not None:
            opened.append(ref)
        sent.append(item if ref is None else {**item, name: ref.own_id})
    return ({**checked, "input": sent} if opened else checked), tuple(opened), pinned


def _is_kept(item: Json) -> bool:
    """Whether the provider reads an item from its own store, not from the body alone."""
    kind = item_type(item)
    if kind == "reasoning":
        return not item.get("encrypted_content")
    if kind == "image_generation_call":
        return not item.get("result")
    return kind in {"item_reference", "mcp_approval_response"}


def _require_key(body: Json, ids: ResponseIds) -> None:
    if ids.can_seal:
        return
    named = next((name for name in _NEED_STORE if body.get(name)), None)
    if named is None and body.get("store") is False:
        return
    raise BadRequest(
        "This gateway has no key to seal the ids of stored responses (LLM_PROXY__SEALING_KEYS). "
        "Set 'store' to false and send the conversation so far in 'input'.",
        param=named or "store",
        code="unsupported_parameter",
    )


def stored_operation(
    operation: StoredOperation, token: str, query: str, models: ModelIndex, ids: ResponseIds
) -> Call:
    """Returns the call about one stored response; the owner and the group are not checked yet.

    Args:
        operation: What is done.
        token: The id as it stands in the path.
        query: The query as it was sent.
        models: The names of the catalog.
        ids: Opens the id.

    Raises:
        NotFound: It is no id of ours, or its group is gone.
        BadRequest: A query parameter is unknown or invalid.
    """
    ref = ids.open(unquote(token), "id")
    if ref.deployment and not models.speaks_natively(models.resolved(ref.group), "responses"):
        raise response_not_found(ref.token, "id")
    named = query_parameters(query, operation.parameters)
    if not ref.deployment and ("stream", "true") in named:
        raise invalid("stream", "only a response that its provider stores can be streamed again.")
    path = f"{STORED_PATH}{quote(ref.own_id, safe='')}{operation.suffix}"
    sent = [pair for pair in named if pair[0] != "stream" or pair[1] == "true"]
    resumes = any(name == "starting_after" for name, _ in sent)
    return Call(
        endpoint="responses",
        dialect="responses",
        model=ref.group,
        group=ref.group,
        body={},
        streaming=("stream", "true") in named,
        max_tokens=0,
        response=ref,
        operation=Operation(operation.method, f"{path}?{urlencode(sent)}" if sent else path, resumes=resumes),
    )


def require_own(call: Call, caller: Caller, models: ModelIndex) -> None:
    """Checks that the response a call is about is the caller's, and its model still is.

    Raises:
        NotFound: It is another caller's.
        ModelNotFound: The caller may no longer use its group.
    """
    for item in call.items:
        if not item.belongs_to(caller):
            raise response_not_found(item.token, "input")
    if call.response is None:
        return
    if not call.response.belongs_to(caller):
        created = call.operation is None or not call.operation.is_free
        raise response_not_found(call.response.token, PREVIOUS if created else "id")
    if not models.is_allowed(models.resolved(call.group)):
        raise model_not_found(call.group)


def query_parameters(query: str, allowed: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns the parameters of a query, lists (`include[]`) under their plain name; raises `BadRequest`."""
    if len(query) > MAX_QUERY_CHARS:
        raise BadRequest("The query is too long.", code="invalid_value")
    found = [
        (name.removesuffix("[]"), value)
        for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=None)
        if name not in _IGNORED
    ]
    for name, value in found:
        if name not in allowed:
            shown = shown_name(name)
            raise BadRequest(f"Unknown parameter: '{shown}'.", param=shown, code="unknown_parameter")
        reason = _fault(name, value)
        if reason is not None:
            raise invalid(name, reason, "invalid_value")
    return [(f"{name}[]" if name == "include" else name, value) for name, value in found]


def _fault(name: str, value: str) -> str | None:
    expected: Mapping[str, tuple[str, ...]] = {
        "stream": ("true", "false"),
        "include_obfuscation": ("true", "false"),
        "order": ("asc", "desc"),
    }
    if name in expected and value not in expected[name]:
        return f"expected one of {', '.join(expected[name])}."
    whole = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else -1
    if name == "limit" and not 1 <= whole <= MAX_LISTED:
        return f"expected an integer from 1 to {MAX_LISTED}."
    return "expected an integer of at least 0." if name == "starting_after" and whole < 0 else None
