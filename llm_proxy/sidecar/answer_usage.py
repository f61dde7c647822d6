"""What an answer of rerank, moderations, images or audio used and cost, stated for the gateway.

Invariants: a cost is LiteLLM's where it calculates with what the answer states, else none: it has 0 without
a price, leaves spaces out of spoken characters, prices spoken audio as text, and bills the time of the
response where it does not know the length of a recording. 0 is a cost only where every price is 0.
"""

import math
from collections.abc import Mapping
from typing import Any

from llm_proxy.endpoints import IMAGES, TRANSCRIPTS, Endpoint
from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.quantities import NOTHING, Quantities, encode_usage, quantity, usage_values
from llm_proxy.sidecar import catalog
from llm_proxy.sidecar.call_outcome import Attempt, CallOutcome
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.token_details import first_count, read_details

SPEECH: Endpoint = "audio.speech"
PROMPT_DETAILS = ("input_tokens_details", "input_token_details", "prompt_tokens_details")
COMPLETION_DETAILS = ("output_tokens_details", "completion_tokens_details")
ENDPOINT_OF_CALL: dict[str, Endpoint] = {
    "arerank": "rerank",
    "amoderation": "moderations",
    "aimage_generation": "images.generations",
    "aimage_edit": "images.edits",
    "aspeech": SPEECH,
    "atranscription": "audio.transcriptions",
}
"""LiteLLM's name of a call in its log -> the operation."""
HIDDEN = "_hidden_params"
"""LiteLLM's own values of a response object."""


def state(
    outcome: CallOutcome,
    endpoint: Endpoint,
    answer: Untyped,
    *,
    characters: int = 0,
    cost_usd: float | None = None,
) -> None:
    """Note in the call's outcome what its answer used and what it cost.

    Args:
        outcome: The call's record.
        endpoint: The operation.
        answer: LiteLLM's response object, or an answer in OpenAI's format (Cohere's for rerank).
        characters: Of the text that was spoken, spaces too.
        cost_usd: What LiteLLM calculated; by default what its response object says.
    """
    hidden = as_object(_value(answer, HIDDEN))
    tokens, quantities = tokens_of(endpoint, answer), quantities_of(endpoint, answer, characters)
    calculated = hidden.get("response_cost") if cost_usd is None else cost_usd
    is_free = bool(outcome.attempts) and _is_free(outcome.attempts[-1])
    known = bool(tokens) or quantities.audio_ms > 0
    outcome.states_cost = True
    outcome.stated_cost_usd = _known_cost(endpoint, calculated, is_free=is_free, has_length=known)
    if tokens or quantities != NOTHING:
        outcome.stated_usage = encode_usage(tokens, quantities, outcome.stated_cost_usd)


def logged_values(endpoint: Endpoint, event: Mapping[str, Any], answer: Untyped) -> Json:
    """Return what replaces LiteLLM's figures of an answer in its log: tokens and cost, None where unknown."""
    tokens, quantities = tokens_of(endpoint, answer), quantities_of(endpoint, answer)
    model = catalog.qualified_model(str(event.get("custom_llm_provider")), str(event.get("model")))
    cost_usd = _known_cost(
        endpoint,
        event.get("response_cost"),
        is_free=catalog.is_free(str(event.get("model_id")), model),
        has_length=bool(tokens) or quantities.audio_ms > 0,
    )
    counts = {name: tokens.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return {**counts, "response_cost": cost_usd}


def tokens_of(endpoint: Endpoint, answer: Untyped) -> dict[str, int]:
    """Return the tokens that an answer states, named as in `token_details`; none where it states zeros."""
    usage = _value(answer, "usage")
    if endpoint == "rerank":
        return _tokens_of_rerank(_value(answer, "meta"))
    prompt = first_count(_value(usage, "input_tokens"), _value(usage, "prompt_tokens"))
    completion = first_count(_value(usage, "output_tokens"), _value(usage, "completion_tokens"))
    if not prompt and not completion:
        return {}
    found = read_details(
        {
            "prompt_tokens_details": _details(usage, PROMPT_DETAILS),
            "completion_tokens_details": _details(usage, COMPLETION_DETAILS),
        }
    )
    tokens = {"prompt_tokens": prompt or 0, "completion_tokens": completion or 0} | found.others
    if found.cached_tokens is not None:
        tokens["cached_tokens"] = found.cached_tokens
    if completion and endpoint == SPEECH:
        tokens.setdefault("completion_audio_tokens", completion)
    if completion and endpoint in IMAGES and "completion_text_tokens" not in found.others:
        tokens.setdefault("completion_image_tokens", completion)
    return tokens


def _tokens_of_rerank(meta: Untyped) -> dict[str, int]:
    billed, counted = _value(meta, "billed_units"), _value(meta, "tokens")
    total = first_count(_value(billed, "total_tokens"), _value(counted, "input_tokens"))
    return {"prompt_tokens": total} if total else {}


def of_pictures(answer: Untyped) -> Json:
    """Return what an answer with pictures used, with LiteLLM's cost; see `usage_values`."""
    cost_usd = as_object(_value(answer, HIDDEN)).get("response_cost") or None
    used = tokens_of("images.edits", answer), quantities_of("images.edits", answer)
    return {**usage_values(*used, cost_usd)}


def quantities_of(endpoint: Endpoint, answer: Untyped, characters: int = 0) -> Quantities:
    """Return the images, audio, characters or search units of an answer, as far as it states them."""
    if endpoint == "rerank":
        units = quantity(_value(_value(_value(answer, "meta"), "billed_units"), "search_units"))
        return Quantities(search_units=units or 0)
    if endpoint in IMAGES:
        made = _value(answer, "data")
        return Quantities(images=len(as_list(made)))
    if endpoint == SPEECH:
        return Quantities(characters=quantity(characters) or 0)
    if endpoint in TRANSCRIPTS:
        return Quantities(audio_ms=_audio_ms(answer))
    return NOTHING


def _audio_ms(answer: Untyped) -> int:
    """Return a recording's length in milliseconds: as billed, as LiteLLM measured it, or as stated."""
    usage, hidden = _value(answer, "usage"), as_object(_value(answer, HIDDEN))
    billed = _value(usage, "seconds") if _value(usage, "type") == "duration" else None
    for seconds in (billed, hidden.get("audio_transcription_duration"), _value(answer, "duration")):
        try:
            audio_ms = math.ceil(round(float(seconds or 0) * 1000, 3))
        except (TypeError, ValueError, OverflowError):
            continue
        if audio_ms > 0 and quantity(audio_ms) is not None:
            return audio_ms
    return 0


def _is_free(attempt: Attempt) -> bool:
    return catalog.is_free(attempt.deployment, attempt.model)


def _known_cost(endpoint: Endpoint, calculated: object, *, is_free: bool, has_length: bool) -> float | None:
    """Return LiteLLM's figure if it is a cost; `has_length`: a recording's length or its tokens are known."""
    if is_free:
        return 0.0
    if not isinstance(calculated, int | float) or not 0 < calculated < math.inf:
        return None
    if endpoint == SPEECH or (endpoint in TRANSCRIPTS and not has_length):
        return None
    return float(calculated)


def _details(usage: Untyped, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the first object of these names, as a plain one."""
    for name in names:
        found = _value(usage, name)
        dump = getattr(found, "model_dump", None)
        parts = as_object(dump() if dump is not None else found)
        if any(parts.values()):
            return parts
    return {}


def _value(owner: Untyped, name: str) -> Untyped:
    plain = as_object(owner)
    return plain.get(name) if plain else getattr(owner, name, None)
