"""Embeddings in Cohere's own format: the provider gets the caller's body, and its answer is sent as it came.

LiteLLM would send texts with one type alone, and join the vectors of all types into one list without their
names. Invariants: LiteLLM sees the model and the texts, for its log and its prices; an answer without one
vector of each type for each input is a failure; images are priced by what the price list says, else unknown.
"""

import json
from decimal import Decimal

from llm_proxy.endpoints import COHERE_BODY
from llm_proxy.json_access import Json, as_list, as_object, read_object
from llm_proxy.sidecar import catalog, litellm_internals
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.opaque_calls import UnreadableAnswerError
from llm_proxy.token_details import token_count


def prepare_request(request: Untyped, raw: bytes, outcome: CallOutcome) -> None:
    """Keep Cohere's body of a call, and show LiteLLM the rest; does nothing for any other call."""
    if COHERE_BODY.encode() not in raw:
        return
    body = read_object(raw)
    if COHERE_BODY not in body:
        return
    outcome.provider_body = as_object(body.pop(COHERE_BODY))
    litellm_internals.show_fields(request, body)


def answer_to_send(result: Untyped, outcome: CallOutcome) -> Untyped:
    """Return Cohere's answer with OpenAI's `usage`, or LiteLLM's result of any other call.

    Raises:
        UnreadableAnswerError: It has not one vector of each type for each input.
    """
    if outcome.provider_body is None or hasattr(result, "render"):
        return result
    answer = read_object(outcome.provider_answer or b"")
    if not _is_complete(answer, outcome.provider_body):
        raise UnreadableAnswerError
    billed = as_object(as_object(answer.get("meta")).get("billed_units"))
    texts, images = token_count(billed.get("input_tokens")) or 0, token_count(billed.get("image_tokens")) or 0
    usage: Json = {"prompt_tokens": texts + images, "total_tokens": texts + images}
    if images:
        usage["prompt_tokens_details"] = {"image_tokens": images}
    if billed.get("images") or images:
        outcome.states_cost = True
        outcome.stated_cost_usd = _cost_usd(billed, texts, images, outcome)
    elif not texts:
        usage = as_object(json.loads(result.usage.model_dump_json()))
    return json.dumps(answer | {"usage": usage}, ensure_ascii=False).encode()


def _is_complete(answer: Json, request: Json) -> bool:
    """Whether an answer has what was requested."""
    inputs = max(len(as_list(request.get(name))) for name in ("inputs", "texts", "images"))
    found = as_object(answer.get("embeddings"))
    wanted = as_list(request.get("embedding_types")) or ["float"]
    return all(len(as_list(found.get(kind))) == inputs > 0 for kind in wanted)


def _cost_usd(billed: Json, texts: int, images: int, outcome: CallOutcome) -> float | None:
    """Return what texts and images cost, in dollars; None where the price list does not say."""
    if not outcome.attempts:
        return None
    prices = catalog.prices_of(outcome.attempts[-1].deployment, outcome.attempts[-1].model)
    image_price, count = prices.get("input_cost_per_image_token"), images
    if image_price is None or not images:
        image_price, count = prices.get("input_cost_per_image"), token_count(billed.get("images")) or 0
    text_price = prices.get("input_cost_per_token")
    if image_price is None or not count or (texts and text_price is None):
        return None
    return float(Decimal(str(image_price)) * count + Decimal(str(text_price or 0)) * texts)
