"""Ids of responses: who can open them, where, and after which change of keys."""

import pytest

from llm_proxy.dialects.response_ids import PREVIOUS, ResponseIds
from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.identity import Caller
from llm_proxy.sealing import Sealer, SealingKey

OLD, NEW = SealingKey("old", "o" * 40), SealingKey("new", "n" * 40)
ANN = Caller("key-1", "virtual", tenant="acme")


def ids(*keys: SealingKey) -> ResponseIds:
    """The ids of one gateway."""
    return ResponseIds(Sealer(keys))


def test_every_gateway_with_the_key_opens_an_id() -> None:
    """Two gateways; what one seals, the other opens, as the caller sent it."""
    token = ids(OLD).seal(ANN, "gpt", "one", "resp_1")
    ref = ids(OLD).open(token, "id")
    assert ref == ("acme", "key-1", "gpt", "one", "resp_1", token)
    assert token.startswith("resp_old.")
    assert token != ids(OLD).seal(ANN, "gpt", "one", "resp_1")


def test_a_rotation_kills_nothing() -> None:
    """While both keys are there, ids of either open; the removed key's no longer do."""
    before = ids(OLD).seal(ANN, "gpt", "one", "resp_1")
    after = ids(NEW, OLD).seal(ANN, "gpt", "one", "resp_1")
    assert after.startswith("resp_new.")
    for token in (before, after):
        assert ids(NEW, OLD).open(token, "id").own_id == "resp_1"
    with pytest.raises(NotFound):
        ids(NEW).open(before, "id")


@pytest.mark.parametrize(
    ("caller", "opens"),
    [
        (Caller("key-2", "virtual", tenant="acme"), True),
        (Caller("internal", "internal", tenant="acme", user="bob"), True),
        (Caller("key-1", "virtual", tenant="other"), False),
        (Caller("key-1", "virtual"), False),
    ],
)
def test_a_tenant_owns_its_responses(caller: Caller, opens: bool) -> None:  # noqa: FBT001 -- a case
    """Whichever of its keys asks."""
    ref = ids(OLD).open(ids(OLD).seal(ANN, "gpt", "one", "resp_1"), "id")
    assert ref.belongs_to(caller) is opens


def test_without_a_tenant_the_key_does() -> None:
    """Another key without a tenant is somebody else."""
    mine = Caller("key-1", "internal")
    ref = ids(OLD).open(ids(OLD).seal(mine, "gpt", "one", "resp_1"), "id")
    assert ref.belongs_to(mine)
    assert not ref.belongs_to(Caller("key-2", "internal"))
    assert not ref.belongs_to(ANN)


@pytest.mark.parametrize("token", ["", "resp_", "resp_old.", "resp_old.AAAA", "resp_" + "0" * 48, "x" * 9000])
def test_what_is_no_id_is_not_found(token: str) -> None:
    """In OpenAI's words."""
    with pytest.raises(BadRequest) as error:
        ids(OLD).open(token, PREVIOUS)
    assert error.value.code == "previous_response_not_found"
    assert error.value.message.startswith("Previous response with id '")


def test_a_token_of_another_purpose_is_no_id() -> None:
    """Reasoning that was sealed for the caller opens as reasoning alone."""
    sealed = Sealer([OLD]).seal("responses.reasoning", b'["acme","key-1","gpt","one","resp_1"]')
    with pytest.raises(NotFound):
        ids(OLD).open("resp_" + sealed, "id")


def test_without_a_key_ids_open_nothing() -> None:
    """They are random, and stand for nothing."""
    keyless = ResponseIds(None)
    token = keyless.seal(ANN, "gpt", "one", "resp_of_the_provider")
    assert token.startswith("resp_")
    assert "of_the_provider" not in token
    with pytest.raises(NotFound):
        keyless.open(token, "id")
