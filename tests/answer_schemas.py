"""Schemas of JSON answers, drawn from answers that were seen; no part of a schema is left open.

A field may be null where only values were seen. A field that was never seen with a value has its type from
`VALUES` or `ITEMS`; a field that is missing there, too, is an error.
"""

from collections.abc import Iterable
from typing import Any, get_args

from running_stack import Json

from llm_proxy.identity.caller import BudgetUnit
from llm_proxy.json_access import is_array, is_object

MAPS = frozenset({"before", "after", "components", "stores", "detail", "details", "unit_prices_usd"})
"""Fields whose objects have names that are data."""
RECORDS = frozenset({"before", "after", "detail"})
"""Those of `MAPS` whose values are of every kind: what an audited action changed."""
FRACTIONS = ("_ms", "_s", "_usd", "_percent", "_share", "limit", "used", "remaining", "held", "kept")
"""Ends of names of numbers that may have a fraction."""
_KINDS: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def _object(**fields: Json) -> Json:
    return {"type": "object", "properties": fields}


def _maybe(schema: Json) -> Json:
    kinds = schema["type"] if is_array(schema["type"]) else [schema["type"]]
    return schema | {"type": sorted({*kinds, "null"})}


_TEXT: Json = {"type": "string"}
_INTEGER: Json = {"type": "integer"}
_OPTIONAL_TEXT, _OPTIONAL_INTEGER = _maybe(_TEXT), _maybe(_INTEGER)
_SPAN = _object(since=_TEXT, until=_TEXT)
_BUDGET = _object(
    period=_TEXT,
    zone=_OPTIONAL_TEXT,
    limit_usd=_OPTIONAL_TEXT,
    **dict.fromkeys(
        (f"limit_{unit}" for unit in get_args(BudgetUnit) if unit != "usd"),
        _OPTIONAL_INTEGER,
    ),
)
_REFUSED: Json = {"calls": _INTEGER, "first_at": _TEXT, "first_request_id": _TEXT}
_COUNTS: Json = {"type": "object", "additionalProperties": _INTEGER}
_LISTS = ("endpoints", "key_ancestors", "models", "tags")
ITEMS: dict[str, Json] = {
    **dict.fromkeys(("agents", "ancestors", "fallbacks", *_LISTS), _TEXT),
    "budgets": _BUDGET,
    "findings": _object(
        path=_TEXT, message=_TEXT, is_fault={"type": "boolean"}, prevents_start={"type": "boolean"}
    ),
    "guardrails": _object(name=_TEXT, modes={"type": "array", "items": _TEXT}),
    "model_calls": {"type": "object", "additionalProperties": True},
    "parts": _object(part=_TEXT, state=_TEXT, detail=_OPTIONAL_TEXT, since_s={"type": "number"}),
    "refused_by": _object(**dict.fromkeys(("code", "scope", "subject", "kind"), _OPTIONAL_TEXT), **_REFUSED),
    "refused_callers": _object(
        **dict.fromkeys(("key", "tenant", "agent", "user"), _OPTIONAL_TEXT), **_REFUSED
    ),
    "untold": _SPAN,
    "total_untold": _SPAN,
    "GET /admin/notifications data": _object(
        **dict.fromkeys(("id", "type", "timestamp"), _TEXT),
        data={"type": "object", "properties": {"message": _TEXT}, "additionalProperties": True},
        deliveries={
            "type": "array",
            "items": _object(
                webhook=_TEXT,
                attempts=_INTEGER,
                **dict.fromkeys(
                    ("delivered_at", "given_up_at", "last_failure", "next_try_at"), _OPTIONAL_TEXT
                ),
            ),
        },
    ),
    "GET /admin/refused-credentials data": _object(
        **dict.fromkeys(("at", "client_ip", "path", "prefix", "last_at"), _TEXT), times=_INTEGER
    ),
    "GET /admin/runs/quarantined data": _object(
        **dict.fromkeys(("run", "key", "tenant", "signal", "reason", "since", "until"), _TEXT),
        **dict.fromkeys(("tool", "key_name"), _OPTIONAL_TEXT),
        times=_INTEGER,
    ),
}
"""An item of a list that is never seen with one, by the field's name, or by route and name."""
_TEXTS = """
agent after channel client_request_id deployment error_class exhausted_at expires_at
first_refused_at guard_action guard_signal idle last_used_at message model note
provider provider_message reason refusal_code replay_of revoked_at run
runs_out_at searched_to session session_id tenant user user_id would_refuse
"""
_NUMBERS = """
audio_ms cache_write_tokens characters estimated_completion_tokens guard_times images
max_input_tokens max_output_tokens max_parallel_requests max_tokens max_tokens_cap parallel rpm
search_units status tpm
"""
VALUES: dict[str, Json] = {
    **dict.fromkeys(_TEXTS.split(), _TEXT),
    **dict.fromkeys(_NUMBERS.split(), _INTEGER),
    **{name: {"type": "array", "items": ITEMS[name]} for name in _LISTS},
    "cooldown": _object(until=_TEXT, status=_TEXT, sidecars=_INTEGER),
    "error": _object(status=_INTEGER, code=_OPTIONAL_TEXT, message=_TEXT, cause=_OPTIONAL_TEXT),
    "last": _object(
        began_ns=_INTEGER, done=_maybe({"type": "boolean"}), lines={"type": "array", "items": _TEXT}
    ),
    "raise": _object(
        **dict.fromkeys(("rpm", "tpm", "parallel"), _OPTIONAL_INTEGER),
        budgets={"type": "array", "items": _BUDGET},
        until=_TEXT,
    ),
    "retry_after_s": {"type": "number"},
    "token_details": _COUNTS,
}
"""A field that is never seen with a value, by its name."""


