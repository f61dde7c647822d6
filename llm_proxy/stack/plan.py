"""What one start runs: `UpOptions` and `OperatorEnv` in, a `StackPlan` and the text of its banner out.

Invariants: every address, port and configuration is decided before a process starts; what cannot run is
rejected here, in one line. The banner never holds the internal key: its examples read the key's source.
Python's example starts at the left margin, because an interactive prompt accepts no other indentation.
"""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from pydantic import SecretStr

from llm_proxy.insecure_settings import insecure_console_settings, insecure_secrets
from llm_proxy.json_access import as_object
from llm_proxy.rotation import Reader, secret_settings, split_secrets
from llm_proxy.settings import Settings, load
from llm_proxy.stack import environments, process_specs, stores
from llm_proxy.stack.local_model import CHAT_MODEL
from llm_proxy.stack.operator_env import (
    ADMIN_KEY,
    CONFIG_REFERENCE,
    INTERNAL_KEY,
    SHELL_REFERENCE,
    SIDECAR_KEY,
    OperatorEnv,
)
from llm_proxy.stack.probe import bind, client_host, free_port, is_port_free
from llm_proxy.stack.process import ProcessSpec
from llm_proxy.stack.self_check import (
    EXAMPLE_QUESTION,
    CheckedPart,
    RunningGateway,
    ServedModel,
    describe_models,
)
from llm_proxy.stack.state_dir import STATE_VARIABLE, Launcher, replace_file

INTERNAL_KEY_VARIABLES = (INTERNAL_KEY, "LLM_PROXY_SECRET")

BANNER = """
llm-proxy is ready after {seconds:.1f} s.

{checked}

  base_url   {base_url}
  key        {key.description}
  models     {models}
  console    {console}
  logs       {logs}

Paste into another terminal:

  curl -s {base_url}/chat/completions \\
    -H "Authorization: Bearer {key.in_shell}" -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{question}"}}]}}'

Or into Python, after `pip install openai`:

{key.in_python}
from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key=key)
question = [{{"role": "user", "content": "{question}"}}]
print(client.chat.completions.create(model="{model}", messages=question).choices[0].message.content)
{note}
Ctrl-C stops everything.
"""
TEST_MODEL_NOTE = """
{model} is a test model of 135 million parameters: its answers are real, and many are wrong.
For other models put a provider's key into a file such as .keys/OPENAI_API_KEY.
"""


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """Where the internal key is stored.

    Attributes:
        key: The key itself, for the launcher's own calls.
        description: For a person.
        in_shell: A shell expression whose value is the key.
        in_python: A Python statement that sets `key`.
    """

    key: str = field(repr=False)
    description: str
    in_shell: str
    in_python: str


def locate_internal_key(env: OperatorEnv) -> KeyLocation:
    """Returns the location of the internal key; of several keys, the first."""
    name = next(name for name in INTERNAL_KEY_VARIABLES if name in env.variables)
    file = env.files.get(name)
    key = env.variables[name].partition(",")[0].strip()
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


@dataclass(frozen=True, slots=True)
class ReadyStack:
    """What the banner shows.

    Attributes:
        checked: The self-check's parts.
        models: The served model groups.
        default_model: The gateway's.
        console: The console's address, or why there is none.
        logs: Where they are.
        seconds: The duration of the start.
    """

    base_url: str
    checked: Sequence[CheckedPart]
    models: Sequence[ServedModel]
    default_model: str
    console: str
    logs: str
    seconds: float

    def example_model(self) -> tuple[str, bool]:
        """Returns the model of the examples, a real one if there is one; and whether it is the test model."""
        chats = [one for one in self.models if one.mode in {"chat", None}]
        chats.sort(key=lambda one: (one.is_test_model, one.name != self.default_model))
        return (chats[0].name, chats[0].is_test_model) if chats else (self.default_model, False)


def banner(ready: ReadyStack, env: OperatorEnv) -> str:
    """The text printed when the stack is ready: its self-check, its addresses, two examples to paste."""
    model, is_test_model = ready.example_model()
    return BANNER.format(
        base_url=ready.base_url,
        key=locate_internal_key(env),
        checked="\n".join(f"  {part}" for part in ready.checked),
        models="\n             ".join(describe_models(ready.models)),
        model=model,
        question=EXAMPLE_QUESTION,
        console=ready.console,
        logs=ready.logs,
        seconds=ready.seconds,
        note=TEST_MODEL_NOTE.format(model=model) if is_test_model else "",
    )


