"""The catalog: aliases, wildcards, fallbacks."""

from dataclasses import replace

import pytest

from llm_proxy.dialects.request.model_resolution import find_served
from llm_proxy.endpoints import CONVERSATIONS, Endpoint, endpoint_paths, endpoints_of_mode
from llm_proxy.errors import ModelNotFound
from llm_proxy.identity import Caller
from llm_proxy.json_access import Json
from llm_proxy.upstream.catalog import CurrentCatalog, parse_sidecar_catalog
from llm_proxy.upstream.model_info import parse_model_info

CATALOG = parse_sidecar_catalog(
    {
        "groups": [
            {"name": "w/*", "deployments": [{"id": "any"}]},
            {"name": "*-x", "deployments": [{"id": "dash"}]},
            {"name": "w/longer*", "deployments": [{"id": "longer"}]},
            {"name": "dear", "deployments": [{"id": "w/dear"}, {"id": "dear-two"}]},
            {"name": "named", "deployments": [{"id": "named"}]},
        ]
    }
)


@pytest.mark.parametrize(
    ("name", "group"),
    [("w/foo", "w/*"), ("w/foo-x", "*-x"), ("w/longer-x", "w/longer*"), ("dear", "dear")],
)
def test_a_name_is_served_by_the_wildcard_litellm_chooses(name: str, group: str) -> None:
    """The longest as LiteLLM writes it, where a dash counts twice."""
    found = CATALOG.find_group(name)
    assert found is not None
    assert found.name == group


def test_a_deployment_id_is_served_as_its_group() -> None:
    """LiteLLM takes it for a name before any wildcard; the other id matches none."""
    found = CATALOG.find_group("w/dear")
    assert found is not None
    assert CATALOG.resolved("w/dear") == "dear"
    assert "w/dear" not in CATALOG.names
    assert CATALOG.find_group("dear-two") is None


def test_timeouts_of_the_file_are_those_of_every_attempt_and_fallback() -> None:
    """600 s three times with pauses between, then the fallback's own; a group without any has none."""
    slow = {"timeout_s": 600, "stream_timeout_s": 90, "attempts": 3}
    found = parse_sidecar_catalog(
        {
            "groups": [
                {"name": "slow", "deployments": [slow], "fallbacks": ["quick"]},
                {"name": "quick", "deployments": [{"timeout_s": 20, "attempts": 1}]},
                {"name": "plain", "deployments": [{"id": "plain"}]},
            ]
        }
    )
    assert found.stated_timeouts("slow") == (3 * 600 + 2 * 10 + 20 + 5, 90 + 5)
    assert found.stated_timeouts("quick") == (25, 5)
    assert found.stated_timeouts("plain") is None
    assert found.stated_timeouts("nobody's") is None


def test_a_group_is_native_if_every_deployment_a_call_may_reach_is() -> None:
    """Its own, and those of its fallbacks; of a wildcard and an alias too; never of an unknown sidecar's."""
    spoken = {"id": "a", "native": ["responses"]}
    chat: Json = {"id": "b", "native": []}
    document: Json = {
        "groups": [
            {"name": "all", "deployments": [spoken, {"id": "c", "native": ["messages", "responses"]}]},
            {"name": "some", "deployments": [spoken, chat]},
            {"name": "falls", "deployments": [spoken], "fallbacks": ["some"]},
            {"name": "falls-well", "deployments": [spoken], "fallbacks": ["all"]},
            {"name": "falls-nowhere", "deployments": [spoken], "fallbacks": ["unknown"]},
            {"name": "w/*", "deployments": [spoken]},
            {"name": "nickname", "alias_of": "all", "deployments": [spoken]},
            {"name": "empty", "deployments": []},
        ]
    }
    catalog = parse_sidecar_catalog(document)
    names = ("all", "some", "falls", "falls-well", "falls-nowhere", "w/x", "nickname", "empty", "nobody")
    native = {name for name in names if catalog.speaks_natively(name, "responses")}
    assert native == {"all", "falls-well", "w/x", "nickname"}
    assert not catalog.speaks_natively("all", "messages")
    assert not replace(catalog, is_ours=False, _native={}).speaks_natively("all", "responses")


