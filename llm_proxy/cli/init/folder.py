"""Choices in, the files of an installation out: models, settings, secrets, Compose, a proxy for TLS.

Reads only the shipped files. Invariants: secrets are in `.env` and `.keys/` alone; one folder starts with
`llm-proxy up` and with Compose; what Compose builds comes from `image/` alone.
"""

import os
import re
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from llm_proxy.cli.init.choices import Choices
from llm_proxy.cli.init.models import Provider, cut_config, default_model, read_providers
from llm_proxy.cli.printing import EXIT_WRONG_INPUT, fail
from llm_proxy.settings import TEST_PROVIDER, Settings
from llm_proxy.stack import environments
from llm_proxy.stack.operator_env import OperatorEnv, new_compose_passwords, new_secrets

MODELS_FILE, SETTINGS_FILE, KEYS_FOLDER = "litellm-config.yaml", ".env", ".keys"
COMPOSE_FILE, IMAGE_FOLDER = "docker-compose.yml", "image"
SECRET_MODE, SCRIPT_MODE, FILE_MODE = 0o600, 0o755, 0o644
IN_SETTINGS_FILE = ("OLLAMA_API_BASE", "TEI_API_BASE")
"""Providers' addresses that the compose file has a default for; it would win over a file in `.keys/`."""
FIRST_SIDECAR_PORT = 4100
IMAGE_UID = 1000
"""The user of the images."""
DOCKER_NETWORKS = "172.16.0.0/12,192.168.0.0/16"
_IMAGE_FILES = (
    "Dockerfile", "pyproject.toml", "deploy/with-keys.sh",
    "locks/uv.txt", "locks/gateway.txt", "locks/sidecar.txt",
)  # fmt: skip
_COMPOSE_SCRIPTS = ("deploy/upgrade.sh", "deploy/reload.sh", "deploy/pin_images.sh")
_EDGE_FILES = ("deploy/edge/nginx.conf", "deploy/edge/proxy.conf", "deploy/edge/start.sh")
_PLAIN_VALUE = re.compile(r"[\w.:/@%+=,~-]*")
_DEVELOPERS_SERVICE = re.compile(r"  # This source tree.*?\n\n", re.DOTALL)
_COMPOSE_TITLE = "# Written by `llm-proxy init`:   docker compose up -d --build\n"
_GIT_IGNORED = f"{SETTINGS_FILE}\n{KEYS_FOLDER}/*\n!{KEYS_FOLDER}/README.md\n.local/\n"
_KEYS_PAGE = """\
# One file for each key

The file's name is the variable's, its content the value: `.keys/OPENAI_API_KEY` holds your OpenAI key. Give
each file mode 0600 (`chmod 600`). A variable that is set in the environment or in `.env` wins over the file.
"""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to write.

    Attributes:
        path: Below the installation's folder.
        content: Its text, or the file or folder that is copied.
        mode: Its permissions.
    """

    path: str
    content: str | Path
    mode: int = FILE_MODE

    @property
    def is_secret(self) -> bool:
        """Whether only its owner may read it."""
        return self.mode == SECRET_MODE


@cache
def shipped_providers() -> Mapping[str, Provider]:
    """Returns the providers that can be chosen, by name; the test models of this machine are no choice."""
    with _reading_models():
        found = read_providers(_shipped(MODELS_FILE))
    return {name: one for name, one in found.items() if name != TEST_PROVIDER}


def chosen_providers(names: Collection[str]) -> list[Provider]:
    """Returns the chosen providers; empty where every one is served as soon as its key is there."""
    return [one for name, one in shipped_providers().items() if name in names]


def planned_files(choices: Choices) -> Iterator[PlannedFile]:
    """Yields the files of the installation; secrets are drawn anew each time."""
    models = _models_text(choices)
    yield PlannedFile(MODELS_FILE, models)
    yield PlannedFile(SETTINGS_FILE, _settings_text(choices), SECRET_MODE)
    yield PlannedFile(f"{KEYS_FOLDER}/README.md", _KEYS_PAGE)
    for name, value in choices.provider_values.items():
        if name not in IN_SETTINGS_FILE:
            yield PlannedFile(f"{KEYS_FOLDER}/{name}", f"{value}\n", SECRET_MODE)
    yield PlannedFile(".gitignore", _GIT_IGNORED)
    if choices.sidecars is not None:
        yield from _compose_files(choices, models)
    if choices.hostname is not None:
        yield from _proxy_files(choices, choices.hostname)


@contextmanager
def _reading_models() -> Generator[None]:
    """Ends the command with a line where the file of a checkout was edited into another style."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        path = environments.shipped_file(MODELS_FILE)
        fail(
            f"{path}: it is not written as it was shipped, so no provider can be chosen from it "
            f"({type(error).__name__}); `llm-proxy config check` checks it",
            EXIT_WRONG_INPUT,
        )


def _shipped(name: str) -> str:
    return environments.shipped_file(name).read_text(encoding="utf-8")


def _models_text(choices: Choices) -> str:
    shipped = _shipped(MODELS_FILE)
    if not choices.providers and choices.has_test_model:
        return shipped
    kept = {*(choices.providers or shipped_providers()), *([TEST_PROVIDER] if choices.has_test_model else ())}
    with _reading_models():
        return cut_config(shipped, kept)


