"""Checks a configuration file: settings without effect, weak keys, prompts that could leave local servers.

Invariants: imports no LiteLLM and makes no request: known keys come from the generated `known_keys.json`. A
fault is a misspelt key, or a name or protection without effect; any other finding is a note. A deployment is
local if its address is loopback, private or a private name; one without is if its provider is self-hosted.
"""

import copy
import difflib
import ipaddress
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar.bare_models import is_placed, provider_of_family
from llm_proxy.sidecar.config import (
    OPTIONAL_PARAMETERS,
    InvalidConfig,
    ModelSubstituted,
    build_effective_config,
    expand_shell_references,
    is_served,
    resolve_reference,
    unset_variables,
)
from llm_proxy.sidecar.environment import (
    ACCEPT_ALL,
    BASES_WITH_V1,
    BASES_WITHOUT_V1,
    ENV_REFERENCE,
    NEVER_FROM_THE_FILE,
    SHELL_REFERENCE,
    accepted_settings,
)
from llm_proxy.sidecar.known_keys import MISSPELT_SIMILARITY, SECTIONS, find_mend, find_wrong_mode, known_keys
from llm_proxy.sidecar.model_substitution import FALLBACK_KEYS, MODEL_OVERRIDES, find_substitutions
from llm_proxy.sidecar.named_modules import find_missing_modules
from llm_proxy.sidecar.setting_rules import PROMETHEUS, find_unhonoured, is_passed_on, prometheus_lists

SELF_HOSTED = frozenset(
    {
        *("ollama", "ollama_chat", "hosted_vllm", "vllm", "lm_studio", "llamafile", "lemonade", "infinity"),
        *("docker_model_runner", "xinference", "oobabooga", "triton", "local", "tei", "llama_cpp"),
    }
)
LOCAL_ADDRESS_VARIABLES = BASES_WITH_V1 | BASES_WITHOUT_V1 | {"LOCAL_CHAT_BASE", "LOCAL_EMBED_BASE"}
"""Environment variables that hold the address of a local server, set or not."""
PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".lan", ".home.arpa", ".svc", ".cluster.local")
WEAK_KEYS = frozenset(
    {"sk-1234", "sk-master", "sk-test", "change-me", "changeme", "password", "secret", "master-key"}
)
MIN_KEY_CHARS = 16
PLACEHOLDER_WORD = re.compile(
    r"none|noauth|no-|not-|need|dummy|empty|fake|local|your|example|placeholder|change|xxx|required|<|ollama",
    re.IGNORECASE,
)
"""A word that a real key does not contain, or hardly ever."""
NESTED_SECTIONS = (
    ("router_settings", "retry_policy"),
    ("router_settings", "allowed_fails_policy"),
    ("litellm_settings", "cache_params"),
)
REJECTED_KEYS = frozenset(MODEL_OVERRIDES)
"""Keys that are rejected for their effect; the generated table lacks some of them."""
CREDENTIAL_KEYS = ("credential_name", "credential_values", "credential_info")
SUCCESS_CALLBACKS = (
    *("sentry", "wandb", "lunary", "traceloop", "s3", "dynamodb", "helicone", "athina", "supabase"),
)
"""Callbacks that LiteLLM knows in `success_callback` and `failure_callback` alone."""
PRESIDIO_SERVICES = ("presidio_analyzer_api_base", "presidio_anonymizer_api_base")
LEFT_OUT_PREFIX = "left out: "
NEVER_RETRIED = frozenset(
    {"BadRequestErrorRetries", "NotFoundErrorRetries", "ContentPolicyViolationErrorRetries"}
)
"""Keys of a retry policy for errors that are never retried (see `patches.routing`)."""


@dataclass(frozen=True, slots=True)
class ConfigFinding:
    """A fault or a note.

    Attributes:
        path: The key's path in the file, or the deployment.
        message: What is wrong, or worth knowing.
        is_fault: Whether the file should not be served as it is.
        prevents_start: Whether the sidecar would not start.
    """

    path: str
    message: str
    is_fault: bool = True
    prevents_start: bool = False


