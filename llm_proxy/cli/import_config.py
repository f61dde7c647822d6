"""`llm-proxy import config FILE`: an older gateway's configuration as a LiteLLM configuration and variables.

Invariants: two forms are read: `providers` and `models` (a YAML of routes), and `llmProxy` (node-config). The
file is only read, and none is replaced; no secret is printed, and the file that gets them is its owner's
alone. Whatever has no counterpart is reported by its path.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import yaml

from llm_proxy.cli.printing import EXIT_WRONG_INPUT, CommandFailed, as_json_option, fail, print_json
from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar.known_keys import known_keys

OWNER_ONLY = 0o600
VARIABLE_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
PLAIN_VALUE = re.compile(r"[\w./:@%+,=-]*", re.ASCII)
DEFAULT_HOSTS = {
    "openai": "api.openai.com",
    "anthropic": "api.anthropic.com",
    "deepseek": "api.deepseek.com",
    "groq": "api.groq.com",
    "mistral": "api.mistral.ai",
    "openrouter": "openrouter.ai",
    "cerebras": "api.cerebras.ai",
    "voyage": "api.voyageai.com",
    "gemini": "generativelanguage.googleapis.com",
}
"""Where LiteLLM calls these providers when no address is given."""
SYNONYMS = {"google": "gemini", "vllm": "hosted_vllm", "azure_openai": "azure", "vertexai": "vertex_ai"}
OLLAMA_PORT = 11434
MODEL_NUMBERS = {
    "max_tokens": ("model_info", "max_output_tokens"),
    "context_window": ("model_info", "max_input_tokens"),
    "max_input_tokens": ("model_info", "max_input_tokens"),
    "temperature": ("litellm_params", "temperature"),
    "timeout": ("litellm_params", "timeout"),
    "timeout_s": ("litellm_params", "timeout"),
    "timeout_seconds": ("litellm_params", "timeout"),
    "rpm": ("litellm_params", "rpm"),
    "tpm": ("litellm_params", "tpm"),
    "api_version": ("litellm_params", "api_version"),
}
"""What a model of `models` may say, and where LiteLLM reads it."""
COSTS = {
    "cost_per_1k_prompt": ("input_cost_per_token", 1000),
    "cost_per_1k_completion": ("output_cost_per_token", 1000),
    "cost_per_1m_prompt": ("input_cost_per_token", 1_000_000),
    "cost_per_1m_completion": ("output_cost_per_token", 1_000_000),
}
NODE_PROVIDERS = {
    "openai": ("openai", "OPENAI"),
    "anthropic": ("anthropic", "ANTHROPIC"),
    "gemini": ("gemini", "GEMINI"),
    "vertexAI": ("vertex_ai", "VERTEX_AI"),
}
"""Providers below `llmProxy`: LiteLLM's name and the variables' prefix."""
NODE_VARIABLES = {
    "langfuse.secretKey": "LANGFUSE_SECRET_KEY",
    "langfuse.publicKey": "LANGFUSE_PUBLIC_KEY",
    "langfuse.baseUrl": "LANGFUSE_BASE_URL",
    "langfuse.environment": "LANGFUSE_TRACING_ENVIRONMENT",
    "app.port": "LLM_PROXY__PORT",
    "app.host": "LLM_PROXY__HOST",
    "llmProxy.vertexAI.projectId": "VERTEX_AI_PROJECT_ID",
    "llmProxy.vertexAI.location": "VERTEX_AI_LOCATION",
    "llmProxy.vertexAI.credentials": "GOOGLE_APPLICATION_CREDENTIALS",
    "llmProxy.defaultModel": "LLM_PROXY__DEFAULT_MODEL",
}


@dataclass(frozen=True, slots=True)
class ImportedConfig:
    """What a file becomes.

    Attributes:
        model_list: The deployments.
        variables: Values by name; None: the operator sets it, as before.
        remarks: Lines about what is different, or has no counterpart.
    """

    model_list: list[Json] = field(default_factory=list[Json])
    variables: dict[str, str | None] = field(default_factory=dict[str, str | None], repr=False)
    remarks: list[str] = field(default_factory=list[str])

    def add(self, group: str, params: Json, info: Json | None = None) -> None:
        """Adds a deployment."""
        given = {"model_name": group, "litellm_params": params} | ({"model_info": info} if info else {})
        self.model_list.append(given)

    def without_counterpart(self, path: str, why: str = "no counterpart") -> None:
        """Remarks that a key is not taken over."""
        self.remarks.append(f"{path}: {why}")

    def yaml_text(self) -> str:
        """The LiteLLM configuration."""
        return yaml.safe_dump({"model_list": self.model_list}, sort_keys=False, allow_unicode=True)

    def env_text(self) -> str:
        """The variables, a line each; those without a value as comments."""
        return "".join(
            f"# {name}=\n" if value is None else f"{name}={quote_value(value)}\n"
            for name, value in self.variables.items()
        )


@click.command("config")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--models-file",
    type=click.Path(path_type=Path),
    default=Path("litellm-config.imported.yaml"),
    show_default=True,
    help="Gets the LiteLLM configuration.",
)
@click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    default=Path(".env.imported"),
    show_default=True,
    help="Gets the variables, secrets among them.",
)
@as_json_option
def import_config(file: Path, *, models_file: Path, env_file: Path, as_json: bool) -> None:
    """Take over an older gateway's FILE: `providers` and `models`, or node-config's `llmProxy`."""
    try:
        raw: object = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        fail(f"{file}: cannot be read: {' '.join(str(fault).split())[:200]}", EXIT_WRONG_INPUT)
    made = convert_config(as_object(raw), str(file))
    _write_new({models_file: made.yaml_text(), env_file: made.env_text()})
    groups = [str(one["model_name"]) for one in made.model_list]
    if as_json:
        print_json({"models": groups, "variables": [*made.variables], "remarks": made.remarks})
        return
    for remark in made.remarks:
        click.echo(f"note   {remark}")
    click.echo(f"{models_file}: {len(groups)} models ({', '.join(groups)})")
    click.echo(f"{env_file}: {', '.join(made.variables) or 'no variables'}; append it to .env")
    click.echo(f"then: llm-proxy config check {models_file} && llm-proxy up --config {models_file}")


def convert_config(raw: Json, name: str) -> ImportedConfig:
    """Returns what a file becomes; ends the command if it has neither form."""
    if as_object(raw.get("llmProxy")):
        return _convert_node_config(raw)
    if as_object(raw.get("models")):
        return _convert_routes(raw)
    if "model_list" in raw:
        message = f"{name} is a LiteLLM configuration: use it as it is (`llm-proxy config check`)"
    else:
        message = f"{name} has neither `providers` and `models` nor `llmProxy`"
    raise CommandFailed(message, EXIT_WRONG_INPUT)


def _convert_routes(raw: Json) -> ImportedConfig:
    made, used = ImportedConfig(), set[str]()
    providers = as_object(raw.get("providers"))
    for group, model in as_object(raw["models"]).items():
        given = dict(as_object(model))
        provider = str(given.pop("provider", "openai"))
        if provider not in providers:
            fail(f"models.{group}: there is no provider {provider}", EXIT_WRONG_INPUT)
        used.add(provider)
        params = _provider_params(provider, as_object(providers[provider]), made)
        params["model"] = f"{params['model']}/{given.pop('physical_name', group)}"
        made.add(group, params, _model_info(f"models.{group}", given, params, made))
    for provider in providers.keys() - used:
        made.without_counterpart(f"providers.{provider}", "left out: no model uses it")
    default = raw.get("default_model")
    if isinstance(default, str):
        made.variables["LLM_PROXY__DEFAULT_MODEL"] = default
    for key in raw.keys() - {"providers", "models", "default_model"}:
        made.without_counterpart(
            key, "no counterpart; limits: docs/limits.md, settings: docs/configuration.md"
        )
    return made


def _provider_params(name: str, given: Json, made: ImportedConfig) -> Json:
    """Returns a provider's parameters; `model` is LiteLLM's name of the provider."""
    base = str(given.get("base_url") or "").rstrip("/")
    kind = _litellm_provider(name, base)
    params: Json = {"model": kind}
    variable = given.get("api_key_env")
    if "api_key" in given and not variable:
        variable = f"{re.sub(r'[^A-Z0-9]', '_', name.upper())}_API_KEY"
        made.variables[variable] = str(given["api_key"])
    if variable:
        params["api_key"] = f"os.environ/{variable}"
        made.variables.setdefault(str(variable), None)
    elif kind == "openai":
        params["api_key"] = "none"
    if base and urlsplit(base).hostname != DEFAULT_HOSTS.get(kind):
        params["api_base"] = base.removesuffix("/v1") if kind == "ollama_chat" else base
        if kind == "openai" and name != "openai":
            _remark_once(made, f"providers.{name}: called as an OpenAI-compatible server at its base_url")
    for key, value in given.items():
        if key in MODEL_NUMBERS and MODEL_NUMBERS[key][0] == "litellm_params":
            params[MODEL_NUMBERS[key][1]] = value
        elif key not in {"base_url", "api_key_env", "api_key"}:
            _remark_once(made, f"providers.{name}.{key}: no counterpart")
    return params


def _remark_once(made: ImportedConfig, remark: str) -> None:
    if remark not in made.remarks:
        made.remarks.append(remark)


def _litellm_provider(name: str, base: str) -> str:
    plain = re.sub(r"[^a-z0-9_]", "_", name.lower())
    plain = SYNONYMS.get(plain, plain)
    if "ollama" in plain or urlsplit(base).port == OLLAMA_PORT:
        return "ollama_chat"
    return plain if plain in known_keys("providers") else "openai"


def _model_info(path: str, given: Json, params: Json, made: ImportedConfig) -> Json:
    """Returns `model_info`; what belongs into `litellm_params` is added there."""
    info: Json = {}
    for key, value in given.items():
        if key in COSTS:
            name, tokens = COSTS[key]
            info[name] = float(Decimal(str(value)) / tokens)
        elif key in MODEL_NUMBERS:
            section, name = MODEL_NUMBERS[key]
            (info if section == "model_info" else params)[name] = value
        elif key == "description":
            info[key] = value
        else:
            made.without_counterpart(f"{path}.{key}")
    return info


def _convert_node_config(raw: Json) -> ImportedConfig:
    made = ImportedConfig()
    for key, given in as_object(raw["llmProxy"]).items():
        if key in NODE_PROVIDERS:
            provider, prefix = NODE_PROVIDERS[key]
            made.add(
                f"{provider}/*",
                {"model": f"{provider}/*", **_node_params(as_object(given), provider, prefix)},
            )
    for path, value in _leaves(raw):
        _take_leaf(path, value, made)
    made.remarks.append(
        "as before, any other model goes to the provider that its name implies (gpt-4 to OpenAI); a virtual"
        " key needs `*` among its models for that"
    )
    return made


def _node_params(given: Json, provider: str, prefix: str) -> Json:
    if provider == "vertex_ai":
        return {
            "vertex_project": "os.environ/VERTEX_AI_PROJECT_ID",
            "vertex_location": "os.environ/VERTEX_AI_LOCATION",
        }
    has_base = any(given.get(name) for name in ("baseUrl", "baseURL"))
    return {"api_key": f"os.environ/{prefix}_API_KEY"} | (
        {"api_base": f"os.environ/{prefix}_API_BASE"} if has_base else {}
    )


def _take_leaf(path: str, value: Any, made: ImportedConfig) -> None:  # noqa: ANN401 -- of YAML
    """Takes a value over as a variable; remarks that it has no counterpart."""
    variable = NODE_VARIABLES.get(path)
    section, provider, *name = path.split(".")
    if section == "llmProxy" and provider in NODE_PROVIDERS and len(name) == 1:
        suffix = {"apiKey": "API_KEY", "baseUrl": "API_BASE", "baseURL": "API_BASE"}.get(name[0])
        variable = f"{NODE_PROVIDERS[provider][1]}_{suffix}" if suffix else variable
    if variable is None:
        made.without_counterpart(path)
        return
    text = str(value)
    if text == variable:  # a file of node-config's that maps variables
        made.variables[variable] = None
    elif VARIABLE_NAME.fullmatch(text):
        made.variables[variable] = None
        made.remarks.append(f"{path}: set {variable} to what {text} holds")
    else:
        made.variables[variable] = text
    if variable == "LLM_PROXY__HOST" and text not in {"127.0.0.1", "localhost", "::1"}:
        made.remarks.append(f"{path}: in production a public address needs LLM_PROXY__PUBLIC_BIND_OK=true")


def _leaves(value: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        path = f"{prefix}{key}"
        if as_object(inner):
            yield from _leaves(as_object(inner), f"{path}.")
        elif inner is not None:
            yield path, inner


def quote_value(value: str) -> str:
    """A value as a `.env` file holds it."""
    if PLAIN_VALUE.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _write_new(texts: dict[Path, str]) -> None:
    """Writes files that do not exist yet, for their owner alone; ends the command if one does."""
    for file in texts:
        if file.exists():
            fail(f"{file} exists: name another, or move it away", EXIT_WRONG_INPUT)
    for file, text in texts.items():
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        except OSError as fault:
            fail(f"{file}: cannot be written: {fault.strerror}", EXIT_WRONG_INPUT)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