@pytest.mark.parametrize(
    ("mode", "paths", "served"),
    [
        ("chat", ["/v1/batch"], CONVERSATIONS),
        ("responses", ["/v1/responses"], CONVERSATIONS),
        (None, ["/v1/messages"], CONVERSATIONS),
        ("completion", [], CONVERSATIONS | {"completions"}),
        ("embedding", [], {"embeddings"}),
        ("image_generation", [], {"images.generations", "images.edits"}),
        (
            "image_generation",
            ["/v1/chat/completions"],
            CONVERSATIONS | {"images.generations", "images.edits"},
        ),
        ("image_edit", [], {"images.edits"}),
        ("rerank", [], {"rerank"}),
        ("moderation", [], {"moderations"}),
        ("audio_speech", [], {"audio.speech"}),
        ("audio_transcription", ["/v1/realtime"], {"audio.transcriptions", "audio.translations"}),
        ("ocr", ["/v1/ocr"], frozenset[Endpoint]()),
        (None, [], None),
        ("a new one", ["/v1/nothing"], None),
    ],
)
def test_a_mode_and_stated_paths_say_what_a_model_serves(
    mode: str | None, paths: list[str], served: frozenset[Endpoint] | None
) -> None:
    """A word that is not LiteLLM's is no mode; a mode that the gateway does not serve serves nothing."""
    assert endpoints_of_mode(mode, paths) == served


def served_by(*endpoints: list[str] | None) -> frozenset[Endpoint] | None:
    """The endpoints that every caller gets of a catalog whose groups serve these."""
    current = CurrentCatalog()
    groups = [{"name": f"g{at}", "endpoints": one} for at, one in enumerate(endpoints)]
    current.update(parse_sidecar_catalog({"groups": groups}))
    callers = (Caller("a", "virtual", models=("g0",)), Caller("b", "internal"))
    narrow, wide = (current.models_for(caller).served for caller in callers)
    assert narrow == wide
    return wide


def test_what_no_group_serves_is_known_where_every_group_is() -> None:
    """Whatever the caller may use; one group of which nothing is known may serve anything."""
    assert served_by(["embeddings"], ["rerank", "a-later-name"]) == frozenset({"embeddings", "rerank"})
    assert served_by(["chat.completions"]) == frozenset({"chat.completions", "completions"})
    assert served_by(["embeddings"], None) is None
    assert served_by() is None


def test_what_is_kept_of_a_name_ends_with_its_catalog() -> None:
    """The next request gets the new group, providers and endpoints, or a 404; each caller has its own."""
    current, caller = CurrentCatalog(), Caller("a", "virtual", models=("plain", "*-fast"))

    def publish(*groups: Json) -> None:
        current.update(parse_sidecar_catalog({"groups": [*groups]}))

    def served(name: str, by: Caller = caller) -> tuple[str, object, object]:
        models = current.models_for(by)
        found = [find_served(name, None, models) for _ in range(2)]
        assert found[0] is found[1]
        return found[0].group, found[0].endpoints, found[0].providers

    def behind(name: str, provider: str, **more: object) -> Json:
        return {"name": name, "deployments": [{"id": name, "provider": provider}], **more}

    publish(behind("plain", "openai", endpoints=["chat.completions"]), behind("x-fast", "azure"))
    assert served("plain") == ("plain", {"chat.completions"}, {"openai"})
    publish(behind("plain", "gemini", alias_of="x-fast"), behind("x-fast", "azure", endpoints=["rerank"]))
    assert served("plain") == ("x-fast", {"rerank"}, {"azure"})
    publish(behind("plain", "openai", fallbacks=["x-fast"]), behind("x-fast", "azure"))
    assert served("plain") == ("plain", None, {"openai", "azure"})
    publish(behind("x-fast", "azure"))
    for by in (caller, replace(caller, models=("plain",))):
        with pytest.raises(ModelNotFound):
            served("plain" if by is caller else "x-fast", by)
    publish(behind("plain", "openai"))
    assert served("plain") == ("plain", None, {"openai"})


def test_an_unmodified_litellm_says_what_its_models_serve() -> None:
    """By mode and paths in its model info; a wildcard may be anything."""
    info = {
        "a": {"id": "1", "mode": "embedding"},
        "b": {"id": "2", "mode": "chat", "supported_endpoints": ["/v1/completions"]},
        "c": {"id": "3"},
        "openai/x": {"id": "4", "mode": "chat"},
        "openai/y": {"id": "4", "mode": "chat"},
    }
    found = parse_model_info(
        {"data": [{"model_name": name, "model_info": one} for name, one in info.items()]}
    )
    stated = {
        name: group.endpoints and endpoint_paths(group.endpoints)[:2] for name, group in found.groups.items()
    }
    chat = ["/v1/chat/completions", "/v1/completions"]
    assert stated == {"a": ["/v1/embeddings"], "b": chat, "c": None, "openai/*": None}