def check_config(
    raw: object, env: Mapping[str, str], folder: Path | None = None, accepted: Collection[str] = ()
) -> list[ConfigFinding]:
    """Return all findings of a configuration.

    Args:
        raw: The parsed file.
        env: The environment the sidecar will have.
        folder: The file's folder; None: modules it names are not looked for.
        accepted: Paths of protecting settings that the operator knows to have no effect.
    """
    try:
        build_effective_config(raw, env)
    except ModelSubstituted:
        pass  # each is a finding below
    except InvalidConfig as error:
        return [ConfigFinding("", str(error), prevents_start=True)]
    config = copy.deepcopy(as_object(raw))
    own = as_object(config.get("environment_variables"))
    set_here = {name: str(own[name]) for name in own.keys() - NEVER_FROM_THE_FILE if own[name] is not None}
    env = {**env, **set_here}
    expand_shell_references(config, env)
    parts: tuple[Callable[[], Iterator[ConfigFinding]], ...] = (
        lambda: _check_keys("", config, known_keys("top")),
        lambda: _check_deployments(config, env),
        lambda: _check_sections(config),
        lambda: (
            ConfigFinding(where, what, prevents_start=True) for where, what in find_substitutions(config)
        ),
        lambda: _check_modules(config, env, folder),
        lambda: _check_honoured(config, accepted, env),
        lambda: _check_names(config),
        lambda: _check_localities(config, env),
        lambda: _check_variables(config, env),
        lambda: _check_secrets(config, env),
        lambda: _check_credentials(config),
        lambda: _check_older_guardrails(config),
        lambda: _check_guardrails(config, env, folder, accepted),
        lambda: _check_callbacks(config),
        lambda: _check_file_variables(config),
        lambda: _check_model_list(config),
    )
    return list(dict.fromkeys(found for part in parts for found in part()))


def _check_keys(where: str, given: Json, names: Collection[str]) -> Iterator[ConfigFinding]:
    """Yield the keys LiteLLM does not know: a fault if one is misspelt, else a note."""
    for key in given:
        if key not in names:
            path = f"{where}.{key}".lstrip(".")
            mend, misspelt = find_mend(path, names)
            yield ConfigFinding(path, "; ".join(filter(None, ("LiteLLM ignores this key", mend))), misspelt)


def _check_sections(config: Json) -> Iterator[ConfigFinding]:
    for section in SECTIONS:
        yield from _check_keys(section, as_object(config.get(section)), known_keys(section) | REJECTED_KEYS)
    for section, key in NESTED_SECTIONS:
        yield from _check_keys(
            f"{section}.{key}", as_object(as_object(config.get(section)).get(key)), known_keys(key)
        )
    router = as_object(config.get("router_settings"))
    policies = {"retry_policy": router.get("retry_policy")}
    for group, policy in as_object(router.get("model_group_retry_policy")).items():
        where = f"model_group_retry_policy.{group}"
        yield from _check_keys(f"router_settings.{where}", as_object(policy), known_keys("retry_policy"))
        policies[where] = policy
    for where, policy in policies.items():
        for name in sorted(as_object(policy).keys() & NEVER_RETRIED):
            yield ConfigFinding(
                f"router_settings.{where}.{name}", "a caller's own fault is tried once", is_fault=False
            )
    strategy = as_object(config.get("router_settings")).get("routing_strategy")
    if strategy is not None and strategy not in known_keys("strategies"):
        named = ", ".join(sorted(known_keys("strategies")))
        yield ConfigFinding("router_settings.routing_strategy", f"{strategy} is not one of {named}")


