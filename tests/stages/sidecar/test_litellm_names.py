"""The generated tables match the pinned LiteLLM release."""

import json
import subprocess
from pathlib import Path

import pytest

from llm_proxy.dialects.request.litellm_reserved import IN_METADATA, OWNED
from llm_proxy.sidecar.known_keys import known_keys

ROOT = Path(__file__).parents[3]
SIDECAR_PYTHON = ROOT / ".venv-sidecar" / "bin" / "python"


@pytest.mark.skipif(not SIDECAR_PYTHON.exists(), reason="needs the sidecar's environment: make setup")
@pytest.mark.parametrize("script", ["litellm_names.py", "litellm_keys.py"])
def test_a_generated_table_matches_the_release(script: str) -> None:
    """An upgrade of LiteLLM that adds a name fails here until the table is generated again."""
    command = [str(SIDECAR_PYTHON), str(ROOT / "scripts" / script), "--check"]
    assert subprocess.run(command, check=False).returncode == 0


TYPES = """
import inspect, json, litellm
from litellm.proxy._types import ConfigGeneralSettings
from litellm.types import router as r
from litellm.caching.caching import Cache
fields = lambda *kinds: sorted({name for one in kinds for name in one.model_fields})
names = lambda f: sorted(set(inspect.signature(f).parameters) - {"self", "args", "kwargs"})
print(json.dumps({
    "litellm_params": fields(r.LiteLLM_Params, r.GenericLiteLLMParams, r.CredentialLiteLLMParams),
    "model_info": fields(r.ModelInfo),
    "router_settings": fields(r.RouterConfig, r.UpdateRouterConfig) + names(litellm.Router.__init__),
    "general_settings": fields(ConfigGeneralSettings),
    "cache_params": names(Cache.__init__),
    "litellm_settings": sorted(
        name for name, value in vars(litellm).items() if isinstance(value, bool) and name[0].islower()
    ),
}))
"""


@pytest.mark.skipif(not SIDECAR_PYTHON.exists(), reason="needs the sidecar's environment: make setup")
def test_every_field_of_litellm_s_own_types_is_known() -> None:
    """`config check` calls none of them unknown."""
    done = subprocess.run(
        [str(SIDECAR_PYTHON), "-c", TYPES],
        capture_output=True,
        text=True,
        check=True,
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    types: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    for section, names in types.items():
        known = known_keys(section) | known_keys("prices") | {"model_list"}
        unknown = set(names) - known
        assert not unknown, section


def test_controlling_names_are_reserved_and_openai_s_fields_are_not() -> None:
    """Names known to disable or redirect a deployment, or to hide a call, are in the table."""
    steering = {
        "api_key",
        "api_base",
        "custom_llm_provider",
        "extra_headers",
        "fallbacks",
        "no-log",
        "timeout",
    }
    steering |= {"num_retries", "guardrails", "cache", "mock_response", "extra_body", "litellm_metadata"}
    assert steering <= OWNED
    published = {"model", "messages", "temperature", "tools", "functions", "user", "metadata", "n", "input"}
    assert not (published | {"prompt", "dimensions", "stream_options", "top_k", "thinking"}) & OWNED
    assert "disable_global_guardrails" in IN_METADATA
