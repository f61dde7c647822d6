"""What the operator sets: in the environment, then `.env`, then `.keys/`; missing secrets are created.

Invariants: no value is logged; an empty value counts as not given; a key file that others can read is named
in a warning. A new secret is appended to `.env`, which gets mode 0600 first; existing lines never change.
"""

import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

SIDECAR_VARIABLES = re.compile(
    r"(?!LLM_PROXY_)\w+_(API_KEY|API_BASE|BASE_URL|API_VERSION|API_TOKEN)|"
    r"(AWS|AZURE|GOOGLE|GEMINI|VERTEX|VERTEXAI|HF|HUGGINGFACE|OLLAMA|LANGFUSE|OTEL|LITELLM|LLM_PROXY_SIDECAR)_\w+|"
    r"LLM_PROXY_LOAD_BALANCE|INITIAL_RETRY_DELAY|MAX_RETRY_DELAY|JITTER"
)
CONFIG_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
IGNORED_KEY_FILES = {"README.md"}


@dataclass(frozen=True, slots=True)
class OperatorEnv:
    """Everything given, merged.

    Attributes:
        files: The file a name was read from; a name of the environment has none.
        warnings: One line each, for the operator.
    """

    variables: Mapping[str, str]
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    warnings: tuple[str, ...] = ()

    @property
    def is_development(self) -> bool:
        """Whether this is a developer's own stack, which warns where a server refuses."""
        return self.variables.get("LLM_PROXY__ENVIRONMENT", "development") == "development"

    def first(self, *names: str) -> str | None:
        """The value of the first of these names that has one."""
        return next((self.variables[name] for name in names if name in self.variables), None)

    def sidecar_variables(self, config: str) -> dict[str, str]:
        """What a sidecar may know: names of providers and LiteLLM, and those its configuration refers to."""
        asked_for = set(CONFIG_REFERENCE.findall(config))
        return {
            name: value
            for name, value in self.variables.items()
            if SIDECAR_VARIABLES.fullmatch(name) or name in asked_for
        }


def read_operator_env(environment: Mapping[str, str], folder: Path) -> OperatorEnv:
    """Reads `folder/.env` and `folder/.keys/` beneath the environment given."""
    key_files = _key_files(folder / ".keys")
    dotenv = folder / ".env"
    names = {name: path.read_text(encoding="utf-8").strip() for name, path in key_files.items()}
    files = dict(key_files)
    for name, value in dotenv_values(dotenv).items():
        if value:
            names[name], files[name] = value, dotenv
    for name, value in environment.items():
        if value:
            names[name] = value
            files.pop(name, None)
    warnings = [
        f"{path} can be read by others: chmod 600 {path}"
        for path in key_files.values()
        if _readable_by_others(path)
    ]
    return OperatorEnv({name: value for name, value in names.items() if value}, files, tuple(warnings))


def _key_files(folder: Path) -> dict[str, Path]:
    found = sorted(folder.glob("[A-Za-z]*")) if folder.is_dir() else []
    return {path.name: path for path in found if path.is_file() and path.name not in IGNORED_KEY_FILES}


def _readable_by_others(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


POSTGRES_PASSWORD = "LLM_PROXY_STACK_POSTGRES_PASSWORD"  # noqa: S105 -- a variable's name
INTERNAL_KEY, ADMIN_KEY = "LLM_PROXY__INTERNAL_API_KEY", "LLM_PROXY__ADMIN_KEY"
MASTER_KEY = "LITELLM_MASTER_KEY"


def _random_hex() -> str:
    return secrets.token_hex(24)


def _random_litellm_key() -> str:
    return "sk-" + secrets.token_hex(24)  # LiteLLM takes no master key without this prefix


REQUIRED_SECRETS: dict[tuple[str, ...], Callable[[], str]] = {
    (INTERNAL_KEY, "LLM_PROXY_SECRET"): _random_hex,
    (ADMIN_KEY,): _random_hex,
    (MASTER_KEY, "LLM_PROXY__LITELLM_API_KEY"): _random_litellm_key,
    (POSTGRES_PASSWORD,): _random_hex,
}
"""Names under which each secret may be given; a new one is written under the first."""


def create_missing(given: OperatorEnv, file: Path) -> dict[str, str]:
    """Makes each secret that is not given, writes it down, and returns the new ones by name."""
    made = {names[0]: make() for names, make in REQUIRED_SECRETS.items() if given.first(*names) is None}
    if made:
        _append_to_dotenv(file, made)
    return made


def _append_to_dotenv(file: Path, made: dict[str, str]) -> None:
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as stream:
        os.fchmod(descriptor, 0o600)
        stands = stream.read()
        if stands and not stands.endswith("\n"):
            stream.write("\n")
        stream.write("# Made by `llm-proxy up` on its first start.\n")
        stream.writelines(f"{name}={value}\n" for name, value in made.items())
