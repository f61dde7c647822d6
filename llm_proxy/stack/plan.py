"""What one start runs: `UpOptions` and `OperatorEnv` in, a `StackPlan` and the text of its banner out.

Invariants: every address, port and configuration is decided before a process starts; what cannot run is
rejected here, in one line. The text never holds the internal key: its examples read the key from its
file. Python's example starts at the left margin, because an interactive prompt accepts no other
indentation.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_proxy.settings import Settings, load
from llm_proxy.stack import process_specs, stores
from llm_proxy.stack.local_model import CHAT_MODEL
from llm_proxy.stack.operator_env import INTERNAL_KEY, OperatorEnv
from llm_proxy.stack.probe import client_host, free_port, is_port_free, list_models
from llm_proxy.stack.process import ProcessSpec
from llm_proxy.stack.process_specs import RecycleLimits, read_recycle_limits
from llm_proxy.stack.state_dir import replace_file

INTERNAL_KEY_VARIABLES = (INTERNAL_KEY, "LLM_PROXY_SECRET")

BANNER = """
llm-proxy is ready after {seconds:.1f} s.

  base_url   {base_url}
  key        {key.description}
  model      {model}
  logs       {logs}

Paste into another terminal:

  curl -s {base_url}/chat/completions \\
    -H "Authorization: Bearer {key.in_shell}" -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

Or into Python, after `pip install openai`:

{key.in_python}
from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key=key)
question = [{{"role": "user", "content": "What is the capital of France?"}}]
print(client.chat.completions.create(model="{model}", messages=question).choices[0].message.content)

Ctrl-C stops everything.
"""


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """Where the internal key lies, in words, in a shell, and in Python.

    Attributes:
        key: The key itself, for the launcher's own use.
    """

    key: str = field(repr=False)
    description: str
    in_shell: str
    in_python: str


def locate_internal_key(given: OperatorEnv) -> KeyLocation:
    """Where this start found the internal key; of several keys the first is used."""
    name = next(name for name in INTERNAL_KEY_VARIABLES if name in given.variables)
    file = given.files.get(name)
    key = given.variables[name].partition(",")[0].strip()
    if file is None:
        in_python = f'import os; key = os.environ["{name}"].split(",")[0]'
        return KeyLocation(key, f"{name} in the environment", f"${{{name}%%,*}}", in_python)
    path = file.absolute()
    if file.name == ".env":
        in_python = f'import re; key = re.search("(?m)^{name}=([^,\\\\n]+)", open("{path}").read())[1]'
        return KeyLocation(
            key, f"{name} in {path}", f"$(sed -n 's/^{name}=\\([^,]*\\).*/\\1/p' {path})", in_python
        )
    in_python = f'key = open("{path}").read().strip().split(",")[0]'
    return KeyLocation(key, str(path), f"$(cut -d, -f1 {path})", in_python)


def banner(base_url: str, model: str, logs: str, given: OperatorEnv, seconds: float) -> str:
    """The whole text."""
    return BANNER.format(
        base_url=base_url, key=locate_internal_key(given), model=model, logs=logs, seconds=seconds
    )


LOCAL_MODEL_VARIABLES = ("LOCAL_CHAT_BASE", "LOCAL_EMBED_BASE")
DEFAULT_CONFIG = "litellm-config.yaml"
SIDECAR_LIST_FILE = "sidecars"
MASTER_KEY_VARIABLES = ("LLM_PROXY__LITELLM_API_KEY", "LITELLM_MASTER_KEY")

READ_AT_START_ONLY = re.compile(
    r"(DATABASE|REDIS|LIMITS_REDIS|CACHE_REDIS|LLM_CALLS_DATABASE)_URL|LITELLM_MASTER_KEY|LOCAL_MODEL_GGUF|"
    r"LLM_PROXY_(?!SIDECAR_|LOAD_BALANCE)\w+"
)
"""What only a start reads: stores, ports, the key between gateway and sidecars, the gateway's settings."""