def _check_deployments(config: Json, env: Mapping[str, str]) -> Iterator[ConfigFinding]:
    mapped = as_list(as_object(config.get("litellm_settings")).get("custom_provider_map"))
    own = {str(as_object(one).get("provider")) for one in mapped}
    groups = {as_object(one).get("model_name") for one in as_list(config.get("model_list"))}
    seen: set[str] = set()
    for deployment in map(as_object, as_list(config.get("model_list"))):
        params, info = as_object(deployment.get("litellm_params")), as_object(deployment.get("model_info"))
        where = f"model_list.{deployment['model_name']}"
        yield from _check_keys(where, deployment, {"model_name", "litellm_params", "model_info", "model_id"})
        unknown = [name for name in params if name not in known_keys("litellm_params") | known_keys("prices")]
        if unknown:
            named = ", ".join(unknown)
            yield ConfigFinding(
                where, f"not settings of LiteLLM's, so sent to the provider: {named}", is_fault=False
            )
        model = resolve_reference(str(params["model"]), env)
        if model and (message := _find_wrong_model({**params, "model": model}, own, groups)):
            yield ConfigFinding(where, message)
        if message := find_wrong_mode(info.get("mode")):
            yield ConfigFinding(f"{where}.model_info.mode", message)
        if info.get("custom_tokenizer"):
            yield ConfigFinding(
                f"{where}.model_info.custom_tokenizer",
                "never loaded: the sidecar requests nothing from a hub",
                is_fault=False,
            )
        yield from _check_references(where, params, env)
        if info.get("id") in seen:
            yield ConfigFinding(f"{where}.model_info.id", f"{info['id']} is another deployment's id too")
        seen |= {str(info["id"])} if info.get("id") else set()


def _find_wrong_model(params: Json, own: set[str], groups: Collection[object]) -> str | None:
    """Return why LiteLLM cannot ask for a deployment's model; None if it can."""
    model = str(params["model"])
    provider, slash, _ = model.partition("/")
    if slash and provider not in known_keys("providers") | own and not params.get("custom_llm_provider"):
        return f"there is no provider {provider}"
    if slash or is_placed(model, params) or provider_of_family(params):
        return None
    alias = "; another name of a group belongs in router_settings.model_group_alias"
    return f"no provider is known for {model}: write PROVIDER/{model}{alias if model in groups else ''}"


def _check_references(where: str, params: Json, env: Mapping[str, str]) -> Iterator[ConfigFinding]:
    """Yield what a deployment lacks because variables are not set."""
    needed = {name: value for name, value in params.items() if name not in OPTIONAL_PARAMETERS}
    if missing := ", ".join(dict.fromkeys(unset_variables(needed, env))):
        yield ConfigFinding(where, f"{LEFT_OUT_PREFIX}{missing} not set", is_fault=False)
    for name in OPTIONAL_PARAMETERS & params.keys():
        for variable in unset_variables(params[name], env):
            yield ConfigFinding(
                f"{where}.litellm_params.{name}", f"{variable} is not set: called without it", is_fault=False
            )


def _check_modules(config: Json, env: Mapping[str, str], folder: Path | None) -> Iterator[ConfigFinding]:
    for where, module in find_missing_modules(config, folder, env) if folder is not None else ():
        yield ConfigFinding(
            where,
            f"no module {module}, neither beside the file nor installed: LiteLLM would not start",
            prevents_start=True,
        )


def _check_honoured(
    config: Json, accepted: Collection[str], env: Mapping[str, str]
) -> Iterator[ConfigFinding]:
    """Yield the settings LiteLLM does not get: a fault if one protects and is not accepted, else a note."""
    by_variable = accepted_settings(env)
    accepted = by_variable.union(accepted)
    starts_anyway = ACCEPT_ALL in accepted
    for found in find_unhonoured(config):
        fault = found.rule.protects and found.path not in accepted
        hint = f"; `--accept {found.path}` if that will do" if fault else ""
        prevents = fault and not starts_anyway
        yield ConfigFinding(found.path, f"{found.message}{hint}", is_fault=fault, prevents_start=prevents)
    for key in prometheus_lists(as_object(config.get("litellm_settings"))):
        yield ConfigFinding(
            f"litellm_settings.{key}", f"{PROMETHEUS} is left out: see the gateway's /metrics", is_fault=False
        )


