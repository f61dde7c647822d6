"""The format of virtual keys, and what is stored of them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.identity.virtual_keys import (
    display_prefix,
    generate_key,
    key_digest,
    lookup_from_key,
    parse_key,
)


def test_a_generated_key_has_the_format_and_a_digest() -> None:
    """Its public part finds it; its text is not stored."""
    made = generate_key()
    assert lookup_from_key(made.text.encode()) == made.lookup
    assert made.text.startswith(f"{display_prefix(made.lookup)}-")
    assert made.digest == hashlib.sha256(made.text.encode()).digest() == key_digest(made.text.encode())
    assert made.text not in repr(made)
    assert parse_key(made.text) == made


def test_no_two_keys_are_equal() -> None:
    """Neither in the public part nor in the secret one."""
    made = [generate_key() for _ in range(200)]
    assert len({one.text for one in made}) == len({one.lookup for one in made}) == 200


@given(st.integers(0, 57), st.sampled_from("0aZ"))
def test_a_mistyped_key_fails_its_checksum(at: int, letter: str) -> None:
    """Before any look-up."""
    text = generate_key().text
    typed = text[:at] + letter + text[at + 1 :]
    assert (lookup_from_key(typed.encode()) is None) is (typed != text)


@given(st.binary(max_size=120))
def test_arbitrary_bytes_are_no_key(key: bytes) -> None:
    """And raise nothing."""
    assert lookup_from_key(key) is None


@pytest.mark.parametrize("text", ["", "sk-llmp-", "sk-1234", "not a key"])
def test_a_given_key_must_have_the_format(text: str) -> None:
    """A weak one is rejected."""
    with pytest.raises(ValueError, match="not a key"):
        parse_key(text)
