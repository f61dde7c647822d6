"""What images, audio, characters and searches cost at a deployment: before a call the most, after it exactly.

Pure. Invariants: tokens count where the answer states its completion's and they have a price, else the units;
a unit that was used and has no price makes the cost unknown, never 0. Units: pico-dollars a unit.
Source: the keys of LiteLLM's price list, https://docs.litellm.ai/docs/provider_registration/add_model_pricing.
"""

import re
from decimal import Decimal
from typing import NamedTuple

from llm_proxy.dialects import Call
from llm_proxy.json_access import Json, as_object
from llm_proxy.money import PICO_PER_USD, usd_to_pico
from llm_proxy.quantities import NOTHING, Quantities

MAX_UNIT_USD = 1000
SPOKEN_CHARACTERS_PER_S = 10
"""Of slow speech: the length of audio is reserved at this rate."""
IMAGE_TOKENS = 6240
"""Of OpenAI's most expensive image: reserved for an image where only its tokens have a price."""
_DEFAULT_SIZE, _DEFAULT_QUALITY = "1024x1024", "standard"
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


class UnitPrices(NamedTuple):
    """A deployment's prices beside those of plain tokens; None where it is not stated.

    Attributes:
        image: Of one image, whatever its size and quality.
        sized: Of one image by `quality/WIDTHxHEIGHT`, or by `WIDTHxHEIGHT` for any quality.
        pixel: Of one pixel of an image.
        second: Of a second of audio that is read.
        spoken_second: Of a second of speech that is made.
        query: Of one search unit.
    """

    image: int | None = None
    sized: tuple[tuple[str, int], ...] = ()
    pixel: int | None = None
    second: int | None = None
    spoken_second: int | None = None
    character: int | None = None
    query: int | None = None
    prompt_audio_token: int | None = None
    prompt_image_token: int | None = None
    completion_audio_token: int | None = None
    completion_image_token: int | None = None


NO_PRICES = UnitPrices()


def read_unit_prices(stated: Json) -> UnitPrices:
    """Returns the prices that a catalog states by LiteLLM's names, in dollars."""
    if not stated:
        return NO_PRICES
    priced = {name: usd_to_pico(value, MAX_UNIT_USD) for name, value in stated.items()}

    def first(*names: str) -> int | None:
        return next((price for name in names if (price := priced.get(name)) is not None), None)

    sized = as_object(stated.get("image_prices"))
    kinds = ((kind, usd_to_pico(price, MAX_UNIT_USD)) for kind, price in sized.items())
    return UnitPrices(
        first("input_cost_per_image", "output_cost_per_image"),
        tuple((kind, price) for kind, price in kinds if price is not None),
        first("input_cost_per_pixel"),
        priced.get("output_cost_per_second") or first("input_cost_per_second", "output_cost_per_second"),
        first("output_cost_per_second"),
        first("input_cost_per_character"),
        first("input_cost_per_query"),
        first("input_cost_per_audio_token"),
        first("input_cost_per_image_token"),
        first("output_cost_per_audio_token"),
        first("output_cost_per_image_token"),
    )


LITELLM_NAMES = {
    "image": "input_cost_per_image",
    "pixel": "input_cost_per_pixel",
    "second": "input_cost_per_second",
    "character": "input_cost_per_character",
    "query": "input_cost_per_query",
    "prompt_audio_token": "input_cost_per_audio_token",
    "prompt_image_token": "input_cost_per_image_token",
    "completion_audio_token": "output_cost_per_audio_token",
    "completion_image_token": "output_cost_per_image_token",
}
"""Prices, but for those of an image by its kind, and the name that LiteLLM's clients know."""


def stated_prices(prices: UnitPrices) -> dict[str, Decimal]:
    """Returns the known prices in dollars, by their names here; those of images by kind as `image KIND`."""
    known = {name: getattr(prices, name) for name in LITELLM_NAMES}
    known |= {f"image {kind}": price for kind, price in prices.sized}
    return {name: Decimal(price) / PICO_PER_USD for name, price in known.items() if price is not None}


