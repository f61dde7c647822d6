"""The environment LiteLLM gets: an allow-list, because LiteLLM reads variables meant for other programs.

Invariants: `DATABASE_URL`, `REDIS_URL`, `HOST`, `PORT`, `DEBUG` and the like never pass; LiteLLM's master key
is random, made at each start and stored nowhere, and never the gateway's key.
"""

import re
import secrets
from collections.abc import Mapping

ENV_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
SHELL_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::?-([^}]*))?\}")
"""`${NAME}` or `${NAME:-default}`, which envsubst or a shell replaces before LiteLLM reads the file."""
SYSTEM_VARIABLES = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_VERIFY", "REQUESTS_CA_BUNDLE", "PYTHONPATH", "PYTHONUNBUFFERED"),
)
PROVIDER_VARIABLES = re.compile(
    r"[A-Z0-9_]+_(API_KEY|API_BASE|BASE_URL|API_VERSION|API_TOKEN)|"
    r"(AWS|AZURE|GOOGLE|GEMINI|VERTEX|VERTEXAI|HF|HUGGINGFACE|OLLAMA|WATSONX|DATABRICKS|SNOWFLAKE)_[A-Z0-9_]+"
)
OWN_VARIABLES = re.compile(
    r"LLM_PROXY_SIDECAR_[A-Z0-9_]+|LLM_PROXY_(LOAD_BALANCE|CACHE_TTL|MAX_RETRIES)|LLM_CALLS_DATABASE_URL|CACHE_REDIS_URL|"
    r"LLM_PROXY__CA_FILE"
)
OBSERVER_VARIABLES = re.compile(r"(LANGFUSE|OTEL)_[A-Z0-9_]+")
LITELLM_VARIABLES = frozenset(
    {
        *("LITELLM_LOG", "LITELLM_MASTER_KEY", "LITELLM_LICENSE", "REPEATED_STREAMING_CHUNK_LIMIT"),
        *("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY", "JITTER"),
    }
)
BLOCKED_VARIABLES = frozenset(
    {"DATABASE_URL", "DIRECT_URL", "REDIS_URL", "HOST", "PORT", "DEBUG", "DETAILED_DEBUG"}
)
SYNONYMS = (
    ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ("VERTEX_AI_PROJECT_ID", "VERTEXAI_PROJECT"),
    ("LANGFUSE_HOST", "LANGFUSE_BASE_URL"),
    ("LLM_PROXY_SIDECAR_CACHE_TTL_S", "LLM_PROXY_CACHE_TTL"),
)
"""Two names of one value: the one that is set sets the other."""

BASES_WITH_V1 = frozenset({"TEI_API_BASE", "VLLM_API_BASE", "LLAMA_CPP_API_BASE"})
"""Addresses of OpenAI-compatible servers that LiteLLM needs with `/v1`; operators write them either way."""
SCHEME_SLASHES = 2
BASES_WITHOUT_V1 = frozenset({"OLLAMA_API_BASE"})

DEFAULTS = {
    "LITELLM_LOG": "ERROR",
    # LiteLLM ends a stream after this many equal chunks; a model may repeat itself.
    "REPEATED_STREAMING_CHUNK_LIMIT": "1000000000",
    # Three attempts within about two seconds.
    "INITIAL_RETRY_DELAY": "0.25",
    "MAX_RETRY_DELAY": "2",
    # The router retries; for embeddings the client's own two retries would be added.
    "DEFAULT_MAX_RETRIES": "0",
    "JITTER": "0.1",
    # One would be started while LiteLLM is imported, before workers are forked.
    "OPENBLAS_NUM_THREADS": "1",
    "VERTEX_AI_LOCATION": "us-central1",
    "AZURE_API_VERSION": "2024-10-21",
}
REQUIRED = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_TELEMETRY_DISABLED": "True",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DISABLE_ADMIN_UI": "True",
    "NO_DOCS": "True",
    "NO_REDOC": "True",
    "NO_OPENAPI": "True",
}

ACCEPT_VARIABLE = "LLM_PROXY_SIDECAR_ACCEPT"
"""Paths of settings that protect and have no effect here, comma-separated, that the operator accepts."""
ACCEPT_ALL = "*"

NEVER_FROM_THE_FILE = BLOCKED_VARIABLES | REQUIRED.keys() | {"LITELLM_MASTER_KEY"}
"""Variables that `environment_variables` of a configuration does not set."""


def referenced_variables(text: str) -> frozenset[str]:
    """Return the names that a configuration refers to as `os.environ/NAME` or `${NAME}`."""
    return frozenset(ENV_REFERENCE.findall(text)) | {name for name, _ in SHELL_REFERENCE.findall(text)}


def accepted_settings(env: Mapping[str, str]) -> frozenset[str]:
    """Return the paths that the operator accepts to have no effect."""
    return frozenset(path.strip() for path in env.get(ACCEPT_VARIABLE, "").split(",") if path.strip())


def build_environment(given: Mapping[str, str], config_text: str) -> dict[str, str]:
    """Return the complete environment of the process.

    Args:
        given: The launcher's environment; `LLM_PROXY_SIDECAR_PASS` names more variables to pass,
            comma-separated.
        config_text: The configuration; the variables it refers to pass too.
    """
    named = referenced_variables(config_text) | {*given.get("LLM_PROXY_SIDECAR_PASS", "").split(",")}
    kept = {name: value for name, value in given.items() if value and _is_allowed(name, named)}
    kept = {name: _normalize_address(name, value) for name, value in kept.items()}
    for one, other in SYNONYMS:
        found = kept.get(one) or kept.get(other)
        kept |= {one: found, other: found} if found else {}
    return DEFAULTS | kept | REQUIRED | {"LITELLM_MASTER_KEY": f"sk-{secrets.token_urlsafe(32)}"}


def _normalize_address(name: str, value: str) -> str:
    """Return a server's address with or without `/v1`, as LiteLLM needs it."""
    bare = value.rstrip("/").removesuffix("/v1")
    if name in BASES_WITH_V1:
        return f"{bare}/v1" if bare.count("/") <= SCHEME_SLASHES else value
    return bare if name in BASES_WITHOUT_V1 else value


def _is_allowed(name: str, named: frozenset[str]) -> bool:
    if name in BLOCKED_VARIABLES:
        return False
    patterns = (PROVIDER_VARIABLES, OWN_VARIABLES, OBSERVER_VARIABLES)
    return (
        name in named
        or name in SYSTEM_VARIABLES
        or name in LITELLM_VARIABLES
        or any(p.fullmatch(name) for p in patterns)
    )
