"""Secrets nobody has given yet -> made once and appended to `.env`, which only its owner may read.

Invariants: a line that stands is never changed; the file has mode 0600 before a secret enters it.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from llm_proxy.stack.surroundings import Surroundings

POSTGRES_PASSWORD = "LLM_PROXY_STACK_POSTGRES_PASSWORD"  # noqa: S105 -- a variable's name
INTERNAL_KEY, ADMIN_KEY = "LLM_PROXY__INTERNAL_API_KEY", "LLM_PROXY__ADMIN_KEY"
MASTER_KEY = "LITELLM_MASTER_KEY"


def _plain() -> str:
    return secrets.token_hex(24)


def _for_litellm() -> str:
    return "sk-" + secrets.token_hex(24)  # LiteLLM takes no master key without this prefix


NEEDED: dict[tuple[str, ...], Callable[[], str]] = {
    (INTERNAL_KEY, "LLM_PROXY_SECRET"): _plain,
    (ADMIN_KEY,): _plain,
    (MASTER_KEY, "LLM_PROXY__LITELLM_API_KEY"): _for_litellm,
    (POSTGRES_PASSWORD,): _plain,
}
"""Names under which each secret may be given; a new one is written under the first."""


def make_missing(given: Surroundings, file: Path) -> dict[str, str]:
    """Makes each secret that is not given, writes it down, and returns the new ones by name."""
    made = {names[0]: make() for names, make in NEEDED.items() if given.first(*names) is None}
    if made:
        _append(file, made)
    return made


def _append(file: Path, made: dict[str, str]) -> None:
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as stream:
        os.fchmod(descriptor, 0o600)
        stands = stream.read()
        if stands and not stands.endswith("\n"):
            stream.write("\n")
        stream.write("# Made by `llm-proxy up` on its first start.\n")
        stream.writelines(f"{name}={value}\n" for name, value in made.items())
