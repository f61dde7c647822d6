"""A deployment's prices for images, audio, characters, queries and tokens of these kinds, for the catalog.

Invariants: a deployment's own prices win over published ones; prices are decimal strings in USD per unit; a
price that is not stated is absent. Published prices by size and quality have names like
`hd/1024-x-1792/azure/dall-e-3`, in several orders of their parts.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from llm_proxy.json_access import Json
from llm_proxy.sidecar import litellm_internals

IMAGE_PRICES = ("input_cost_per_image", "output_cost_per_image", "input_cost_per_pixel")
"""In LiteLLM's order: the first that is stated counts."""
UNIT_PRICES = (
    *IMAGE_PRICES,
    "input_cost_per_query",
    "input_cost_per_second",
    "output_cost_per_second",
    "input_cost_per_character",
    "input_cost_per_audio_token",
    "output_cost_per_audio_token",
    "input_cost_per_image_token",
    "output_cost_per_image_token",
)
IMAGE_MODES = frozenset({"image_generation", "image_edit"})
SIZED = "image_prices"
_SIZE = re.compile(r"(?P<width>[0-9]{2,5})-x-(?P<height>[0-9]{2,5})")


def unit_prices(known: Json, own: Json, provider: str | None, model: str) -> Json:
    """Return a deployment's prices by LiteLLM's names, and `SIZED`: those of an image by quality and size.

    Args:
        known: Published values, overridden by the deployment's own.
        own: What the deployment itself states.
        provider: The provider whose protocol it speaks.
        model: The model's name at the provider.
    """
    states_images = any(own.get(name) is not None for name in IMAGE_PRICES)
    names = [one for one in UNIT_PRICES if one in own or not (states_images and one in IMAGE_PRICES)]
    prices: Json = {name: text for name in names if (text := decimal_text(known.get(name))) is not None}
    if not states_images and known.get("mode") in IMAGE_MODES and (sized := _sized(provider, model)):
        prices[SIZED] = sized
    return prices


def _sized(provider: str | None, model: str) -> dict[str, str]:
    """Return the published prices of one image: `high/1024x1024`, or `1024x1024` for any quality."""
    entries: Mapping[str, Mapping[str, Any]] = litellm_internals.litellm_module().model_cost
    found: dict[str, str] = {}
    for name, entry in entries.items():
        if "-x-" not in name or not name.endswith(f"/{model}") or entry.get("litellm_provider") != provider:
            continue
        *before, size = name.removesuffix(f"/{model}").removeprefix(f"{provider}/").split("/")
        sides = _SIZE.fullmatch(size)
        price = _image_price(entry, sides) if sides else None
        if sides and price is not None and len(before) <= 1:
            found["/".join([*before, f"{sides['width']}x{sides['height']}"])] = price
    return found


def _image_price(entry: Mapping[str, Any], sides: re.Match[str]) -> str | None:
    stated = next((name for name in IMAGE_PRICES if entry.get(name) is not None), None)
    if stated is None:
        return None
    pixels = int(sides["width"]) * int(sides["height"]) if stated.endswith("pixel") else 1
    return format(Decimal(str(entry[stated])) * pixels, "f")


def decimal_text(value: object) -> str | None:
    """Return a price as decimal text; None for what is no price."""
    if value is None or isinstance(value, bool | dict | list):
        return None
    try:
        price = Decimal(str(value))
        return format(price.normalize(), "f") if price.is_finite() else None
    except ArithmeticError:
        return None
