"""Builds a `Call` from a parsed body in OpenAI's schema; every dialect's `parse` ends here.

Invariants: a stream always requests its usage, `wants_usage` says whether the caller did; `body` is in
schema order, streaming and extra fields last, with the resolved model group as its `model`.
"""

from typing import Any, NamedTuple

from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import Bounds, Hints, Models
from llm_proxy.dialects.request.field_policy import UNBOUNDED, longest_asked, place, sort_fields
from llm_proxy.dialects.request.model_resolution import providers, resolve
from llm_proxy.dialects.request.openai_schema import read_messages
from llm_proxy.dialects.request.validators import missing, refused, wrong_type
from llm_proxy.endpoints import ENDPOINTS, Endpoint
from llm_proxy.errors import BadRequest, ModelNotFound
from llm_proxy.identity import NOBODY, Named, tags_from
from llm_proxy.json_access import Json

MAX_ID = 256
OPENAIS_BOUNDS = frozenset({"openai", "text-completion-openai", "azure", "azure_text"})
"""Providers that refuse a number outside of OpenAI's published bounds; others have bounds of their own."""
_NAMING = (
    ("microdao_id", "tenant"),
    ("agent_id", "agent"),
    ("session_id", "session"),
    ("channel_id", "channel"),
    ("run_id", "run"),
)
"""Whom `metadata` names, in the words of the older services."""


class Came(NamedTuple):
    """How a body came in: what the dialect knows and the fields do not say."""

    dialect: str
    door: Endpoint
    size_bytes: int
    model_optional: bool = False
    usage_told: bool = False


def compose(
    parsed: Json, came: Came, hints: Hints, models: Models, bounds: Bounds, named: Named | None = None
) -> Call:
    """The call for a body in OpenAI's vocabulary.

    Args:
        parsed: The body; it is not changed.
        came: By which dialect and door, and how large it was.
        hints: What the headers say.
        models: The catalogue.
        bounds: How much a body may hold.
        named: Whom the dialect's own fields name; by default OpenAI's `user` and `metadata` do.

    Raises:
        BadRequest: Naming the field at fault.
        ModelNotFound: Nobody serves the model.
    """
    door = came.door
    bulk_bytes = 0
    if door == "chat.completions" and parsed.get("messages") is not None:
        messages, bulk_bytes = read_messages(parsed["messages"], bounds.max_messages)
        parsed = {**parsed, "messages": messages}
    fields, extra, metadata, out_of_range = sort_fields(door, parsed)
    required = ENDPOINTS[door].required
    if required not in fields:
        raise missing(required)
    model = _model(fields, came, hints, models)
    group = resolve(model, hints.provider, models)
    served_by = _judged(out_of_range, providers(group, models)) if extra or out_of_range else frozenset[str]()
    user = fields.get("user")
    body: Json = {"model": group, **fields} if "model" not in fields else fields
    body["model"] = group
    streaming, wants_usage = _stream(body)
    if extra:
        body.update(place(extra, served_by))
    return Call(
        door=door,
        dialect=came.dialect,
        model=model,
        group=models.aliases.get(group, group),
        body=body,
        streaming=streaming,
        wants_usage=streaming and (wants_usage or came.usage_told),
        named=named or (name_caller(metadata, user) if metadata or user else NOBODY),
        max_tokens=_max_tokens(door, fields, extra),
        prompt_bytes=came.size_bytes - bulk_bytes,
        choices=max(fields.get("n", 1), fields.get("best_of", 1)),
        cache=hints.cache,
        timeout_s=hints.timeout_s,
    )


def _judged(out_of_range: BadRequest | None, served_by: frozenset[str]) -> frozenset[str]:
    """Who may serve the call; raises the refusal where one of them has OpenAI's bounds."""
    if out_of_range is not None and not OPENAIS_BOUNDS.isdisjoint(served_by):
        raise out_of_range
    return served_by


def name_caller(metadata: Json, user: str | None) -> Named:
    """Whom a body names; an id that is no short string is refused."""
    found: dict[str, str] = {}
    for key, field in _NAMING:
        value = metadata.get(key)
        if value is not None:
            found[field] = _id(value, f"metadata.{key}")
    tags = tags_from(metadata["tags"], "metadata.tags") if "tags" in metadata else ()
    return Named(user=_end_user(user) if user else None, tags=tags, **found)


def _end_user(user: str) -> str | None:
    """Our copy of OpenAI's `user`, which is any text: printable, and short enough for a record."""
    printable = user if user.isprintable() else "".join(sign for sign in user if sign.isprintable())
    return printable[:MAX_ID] or None


def _id(value: Any, path: str) -> str:  # noqa: ANN401 -- unchecked JSON
    if type(value) is not str:
        raise wrong_type(path, "a string", value)
    name: str = value.replace("\0", "")
    if not name or len(name) > MAX_ID or not name.isprintable():
        raise refused(path, f"expected 1 to {MAX_ID} printable characters.")
    return name


def _model(fields: Json, came: Came, hints: Hints, models: Models) -> str:
    model = fields.get("model")
    if model is not None:
        return str(model)
    if came.door != "embeddings":
        if came.model_optional or hints.may_omit_model:
            return models.default
        if models.default_chosen and _is_usable(models.default, hints, models):
            return models.default
    raise missing("model")


def _is_usable(model: str, hints: Hints, models: Models) -> bool:
    try:
        resolve(model, hints.provider, models)
    except ModelNotFound:
        return False
    return True


def _stream(body: Json) -> tuple[bool, bool]:
    """Make a stream ask for its usage; whether it is one, and whether the caller asked itself."""
    streaming = body.pop("stream", False) is True
    options: Json | None = body.pop("stream_options", None)
    if not streaming:
        if options is not None:
            raise refused("stream_options", "only allowed when 'stream' is true.")
        return False, False
    body["stream"] = True
    body["stream_options"] = {**(options or {}), "include_usage": True}
    return True, options is not None and options.get("include_usage") is True


def _max_tokens(door: Endpoint, fields: Json, extra: Json) -> int | None:
    """The length asked for; of a chat 0 is none, for some providers take it for no limit."""
    asked = [fields[key] for key in ("max_completion_tokens", "max_tokens") if key in fields]
    asked = asked if door == "completions" else [length for length in asked if length]
    asked = [UNBOUNDED if length < 0 else length for length in asked]
    if extra and (own := longest_asked(extra)) is not None:
        asked.append(own)
    return max(asked) if asked else None
