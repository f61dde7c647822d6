"""Prints `.env.example` from the settings: `python scripts/env_example.py > .env.example`."""

from typing import cast

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from llm_proxy.setting_sources import names_of
from llm_proxy.settings import Settings

HEAD = """\
# Every setting, with its default. Copy the lines you change to `.env` (mode 0600); the environment overrides
# `.env`, and `.env` files of the same name in `.keys/`. NAME_FILE names a file with the value of NAME.
# Generated from llm_proxy/settings.py: do not edit.
"""

STACK = """
# ---- The local stack (`llm-proxy up`): a store that is set here replaces the embedded one ------------------
# DATABASE_URL is above; REDIS_URL alone stands for both stores.
# REDIS_URL=
# Cached responses and cooldowns of the sidecars, in a Redis that may evict.
# CACHE_REDIS_URL=
# A file with a better chat model than the toy.
# LOCAL_MODEL_GGUF=
# A sidecar over the first limit is replaced without losing a call, over the second it is killed.
# LLM_PROXY_SIDECAR_MAX_MIB=1024
# LLM_PROXY_SIDECAR_HARD_MIB=2048
# A sidecar whose event loop stands still for so many seconds is killed, and another one starts; 0: never.
# LLM_PROXY_SIDECAR_HUNG_AFTER_S=60
# When LiteLLM's environment differs from its lock file: refuse, or warn (as `up` does in development).
# LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK=refuse

# ---- docker compose: `make secrets` creates the secrets ----------------------------------------------------
# self-hosted-db or managed-db, and optionally local-models, dev; separated by commas.
COMPOSE_PROFILES=self-hosted-db
# LiteLLM: so many containers, and in each a process for each of these ports.
# SIDECARS=2
# SIDECAR_PORTS=4100-4103
# POSTGRES_PASSWORD=
# REDIS_PASSWORD=

# ---- Providers: read by the sidecar only; a model whose key is missing is left out -------------------------
# OPENAI_API_KEY=
# ANTHROPIC_API_KEY=
# GEMINI_API_KEY=
# GROQ_API_KEY=
# OPENROUTER_API_KEY=
# VOYAGE_API_KEY=
# COHERE_API_KEY=
# CEREBRAS_API_KEY=
# DEEPSEEK_API_KEY=
# AZURE_API_KEY=
# AZURE_API_BASE=
# VERTEX_AI_PROJECT_ID=
# VERTEX_AI_LOCATION=us-central1

# ---- Langfuse: read by the sidecar only; docs/observe.md ---------------------------------------------------
# LANGFUSE_PUBLIC_KEY=
# LANGFUSE_SECRET_KEY=
# LANGFUSE_BASE_URL=https://cloud.langfuse.com
# LANGFUSE_TRACING_ENVIRONMENT=
"""


def shown(default: object) -> str:
    """A default as it is written in an environment file."""
    if default is None or isinstance(default, SecretStr):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(str(part) for part in cast("tuple[object, ...]", default))
    return str(default)


def lines_of(name: str, field: FieldInfo) -> list[str]:
    """A setting's comment and its line."""
    first, *others = names_of(Settings, name)
    also = f"Also read as {', '.join(others)}." if others else ""
    said = " ".join(part for part in (field.description or "", also) if part)
    return [*([f"# {said}"] if said else []), f"# {first}={shown(field.default)}"]


def env_example() -> str:
    """The whole file."""
    body = [line for name, field in Settings.model_fields.items() for line in lines_of(name, field)]
    return HEAD + "\n" + "\n".join(body) + "\n" + STACK


if __name__ == "__main__":
    print(env_example(), end="")
