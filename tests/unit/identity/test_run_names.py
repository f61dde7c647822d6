"""Which source names a call's run."""

import pytest
from pydantic import ValidationError

from llm_proxy.identity import NO_ATTRIBUTION, Attribution, Caller, RunSources, on_behalf_of
from llm_proxy.settings import Settings, load, setting_errors

DEFAULT = RunSources.from_names(Settings.model_fields["run_sources"].default)
EVERY = {
    b"x-run-id": b"run",
    b"x-session-id": b"session",
    b"x-claude-code-session-id": b"claude",
    b"session-id": b"codex",
}
BODY = Attribution(run="body-run", session="body-session")


def test_the_first_source_that_holds_a_name_decides() -> None:
    """In the documented order, one source less each time."""
    headers, body = dict(EVERY), BODY
    assert DEFAULT.run_of(headers, body) == "run"
    del headers[b"x-run-id"]
    assert DEFAULT.run_of(headers, body) == "session"
    del headers[b"x-session-id"]
    assert DEFAULT.run_of(headers, body) == "body-run"
    body = Attribution(session="body-session")
    assert DEFAULT.run_of(headers, body) == "body-session"
    assert DEFAULT.run_of(headers, NO_ATTRIBUTION) == "claude"
    del headers[b"x-claude-code-session-id"]
    assert DEFAULT.run_of(headers, NO_ATTRIBUTION) == "codex"
    assert DEFAULT.run_of({}, NO_ATTRIBUTION) is None


def test_a_user_or_a_channel_names_no_run() -> None:
    """Nor does a tenant, an agent, a tag."""
    body = Attribution(tenant="t", agent="a", user="u", channel="c", tags=("x",), presumed_user="p")
    assert DEFAULT.run_of({b"x-user-id": b"u"}, body) is None


@pytest.mark.parametrize("value", [b"", b"  ", b"x" * 257, b"a\x00b", b"a\x7fb", b"a\tb"])
def test_what_is_no_name_leaves_the_next_source(value: bytes) -> None:
    """In a header that is not ours; in ours it is a 400, which is raised before."""
    headers = {b"x-claude-code-session-id": value, b"session-id": b"codex"}
    assert DEFAULT.run_of(headers, NO_ATTRIBUTION) == "codex"
    del headers[b"session-id"]
    assert DEFAULT.run_of(headers, NO_ATTRIBUTION) is None


def test_the_order_and_the_headers_are_a_setting() -> None:
    """Other headers too, in any case; without `metadata` a body names none."""
    sources = RunSources.from_names(load(run_sources="X-Task-Id, metadata.session_id, x-run-id").run_sources)
    assert sources.headers == {b"x-task-id", b"x-run-id"}
    assert sources.run_of({**EVERY, b"x-task-id": b"task"}, BODY) == "task"
    assert sources.run_of(EVERY, BODY) == "body-session"
    assert sources.run_of(EVERY, NO_ATTRIBUTION) == "run"
    assert sources.run_of({b"session-id": b"codex"}, NO_ATTRIBUTION) is None


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "X-API-Key",
        "cookie",
        "metadata.user_id",
        "x y",
        "a" * 65,
        "metadata.prompt_cache_key",
    ],
)
def test_a_source_is_a_header_without_a_credential_or_a_field_of_metadata(name: str) -> None:
    """Anything else stops the start, by name and without the value."""
    with pytest.raises(ValidationError) as refused:
        load(run_sources=f"x-run-id, {name}")
    (line,) = setting_errors(refused.value)
    assert line.startswith("LLM_PROXY__RUN_SOURCES: each is the name of a header")


def test_a_caller_has_the_run_of_its_call() -> None:
    """Beside what its record says, and also where the call names nothing else."""
    key = Caller("k", "virtual", tenant="t", run_id="earlier")
    assert on_behalf_of(key, NO_ATTRIBUTION, NO_ATTRIBUTION, "codex").run_id == "codex"
    named = on_behalf_of(key, Attribution(session="s"), Attribution(run="r"), "s")
    assert (named.run_id, named.session, named.run) == ("s", "s", "r")