def answer_schema(route: str, values: Iterable[Any]) -> Json:
    """Returns the schema of a route's answers, whole; raises `KeyError` for a field of no known type."""
    return _whole(schema_of(values), route, "")


def _whole(schema: Json, route: str, name: str) -> Json:
    made = dict(schema)
    if "properties" in made:
        made["properties"] = {
            field: _whole(inner, route, field) if inner else _maybe(_given(VALUES, route, field))
            for field, inner in made["properties"].items()
        }
    if "items" in made:
        made["items"] = _whole(made["items"], route, name) if made["items"] else _given(ITEMS, route, name)
    return made


def _given(table: dict[str, Json], route: str, name: str) -> Json:
    found = table.get(f"{route} {name}") or table.get(name)
    if found is None:
        raise KeyError(f"'{name}' of {route} is never seen with a value: give its type in answer_schemas")
    return found


def schema_of(values: Iterable[Any], *, name: str = "", in_list: bool = False) -> Json:
    """Returns a schema that these JSON values, and others of their kind, follow; `{}` for none."""
    seen = [*values]
    kinds = {_KINDS[type(value)] for value in seen if value is not None}
    if "number" in kinds or ("integer" in kinds and name.endswith(FRACTIONS)):
        kinds = kinds - {"integer"} | {"number"}
    is_row = in_list and len(kinds) > 1  # of which any cell may be empty
    if kinds and (name or is_row):
        kinds |= {"null"}
    schema: Json = {}
    if kinds:
        schema["type"] = sorted(kinds) if len(kinds) > 1 else kinds.pop()
    if objects := [value for value in seen if is_object(value)]:
        schema |= _object_schema(objects, name=name, in_list=in_list)
    if any(is_array(value) for value in seen):
        items = [item for value in seen if is_array(value) for item in value]
        schema["items"] = schema_of(items, in_list=True) if items else {}
    return schema


def _object_schema(objects: list[Json], *, name: str, in_list: bool) -> Json:
    fields = sorted({field for one in objects for field in one})
    if not fields or name in MAPS:
        values = schema_of([value for one in objects for value in one.values()], name=name)
        return {"additionalProperties": True if name in RECORDS else values or True}
    made = {
        field: schema_of([one[field] for one in objects if field in one], name=field, in_list=in_list)
        for field in fields
    }
    needed = [] if in_list or name else [field for field in fields if all(field in one for one in objects)]
    return {"properties": made} | ({"required": needed} if needed else {})
