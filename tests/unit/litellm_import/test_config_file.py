"""A configuration made of LiteLLM's rows: which values are secrets, and how files hold them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_proxy.litellm_import.config_file import ConfigFile, build_config
from llm_proxy.litellm_import.mapping import plan_import
from llm_proxy.litellm_import.model_lists import ModelNames, intersect
from llm_proxy.litellm_import.plan import ImportPlan
from llm_proxy.litellm_import.source import SourceRows
from llm_proxy.stack.operator_env import read_operator_env

ODD_SECRETS = [
    "plain",
    "it's",
    'double "quoted"',
    "back\\slash",
    "two\nlines",
    "a=b#c d",
    '{"type": "service"}',
]


def nothing(values: Sequence[str]) -> list[str | None]:
    """No key decrypts anything."""
    return [None for _ in values]


def made(plan: ImportPlan | None = None, **tables: list[dict[str, Any]]) -> ConfigFile:
    """The file made of these tables."""
    rows = SourceRows({f"LiteLLM_{name}": found for name, found in tables.items()})
    return build_config(rows, plan or ImportPlan(), nothing)


def model(name: str = "m", **params: Any) -> dict[str, Any]:
    """A row of the models' table."""
    return {"model_id": f"id-{name}", "model_name": name, "litellm_params": {"model": "openai/x", **params}}


@pytest.mark.parametrize(
    ("params", "secrets"),
    [
        ({"api_key": "k"}, ["k"]),
        ({"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region_name": "eu"}, ["a", "b"]),
        ({"vertex_credentials": '{"private_key": "p"}', "vertex_project": "q"}, ['{"private_key": "p"}']),
        ({"extra_headers": {"Authorization": "Bearer z", "X-Team": "t"}}, ["Bearer z", "t"]),
        ({"api_base": "https://user:pass@host/v1"}, ["https://user:pass@host/v1"]),
        ({"api_base": "https://host/v1", "api_version": "2024", "tpm": 5, "tags": ["a"]}, []),
        ({"api_key": "os.environ/OPENAI_API_KEY", "litellm_credential_name": "c"}, []),
        ({"client_secret": "s", "tenant_id": "t", "azure_ad_token": "u"}, ["s", "u"]),
    ],
)
def test_secrets_become_variables(params: dict[str, Any], secrets: list[str]) -> None:
    """Whatever the provider calls them; the rest stays readable."""
    found = made(ProxyModelTable=[model(**params)])
    assert sorted(found.variables.values()) == sorted(secrets)
    assert not any(secret in found.yaml_text() for secret in secrets if len(secret) > 2)


def test_a_variable_is_named_once_and_never_ours() -> None:
    """By model and parameter; a second secret of the same name gets a number."""
    rows = [
        model("gpt-4o", api_key="one"),
        model("gpt 4o", api_key="two"),
        model("LLM_PROXY_", api_key="three"),
    ]
    rows += [model("4", api_key="four"), model("again", api_key="one")]
    assert made(ProxyModelTable=rows).variables == {
        "GPT_4O_API_KEY": "one",
        "GPT_4O_API_KEY_2": "two",
        "IMPORTED_LLM_PROXY_API_KEY": "three",
        "IMPORTED_4_API_KEY": "four",
    }


@pytest.mark.parametrize("secret", ODD_SECRETS)
def test_the_file_of_variables_is_read_back_as_it_was(tmp_path: Path, secret: str) -> None:
    """By what reads `.env`."""
    (tmp_path / ".env").write_text(made(ProxyModelTable=[model(api_key=secret)]).env_text(), encoding="utf-8")
    assert read_operator_env({}, tmp_path).variables["M_API_KEY"] == secret


def test_a_team_s_own_model_and_an_undecipherable_one_are_named_as_lost() -> None:
    """The first keeps its public name while no other has it."""
    plan = ImportPlan()
    own = model("model_name_t1_abc", api_key="k") | {
        "model_info": {"team_id": "t1", "team_public_model_name": "chat"}
    }
    encrypted = model("other") | {"litellm_params": {"model": "v2:gcm:abcd", "api_key": "v2:gcm:efgh"}}
    found = made(plan, ProxyModelTable=[own, encrypted, model("off") | {"blocked": True}])
    assert [entry["model_name"] for entry in found.document["model_list"]] == ["chat"]
    assert {(note.kind, note.subject) for note in plan.notes} == {
        ("lost", "model chat"),
        ("lost", "model other"),
        ("changed", "model off"),
    }


def test_an_alias_is_kept_for_all_unless_it_means_two_models() -> None:
    """In the router's settings, beside those of the database."""
    digests = ["a" * 64, "b" * 64]
    keys = [
        {"token": digests[0], "key_alias": "one", "aliases": {"fast": "mini", "best": "big"}},
        {"token": digests[1], "key_alias": "two", "aliases": {"fast": "nano"}},
    ]
    rows = SourceRows(
        {
            "LiteLLM_VerificationToken": keys,
            "LiteLLM_Config": [{"param_name": "router_settings", "param_value": {"num_retries": 1}}],
        }
    )
    plan = plan_import(rows)
    document = build_config(rows, plan, nothing).document
    assert document["router_settings"] == {
        "num_retries": 1,
        "model_group_alias": {"fast": "mini", "best": "big"},
    }
    assert ("lost", "key two") in {(note.kind, note.subject) for note in plan.notes}


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (None, None, None),
        (None, ("a",), ("a",)),
        (("a",), None, ("a",)),
        (("a", "b"), ("b", "c"), ("b",)),
        (("gpt-*",), ("gpt-4o", "claude"), ("gpt-4o",)),
        (("gpt-4o",), ("openai/*",), ()),
        (("openai/*",), ("openai/gpt-*",), ("openai/gpt-*",)),
        ((), ("a",), ()),
    ],
)
def test_lists_of_models_are_intersected(one: ModelNames, other: ModelNames, both: ModelNames) -> None:
    """None is every model; wildcards cover names and narrower wildcards."""
    assert intersect(one, other) == both
