"""Which bodies are parsed and repaired before LiteLLM gets them."""

import pytest

from llm_proxy.sidecar.json_repair import needs_repair


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a":"\\ud83d"}', True),
        (b'{"a":"\\uDE00"}', True),
        (b'{"a":"\\u00e9 \\u2028 \\\\ d"}', False),
        (b'{"a":NaN}', True),
        (b'{"a":-Infinity}', True),
        (b'{"a":1e999}', True),
        (b'{"a":1.5E+400}', True),
        (b'{"a":1e99,"b":1e-400,"c":"nan, infinite, e400"}', False),
        (b"", False),
    ],
)
def test_halves_of_characters_and_numbers_without_end_are_found(raw: bytes, *, expected: bool) -> None:
    """Wherever they stand; what cannot be either is passed as it is."""
    assert needs_repair(raw) is expected
