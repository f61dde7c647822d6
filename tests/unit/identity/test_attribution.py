"""The tenant, agent and user that a caller may act for."""

from typing import Any

import pytest

from llm_proxy.errors import BadRequest, Forbidden
from llm_proxy.identity import NO_ATTRIBUTION, Attribution, Caller, on_behalf_of

KEY = Caller("k", "virtual", tenant="t", agent="a", user="u")
SERVICE = Caller("internal:1", "internal")
FIELDS = ("tenant", "agent", "user", "session", "channel", "run")


def naming(field: str, name: str) -> Attribution:
    """An attribution that names one field."""
    named: dict[str, Any] = {field: name}
    return Attribution(**named)


@pytest.mark.parametrize("field", ["tenant", "agent", "user"])
@pytest.mark.parametrize("where", ["header", "body"])
def test_a_virtual_key_acts_for_nobody_outside_its_binding(field: str, where: str) -> None:
    """By header or body."""
    other = naming(field, "somebody-else")
    with pytest.raises(Forbidden) as refused:
        on_behalf_of(KEY, *((other, NO_ATTRIBUTION) if where == "header" else (NO_ATTRIBUTION, other)))
    assert refused.value.param == field


@pytest.mark.parametrize("field", ["tenant", "agent"])
def test_a_key_without_a_binding_may_name_none(field: str) -> None:
    """A tenant's key is not a key of all its agents."""
    with pytest.raises(Forbidden):
        on_behalf_of(Caller("k", "virtual"), naming(field, "x"), NO_ATTRIBUTION)


def test_a_key_may_name_its_own_binding() -> None:
    """It changes nothing."""
    assert on_behalf_of(KEY, Attribution("t", "a", "u"), Attribution("t", "a", "u")) == KEY


def test_a_star_allows_every_agent_and_is_no_agent_itself() -> None:
    """Of the key's own tenant."""
    whole = Caller("k", "virtual", tenant="t", agent="*")
    assert on_behalf_of(whole, Attribution(agent="x"), NO_ATTRIBUTION).agent == "x"
    assert on_behalf_of(whole, NO_ATTRIBUTION, NO_ATTRIBUTION).agent is None
    with pytest.raises(Forbidden):
        on_behalf_of(whole, Attribution(tenant="other"), NO_ATTRIBUTION)


@pytest.mark.parametrize("where", ["header", "body"])
def test_a_key_of_one_run_keeps_it_beside_a_session_and_may_name_no_other(where: str) -> None:
    """Claude Code and Codex name a session with every call, without any setting."""
    bound = Caller("k", "virtual", tenant="t", bound_run="job")

    def acting(named: Attribution, run_id: str | None) -> Caller:
        both = (named, NO_ATTRIBUTION) if where == "header" else (NO_ATTRIBUTION, named)
        return on_behalf_of(bound, *both, run_id)

    found = acting(Attribution(session="s"), "s")
    assert (found.run_id, found.session, found.run) == ("job", "s", None)
    assert acting(NO_ATTRIBUTION, "from-another-header").run_id == "job"
    assert acting(Attribution(run="job"), "job").run_id == "job"
    with pytest.raises(Forbidden) as refused:
        acting(Attribution(run="other"), "other")
    assert refused.value.code == "run_not_allowed"


def test_a_key_without_a_user_may_name_any_user() -> None:
    """OpenAI's `user` field keeps its meaning."""
    assert (
        on_behalf_of(Caller("k", "virtual", tenant="t"), NO_ATTRIBUTION, Attribution(user="end")).user
        == "end"
    )


@pytest.mark.parametrize("field", FIELDS)
def test_an_internal_key_may_name_anybody_by_header_or_body(field: str) -> None:
    """The same name in both is accepted."""
    one = naming(field, "x")
    for pair in ((one, NO_ATTRIBUTION), (NO_ATTRIBUTION, one), (one, one)):
        assert getattr(on_behalf_of(SERVICE, *pair), field) == "x"


def test_a_call_has_its_keys_tags_and_its_own_each_once() -> None:
    """In that order, and at most as many as a call may have."""
    key = Caller("k", "virtual", tags=("a", "b"))
    assert on_behalf_of(key, NO_ATTRIBUTION, NO_ATTRIBUTION).tags == ("a", "b")
    assert on_behalf_of(key, Attribution(session="s"), NO_ATTRIBUTION).tags == ("a", "b")
    assert on_behalf_of(key, Attribution(tags=("c", "a")), Attribution(tags=("d", "c"))).tags == (
        "a",
        "b",
        "c",
        "d",
    )
    with pytest.raises(BadRequest) as refused:
        on_behalf_of(key, Attribution(tags=tuple("cdefghijk")), NO_ATTRIBUTION)
    assert refused.value.param == "tags"


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("caller", [KEY, SERVICE])
def test_headers_and_body_that_differ_are_rejected(field: str, caller: Caller) -> None:
    """With 400."""
    with pytest.raises(BadRequest):
        on_behalf_of(caller, naming(field, "x"), naming(field, "y"))
