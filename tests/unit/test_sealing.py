"""Sealed tokens: what opens, and everything that must not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_proxy.sealing import Sealer, SealingKey, SegmentCipher, parse_sealing_keys
from llm_proxy.settings import Settings

OLD, NEW = SealingKey("k1", "o" * 32), SealingKey("k2", "n" * 40)
SEALER = Sealer([NEW, OLD])


@given(st.text(max_size=20), st.binary(max_size=200))
def test_a_token_opens_for_its_purpose_alone(purpose: str, payload: bytes) -> None:
    token = SEALER.seal(purpose, payload)
    assert SEALER.open(purpose, token) == payload
    assert SEALER.open(purpose + "x", token) is None
    assert re.fullmatch(r"k2\.[A-Za-z0-9_-]+", token)


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_changed_token_does_not_open(payload: bytes, data: st.DataObject) -> None:
    token = SEALER.seal("ids", payload)
    at = data.draw(st.integers(0, len(token) - 2))  # bits of the last character may be padding
    sign = data.draw(st.sampled_from("AZaz09_-.k\0é"))
    changed = token[:at] + sign + token[at + 1 :]
    assert changed == token or SEALER.open("ids", changed) is None


@pytest.mark.parametrize(
    "token", ["", "k2", "k2.", "k2.AAAA", "k9.AAAAAAAAAAAAAAAAAAAAAAAA", "k2.====", "x" * 9]
)
def test_what_is_no_token_does_not_open(token: str) -> None:
    assert SEALER.open("ids", token) is None


def test_a_token_outlives_the_exchange_of_its_key_and_not_its_removal() -> None:
    token = Sealer([OLD]).seal("ids", b"payload")
    assert SEALER.open("ids", token) == b"payload"
    assert Sealer([NEW]).open("ids", token) is None
    assert Sealer([SealingKey("k1", "another secret of that very length")]).open("ids", token) is None


def test_a_token_of_an_older_key_is_noted_when_it_opens() -> None:
    noted = list[str]()
    sealer = Sealer([NEW, OLD], lambda: noted.append("old"))
    assert sealer.open("ids", Sealer([OLD]).seal("others", b"payload")) is None
    assert sealer.open("ids", sealer.seal("ids", b"payload")) == b"payload"
    assert noted == []
    assert sealer.open("ids", Sealer([OLD]).seal("ids", b"payload")) == b"payload"
    assert noted == ["old"]


def test_equal_payloads_have_different_tokens() -> None:
    assert SEALER.seal("ids", b"payload") != SEALER.seal("ids", b"payload")


def test_keys_are_read_from_one_line() -> None:
    assert parse_sealing_keys(f" k2={'n' * 40} , k1={'o' * 32},") == (NEW, OLD)
    assert parse_sealing_keys("") == ()


@pytest.mark.parametrize(
    "text", ["x" * 40, f"={'x' * 40}", f"k_1={'x' * 40}", "k1=short", f"k1={'x' * 40},k1={'y' * 40}"]
)
def test_invalid_keys_are_rejected_without_showing_them(text: str) -> None:
    with pytest.raises(ValueError, match=r"id=secret|characters|one id") as raised:
        parse_sealing_keys(text)
    assert "x" * 40 not in str(raised.value)


def test_the_settings_take_keys_that_can_seal_and_show_no_secret() -> None:
    assert Settings.model_validate({"sealing_keys": f"k1={'x' * 32}"}).sealing_keys is not None
    assert Settings.model_validate({"sealing_keys": ""}).sealing_keys is None
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"sealing_keys": "k1=too-short-a-secret"})
    assert "fewer than 32" in str(raised.value)


def test_a_segment_opens_at_its_place_with_its_secret_and_in_its_answer_alone() -> None:
    """Nothing that was moved, changed, or sealed for another call."""
    cipher = SegmentCipher(b"key and request", "call-1")
    sealed = cipher.seal(1, b"an answer")
    assert b"answer" not in sealed
    assert SegmentCipher(b"key and request", "call-1").open(1, sealed) == b"an answer"
    assert cipher.open(0, sealed) is None
    assert cipher.open(1, sealed[:-1]) is None
    assert cipher.open(1, sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
    assert SegmentCipher(b"key and another request", "call-1").open(1, sealed) is None
    assert SegmentCipher(b"key and request", "call-2").open(1, sealed) is None
