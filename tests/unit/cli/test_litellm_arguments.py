"""LiteLLM's command lines, as people's compose files and manifests have them."""

import pytest

from llm_proxy.cli.litellm_arguments import DEFAULT_HOST, translate
from llm_proxy.cli.printing import CommandFailed

OWN = ["up", "--no-stores", "--no-local-model", "--logs-to-stdout"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--config", "/app/config.yaml"], ["--config", "/app/config.yaml"]),
        (["--config=/app/config.yaml"], ["--config", "/app/config.yaml"]),
        (["litellm", "--config", "c.yaml", "--detailed_debug"], ["--config", "c.yaml"]),
        (["--port", "4001", "--num_workers", "4"], ["--sidecars", "4"]),
        (["--config", "c.yaml", "--run_gunicorn", "--telemetry", "False"], ["--config", "c.yaml"]),
    ],
)
def test_litellm_s_arguments_start_the_stack(given: list[str], expected: list[str]) -> None:
    """On LiteLLM's address unless they name one."""
    port = "4001" if "4001" in given else "4000"
    found = translate(given, {})
    assert found is not None
    assert found.arguments == [*OWN, "--host", DEFAULT_HOST, "--port", port, *expected]
    assert found.is_debugging == ("--detailed_debug" in given)
    assert found.ignored == [one for one in given if one in {"--run_gunicorn", "--telemetry"}]


def test_the_environment_names_port_and_workers_as_for_litellm() -> None:
    """An option wins over a variable."""
    found = translate(["--port", "5000"], {"PORT": "80", "HOST": "127.0.0.1", "NUM_WORKERS": "2"})
    assert found is not None
    assert found.arguments == [*OWN, "--host", "127.0.0.1", "--port", "5000", "--sidecars", "2"]


@pytest.mark.parametrize(
    "given", [[], ["--help"], ["--version"], ["serve", "--port", "1"], ["keys", "list"], ["litellm"]]
)
def test_our_own_arguments_are_left_alone(given: list[str]) -> None:
    """None of them is a command line of LiteLLM's."""
    assert translate(given, {}) is None


@pytest.mark.parametrize("option", ["--ssl_keyfile_path", "--max_budget", "--model", "--limit_concurrency"])
def test_what_protects_and_has_no_counterpart_is_refused(option: str) -> None:
    """With what to do instead."""
    with pytest.raises(CommandFailed, match="has no counterpart"):
        translate(["--config", "c.yaml", option, "value"], {})
