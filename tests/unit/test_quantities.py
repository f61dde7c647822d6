"""Usage that the sidecar states beside an answer: written, read back, and everything that is none."""

import json
from decimal import Decimal

import pytest

from llm_proxy.quantities import (
    MAX_QUANTITY,
    MAX_STATED_BYTES,
    NOTHING,
    Quantities,
    StatedUsage,
    counted_amount,
    decode_usage,
    encode_usage,
    shown_amount,
    unit_text,
)

ALL = Quantities(images=2, audio_ms=61_500, characters=4096, search_units=3)


@pytest.mark.parametrize(
    ("tokens", "quantities", "cost", "stated"),
    [
        ({}, ALL, None, StatedUsage({}, ALL)),
        ({"prompt_tokens": 7, "prompt_image_tokens": 5}, NOTHING, 0.04, None),
        ({"prompt_tokens": 0}, NOTHING, 0, StatedUsage({"prompt_tokens": 0}, NOTHING, "0")),
        ({}, Quantities(images=1), 1e-9, StatedUsage({}, Quantities(images=1), "0.000000001")),
        ({}, NOTHING, Decimal("0.0400"), StatedUsage({}, NOTHING, "0.0400")),
    ],
)
def test_what_is_written_is_read_back(
    tokens: dict[str, int], quantities: Quantities, cost: float | Decimal | None, stated: StatedUsage | None
) -> None:
    """Tokens with their parts, quantities and the cost; a cost of 0 is not an unknown one."""
    text = encode_usage(tokens, quantities, cost)
    assert "\n" not in text
    assert text.isascii()
    assert " " not in text
    assert decode_usage(text.encode()) == (stated or StatedUsage(tokens, quantities, "0.04"))


def test_a_quantity_that_is_none_is_not_written() -> None:
    """Nor a cost that is not known."""
    assert json.loads(encode_usage({"prompt_tokens": 1}, Quantities(images=1))) == {
        "prompt_tokens": 1,
        "images": 1,
    }


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b"\xff\xfe",
        b'{"images": -1}',
        b'{"images": true}',
        b'{"images": 1.0}',
        b'{"images": "1"}',
        b'{"images": NaN}',
        b'{"prompt_tokens": null, "cost": 0.04}',
        b'{"images": %d}' % (MAX_QUANTITY + 1),
        b'{"images": ' + b"9" * 4000 + b"}",
        b"[" * MAX_STATED_BYTES,
        b'{"images": 1, "x": "' + b"y" * MAX_STATED_BYTES + b'"}',
    ],
)
def test_what_states_nothing_is_unknown(text: bytes) -> None:
    """No JSON, no object, no number of units, too long: None, never 0."""
    assert decode_usage(text) is None


@pytest.mark.parametrize(
    ("counted", "unit", "text"),
    [
        (61_500, "audio_seconds", "61.5 audio seconds"),
        (3_600_000, "audio_seconds", "3,600 audio seconds"),
        (1000, "audio_seconds", "1 audio second"),
        (1, "search_units", "1 search unit"),
        (0, "images", "0 images"),
        (1200, "requests", "1,200 requests"),
    ],
)
def test_a_counted_amount_for_people(counted: int, unit: str, text: str) -> None:
    """Audio is counted in milliseconds and shown in seconds."""
    shown = shown_amount(counted, unit)
    assert unit_text(shown, unit) == text
    assert counted_amount(int(shown), unit) <= counted


def test_one_wrong_value_does_not_hide_the_others() -> None:
    """What is none is absent, each by itself."""
    stated = decode_usage(b'{"images": 2, "audio_ms": -1, "prompt_tokens": "5", "cost": 3, "other": {}}')
    assert stated == StatedUsage({}, Quantities(images=2))