def _check_credentials(config: Json) -> Iterator[ConfigFinding]:
    """Yield incomplete credentials, which end LiteLLM's start, and deployments that name none of the list."""
    listed = [as_object(one) for one in as_list(config.get("credential_list"))]
    for at, credential in enumerate(listed, 1):
        for key in CREDENTIAL_KEYS:
            if key not in credential:
                yield ConfigFinding("credential_list", f"entry {at}: {key} is missing", prevents_start=True)
    names = {one.get("credential_name") for one in listed}
    for deployment in map(as_object, as_list(config.get("model_list"))):
        name = as_object(deployment.get("litellm_params")).get("litellm_credential_name")
        if name and name not in names:
            where = f"model_list.{deployment['model_name']}.litellm_params.litellm_credential_name"
            yield ConfigFinding(where, f"no credential of credential_list is called {name}")


def _check_older_guardrails(config: Json) -> Iterator[ConfigFinding]:
    """Yield guardrails of today's form in the older form's section: LiteLLM does not start with them."""
    given = as_list(as_object(config.get("litellm_settings")).get("guardrails"))
    if any(not isinstance(value, dict) for one in given for value in as_object(one).values()):
        yield ConfigFinding(
            "litellm_settings.guardrails",
            "LiteLLM does not start with this form here: write it as `guardrails` at the top of the file",
            prevents_start=True,
        )


def _check_guardrails(
    config: Json, env: Mapping[str, str], folder: Path | None, accepted: Collection[str]
) -> Iterator[ConfigFinding]:
    """Yield guardrails that LiteLLM could not set up: it would not start, or serve without them."""
    accepted = accepted_settings(env).union(accepted)
    for guardrail in map(as_object, as_list(config.get("guardrails"))):
        params = as_object(guardrail.get("litellm_params"))
        path = f"guardrails.{guardrail.get('guardrail_name')}"
        kind = str(params.get("guardrail"))
        wrong = "" if params.get("mode") else "its mode is missing"
        if "." not in kind and kind not in known_keys("guardrails"):
            wrong = f"there is no guardrail {kind}"
        for name in dict.fromkeys(unset_variables(params, env)):
            yield ConfigFinding(path, f"{name} is not set: nothing is read", is_fault=False)
        if wrong:
            fault = path not in accepted
            message = f"{wrong}: LiteLLM would serve without it"
            yield ConfigFinding(path, message, is_fault=fault, prevents_start=fault)
        elif kind == "presidio":
            for message in _find_presidio_lacks(params, env, folder):
                yield ConfigFinding(path, f"{message}: LiteLLM would not start", prevents_start=True)


def _find_presidio_lacks(params: Json, env: Mapping[str, str], folder: Path | None) -> Iterator[str]:
    for name in () if params.get("mock_redacted_text") else PRESIDIO_SERVICES:
        given = params.get(name)
        address = resolve_reference(given, env) if isinstance(given, str) else given
        if not (address or env.get(name.upper())):
            yield f"neither {name} nor {name.upper()} is set"
    recognizers = params.get("presidio_ad_hoc_recognizers")
    if folder is not None and isinstance(recognizers, str) and not Path(recognizers).is_file():
        yield f"there is no file {recognizers}"


def _check_callbacks(config: Json) -> Iterator[ConfigFinding]:
    """Yield names with which LiteLLM does not start, because it takes them for modules in `callbacks`."""
    given = as_object(config.get("litellm_settings")).get("callbacks")
    for name in [given] if isinstance(given, str) else as_list(given):
        if name in SUCCESS_CALLBACKS:
            yield ConfigFinding(
                "litellm_settings.callbacks",
                f"LiteLLM does not start with {name} here: write it into success_callback",
                prevents_start=True,
            )


