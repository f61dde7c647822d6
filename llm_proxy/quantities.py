"""What a call uses beside tokens (images, seconds of audio, characters, search units), and how it is stated.

Pure; used by the gateway and by the sidecar, which states the usage of an answer that the gateway does not
parse: in `USAGE_HEADER`, or in a stream's last comment. Invariants: a value that is no quantity is absent;
an absent token count, cost or statement is unknown, never 0. Units: images, milliseconds, characters.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import as_object
from llm_proxy.token_details import token_count

USAGE_HEADER = "x-llmp-usage"
"""The sidecar's header with the usage of its answer, as `encode_usage` writes it."""
USAGE_COMMENT = b": llmp-usage "
"""Begins a stream's last comment, in which the sidecar states the same."""
COST_COMMENT = b": llmp-cost "
"""Begins the comment that states the cost in dollars of a stream in a provider's own protocol."""
MAX_QUANTITY = 10**9
"""The most of one unit that one call can use."""
MAX_STATED_BYTES = 4096
_COST = "cost"


class Quantities(NamedTuple):
    """What a call uses, or asks for, beside tokens; 0 of what it has none of.

    Attributes:
        images: Images that are made.
        audio_ms: Milliseconds of audio that are written down or translated.
        characters: Characters of the text that is spoken.
        search_units: As Cohere bills reranking: one for each 100 documents begun.
    """

    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    search_units: int = 0

    def of_unit(self, unit: str) -> int:
        """Returns what a budget of a unit in `QUANTITY_OF_UNIT` counts."""
        return int(getattr(self, QUANTITY_OF_UNIT[unit]))


NOTHING = Quantities()
QUANTITY_OF_UNIT = {
    "images": "images",
    "audio_seconds": "audio_ms",
    "characters": "characters",
    "search_units": "search_units",
}
"""A budget's unit -> the quantity it counts."""
TURNS = "turns"
"""Answers of models that write: what a turn of an agent is."""
UNITS_OF_ENDPOINTS = frozenset({TURNS, *QUANTITY_OF_UNIT})
"""The units of budgets that only calls of some endpoints use."""
_UNITS: dict[Endpoint, tuple[str, ...]] = {
    "chat.completions": (TURNS,),
    "completions": (TURNS,),
    "responses": (TURNS,),
    "messages": (TURNS,),
    "generate_content": (TURNS,),
    "rerank": ("search_units",),
    "images.generations": ("images",),
    "images.edits": ("images",),
    "audio.speech": ("characters",),
    "audio.transcriptions": ("audio_seconds",),
    "audio.translations": ("audio_seconds",),
}
_THOUSANDTHS = frozenset({"audio_seconds", "seconds"})
"""Units that are counted in thousandths."""


class StatedUsage(NamedTuple):
    """What a sidecar states of an answer.

    Attributes:
        tokens: Counts by name: `prompt_tokens`, `completion_tokens`, and parts as in `token_details`.
        cost: In US dollars, as decimal text; None when LiteLLM knows no cost.
    """

    tokens: dict[str, int]
    quantities: Quantities = NOTHING
    cost: str | None = None


def units_of(endpoint: Endpoint) -> tuple[str, ...]:
    """Returns the units beside tokens that calls of an endpoint may use."""
    return _UNITS.get(endpoint, ())


def counted_amount(amount: int, unit: str) -> int:
    """Returns an amount in a budget's unit as it is counted: seconds of audio in milliseconds."""
    return amount * 1000 if unit in _THOUSANDTHS else amount


def shown_amount(counted: int, unit: str) -> float:
    """Returns a counted amount in its unit; a whole number where it is one."""
    if unit not in _THOUSANDTHS:
        return counted
    whole, rest = divmod(counted, 1000)
    return counted / 1000 if rest else whole


def unit_text(amount: float, unit: str) -> str:
    """Returns a shown amount for people: `1,200 requests`, `1 image`, `61.5 audio seconds`."""
    name = unit.replace("_", " ")
    return f"{amount:,} {name.removesuffix('s') if amount == 1 else name}"


def quantity(value: object) -> int | None:
    """Returns a number of units; None for any other value, and above `MAX_QUANTITY`."""
    return value if type(value) is int and 0 <= value <= MAX_QUANTITY else None


def encode_usage(
    tokens: Mapping[str, int], quantities: Quantities = NOTHING, cost_usd: float | Decimal | None = None
) -> str:
    """Returns the value of `USAGE_HEADER`: `usage_values` as compact JSON, ASCII, one line."""
    return json.dumps(usage_values(tokens, quantities, cost_usd), separators=(",", ":"))


def usage_values(
    tokens: Mapping[str, int], quantities: Quantities = NOTHING, cost_usd: float | Decimal | None = None
) -> dict[str, int | str]:
    """Returns what is stated of an answer, by name; what is 0 or unknown is absent.

    Args:
        tokens: See `StatedUsage`.
        quantities: What was used beside tokens.
        cost_usd: None when it is not known.
    """
    stated: dict[str, int | str] = {**tokens}
    stated |= {name: value for name, value in quantities._asdict().items() if value}
    if cost_usd is not None:
        stated[_COST] = format(Decimal(str(cost_usd)), "f")
    return stated


def usage_comment(stated: str | None) -> bytes:
    """Returns the last comment of a stream with what `encode_usage` wrote; no bytes for None."""
    return USAGE_COMMENT + stated.encode() + b"\n\n" if stated is not None else b""


def decode_usage(text: bytes) -> StatedUsage | None:
    """Returns what `encode_usage` wrote; None for what is no JSON object, or states nothing that can be."""
    try:
        stated = as_object(json.loads(text)) if len(text) <= MAX_STATED_BYTES else {}
    except (ValueError, RecursionError):
        return None
    used = {name: units for name in Quantities._fields if (units := quantity(stated.get(name))) is not None}
    tokens = {
        name: count
        for name, value in stated.items()
        if name.endswith("_tokens") and (count := token_count(value)) is not None
    }
    cost = stated.get(_COST)
    found = StatedUsage(tokens, Quantities(**used), cost if isinstance(cost, str) else None)
    return found if tokens or used or found.cost is not None else None
