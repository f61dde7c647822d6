"""Where each field of a body is sent: top level, `extra_body`, or nowhere.

A field of the endpoint's schema is sent at top level. A name LiteLLM reads for itself is rejected. Any
other is for the model, inside `extra_body` or at top level as its providers need (seen with LiteLLM
1.108.6). Invariants: `extra_body` and `metadata` follow the same policy; `metadata` reaches the provider
only beside `store: true`, never LiteLLM; equal requests give equal bodies, whatever their order.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from llm_proxy.dialects.call import UNBOUNDED_TOKENS
from llm_proxy.dialects.request.kept_at_google import GOOGLE
from llm_proxy.dialects.request.litellm_reserved import IN_METADATA, OWNED, PREFIX
from llm_proxy.dialects.request.openai_schema import FIELD_ORDER, FIELDS, VALIDATE_METADATA
from llm_proxy.dialects.request.validators import Validator, shown_name, wrong_type
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json, is_object

_ALL_AT_TOP = frozenset({"anthropic", "bedrock", "bedrock_converse", "ollama", "ollama_chat"})
_IMAGES_AT_TOP = _ALL_AT_TOP | GOOGLE | {"black_forest_labs", "fal_ai", "recraft", "runwayml", "stability"}
"""Providers of images whose own fields LiteLLM places itself."""
_GEMINI_FIELDS = frozenset(
    {
        "media_resolution",
        "response_modalities",
        "safety_settings",
        "task_type",
        "thinking",
        "title",
        "top_k",
        "topK",
    }
)
"""Names LiteLLM places where Gemini expects them; others keep their form only at the root of the body."""

ONLY_IN_EXTRA_BODY_OF_OPENAI = frozenset({"metadata", "prompt_cache_retention"})
"""Published fields LiteLLM keeps for itself or drops: inside `extra_body` they reach providers."""

ONLY_IN_EXTRA_BODY = frozenset({"plugins", "priority", "session_id"})
"""Fields of OpenRouter, vLLM and SGLang that LiteLLM would read at top level: in `extra_body` alone."""

_MAX_TOKENS_FIELDS = (
    "max_output_tokens",
    "max_new_tokens",
    "max_tokens_to_sample",
    "maxOutputTokens",
    "num_predict",
    "n_predict",
)
_OPTION_OBJECTS = ("generationConfig", "generation_config", "options")


def place_extra_fields(endpoint: Endpoint, extra: Json, providers: Collection[str]) -> Json:
    """Returns the model's own fields as they are sent: names at top level, then `extra_body`, each sorted.

    Raises:
        BadRequest: A field that may only be sent inside `extra_body`, for a provider without it.
    """
    names = sorted(extra)
    at_top = _IMAGES_AT_TOP if endpoint == "images.generations" else _ALL_AT_TOP
    if not at_top.isdisjoint(providers):
        for name in ONLY_IN_EXTRA_BODY.intersection(names):
            raise BadRequest(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        return {name: extra[name] for name in names if name not in ONLY_IN_EXTRA_BODY_OF_OPENAI}
    if GOOGLE.isdisjoint(providers):
        return {"extra_body": {name: extra[name] for name in names}}
    placed = {name: extra[name] for name in names if name in _GEMINI_FIELDS}
    inside = {
        name: extra[name] for name in names if name not in _GEMINI_FIELDS | ONLY_IN_EXTRA_BODY_OF_OPENAI
    }
    return {**placed, "extra_body": inside} if inside else placed


def requested_max_tokens(extra: Json) -> int | None:
    """The completion tokens a provider's own fields request; `UNBOUNDED_TOKENS` for a value below 0."""
    holders = [extra, *(extra[name] for name in _OPTION_OBJECTS if type(extra.get(name)) is dict)]
    requested = [
        holder[name]
        for holder in holders
        for name in _MAX_TOKENS_FIELDS
        if type(holder.get(name)) in {int, float}
    ]
    return max((int(value) if value >= 0 else UNBOUNDED_TOKENS for value in requested), default=None)


OTHER_MODELS = frozenset({"models", "route", "target_model_names"})
"""Names that would make a provider answer with another model than the admitted one."""

METADATA_LABELS = frozenset(
    {
        "azure", "client", "id", "order", "organization", "priority", "prompt_id", "prompt_label",
        "prompt_version", "region_name", "roles", "session_id", "tags", "tenant_id", "workspace_id",
    }
)  # fmt: skip
"""Common tag names: LiteLLM's at top level, harmless in a map that LiteLLM never sees."""

# Where an endpoint's schema has no `stream`, as for embeddings, it is rejected.
_RESERVED = (OWNED - ONLY_IN_EXTRA_BODY) | OTHER_MODELS | {"stream", "stream_options"}
_RESERVED_IN_METADATA = (OWNED | IN_METADATA) - METADATA_LABELS
_RESERVED_PREFIXES = (PREFIX, "litellm_", "user_api_key")


