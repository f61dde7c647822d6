"""What a call cost: as the sidecar states it, else its use at the catalog's prices.

Invariants: an unknown price makes a cost unknown, never 0; where the deployment that served is unknown, its
group's highest price counts. Units: nano-dollars, rounded up once.
"""

import orjson

from llm_proxy.dialects import BYTES_PER_TOKEN, Call
from llm_proxy.json_access import Json, as_object
from llm_proxy.money import highest_known_nano
from llm_proxy.quantities import NOTHING
from llm_proxy.upstream.catalog import Catalog, Deployment
from llm_proxy.upstream.litellm_protocol import RoutingInfo
from llm_proxy.upstream.token_usage import TokenUsage
from llm_proxy.upstream.unit_prices import tokens_cost, unit_cost


def call_cost(
    usage: TokenUsage | None, routing: RoutingInfo, catalog: Catalog | None, call: Call
) -> int | None:
    """Returns what a call cost, in nano-dollars; None when it is not known.

    The cost that was stated counts first, then the use at the prices of the deployment that served, or of
    its group (the call's when the sidecar named none). An answer from the cache costs 0.
    """
    if routing.cache == "hit":
        return 0
    if usage is not None and usage.cost_nano_usd is not None:
        return usage.cost_nano_usd
    if routing.cost_nano_usd is not None:
        return routing.cost_nano_usd
    if usage is None or catalog is None:
        return None
    behind = catalog.served_by(routing.deployment, routing.group or call.group)
    return highest_known_nano([_cost_at(one, usage, call.body) for one in behind])


def _cost_at(deployment: Deployment, usage: TokenUsage, body: Json) -> int | None:
    """Returns what a call costs at a deployment, in pico-dollars.

    Tokens count if the answer states those it wrote, and they have a price, or if nothing else was used;
    a reranker bills its search units or, without a price for them, its tokens; speech its characters or,
    without a price for them, its length.
    """
    by_tokens = _cost_of_tokens(deployment, usage)
    if usage.quantities == NOTHING or (usage.completion_tokens and by_tokens):
        return by_tokens
    by_units = unit_cost(deployment.units, usage.quantities, body)
    if by_units is None and usage.quantities.search_units:
        return by_tokens or None
    return _cost_of_speech(deployment, usage) if by_units is None else by_units


def _cost_of_speech(deployment: Deployment, usage: TokenUsage) -> int | None:
    """Returns the cost of speech by its length, and of its text by an estimate of its tokens."""
    second, input_price = deployment.units.spoken_second, deployment.input_pico_usd
    if second is None or not usage.spoken_ms:
        return None
    prompt_tokens = -(-usage.quantities.characters // BYTES_PER_TOKEN)
    return prompt_tokens * (input_price or 0) + -(-usage.spoken_ms * second // 1000)


def _cost_of_tokens(deployment: Deployment, usage: TokenUsage) -> int | None:
    units, input_price, output_price = deployment.units, deployment.input_pico_usd, deployment.output_pico_usd
    parts = as_object(orjson.loads(usage.details)) if usage.details else {}
    prompt = tokens_cost(
        usage.prompt_tokens,
        (
            (parts.get("prompt_audio_tokens", 0), units.prompt_audio_token),
            (parts.get("prompt_image_tokens", 0), units.prompt_image_token),
        ),
        input_price,
    )
    completion = tokens_cost(
        usage.completion_tokens,
        (
            (parts.get("completion_audio_tokens", 0), units.completion_audio_token),
            (parts.get("completion_image_tokens", 0), units.completion_image_token),
        ),
        output_price,
    )
    if prompt is None or completion is None:
        return None
    nothing_known = input_price is None and output_price is None and not prompt + completion
    return None if nothing_known else prompt + completion