def _check_file_variables(config: Json) -> Iterator[ConfigFinding]:
    for name in sorted(NEVER_FROM_THE_FILE & as_object(config.get("environment_variables")).keys()):
        yield ConfigFinding(
            f"environment_variables.{name}",
            "ignored: the sidecar sets it, or keeps it from LiteLLM",
            is_fault=False,
        )


def _check_model_list(config: Json) -> Iterator[ConfigFinding]:
    if not config.get("model_list"):
        yield ConfigFinding(
            "model_list",
            "no model is served: models that LiteLLM keeps in a database are not read, write them here",
            is_fault=False,
        )


def _check_names(config: Json) -> Iterator[ConfigFinding]:
    """Yield aliases and fallbacks that name no group of the file."""
    groups = {str(as_object(one)["model_name"]) for one in as_list(config.get("model_list"))}
    for section, key in (("router_settings", "model_group_alias"), ("litellm_settings", "model_alias_map")):
        for name, alias in as_object(as_object(config.get(section)).get(key)).items():
            target = str(as_object(alias).get("model", alias))
            if isinstance(alias, list):
                yield ConfigFinding(f"{section}.{key}.{name}", "an alias names one group, not a list")
            elif not is_served(target, groups):
                yield ConfigFinding(f"{section}.{key}.{name}", f"no group is called {target}")
            groups = groups | {name}
    for section in ("router_settings", "litellm_settings"):
        given = as_object(config.get(section))
        for key in FALLBACK_KEYS:
            for rule in map(as_object, as_list(given.get(key))):
                yield from _check_fallback_rule(f"{section}.{key}", rule, groups)
        for target in as_list(given.get("default_fallbacks")):
            yield from _check_target(f"{section}.default_fallbacks", str(target), groups)


def _check_fallback_rule(where: str, rule: Json, groups: set[str]) -> Iterator[ConfigFinding]:
    for source, targets in rule.items():
        for name in (source, *as_list(targets)):
            if isinstance(name, str) and name != "*":
                yield from _check_target(f"{where}.{source}", name, groups)


def _check_target(where: str, name: str, groups: set[str]) -> Iterator[ConfigFinding]:
    """Yield that a fallback names no group, and is left out: a fault if the name is misspelt."""
    if not is_served(name, groups):
        close = difflib.get_close_matches(name, groups, 1, MISSPELT_SIMILARITY)
        meant = f"; did you mean {close[0]}?" if close else ": without effect"
        yield ConfigFinding(where, f"no group is called {name}{meant}", bool(close))


def _check_localities(config: Json, env: Mapping[str, str]) -> Iterator[ConfigFinding]:
    """Yield a note for each setting by which a local group's prompts may leave local servers."""
    for where, message in find_local_to_remote(config, env):
        yield ConfigFinding(where, message, is_fault=False)