SAMPLING_FIELDS = frozenset(
    {
        "frequency_penalty", "logit_bias", "logprobs", "presence_penalty", "seed", "temperature",
        "top_logprobs", "top_p",
    }
)  # fmt: skip
LENGTH_FIELDS = frozenset({"max_completion_tokens", "max_tokens"})
_BELOW_MINIMUM = frozenset({"integer_below_min_value", "decimal_below_min_value"})
_ABOVE_MAXIMUM = frozenset({"integer_above_max_value", "decimal_above_max_value"})


class PartitionedFields(NamedTuple):
    """The fields of a body, by where they are sent.

    Attributes:
        fields: The published fields.
        extra: The model's own.
        out_of_range: The error of a number outside OpenAI's ranges, where another provider may have others.
    """

    fields: Json
    extra: Json
    metadata: Json
    out_of_range: BadRequest | None = None


def partition_fields(endpoint: Endpoint, parsed: Json) -> PartitionedFields:
    """Returns the validated fields in schema order; the model's own and `metadata` apart.

    Raises:
        BadRequest: Naming the field: a wrong type or value, or a name that is LiteLLM's.
    """
    checks = FIELDS[endpoint]
    rank = FIELD_ORDER[endpoint]
    known: list[str] = []
    extra: Json = {}
    metadata: Json = {}
    for name, value in parsed.items():
        if name in rank:
            if value is not None:
                known.append(name)
        elif name == "metadata":
            metadata = VALIDATE_METADATA(value, name) if value is not None else {}
        elif name == "extra_body":
            _add_extra_body(value, rank, extra)
        else:
            _add_extra(name, value, extra, name)
    known.sort(key=rank.__getitem__)
    fields, out_of_range = _validate(known, parsed, checks)
    metadata = fields.pop("metadata", None) or metadata
    if metadata or "metadata" in parsed:
        reject_reserved_metadata(metadata)
    if metadata and fields.get("store") is True:
        extra["metadata"] = metadata
    if "prompt_cache_retention" in fields:
        extra["prompt_cache_retention"] = fields.pop("prompt_cache_retention")
    return PartitionedFields(fields, extra, metadata, out_of_range)


def _validate(
    names: Iterable[str], parsed: Json, checks: Mapping[str, Validator]
) -> tuple[Json, BadRequest | None]:
    """The values to send, and the error of one that only OpenAI's ranges forbid."""
    fields: Json = {}
    out_of_range: BadRequest | None = None
    for name in names:
        try:
            fields[name] = checks[name](parsed[name], name)
        except BadRequest as error:
            is_range_error = name in SAMPLING_FIELDS or (
                name in LENGTH_FIELDS and error.code in _BELOW_MINIMUM
            )
            if not is_range_error or error.code not in _BELOW_MINIMUM | _ABOVE_MAXIMUM:
                raise
            fields[name], out_of_range = parsed[name], out_of_range or error
    return fields, out_of_range


def reject_reserved_metadata(metadata: Json) -> None:
    """Rejects names that would control LiteLLM if it ever saw them."""
    for name in metadata:
        if name in _RESERVED_IN_METADATA or name.startswith(_RESERVED_PREFIXES):
            raise _unknown_parameter(f"metadata.{shown_name(name)}")


def reject_litellm_names(body: Json, published: frozenset[str]) -> None:
    """Rejects names LiteLLM would read as its own in a body that is sent on as it is, but for `published`."""
    for name in body:
        if name not in published and (name in _RESERVED or name.startswith(_RESERVED_PREFIXES)):
            raise _unknown_parameter(name)


def _add_extra_body(value: Any, rank: dict[str, int], extra: Json) -> None:  # noqa: ANN401 -- unchecked JSON
    if value is None:
        return
    if not is_object(value):
        raise wrong_type("extra_body", "an object", value)
    for name, item in value.items():
        path = f"extra_body.{shown_name(name)}"
        if name in rank or name in extra or name == "metadata":
            message = f"Invalid '{path}': '{shown_name(name)}' belongs at the top level, once."
            raise BadRequest(message, param=path, code="invalid_value")
        _add_extra(name, item, extra, path)


def _add_extra(name: str, value: Any, extra: Json, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
    if name in _RESERVED or name.startswith(_RESERVED_PREFIXES):
        raise _unknown_parameter(path)
    if name in extra:
        raise BadRequest(
            f"Invalid '{shown_name(name)}': given twice.", param=shown_name(name), code="invalid_value"
        )
    extra[name] = value


def _unknown_parameter(path: str) -> BadRequest:
    path = shown_name(path)
    return BadRequest(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")
