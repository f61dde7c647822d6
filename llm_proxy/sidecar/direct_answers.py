"""A provider's good answer to a direct call: what the gateway gets, and the row of the call log.

Invariants: body, cost, headers and row are what LiteLLM's functions make of the answer: these make them, or
made those of other answers alike (`answer_template`, `flat_prices`). Headers that the gateway does not read
(the time, LiteLLM's own budgets, the provider's) are left out; an answer that LiteLLM might reject is none of
these.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from uuid import uuid4

from llm_proxy.json_access import Json, as_list, as_object, read_object
from llm_proxy.sidecar import (
    answer_bodies,
    call_outcome,
    callback,
    catalog,
    direct_internals,
    embeddings,
    flat_prices,
)
from llm_proxy.sidecar.answer_template import KnownAnswers
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.direct_requests import ProviderAnswer, RequestTemplate
from llm_proxy.sidecar.direct_templates import DirectCall
from llm_proxy.sidecar.flat_prices import PlainAnswer, PlainUsage
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.answer_headers import sendable
from llm_proxy.sidecar.patches.provider_http import record_answer
from llm_proxy.sidecar.provider_answers import CheckedResponse, check_response
from llm_proxy.sidecar.provider_errors import find_failure
from llm_proxy.sidecar.responses import HeaderList

NO_VECTORS = b'"data":[]'
FILTERED = "content_filter"
"""A finish reason at which LiteLLM's router may fall back."""
RETRY_HEADERS: Json = {"x-litellm-attempted-retries": 0, "x-litellm-attempted-fallbacks": 0}


@dataclass(frozen=True, slots=True)
class GoodAnswer:
    """An answer to be sent.

    Attributes:
        result: LiteLLM's object of the answer, or a `PlainAnswer`.
        rendered: The body, if it is made already.
        extra: LiteLLM's headers that do not depend on the cost.
        breakdown: The parts of the cost; None if they are not known.
    """

    result: Untyped
    call: DirectCall
    template: RequestTemplate
    answer: ProviderAnswer
    extra: Json
    cost_usd: float | None
    breakdown: Untyped
    started_at: datetime
    ended_at: datetime
    rendered: bytes = b""

    @property
    def provider_s(self) -> float:
        """The provider's share of the time."""
        return self.answer.provider_s

    def head(self, call_id: str, overhead_s: float) -> HeaderList:
        """Return LiteLLM's headers of the answer."""
        costs = direct_internals.cost_headers(self.cost_usd or "", self.template.pricing, self.breakdown)
        return head_of(self.template, call_id, overhead_s, costs | self.extra)

    def body(self) -> Untyped:
        """Return the answer as LiteLLM's endpoint would, or its body."""
        return self.rendered or direct_internals.answer_of_endpoint(self.result, self.call.group)

    def log(self, call_id: str, outcome: CallOutcome) -> None:
        """Count the success, and write the row of the call log."""
        direct_internals.count_success(self.template.deployment)
        with call_outcome.outcome_in_context(outcome):
            event = self._event(call_id or str(uuid4()), outcome.attempts[-1].model)
            callback.post_event(event, self.result, self.started_at, self.ended_at)

    def _event(self, call_id: str, model: str) -> Json:
        details, usage = self.template.pricing.model_call_details, getattr(self.result, "usage", None)
        return {
            "standard_logging_object": {
                "litellm_call_id": call_id,
                "status": "success",
                "stream": self.call.streams,
                "call_type": self.template.pricing.call_type,
                "custom_llm_provider": details.get("custom_llm_provider"),
                "model": model,
                "model_group": self.call.group,
                "model_id": self.template.deployment,
                "response_cost": self.cost_usd,
                "cost_breakdown": self.breakdown,
                "hidden_params": {"additional_headers": self.extra},
                "prompt_tokens": getattr(usage, "prompt_tokens", None),
                "completion_tokens": getattr(usage, "completion_tokens", None),
                "id": getattr(self.result, "id", None),
            },
            "litellm_params": self.template.pricing.litellm_params,
            "response_headers": self.answer.headers,
        }


@lru_cache(maxsize=1024)
def known_answers(group: str, deployment: str) -> KnownAnswers:  # noqa: ARG001 -- what it is kept by
    """Return what was learned of a deployment's answers to calls of a group."""
    return KnownAnswers()


def extra_headers(hidden: Json, group: str) -> Json:
    """Return LiteLLM's headers of an answer at its first attempt; of the provider's only a stated cost."""
    name, given = catalog.STATED_COST_HEADER, as_object(hidden.get("additional_headers"))
    stated = {name: given[name]} if name in given else {}
    return stated | {"x-litellm-model-group": group} | RETRY_HEADERS


def head_of(template: RequestTemplate, call_id: str, overhead_s: float, more: Json) -> HeaderList:
    """Return the headers of an answer as they are sent, without those that have no value."""
    found = {
        "x-litellm-call-id": call_id,
        "x-litellm-model-id": template.deployment,
        "x-litellm-overhead-duration-ms": round(overhead_s * 1000, 4),
        **more,
    }
    pairs = [
        (name.lower().encode("latin-1"), sendable(str(value)).encode("latin-1"))
        for name, value in found.items()
        if value not in {"", None, "None"}
    ]
    return [*template.constant_headers, *pairs]


