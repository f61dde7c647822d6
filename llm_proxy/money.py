"""Money: conversions between dollars, nano-dollars and pico-dollars, and what tokens cost.

Pure. Invariants: integers only; a cost is rounded up, once; what is not stated is None, never 0.
Units: amounts in nano-dollars, prices in pico-dollars per token (one token may cost less than a nano-dollar).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

NANO_PER_USD = 10**9
PICO_PER_USD = 10**12
PICO_PER_NANO = 1000
PICO_PER_USD_PER_MILLION = 10**6
"""A price of one dollar per million tokens, in pico-dollars per token."""
MAX_CALL_USD = 10**5
_EXACT = Decimal("1e-4")
"""Of a nano-dollar: finer than any price list, coarser than a float's error below ten thousand dollars."""


@dataclass(frozen=True, slots=True)
class Price:
    """The highest prices of a model group's deployments, and how much they write by themselves.

    Attributes:
        input_pico_usd: Per prompt token.
        output_pico_usd: Per completion token.
        max_output_tokens: The most completion tokens a deployment writes; None when it is not stated.
    """

    input_pico_usd: int
    output_pico_usd: int
    max_output_tokens: int | None = None


def cost_nano_usd(price: Price, prompt_tokens: int, completion_tokens: int) -> int:
    """Returns the cost of a number of tokens, rounded up."""
    return pico_to_nano(price.input_pico_usd * prompt_tokens + price.output_pico_usd * completion_tokens)


def pico_to_nano(pico_usd: int) -> int:
    """Pico-dollars in nano-dollars, rounded up."""
    return -(-pico_usd // PICO_PER_NANO)


def highest_known_nano(pico_usd: Sequence[int | None]) -> int | None:
    """The highest of costs in pico-dollars, in nano-dollars; None where one is unknown, or there is none."""
    known = [one for one in pico_usd if one is not None]
    return pico_to_nano(max(known)) if known and len(known) == len(pico_usd) else None


def usd_to_nano(dollars: object) -> int | None:
    """Returns a call's cost in dollars, as text or number, in nano-dollars; None for what is no such cost.

    Rounded up by way of the decimal text without its last digits, which are a float's noise and no money.
    """
    if dollars is None or isinstance(dollars, bool):
        return None
    try:
        amount = Decimal(str(dollars))
        if not 0 <= amount <= MAX_CALL_USD:
            return None
        return int((amount * NANO_PER_USD).quantize(_EXACT).to_integral_value(ROUND_CEILING))
    except (ArithmeticError, ValueError):
        return None


def usd_to_pico(dollars: object, max_usd: int = 1) -> int | None:
    """A price in dollars per unit, in pico-dollars, rounded; None unless it is from 0 to `max_usd`."""
    if dollars is None:
        return None
    try:
        price = Decimal(str(dollars))
        return int((price * PICO_PER_USD).to_integral_value()) if 0 <= price <= max_usd else None
    except (ArithmeticError, ValueError):
        return None


def nano_to_usd(nano_usd: int) -> Decimal:
    """Nano-dollars in dollars, exactly."""
    return Decimal(nano_usd) / NANO_PER_USD


def usd_text(nano_usd: int | None) -> str | None:
    """Nano-dollars as dollars with nine decimals, as JSON documents have them; None stays None."""
    return None if nano_usd is None else f"{nano_usd // NANO_PER_USD}.{nano_usd % NANO_PER_USD:09d}"


def format_usd(nano_usd: int) -> str:
    """Returns an amount for people, exactly: `$0.20`, `$0.000001`."""
    whole, rest = divmod(nano_usd, NANO_PER_USD)
    return f"${whole:,}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"


def format_usd_rounded_up(nano_usd: int) -> str:
    """Returns an amount for people, rounded up: below a dollar to two digits, above to cents."""
    step = 10 ** max(0, len(str(nano_usd)) - 2) if nano_usd < NANO_PER_USD else NANO_PER_USD // 100
    return format_usd(-(-nano_usd // step) * step)