def _compose_files(choices: Choices, models: str) -> Iterator[PlannedFile]:
    yield PlannedFile(COMPOSE_FILE, _compose_text())
    if choices.hostname is not None:
        note = "# The addresses that Docker gives its networks: there the proxy on this host comes from.\n"
        yield PlannedFile("gateway.env", f"{note}LLM_PROXY__TRUSTED_PROXIES={DOCKER_NETWORKS}\n")
    for name in _COMPOSE_SCRIPTS:
        yield PlannedFile(name, environments.shipped_file(name), SCRIPT_MODE)
    for name in _EDGE_FILES:
        yield PlannedFile(name, environments.shipped_file(name))
    yield PlannedFile(f"{IMAGE_FOLDER}/{MODELS_FILE}", models)
    for name in _IMAGE_FILES:
        yield PlannedFile(f"{IMAGE_FOLDER}/{name}", environments.shipped_file(name))
    yield PlannedFile(f"{IMAGE_FOLDER}/llm_proxy", Path(environments.__file__).parents[1])


def _compose_text() -> str:
    """The shipped file, which builds from `image/` and has no service for this project's developers."""
    text = _shipped(COMPOSE_FILE)
    text = _COMPOSE_TITLE + text.partition("\n")[2]
    text = _DEVELOPERS_SERVICE.sub("", text).replace("  gateway-dev:\n", "")
    text = text.replace(", dev (source mounted, port 7008)", "")
    return text.replace("context: .,", f"context: ./{IMAGE_FOLDER},").replace(
        ":?run make secrets", ":?missing in .env"
    )


def _proxy_files(choices: Choices, hostname: str) -> Iterator[PlannedFile]:
    name = "deploy/nginx.conf" if choices.proxy == "nginx" else "deploy/Caddyfile"
    text = _shipped(name).replace("llm.example.com", hostname)
    yield PlannedFile(name, text.replace("127.0.0.1:7007", f"127.0.0.1:{choices.port}"))
    if choices.proxy == "nginx" and choices.sidecars is None:
        yield PlannedFile(_EDGE_FILES[1], environments.shipped_file(_EDGE_FILES[1]))


def _settings_text(choices: Choices) -> str:
    """The text of `.env`: what was chosen, then the secrets."""
    blocks = {
        "Where callers connect, on this machine.": {"LLM_PROXY__PORT": str(choices.port)},
        "The console.": _console(choices),
        "The stores: your own, or those that are started for you.": _stores(choices),
        "The model of a call that names none.": _default_model(choices),
        "Providers on your machines. Under Compose this one is host.docker.internal.": _addresses(choices),
        "TLS ends in front of the gateway.": _behind_proxy(choices),
        "Random secrets, as docs/configuration.md describes them.": new_secrets(OperatorEnv({})),
        "Random passwords of the stores under Compose.": (
            {} if choices.sidecars is None else new_compose_passwords()
        ),
    }
    text = "# Written by `llm-proxy init`; only you can read it. `llm-proxy reload` applies a change.\n"
    for title, values in blocks.items():
        lines = "".join(f"{name}={_quoted(value)}\n" for name, value in values.items())
        text += f"\n# {title}\n{lines}" if lines else ""
    return text


def _console(choices: Choices) -> dict[str, str]:
    if choices.console_port is None:
        return {"LLM_PROXY__CONSOLE_ENABLED": "false"}
    # In development `llm-proxy up` starts it by itself.
    enabled = {"LLM_PROXY__CONSOLE_ENABLED": "true"} if choices.hostname is not None else {}
    return {**enabled, "LLM_PROXY__CONSOLE_PORT": str(choices.console_port)}


def _stores(choices: Choices) -> dict[str, str]:
    own = {"DATABASE_URL": choices.database_url, "REDIS_URL": choices.redis_url}
    given = {name: value for name, value in own.items() if value is not None}
    if choices.sidecars is None:
        return given
    profiles = ["managed-db" if given else "self-hosted-db", *(["console"] if choices.console_port else [])]
    return {
        **given,
        "COMPOSE_PROFILES": ",".join(profiles),
        **_sidecars(choices.sidecars),
        **_owner(),
    }


def _sidecars(count: int) -> dict[str, str]:
    """At least so many processes, in two containers, so that one serves while the other is replaced."""
    containers = min(count, 2)
    last = FIRST_SIDECAR_PORT + -(-count // containers) - 1
    ports = f"{FIRST_SIDECAR_PORT}-{last}" if last > FIRST_SIDECAR_PORT else str(FIRST_SIDECAR_PORT)
    return {"SIDECARS": str(containers), "SIDECAR_PORTS": ports}


def _default_model(choices: Choices) -> dict[str, str]:
    if not choices.providers:
        return {}
    gateways_own: str = Settings.model_fields["default_model"].default
    with _reading_models():
        found = default_model(_shipped(MODELS_FILE), gateways_own, choices.providers)
    return {} if found is None else {"LLM_PROXY__DEFAULT_MODEL": found}


def _addresses(choices: Choices) -> dict[str, str]:
    return {name: value for name, value in choices.provider_values.items() if name in IN_SETTINGS_FILE}


def _behind_proxy(choices: Choices) -> dict[str, str]:
    if choices.hostname is None:
        return {}
    return {"LLM_PROXY__ENVIRONMENT": "production", "LLM_PROXY__TRUSTED_PROXIES": "127.0.0.1"}


def _owner() -> dict[str, str]:
    """The user of LiteLLM's container, who can then read `.keys/`; never root."""
    user, group = os.getuid(), os.getgid()
    return {} if user in {0, IMAGE_UID} else {"LLM_PROXY_UID": str(user), "LLM_PROXY_GID": str(group)}


def _quoted(value: str) -> str:
    """A value as `.env` has it; without quotes Compose would read `$NAME` in it."""
    return value if _PLAIN_VALUE.fullmatch(value) else f"'{value}'"