def read_answer(
    answer: ProviderAnswer, template: RequestTemplate, call: DirectCall, outcome: CallOutcome
) -> GoodAnswer | None:
    """Return a provider's good answer; None if it is not one.

    Args:
        answer: With status 200.
        template: Of its request.
        call: The call.
        outcome: The call's record.
    """
    known = known_answers(call.group, template.deployment)
    body = known.find(answer.raw)
    found = _of_known_form(body, answer, template, call, outcome) if body is not None else None
    if found is not None:
        return found
    checked = check_response(template.path, answer.raw)
    if checked.failure is not None or checked.original is None:
        return None
    document = as_object(checked.repaired)
    if any(as_object(one).get("finish_reason") == FILTERED for one in as_list(document.get("choices"))):
        return None
    found = _priced(document, answer, template, call, outcome)
    record_answer(checked)
    return _learn(known, found, checked) if known.note_unknown(document) else found


def _of_known_form(
    body: bytes, answer: ProviderAnswer, template: RequestTemplate, call: DirectCall, outcome: CallOutcome
) -> GoodAnswer | None:
    """Return a good answer without LiteLLM's object of it; None if LiteLLM has to calculate its cost."""
    document, hidden = read_object(answer.raw), direct_internals.chat_hidden(answer.headers)
    priced = _flat_price(document, document.get("model"), template.pricing, hidden)
    if priced is None:
        return None
    call_outcome.record_response(None, states_tokens=True)
    result = PlainAnswer(document["id"], PlainUsage(document["usage"]), document.get("service_tier"))
    extra = extra_headers(hidden, call.group)
    times = outcome.attempts[-1].started_at, datetime.now(UTC)
    return GoodAnswer(result, call, template, answer, extra, *priced, *times, rendered=body)


def _learn(known: KnownAnswers, found: GoodAnswer, checked: CheckedResponse) -> GoodAnswer:
    """Learn from an answer if its form decides what is made of it; return it with its body."""
    call, template = found.call, found.template

    def body_of(result: Untyped, checked: CheckedResponse) -> bytes:
        own = CallOutcome(original=checked.original, states_tokens=checked.states_tokens)
        return answer_bodies.render_completion(direct_internals.answer_of_endpoint(result, call.group), own)

    def make(raw: bytes) -> bytes:
        checked = check_response(template.path, raw)
        document = as_object(checked.repaired)
        return body_of(direct_internals.answer_object(document, {}, template.pricing), checked)

    body = body_of(found.result, checked)
    if call_outcome.recorded_finish_reason() is None:
        known.observe(found.answer.raw, body, make)
    return replace(found, rendered=body)


def read_vectors(
    answer: ProviderAnswer, template: RequestTemplate, call: DirectCall, outcome: CallOutcome
) -> GoodAnswer | None:
    """Return a provider's good answer of embeddings, its vectors unparsed; None if it is not one.

    Args:
        answer: With status 200.
        template: Of its request.
        call: The call.
        outcome: The call's record.
    """
    inputs, raw = embeddings.count_inputs(call.content), answer.raw
    as_text = call.parameters.get("encoding_format") == embeddings.BASE64
    vectors, document = embeddings.split_vectors(raw, inputs, as_text=as_text)
    if not embeddings.is_well_formed(raw, inputs) or not vectors or find_failure(document) is not None:
        return None
    found = _priced(document, answer, template, call, outcome)
    found.result.model = call.group
    before, separator, after = found.result.model_dump_json().encode().partition(NO_VECTORS)
    if not separator:
        return None
    call_outcome.record_response(None, states_tokens=True)
    return replace(found, rendered=before + separator[:-1] + vectors + b"]" + after)


def _priced(
    document: Json, answer: ProviderAnswer, template: RequestTemplate, call: DirectCall, outcome: CallOutcome
) -> GoodAnswer:
    """Return what LiteLLM makes of an answer's document, with its cost."""
    result = direct_internals.answer_object(document, answer.headers, template.pricing)
    hidden = as_object(result._hidden_params)  # noqa: SLF001 -- where LiteLLM keeps them
    known = _flat_price(document, result.model, template.pricing, hidden)
    cost_usd, breakdown = known or direct_internals.price(result, template.pricing)
    extra = extra_headers(hidden, call.group)
    started, ended = outcome.attempts[-1].started_at, datetime.now(UTC)
    return GoodAnswer(result, call, template, answer, extra, cost_usd, breakdown, started, ended)


def _flat_price(document: Json, model: Untyped, pricing: Untyped, hidden: Json) -> tuple[float, Json] | None:
    """Return the cost of an answer, and its parts; None if LiteLLM has to calculate it."""
    if "choices" not in document:
        counts = flat_prices.plain_prompt(document.get("usage"))
        form = flat_prices.VECTORS
        return flat_prices.price_of_counts(counts, model, None, pricing, form, hidden)
    messages = [as_object(as_object(one).get("message")) for one in as_list(document["choices"])]
    tier = document.get("service_tier")
    if any(message.get("annotations") for message in messages) or not isinstance(tier, str | None):
        return None  # a citation may be of a search that is billed
    return flat_prices.price(document.get("usage"), model, tier or None, pricing, hidden)
