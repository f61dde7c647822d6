"""The generated tables match the pinned LiteLLM release."""

import subprocess
from pathlib import Path

import pytest

from llm_proxy.dialects.request.litellm_reserved import IN_METADATA, OWNED

ROOT = Path(__file__).parents[3]
SIDECAR_PYTHON = ROOT / ".venv-sidecar" / "bin" / "python"


@pytest.mark.skipif(not SIDECAR_PYTHON.exists(), reason="needs the sidecar's environment: make setup")
@pytest.mark.parametrize("script", ["litellm_names.py", "litellm_keys.py"])
def test_a_generated_table_matches_the_release(script: str) -> None:
    """An upgrade of LiteLLM that adds a name fails here until the table is generated again."""
    command = [str(SIDECAR_PYTHON), str(ROOT / "scripts" / script), "--check"]
    assert subprocess.run(command, check=False).returncode == 0


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