class Refused(Exception):  # noqa: N818 -- errors are named for the state they report
    """The stack does not start; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the command line asks for.

    Attributes:
        stores: Whether to start a Postgres and two Valkeys where none is named.
        config: The sidecar's configuration; None takes `litellm-config.yaml` here, else the project's.
        state: Data, models and logs lie below it.
        with_parent: Whether to stop when the process that started this one dies.
        logs_to_stdout: Whether all parts speak where the launcher does, instead of a file each.
    """

    config: Path | None = None
    host: str | None = None
    port: int | None = None
    local_model: bool = True
    stores: bool = True
    sidecars: int = 1
    state: Path = Path(".local")
    with_parent: bool = False
    logs_to_stdout: bool = False


@dataclass(frozen=True, slots=True)
class StackPlan:
    """Everything settled.

    Attributes:
        model_ports: None when no local model is wanted, or the configuration does not refer to it.
        sidecar_ports: By each sidecar's number.
        recycle_limits: What each of them may have.
    """

    operator_env: OperatorEnv
    settings: Settings
    state: Path
    config: Path
    stores: stores.ResolvedStores
    model_ports: process_specs.ModelPorts | None
    sidecar_ports: Mapping[int, int]
    recycle_limits: RecycleLimits

    @property
    def is_development(self) -> bool:
        """Whether somebody is at work on this stack; `up` says so unless told otherwise."""
        return self.operator_env.is_development

    def sidecar_specs(self) -> Iterator[tuple[int, ProcessSpec]]:
        """The sidecars to start, by number."""
        behind = process_specs.SidecarBackends(
            self._master_key(), self.stores.cache.url, self.stores.call_log.url, self.model_ports
        )
        for number, port in self.sidecar_ports.items():
            yield number, process_specs.sidecar_spec(number, port, self.config, behind, self.operator_env)

    def write_sidecar_list(self) -> None:
        """Writes down where the sidecars are; the gateway follows."""
        lines = [f"http://127.0.0.1:{port}\n" for port in self.sidecar_ports.values()]
        replace_file(self.state / SIDECAR_LIST_FILE, "".join(lines))

    def with_operator_env(self, given: OperatorEnv, sidecar_ports: Mapping[int, int]) -> "StackPlan":
        """The same stack with what is given now; the key the gateway knows stays."""
        kept = {
            name: self.operator_env.variables[name]
            for name in MASTER_KEY_VARIABLES
            if name in self.operator_env.variables
        }
        others = {name: value for name, value in given.variables.items() if name not in MASTER_KEY_VARIABLES}
        return replace(
            self, operator_env=replace(given, variables=others | kept), sidecar_ports=sidecar_ports
        )

    def changed_start_settings(self, given: OperatorEnv) -> list[str]:
        """The names whose values have changed and which a running stack does not take up."""
        changed = {
            name
            for name in self.operator_env.variables.keys() | given.variables.keys()
            if self.operator_env.variables.get(name) != given.variables.get(name)
        }
        return sorted(name for name in changed if READ_AT_START_ONLY.fullmatch(name))

    def watched_files(self) -> Iterator[Path]:
        """The files a sidecar is made from: its configuration, the modules it names, keys."""
        yield from (self.config, Path(".env"))
        yield from Path(".keys").glob("[A-Za-z]*")
        for module in self.config.parent.glob("*.py"):
            if module.stem in self.config.read_text(encoding="utf-8", errors="replace"):
                yield module

    def model_specs(self) -> Iterator[ProcessSpec]:
        """The local models to start, if any."""
        if self.model_ports:
            yield process_specs.local_model_spec(self.state, self.model_ports, self.operator_env)

    def gateway_spec(self) -> ProcessSpec:
        """The gateway to start; it ends at once when told to, since nobody waits for it to leave a pool."""
        names = {
            "LLM_PROXY__ENVIRONMENT": "development",
            "LLM_PROXY__DRAIN_DELAY_S": "0",
            "LLM_PROXY__DRAIN_TIMEOUT_S": "1",
            "LLM_PROXY__SPOOL_DIR": str(self.state.absolute() / "spool"),
        }
        if self.model_ports and self.operator_env.first("OPENAI_API_KEY") is None:
            names["LLM_PROXY__DEFAULT_MODEL"] = CHAT_MODEL
        names |= {
            name: value
            for name, value in self.operator_env.variables.items()
            if name.startswith("LLM_PROXY_")
        }
        fixed = {
            "LLM_PROXY__HOST": self.settings.host,
            "LLM_PROXY__LITELLM_PROXY_URL": f"@{self.state.absolute() / SIDECAR_LIST_FILE}",
            "LLM_PROXY__LITELLM_API_KEY": self._master_key(),
            **self.store_addresses(),
        }
        names |= {name: value for name, value in fixed.items() if value}
        return process_specs.gateway_spec(self.settings.port, names, self.operator_env)

    def store_addresses(self) -> dict[str, str]:
        """Where the gateway's stores are, by the settings' names."""
        found = {
            "LLM_PROXY__DATABASE_URL": self.stores.database.url,
            "LLM_PROXY__LIMITS_REDIS_URL": self.stores.limits.url,
        }
        return {name: url for name, url in found.items() if url}

    def published_addresses(self) -> dict[str, str]:
        """What commands run beside the stack should know of it."""
        models = self.model_ports.base_urls() if self.model_ports else {}
        return self.store_addresses() | models | {"LLM_PROXY_URL": self.base_url().removesuffix("/v1")}

    def migrate_database(self) -> None:
        """Brings the embedded database to this version's schema; raises `ProcessFailed` when that fails."""
        if self.stores.database.url and self.stores.call_log.password:
            process_specs.migrate_database(
                self.stores.database.url, self.stores.call_log.password, self.state, self.operator_env
            )

    def example_model(self) -> str:
        """A model group for the examples: what a request naming none gets, if it is served."""
        default = self.gateway_spec().env.get("LLM_PROXY__DEFAULT_MODEL", self.settings.default_model)
        served = list_models(
            client_host(self.settings.host), self.settings.port, locate_internal_key(self.operator_env).key
        )
        return default if default in served or not served else served[0]

    def base_url(self) -> str:
        """What callers on this machine set as `base_url`."""
        host = client_host(self.settings.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.port}/v1"

    def _master_key(self) -> str:
        return self.operator_env.first(*MASTER_KEY_VARIABLES) or ""


