"""Amounts as pages show them."""

from decimal import Decimal

import pytest

from llm_proxy.console.rendering import UNKNOWN, money


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (Decimal("0E-9"), "$0"),
        (Decimal("0.000000001"), "$0.000000001"),
        (Decimal("0.043210987"), "$0.04321"),
        (Decimal("1234.567"), "$1,234.57"),
        (None, UNKNOWN),
    ],
)
def test_money_has_few_digits_and_no_exponent(amount: Decimal | None, shown: str) -> None:
    assert money(amount).striptags() == shown
