"""Which environment variables LiteLLM's process gets."""

import pytest

from llm_proxy.sidecar.environment import DEFAULTS, build_environment, referenced_variables

TEXT = "api_key: os.environ/ACME_SECRET\nother: os.environ/DATABASE_URL"


def test_blocked_variables_never_pass() -> None:
    """Not even if the configuration refers to them."""
    given: dict[str, str] = {}
    for name in ("DATABASE_URL", "REDIS_URL", "HOST", "PORT", "DEBUG", "NUM_WORKERS", "REDIS_HOST"):
        given[name] = "x"
    found = build_environment(given, TEXT)
    assert not given.keys() & found.keys()


def test_provider_variables_pass() -> None:
    """Keys and addresses, those the configuration refers to, those the operator passes."""
    wanted = {"OPENAI_API_KEY", "AWS_REGION", "GOOGLE_APPLICATION_CREDENTIALS", "ACME_SECRET", "PATH", "MORE"}
    given = dict.fromkeys(wanted | {"LLM_PROXY__ADMIN_KEY", "LLM_PROXY_SECRET", "SOMETHING"}, "x")
    found = build_environment(given | {"LLM_PROXY_SIDECAR_PASS": "MORE"}, TEXT)
    assert wanted <= found.keys()
    assert not {"LLM_PROXY__ADMIN_KEY", "LLM_PROXY_SECRET", "SOMETHING"} & found.keys()


def test_the_traffic_key_is_not_litellm_s_master_key() -> None:
    """That one is new at each start."""
    first, second = (build_environment({"LITELLM_MASTER_KEY": "sk-traffic"}, "") for _ in range(2))
    assert first["LITELLM_MASTER_KEY"] != second["LITELLM_MASTER_KEY"]
    assert "sk-traffic" not in first.values()
    assert len(first["LITELLM_MASTER_KEY"]) > 40


def test_google_s_key_has_two_names() -> None:
    """The one that is set sets the other."""
    assert build_environment({"GOOGLE_API_KEY": "k"}, "")["GEMINI_API_KEY"] == "k"
    assert build_environment({"GEMINI_API_KEY": "k"}, "")["GOOGLE_API_KEY"] == "k"


def test_langfuse_s_address_has_two_names() -> None:
    """The one that is set sets the other; its keys and its environment pass."""
    for name in ("LANGFUSE_HOST", "LANGFUSE_BASE_URL"):
        found = build_environment({name: "http://langfuse", "LANGFUSE_TRACING_ENVIRONMENT": "staging"}, "")
        assert found["LANGFUSE_HOST"] == found["LANGFUSE_BASE_URL"] == "http://langfuse"
        assert found["LANGFUSE_TRACING_ENVIRONMENT"] == "staging"


def test_defaults_can_be_changed_and_required_values_cannot() -> None:
    """Pauses may be set; requests at the start may not be turned on."""
    found = build_environment({"MAX_RETRY_DELAY": "9", "LITELLM_LOCAL_MODEL_COST_MAP": "False"}, "")
    assert found["MAX_RETRY_DELAY"] == "9"
    assert found["INITIAL_RETRY_DELAY"] == DEFAULTS["INITIAL_RETRY_DELAY"]
    assert found["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


def test_an_empty_variable_is_unset() -> None:
    """As everywhere in this project."""
    assert "OPENAI_API_KEY" not in build_environment({"OPENAI_API_KEY": ""}, "")


def test_references_are_the_names_in_the_text() -> None:
    """Each once."""
    assert referenced_variables(f"{TEXT}\n{TEXT}") == {"ACME_SECRET", "DATABASE_URL"}


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("TEI_API_BASE", "http://tei:80", "http://tei:80/v1"),
        ("TEI_API_BASE", "http://tei:80/v1/", "http://tei:80/v1"),
        ("VLLM_API_BASE", "http://h:8000/", "http://h:8000/v1"),
        ("LLAMA_CPP_API_BASE", "https://h/v1", "https://h/v1"),
        ("VLLM_API_BASE", "https://h/behind/a/path", "https://h/behind/a/path"),
        ("OLLAMA_API_BASE", "http://h:11434/v1", "http://h:11434"),
        ("OPENAI_API_BASE", "http://h", "http://h"),
    ],
)
def test_a_local_server_s_address_is_taken_with_or_without_v1(name: str, given: str, read: str) -> None:
    """Operators write both; an address with a path stays."""
    assert build_environment({name: given}, "")[name] == read