LOCAL_MODEL_VARIABLES = ("LOCAL_CHAT_BASE", "LOCAL_EMBED_BASE")
DEFAULT_CONFIG = "litellm-config.yaml"
SIDECAR_LIST_FILE = "sidecars"
DRAIN_DELAY, CONSOLE_PORT = "LLM_PROXY__DRAIN_DELAY_S", "LLM_PROXY__CONSOLE_PORT"
CONSOLE_PORT_TAKEN = "LLM_PROXY_CONSOLE_PORT_TAKEN"
"""Published beside the stack's addresses: the console's port that another program had."""
MASTER_KEY_VARIABLES = ("LLM_PROXY__LITELLM_MASTER_KEY", "LITELLM_MASTER_KEY")

GATEWAY_PREFIXES = ("LLM_PROXY_", "OTEL_", "LANGFUSE_")
"""Variables of the gateway; its stores' addresses, host and port are given by their own names."""

OF_OTHERS = ("LLM_PROXY_SIDECAR_", "LLM_PROXY_STACK_")
"""Variables that begin like the gateway's and are none."""
READ_AT_START_ONLY = re.compile(
    r"LOCAL_MODEL_GGUF|(LLM_PROXY__)?(HOST|PORT)|LLM_PROXY__CONSOLE_(HOST|PORT|ENABLED)|LLM_PROXY__ENVIRONMENT"
)
"""Read at a start only, beside what would replace an embedded store: where it listens, what runs."""
KEY_NEEDS_BOTH = (
    f"{SIDECAR_KEY}: the gateway and its sidecars are not replaced at one moment: "
    "write new,old and reload, then new and reload"
)