def make_plan(wishes: UpOptions, given: OperatorEnv) -> StackPlan:
    """Decides everything.

    Raises:
        Refused: The port is taken, there is no configuration, or a limit is no number.
        Missing: A wheel or an environment is not installed.
        pydantic.ValidationError: A setting is wrong.
    """
    settings = load(host=wishes.host, port=wishes.port)
    if not is_port_free(settings.port, settings.host):
        raise Refused(f"port {settings.port} on {settings.host} is in use: choose another with --port")
    config = _config_file(wishes)
    refers_to_it = any(name in config.read_text(encoding="utf-8") for name in LOCAL_MODEL_VARIABLES)
    wants_models = wishes.local_model and refers_to_it
    plan = StackPlan(
        operator_env=given,
        settings=settings,
        state=wishes.state,
        config=config,
        stores=stores.resolve_stores(given, embedded=wishes.stores),
        model_ports=process_specs.ModelPorts(free_port(), free_port()) if wants_models else None,
        sidecar_ports={number: free_port() for number in range(1, wishes.sidecars + 1)},
        recycle_limits=_recycle_limits(given),
    )
    for _ in (*plan.sidecar_specs(), *plan.model_specs()):
        pass  # each looks for its wheel and says when it is missing
    return plan


def _recycle_limits(given: OperatorEnv) -> RecycleLimits:
    try:
        return read_recycle_limits(given.variables)
    except ValueError as wrong:
        raise Refused(str(wrong)) from wrong


def _config_file(wishes: UpOptions) -> Path:
    candidates = (
        (wishes.config,)
        if wishes.config
        else (Path(DEFAULT_CONFIG), process_specs.PROJECT_ROOT / DEFAULT_CONFIG)
    )
    for path in candidates:
        if path.is_file():
            return path
    raise Refused(f"there is no {candidates[0]}: name the sidecar's configuration with --config")
