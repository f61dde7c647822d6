"""Settings as owners of LiteLLM write them, on a real sidecar: it starts, and their words win over ours."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sidecars import Json, Provider, Sidecar, deployment, run_sidecar

FOREIGN: Json = {
    "litellm_settings": {
        "success_callback": ["prometheus"],
        "callbacks": ["prometheus"],
        "service_callback": ["prometheus_system"],
        "num_retries": 0,
        "request_timeout": 600,
        "max_budget": 0.000001,
        "set_verbose": True,
        "telemetry": False,
        "default_model": "one",
    },
    "general_settings": {
        "custom_auth": "own_auth.check",
        "allowed_ips": ["10.0.0.1"],
        "max_request_size_mb": 1,
        "store_model_in_db": True,
        "database_url": "postgresql://nobody:nothing@127.0.0.1:1/none",
        "alerting": ["slack"],
        "pass_through_endpoints": [{"path": "/x", "target": "http://127.0.0.1:1"}],
        "background_health_checks": True,
    },
    "environment_variables": {
        "OWN_MODEL": "openai/named",
        "OWN_KEY": "sk-of-the-file",
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "LITELLM_MASTER_KEY": "sk-1234",
    },
    "credential_list": [
        {
            "credential_name": "shared",
            "credential_info": {},
            "credential_values": {"api_key": "os.environ/OWN_KEY"},
        },
    ],
}


@pytest.fixture(scope="module")
def sidecar(provider: Provider, service_folder: Path) -> Iterator[Sidecar]:
    """A sidecar with settings that LiteLLM alone would not start with here."""
    models = [
        deployment("one", "openai/one", provider),
        deployment("named", "os.environ/OWN_MODEL", provider),
        deployment("of-a-shell", "openai/${NAME_OF_MODEL:-of-a-shell}", provider, api_key="${KEY_OF_SHELL}"),
        {
            "model_name": "by-credential",
            "litellm_params": {
                "model": "openai/by-credential",
                "api_base": provider.base("openai"),
                "litellm_credential_name": "shared",
            },
            "model_info": {"access_groups": ["team-a"], "description": "for one team"},
        },
    ]
    accepted = {"LLM_PROXY_SIDECAR_ACCEPT": "*", "KEY_OF_SHELL": "sk-of-a-shell"}
    with run_sidecar({"model_list": models, **FOREIGN}, provider, service_folder, **accepted) as started:
        yield started


@pytest.mark.parametrize("group", ["one", "named", "of-a-shell", "by-credential"])
async def test_it_starts_and_answers(sidecar: Sidecar, group: str) -> None:
    """Neither Prometheus, own authentication, a budget nor a database stands in the way."""
    answer = await sidecar.chat(group, str(uuid4()), do="ok", text="an answer")
    assert answer.status == 200, answer.text
    assert answer.json["choices"][0]["message"]["content"] == "an answer"


async def test_no_retries_of_the_file_win_over_our_default(sidecar: Sidecar) -> None:
    """`litellm_settings.num_retries: 0`: a provider's error has one attempt."""
    mark = str(uuid4())
    answer = await sidecar.chat("one", mark, do="status-500")
    assert answer.status >= 500
    assert len(await sidecar.provider.calls(mark)) == 1


async def test_a_credential_of_the_list_reaches_the_provider(sidecar: Sidecar) -> None:
    """Its value is a variable that the file itself sets."""
    mark = str(uuid4())
    await sidecar.chat("by-credential", mark, do="ok")
    [call] = await sidecar.provider.calls(mark)
    assert call["headers"]["authorization"] == "Bearer sk-of-the-file"


async def test_a_shell_s_reference_reaches_the_provider(sidecar: Sidecar) -> None:
    """As envsubst would have written it; the model's name has a default."""
    mark = str(uuid4())
    await sidecar.chat("of-a-shell", mark, do="ok")
    [call] = await sidecar.provider.calls(mark)
    assert call["headers"]["authorization"] == "Bearer sk-of-a-shell"
    assert call["body"]["model"] == "of-a-shell"


async def test_the_file_cannot_publish_litellm_s_master_key(sidecar: Sidecar) -> None:
    """Neither by `environment_variables` nor by name."""
    assert (await sidecar.get("/v1/models", key="sk-1234")).status == 401