class StartRefused(Exception):  # noqa: N818 -- errors are named for the state they report
    """The stack cannot start; the message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `llm-proxy up`.

    Attributes:
        config: The sidecar's configuration; None: `litellm-config.yaml` in this folder, else the project's.
        host: Where the gateway listens; None: as set, else 127.0.0.1.
        port: The same; None: as set, else 7007.
        local_model: Whether to run the local models if the configuration refers to them.
        stores: Whether to start each store that the operator does not name.
        sidecars: The number of LiteLLM processes.
        state: The folder of data, models and logs.
        with_parent: Whether to stop when the parent of this process dies.
        logs_to_stdout: Whether every process writes to standard output instead of a log file.
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
    """What runs, where it listens and what it is configured with.

    Attributes:
        listener: Where the gateway listens: the launcher holds it, so that one gateway can follow another.
        model_ports: None when no local model runs.
        console_off: Why the console does not run; None: it runs.
        sidecars_number: Of the process whose children the sidecars are: the next ones have another.
        sidecar_ports: The port of each sidecar.
    """

    operator_env: OperatorEnv
    settings: Settings
    state: Path
    config: Path
    stores: stores.ResolvedStores
    listener: socket.socket
    model_ports: process_specs.ModelPorts | None
    console_off: str | None
    sidecars_number: int
    sidecar_ports: tuple[int, ...]

    @property
    def is_development(self) -> bool:
        """Whether this is a development stack, whose files are watched for changes."""
        return self.operator_env.is_development

    def sidecars_name(self) -> str:
        """The name of the process whose children the sidecars are."""
        return process_specs.sidecars_name(self.sidecars_number)

    def sidecars_spec(self) -> ProcessSpec:
        """The sidecars to start; raises `NotInstalled`."""
        backends = process_specs.SidecarBackends(
            self.operator_env.variables[SIDECAR_KEY],
            self.stores.cache.url,
            self.stores.call_log.url,
            self.model_ports,
        )
        return process_specs.sidecars_spec(
            self.sidecars_number, self.sidecar_ports, self.config, backends, self.operator_env
        )

    def write_sidecar_list(self) -> None:
        """Writes the file of the sidecars' addresses, which the gateway polls."""
        lines = [f"http://127.0.0.1:{port}\n" for port in self.sidecar_ports]
        replace_file(self.state / SIDECAR_LIST_FILE, "".join(lines))

    def with_operator_env(self, env: OperatorEnv, number: int, ports: tuple[int, ...]) -> "StackPlan":
        """This plan with another operator environment and other sidecars; where the gateway listens stays.

        Raises:
            StartRefused: Gateway and sidecars would not share a key meanwhile, or a secret is known or short.
            InvalidURL: A store's address is wrong.
            pydantic.ValidationError: A setting is wrong.
        """
        key, now = self.operator_env.variables[SIDECAR_KEY], self.settings
        kept = {
            name: one for name, one in self.operator_env.variables.items() if self._is_read_at_start(name)
        }
        given = {name: one for name, one in env.variables.items() if not self._is_read_at_start(name)}
        env = replace(env, variables={SIDECAR_KEY: key, **given, **kept})
        if not set(split_secrets(key)) & set(split_secrets(env.variables[SIDECAR_KEY])):
            raise StartRefused(KEY_NEEDS_BOTH)
        settings = load(
            host=now.host, port=now.port, console_host=now.console_host, console_port=now.console_port
        )
        faults = [] if env.is_development else list(insecure_secrets(settings))
        if faults:
            raise StartRefused("; ".join(faults))
        return replace(
            self,
            operator_env=env,
            settings=settings,
            stores=self.stores.follow(env),
            sidecars_number=number,
            sidecar_ports=ports,
        )

    def changed_start_settings(self, env: OperatorEnv) -> list[str]:
        """Returns the changed variables that a running stack ignores."""
        before, after = self.operator_env.variables, env.variables
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        return sorted(name for name in changed if self._is_read_at_start(name))

    def _is_read_at_start(self, variable: str) -> bool:
        of_embedded = variable in self.stores.embedded_variables()
        return of_embedded or READ_AT_START_ONLY.fullmatch(variable) is not None

    def watched_files(self) -> Iterator[Path]:
        """The files a sidecar reads at its start: its configuration, modules named there, keys."""
        yield from (self.config, Path(".env"))
        yield from Path(".keys").glob("[A-Za-z]*")
        for module in self.config.parent.glob("*.py"):
            if module.stem in self.config.read_text(encoding="utf-8", errors="replace"):
                yield module

    def model_specs(self) -> Iterator[ProcessSpec]:
        """The local models to start; empty without them."""
        if self.model_ports:
            yield process_specs.local_model_spec(self.state, self.model_ports, self.operator_env)

    def gateway_spec(self) -> ProcessSpec:
        """The gateway to start; in development it stops listening at once, for want of a load balancer."""
        variables = {
            "LLM_PROXY__ENVIRONMENT": "development",
            **({DRAIN_DELAY: "0"} if self.is_development else {}),
            "LLM_PROXY__SPOOL_DIR": str(self.state.absolute() / "spool"),
        }
        if self.model_ports and self.operator_env.first("OPENAI_API_KEY") is None:
            variables["LLM_PROXY__DEFAULT_MODEL"] = CHAT_MODEL
        variables |= {
            name: value
            for name, value in self.operator_env.variables.items()
            if name.startswith(GATEWAY_PREFIXES) and not name.startswith(OF_OTHERS)
        }
        fixed = {
            "LLM_PROXY__HOST": self.settings.host,
            "LLM_PROXY__LITELLM_PROXY_URL": f"@{self.state.absolute() / SIDECAR_LIST_FILE}",
            MASTER_KEY_VARIABLES[0]: self._master_key(),
            STATE_VARIABLE: str(self.state.absolute()),
            **self.store_addresses(),
        }
        variables |= {name: value for name, value in fixed.items() if value}
        spec = process_specs.gateway_spec(self.settings.port, variables, self.operator_env)
        launcher, listener = Launcher(self.state), self.listener.fileno()

        def serves(pid: int) -> bool:
            return launcher.is_gateway(pid) and spec.readiness_probe(pid)

        argv = (*spec.argv, "--prefork", "--listener", str(listener))
        return replace(spec, argv=argv, inherited=(listener,), readiness_probe=serves)

    def console_spec(self) -> ProcessSpec | None:
        """The console to start; None without one. It uses the gateway and the database of this stack."""
        if self.console_off is not None:
            return None
        settings = self.settings
        gateway = {"LLM_PROXY__CONSOLE_GATEWAY_URL": self.base_url().removesuffix("/v1")}
        variables = {**_without_others_secrets(self.gateway_spec().env, "console"), **gateway}
        return process_specs.console_spec(
            settings.console_port, settings.console_host, variables, self.operator_env
        )

    def drain_limit_s(self) -> float:
        """Returns the longest time that the gateway's running calls have after a stop signal, in seconds."""
        no_delay = self.is_development and DRAIN_DELAY not in self.operator_env.variables
        return (0.0 if no_delay else self.settings.drain_delay_s) + self.settings.drain_timeout_s

    def store_addresses(self) -> dict[str, str]:
        """Returns the addresses of the gateway's stores by the gateway's variables."""
        urls = {
            "LLM_PROXY__DATABASE_URL": self.stores.database.url,
            "LLM_PROXY__LIMITS_REDIS_URL": self.stores.limits.url,
            "LLM_PROXY__CACHE_REDIS_URL": self.stores.cache.url,
        }
        return {name: url for name, url in urls.items() if url}

    def published_addresses(self) -> dict[str, str]:
        """Returns the stack's addresses for commands beside it, by variable."""
        models = self.model_ports.base_urls() if self.model_ports else {}
        port = self.settings.console_port
        taken = {CONSOLE_PORT_TAKEN: str(port)} if self.console_off == port_in_use(port) else {}
        gateway = {"LLM_PROXY_URL": self.base_url().removesuffix("/v1")}
        return self.store_addresses() | models | gateway | taken

    def migrate_database(self) -> None:
        """Migrates the embedded database, if there is one; raises `ProcessFailed`."""
        if self.stores.database.url and self.stores.call_log.password:
            process_specs.migrate_database(
                self.stores.database.url, self.stores.call_log.password, self.state, self.operator_env
            )

    def running_gateway(self) -> RunningGateway:
        """Returns the gateway as the self-check reaches it."""
        keys = (
            locate_internal_key(self.operator_env).key,
            (self.operator_env.first(ADMIN_KEY) or "").partition(",")[0].strip(),
        )
        return RunningGateway(client_host(self.settings.host), self.settings.port, *keys)

    def default_model(self) -> str:
        """Returns the model group that a call without one gets."""
        return self.gateway_spec().env.get("LLM_PROXY__DEFAULT_MODEL", self.settings.default_model)

    def base_url(self) -> str:
        """Returns the `base_url` for clients on this machine."""
        host = client_host(self.settings.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.port}/v1"

    def _master_key(self) -> str:
        """LiteLLM's master key, which its clients have: the operator's, else the configuration's."""
        return self.operator_env.first(*MASTER_KEY_VARIABLES) or _master_key_in(
            self.config, self.operator_env
        )


