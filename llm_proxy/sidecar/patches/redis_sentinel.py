"""Connects to Sentinels with their own user and password, and without a database."""

import os
from collections.abc import Mapping

from llm_proxy.redis_urls import redis_address
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch

OF_THE_SERVER = frozenset({"username", "password", "db", "credential_provider"})


def install() -> None:
    """Replace what LiteLLM connects to a Sentinel with; before LiteLLM's start."""
    *_, clients = litellm_internals.redis_modules()
    clients._sentinel_auth_kwargs = _sentinel_options  # noqa: SLF001 -- no setting does this


def _sentinel_options(options: Mapping[str, Untyped], password: str | None) -> dict[str, Untyped]:
    address = redis_address(os.environ.get("CACHE_REDIS_URL", ""))
    own = {"username": address.parameters.get("sentinel_username"), "password": password}
    return {name: value for name, value in options.items() if name not in OF_THE_SERVER} | own


PATCH = LiteLLMPatch(
    name="redis_sentinel",
    install=install,
    reason=(
        "LiteLLM sends the server's user and database to the Sentinels, which refuse both, and has no "
        "setting for a user of theirs: a server with a user, or another database than 0, is never found."
    ),
    report="https://github.com/BerriAI/litellm/pull/30536, for the database; closed without a merge.",
    until="LiteLLM connects to Sentinels with options of their own.",
    tests=("tests/stages/sidecar/test_redis_kinds.py::test_a_cache_behind_sentinels_is_followed",),
)
