"""Money: conversions, costs, and amounts as people read them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.money import Price, cost_nano_usd, format_usd, format_usd_rounded_up, usd_to_nano

counts = st.integers(0, 10_000_000)


@given(st.integers(0, 10**12), st.integers(0, 10**12), counts, counts)
def test_a_cost_is_rounded_up_to_a_nano_dollar_and_no_further(
    input_pico: int, output_pico: int, prompt: int, completion: int
) -> None:
    """Never less than the truth, never a whole nano-dollar more."""
    exact = Fraction(input_pico * prompt + output_pico * completion, 1000)
    cost = cost_nano_usd(Price(input_pico, output_pico), prompt, completion)
    assert exact <= cost < exact + 1


@pytest.mark.parametrize(
    ("dollars", "nano"),
    [(6.300000000000001e-05, 63_000), (8.730000000000001e-04, 873_000), (1.25e-08, 13), (0.0, 0), (1e-13, 1)],
)
def test_a_cost_is_rounded_up_without_the_noise_of_a_float(dollars: float, nano: int) -> None:
    """What a float adds in its sixteenth digit costs nobody a nano-dollar."""
    assert usd_to_nano(dollars) == nano


@pytest.mark.parametrize(
    ("nano_usd", "exact", "rounded"),
    [
        (0, "$0.00", "$0.00"),
        (1, "$0.000000001", "$0.000000001"),
        (123_456, "$0.000123456", "$0.00013"),
        (999_999_999, "$0.999999999", "$1.00"),
        (1_234_567_890, "$1.23456789", "$1.24"),
        (1_500_000_000_000, "$1,500.00", "$1,500.00"),
    ],
)
def test_amounts_are_formatted_exactly_or_rounded_up(nano_usd: int, exact: str, rounded: str) -> None:
    """A rounded amount is never less."""
    assert (format_usd(nano_usd), format_usd_rounded_up(nano_usd)) == (exact, rounded)