def make_plan(options: UpOptions, env: OperatorEnv) -> StackPlan:
    """Returns the plan of one start.

    Raises:
        StartRefused: The port is in use, or there is no configuration.
        NotInstalled: A wheel or an environment is not installed.
        InvalidURL: A store's address is wrong.
        pydantic.ValidationError: A setting is wrong.
    """
    settings = load(host=options.host, port=options.port)
    config = _config_file(options)
    config_text = config.read_text(encoding="utf-8")
    runs_models = options.local_model and any(name in config_text for name in LOCAL_MODEL_VARIABLES)
    resolved = stores.resolve_stores(env, embedded=options.stores)
    try:
        listener = bind(settings.host, settings.port)
    except OSError:
        raise StartRefused(
            f"port {settings.port} on {settings.host} is in use: choose another with --port"
        ) from None
    plan = StackPlan(
        operator_env=env,
        settings=settings,
        state=options.state,
        config=config,
        stores=resolved,
        listener=listener,
        console_off=_console_off(settings, resolved, env),
        model_ports=process_specs.ModelPorts(free_port(), free_port()) if runs_models else None,
        sidecars_number=1,
        sidecar_ports=tuple(free_port() for _ in range(options.sidecars)),
    )
    for _ in (plan.sidecars_spec(), *plan.model_specs()):
        pass  # raises NotInstalled before anything starts
    return plan


def _without_others_secrets(variables: Mapping[str, str], reader: Reader) -> dict[str, str]:
    """These variables without the secrets that a process does not read."""
    others = {one.variable for one in secret_settings() if reader not in one.readers}
    return {name: value for name, value in variables.items() if name not in others}


def _console_off(settings: Settings, resolved: stores.ResolvedStores, env: OperatorEnv) -> str | None:
    """Why the console does not run, or None; raises `StartRefused` where it is switched on and cannot."""
    if settings.console_enabled is False or (settings.console_enabled is None and not env.is_development):
        return "LLM_PROXY__CONSOLE_ENABLED"
    environment = "development" if env.is_development else settings.environment
    url = SecretStr(resolved.database.url) if resolved.database.url else None
    checked = settings.model_copy(update={"database_url": url, "environment": environment})
    faults = insecure_console_settings(checked)
    if not is_port_free(settings.console_port, settings.console_host):
        faults.append(port_in_use(settings.console_port))
    if faults and settings.console_enabled:
        raise StartRefused(f"the console: {faults[0]}")
    return faults[0] if faults else None


def port_in_use(port: int) -> str:
    """The fault of a console whose port another program has."""
    return f"port {port} is in use: choose another with {CONSOLE_PORT}"


def _master_key_in(config: Path, env: OperatorEnv) -> str:
    """The configuration's `master_key`, or the variable it refers to; empty without one."""
    try:
        settings = as_object(as_object(yaml.safe_load(config.read_text("utf-8"))).get("general_settings"))
    except yaml.YAMLError:
        return ""  # the sidecar says what is wrong with it
    given = settings.get("master_key")
    if not isinstance(given, str):
        return ""
    referred = CONFIG_REFERENCE.fullmatch(given) or SHELL_REFERENCE.match(given)
    return (env.first(referred[1]) or "") if referred else given


def _config_file(options: UpOptions) -> Path:
    default = (Path(DEFAULT_CONFIG), environments.shipped_file(DEFAULT_CONFIG))
    candidates = (options.config,) if options.config else default
    for path in candidates:
        if path.is_file():
            return path
    raise StartRefused(f"there is no {candidates[0]}: name one with --config; `llm-proxy init` writes one")
