"""Which of the gateway's keys a sidecar gets while they are exchanged."""

import pytest

from llm_proxy.upstream.sidecar_keys import TRY_FIRST_EVERY_S, SidecarKeys, is_refusal_of_key

ONE, OTHER = "http://one", "http://other"


def test_a_sidecar_that_refuses_the_first_key_gets_the_next_and_later_the_first_again() -> None:
    """Each sidecar for itself; calls with the old key are counted."""
    now_s, old_uses = [0.0], list[str]()
    keys = SidecarKeys(("new", "old"), lambda: old_uses.append(""), lambda: now_s[0])
    assert keys.may_change
    assert keys.key_for(ONE) == "new"
    keys.note_call(ONE)
    assert keys.next_after(ONE, ["new"]) == "old"
    keys.note_call(ONE)
    assert (keys.key_for(ONE), keys.key_for(OTHER)) == ("old", "new")
    assert len(old_uses) == 1
    now_s[0] = TRY_FIRST_EVERY_S
    assert keys.key_for(ONE) == "new"


def test_a_sidecar_that_refuses_every_key_is_asked_with_each_once() -> None:
    """Then the first is its key again."""
    keys = SidecarKeys(("new", "old"))
    assert keys.next_after(ONE, ["new"]) == "old"
    assert keys.next_after(ONE, ["new", "old"]) is None
    assert keys.key_for(ONE) == "new"


@pytest.mark.parametrize(("keys", "sent"), [((), None), (("one",), "one")])
def test_without_another_key_nothing_is_tried(keys: tuple[str, ...], sent: str | None) -> None:
    """As before there were several."""
    found = SidecarKeys(keys)
    assert (found.may_change, found.key_for(ONE)) == (False, sent)


@pytest.mark.parametrize(
    ("headers", "body", "refused"),
    [
        ({b"x-llmp-key": b"refused"}, b"", True),
        ({}, b'{"error":{"message":"Authentication Error, ...","type":"auth_error","code":"401"}}', True),
        ({}, b'{"error":{"message":"No connected db.","type":"no_db_connection","code":"400"}}', True),
        ({}, b'{"error": {"type": "token_not_found_in_db"}}', True),
        (
            {},
            b'{"error":{"message":"litellm.AuthenticationError: ...","type":"authentication_error"}}',
            False,
        ),
    ],
)
def test_a_refusal_of_our_key_is_told_from_a_provider_s(
    headers: dict[bytes, bytes], body: bytes, *, refused: bool
) -> None:
    """As LiteLLM 1.108.6 words both; a provider's came from a call that ran."""
    assert is_refusal_of_key(headers, body) is refused