def most_of_units(
    units: UnitPrices,
    tokens: tuple[int | None, int | None],
    call: Call,
    prompt_tokens: int,
    answer_tokens: int,
) -> int | None:
    """Returns the most that a call costs at a deployment, in pico-dollars; None where that is not known.

    Args:
        units: The deployment's prices.
        tokens: Its prices of plain tokens of prompt and answer.
        call: Of `OPAQUE_ENDPOINTS`.
        prompt_tokens: Its own.
        answer_tokens: As the model's latest answers had; 0 where these are not known.
    """
    used, (input_price, output_price) = call.quantities, tokens
    prompt = prompt_tokens * (input_price or 0)
    answer_tokens = answer_tokens or used.images * IMAGE_TOKENS
    costs: list[int] = []
    if input_price is not None and output_price is not None and not (used.images and units != NO_PRICES):
        costs.append(prompt + answer_tokens * output_price)
    if used != NOTHING and (by_units := unit_cost(units, used, call.body, highest=True)) is not None:
        costs.append(prompt + by_units)
    elif used.images and units.completion_image_token is not None:
        costs.append(prompt + answer_tokens * units.completion_image_token)
    elif used.characters and units.spoken_second is not None:
        costs.append(prompt + -(-used.characters // SPOKEN_CHARACTERS_PER_S) * units.spoken_second)
    return max(costs, default=None)


def unit_cost(prices: UnitPrices, used: Quantities, body: Json, *, highest: bool = False) -> int | None:
    """Returns the cost of quantities in pico-dollars; None where one that is used has no price.

    Args:
        prices: Of the deployment.
        used: At least one is above 0.
        body: The request's, with the `size` and `quality` of its images.
        highest: Where the request leaves size or quality open, count the most expensive.
    """
    image = image_price(prices, body, highest=highest) if used.images else None
    parts = (
        (used.images, image),
        (used.characters, prices.character),
        (used.search_units, prices.query),
    )
    pico = 0
    for amount, price in parts:
        if amount and price is None:
            return None
        pico += amount * (price or 0)
    if used.audio_ms:
        if prices.second is None:
            return None
        pico += -(-used.audio_ms * prices.second // 1000)
    return pico


def image_price(prices: UnitPrices, body: Json, *, highest: bool = False) -> int | None:
    """Returns the price of one image of the size and quality that a request names; see `unit_cost`."""
    size, quality = _stated(body.get("size")), _stated(body.get("quality"))
    if prices.sized:
        fitting = [price for kind, price in prices.sized if _fits(kind, size, quality)]
        if highest:
            return max(fitting or [price for _, price in prices.sized])
        named = dict(prices.sized)
        kinds = (f"{quality or _DEFAULT_QUALITY}/{size or _DEFAULT_SIZE}", size or _DEFAULT_SIZE)
        found = next((named[kind] for kind in kinds if kind in named), None)
        if found is not None:
            return found
    if prices.image is not None or prices.pixel is None:
        return prices.image
    sides = _SIZE.fullmatch(size or _DEFAULT_SIZE)
    return int(sides[1]) * int(sides[2]) * prices.pixel if sides else None


def _stated(value: object) -> str | None:
    """Returns a size or quality that a request names; None for `auto`, and where it names none."""
    return value if isinstance(value, str) and value and value != "auto" else None


def _fits(kind: str, size: str | None, quality: str | None) -> bool:
    of_quality, _, of_size = kind.rpartition("/")
    return size in (None, of_size) and (not of_quality or quality in (None, of_quality))


def tokens_cost(tokens: int, parts: tuple[tuple[int, int | None], ...], price: int | None) -> int | None:
    """Returns the cost of a side's tokens in pico-dollars; None where some have no price.

    Args:
        tokens: All of them.
        parts: Kinds of them, audio or images, with their number and their own price, where they have one.
        price: Of the others.
    """
    pico, rest = 0, tokens
    for amount, own in parts:
        if own is not None:
            counted = min(amount, rest)
            pico, rest = pico + counted * own, rest - counted
    if rest and price is None:
        return None
    return pico + rest * (price or 0)