def find_local_to_remote(config: Json, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each setting by which a remote group may answer a local group's call: its path, and a message."""
    kinds = _localities(config, env)
    aliases = as_object(as_object(config.get("router_settings")).get("model_group_alias"))
    local = [name for name, found in kinds.items() if True in found]
    for name in local:
        if False in kinds[name]:
            yield (
                f"model_list.{name}",
                "some of its deployments are local and some remote: either gets a prompt",
            )
    for where, source, target in _fallback_rules(config):
        sources = local if source == "*" else [_resolve_group(source, aliases, kinds)]
        crossing = [name for name in sources if name in local and name != target]
        if crossing and False in kinds.get(_resolve_group(target, aliases, kinds), set()):
            named = ", ".join(crossing)
            yield where, f"leaves the machine: prompts for {named} (local) go to {target} (remote)"


def _localities(config: Json, env: Mapping[str, str]) -> dict[str, set[bool]]:
    """Return each group with the set of its deployments' localities (True: local)."""
    kinds: dict[str, set[bool]] = {}
    for deployment in map(as_object, as_list(config.get("model_list"))):
        kinds.setdefault(str(deployment["model_name"]), set()).add(is_local_deployment(deployment, env))
    return kinds


def _resolve_group(name: str, aliases: Json, kinds: Mapping[str, set[bool]]) -> str:
    """Return the group a name resolves to: an alias's target, itself, or a wildcard that covers it."""
    target = str(as_object(aliases.get(name)).get("model", aliases.get(name, name)))
    return target if target in kinds else next((one for one in kinds if is_served(target, [one])), target)


def _fallback_rules(config: Json) -> Iterator[tuple[str, str, str]]:
    """Yield every fallback: the key's path, the source group (`*`: any), and the target group."""
    for section in ("router_settings", "litellm_settings"):
        given = as_object(config.get(section))
        for key in FALLBACK_KEYS:
            for rule in as_list(given.get(key)):
                for source, targets in as_object(rule).items():
                    for target in as_list(targets):
                        yield f"{section}.{key}.{source}", source, str(as_object(target).get("model", target))
        for target in as_list(given.get("default_fallbacks")):
            yield f"{section}.default_fallbacks", "*", str(target)


def is_local_deployment(deployment: Json, env: Mapping[str, str]) -> bool:
    """Whether the operator runs the deployment's server."""
    params, info = as_object(deployment.get("litellm_params")), as_object(deployment.get("model_info"))
    address = str(params.get("api_base") or params.get("base_url") or "")
    named = ENV_REFERENCE.fullmatch(address)
    if named is not None:
        address = env.get(named[1], "")
        if not address:
            return named[1] in LOCAL_ADDRESS_VARIABLES
    host = urlsplit(address).hostname or ""
    if host:
        return _is_private_host(host)
    return str(info.get("provider") or str(params.get("model")).partition("/")[0]) in SELF_HOSTED


def _is_private_host(host: str) -> bool:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(PRIVATE_SUFFIXES)
    return found.is_private


def _check_variables(config: Json, env: Mapping[str, str]) -> Iterator[ConfigFinding]:
    """Yield a note for each unset variable that a section refers to; deployments are checked elsewhere."""
    for section in SECTIONS:
        for key, value in as_object(config.get(section)).items():
            for name in dict.fromkeys(unset_variables(value, env)):
                if is_passed_on(section, key):  # else its value is never read
                    yield ConfigFinding(
                        f"{section}.{key}", f"{name} is not set: nothing is read", is_fault=False
                    )


def _check_secrets(config: Json, env: Mapping[str, str]) -> Iterator[ConfigFinding]:
    master = as_object(config.get("general_settings")).get("master_key")
    if isinstance(master, str) and not (ENV_REFERENCE.match(master) or SHELL_REFERENCE.match(master)):
        yield ConfigFinding(
            "general_settings.master_key",
            "a key is written in the file: write os.environ/LITELLM_MASTER_KEY",
            is_fault=False,
        )
    if env.get("LITELLM_MASTER_KEY") and is_weak_key(env["LITELLM_MASTER_KEY"]):
        yield ConfigFinding(
            "LITELLM_MASTER_KEY", f"weak: publicly known or shorter than {MIN_KEY_CHARS} characters"
        )
    for deployment in map(as_object, as_list(config.get("model_list"))):
        key = as_object(deployment.get("litellm_params")).get("api_key")
        if isinstance(key, str) and is_provider_key(key):
            where = f"model_list.{deployment['model_name']}.litellm_params.api_key"
            yield ConfigFinding(
                where, "a key is written in the file: name it as os.environ/NAME", is_fault=False
            )


def is_provider_key(text: str) -> bool:
    """Whether an `api_key` is a secret: long, with a digit, and neither a reference nor a placeholder."""
    if text.startswith("os.environ/") or SHELL_REFERENCE.search(text) or PLACEHOLDER_WORD.search(text):
        return False
    return len(text) >= MIN_KEY_CHARS and any(one.isdigit() for one in text)


def is_weak_key(key: str) -> bool:
    """Whether a key is well known or shorter than `MIN_KEY_CHARS`."""
    return key.lower() in WEAK_KEYS or len(key) < MIN_KEY_CHARS
