"""Objects of JSON texts: anything else is empty, never an exception."""

import pytest

from llm_proxy.json_access import read_object


@pytest.mark.parametrize("text", ["", b"", "no json", b"\xff", "[1]", "null", "[" * 100_000])
def test_what_holds_no_object_is_empty(text: str | bytes) -> None:
    """Bytes that are no text and nesting without end too."""
    assert read_object(text) == {}


def test_an_object_is_read_from_text_and_bytes() -> None:
    """A control character in a string only where that is allowed."""
    assert read_object('{"a": [1]}') == read_object(b'{"a": [1]}') == {"a": [1]}
    assert read_object('{"a": "\n"}') == {}
    assert read_object('{"a": "\n"}', strict=False) == {"a": "\n"}
