"""What the operator sets: in the environment, then `.env`, then `.keys/`; missing secrets are created.

Invariants: no value is logged; an empty value counts as not set; a key file that others can read is named
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

from llm_proxy.secret_files import FILE_SUFFIX, read_secret_files

SIDECAR_VARIABLES = re.compile(
    r"(?!LLM_PROXY_)\w+_(API_KEY|API_BASE|BASE_URL|API_VERSION|API_TOKEN)|"
    r"(AWS|AZURE|GOOGLE|GEMINI|VERTEX|VERTEXAI|HF|HUGGINGFACE|OLLAMA|LANGFUSE|OTEL|LITELLM|LLM_PROXY_SIDECAR)_\w+|"
    r"LLM_PROXY__CA_FILE|LLM_PROXY_(LOAD_BALANCE|CACHE_TTL|MAX_RETRIES)|INITIAL_RETRY_DELAY|MAX_RETRY_DELAY|JITTER"
)
CONFIG_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
SHELL_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")
IGNORED_KEY_FILES = {"README.md"}


@dataclass(frozen=True, slots=True)
class OperatorEnv:
    """The variables the operator set, merged.

    Attributes:
        variables: Values by name; none is empty.
        files: The file each variable comes from; a variable of the environment has none.
        warnings: Lines for the operator.
    """

    variables: Mapping[str, str]
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    warnings: tuple[str, ...] = ()

    @property
    def is_development(self) -> bool:
        """Whether this is a development stack, which warns where a production stack refuses to start."""
        return self.variables.get("LLM_PROXY__ENVIRONMENT", "development") == "development"

    def first(self, *names: str) -> str | None:
        """Returns the value of the first of these variables that is set; None without one."""
        return next((self.variables[name] for name in names if name in self.variables), None)

    def sidecar_variables(self, config: str) -> dict[str, str]:
        """What a sidecar gets: variables of providers and LiteLLM, and those that `config` refers to."""
        referenced = {*CONFIG_REFERENCE.findall(config), *SHELL_REFERENCE.findall(config)}
        return {
            name: value
            for name, value in self.variables.items()
            if SIDECAR_VARIABLES.fullmatch(name) or name in referenced
        }


def read_operator_env(environment: Mapping[str, str], folder: Path) -> OperatorEnv:
    """Reads `environment`, which overrides `folder/.env`, which overrides `folder/.keys/`.

    `NAME_FILE` stands for `NAME` where it is set. Raises `SecretFileUnreadable`.
    """
    key_files = _key_files(folder / ".keys")
    dotenv = folder / ".env"
    variables = {name: path.read_text(encoding="utf-8").strip() for name, path in key_files.items()}
    files = dict(key_files)
    for source, given in ((dotenv, dotenv_values(dotenv)), (None, environment)):
        values = {name: value for name, value in given.items() if value}
        from_files = read_secret_files(values)
        for name in values:
            files.pop(name, None)
        if source is not None:
            files |= dict.fromkeys(values, source)
        files |= {name: Path(values[f"{name}{FILE_SUFFIX}"]) for name in from_files}
        variables |= values | from_files
    warnings = [
        f"{path} can be read by others: chmod 600 {path}"
        for path in key_files.values()
        if _readable_by_others(path)
    ]
    variables = {name: value for name, value in variables.items() if value}
    return OperatorEnv(variables, files, tuple(warnings))


def _key_files(folder: Path) -> dict[str, Path]:
    found = sorted(folder.glob("[A-Za-z]*")) if folder.is_dir() else []
    return {path.name: path for path in found if path.is_file() and path.name not in IGNORED_KEY_FILES}


def _readable_by_others(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


POSTGRES_PASSWORD = "LLM_PROXY_STACK_POSTGRES_PASSWORD"  # noqa: S105 -- a variable's name
COMPOSE_PASSWORDS = ("POSTGRES_PASSWORD", "SIDECAR_DB_PASSWORD", "REDIS_PASSWORD")
INTERNAL_KEY, ADMIN_KEY = "LLM_PROXY__INTERNAL_API_KEY", "LLM_PROXY__ADMIN_KEY"
SIDECAR_KEY = "LLM_PROXY__LITELLM_API_KEY"


def _random_hex() -> str:
    return secrets.token_hex(24)


def _random_litellm_key() -> str:
    return "sk-" + secrets.token_hex(24)  # LiteLLM accepts no master key without this prefix


def _random_sealing_key() -> str:
    return f"k1={secrets.token_hex(32)}"


REQUIRED_SECRETS: dict[tuple[str, ...], Callable[[], str]] = {
    (INTERNAL_KEY, "LLM_PROXY_SECRET"): _random_hex,
    (ADMIN_KEY,): _random_hex,
    ("LLM_PROXY__SEALING_KEYS",): _random_sealing_key,
    (SIDECAR_KEY,): _random_litellm_key,
    (POSTGRES_PASSWORD,): _random_hex,
}
"""The variables that may hold each secret, and how it is made, under the first of them."""


def new_secrets(env: OperatorEnv) -> dict[str, str]:
    """Returns a new value for each required secret that is not set, by name."""
    return {names[0]: make() for names, make in REQUIRED_SECRETS.items() if env.first(*names) is None}


def new_compose_passwords() -> dict[str, str]:
    """Returns a new value for each password of the stores that Compose starts, by name."""
    return {name: _random_hex() for name in COMPOSE_PASSWORDS}


def append_to_dotenv(file: Path, created: Mapping[str, str]) -> None:
    """Appends variables to `file`, which only its owner can read from then on."""
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as stream:
        os.fchmod(descriptor, 0o600)
        text = stream.read()
        if text and not text.endswith("\n"):
            stream.write("\n")
        stream.write("# Created by `llm-proxy up` on its first start.\n")
        stream.writelines(f"{name}={value}\n" for name, value in created.items())
