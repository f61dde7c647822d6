"""What `llm-proxy config check` finds in one invalid file per fault."""

# ruff: noqa: E501 -- one fault, one line

import subprocess
import sys
from pathlib import Path

import pytest

from llm_proxy.cli.config import check_text, format_findings

GOOD = """
model_list:
  - model_name: a
    litellm_params: {model: openai/a, api_key: os.environ/PATH}
    model_info: {id: one, mode: chat, input_cost_per_token: 0.000001}
router_settings: {num_retries: 2, fallbacks: [{a: [a]}]}
litellm_settings: {cache: true, cache_params: {type: redis, ttl: 60, socket_timeout: 1}, callbacks: [x.y]}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY, cancel_on_disconnect: true}
"""
FAULTS = {
    "top level": ("general_setting: {}", "general_setting", "did you mean general_settings?"),
    "router": ("router_settings: {num_retrys: 2}", "router_settings.num_retrys", "did you mean num_retries?"),
    "strategy": ("router_settings: {routing_strategy: round-robin}", "router_settings.routing_strategy", "is not one of"),
    "litellm": ("litellm_settings: {request_timeouts: 3}", "litellm_settings.request_timeouts", "did you mean"),
    "cache": ("litellm_settings: {cache_params: {hosts: x}}", "litellm_settings.cache_params.hosts", "did you mean host?"),
    "general": ("general_settings: {masterkey: x}", "general_settings.masterkey", "did you mean master_key?"),
    "alias": ("router_settings: {model_group_alias: {b: nowhere}}", "router_settings.model_group_alias.b", "nowhere"),
    "misspelt fallback": ("router_settings: {model_group_alias: {assistant: a}, fallbacks: [{a: [asistant]}]}", "router_settings.fallbacks.a", "did you mean assistant?"),
    "model of no provider": ("model_list: [{model_name: a, litellm_params: {model: our-model}}]", "model_list.a", "write PROVIDER/our-model"),
    "model that is a group": ("model_list: [{model_name: a, litellm_params: {model: openai/a}}, {model_name: b, litellm_params: {model: a}}]", "model_list.b", "model_group_alias"),
    "provider": ("model_list: [{model_name: a, litellm_params: {model: opanai/a}}]", "model_list.a", "no provider opanai"),
    "mode": ("model_list: [{model_name: a, litellm_params: {model: openai/a}, model_info: {mode: image}}]", "model_list.a.model_info.mode", "image is not a mode: write one of chat, responses, completion, embedding, rerank, moderation, image_generation"),
    "mode that is no text": ("model_list: [{model_name: a, litellm_params: {model: openai/a}, model_info: {mode: [chat]}}]", "model_list.a.model_info.mode", "is not a mode"),
    "deployment": ("model_list: [{model_name: a, litellm_param: {}, litellm_params: {model: openai/a}}]", "model_list.a.litellm_param", "did you mean litellm_params?"),
    "same id": ("model_list: [{model_name: a, litellm_params: {model: openai/a}, model_info: {id: i}}, {model_name: a, litellm_params: {model: openai/b}, model_info: {id: i}}]", "model_list.a.model_info.id", "another deployment's"),
    "no model": ("model_list: [{model_name: a}]", "", "litellm_params.model is missing"),
    "repeated key": ("router_settings: {timeout: 1, timeout: 2}", "", "appears twice"),
    "credential": ("credential_list: [{credential_name: c, credential_values: {}}]", "credential_list", "entry 1: credential_info is missing"),
    "credential's name": ("model_list: [{model_name: a, litellm_params: {model: openai/a, litellm_credential_name: c}}]", "model_list.a.litellm_params.litellm_credential_name", "no credential"),
    "guardrails in the older section": ("litellm_settings: {guardrails: [{guardrail_name: a, litellm_params: {guardrail: presidio, mode: pre_call}}]}", "litellm_settings.guardrails", "at the top of the file"),
    "guardrail of no kind": ("guardrails: [{guardrail_name: g, litellm_params: {guardrail: no_such, mode: pre_call}}]", "guardrails.g", "no guardrail no_such"),
    "guardrail without a mode": ("guardrails: [{guardrail_name: g, litellm_params: {guardrail: lakera_v2}}]", "guardrails.g", "its mode is missing"),
    "presidio without its services": ("guardrails: [{guardrail_name: g, litellm_params: {guardrail: presidio, mode: pre_call, presidio_analyzer_api_base: 'http://a'}}]", "guardrails.g", "neither presidio_anonymizer_api_base nor PRESIDIO_ANONYMIZER_API_BASE is set"),
    "alias of a list": ("router_settings: {model_group_alias: {b: [a]}}", "router_settings.model_group_alias.b", "one group, not a list"),
    "callback of another list": ("litellm_settings: {callbacks: [sentry]}", "litellm_settings.callbacks", "write it into success_callback"),
    "not YAML": ("model_list: [", "", "expected"),
}  # fmt: skip

NOTES = {
    "rate limit of an older document": ("router_settings: {rate_limit: {rpm: 1}}", "router_settings.rate_limit", "ignores"),
    "retry policy": ("router_settings: {retry_policy: {max_retries: 3}}", "router_settings.retry_policy.max_retries", "ignores"),
    "retry policy of a group": ("router_settings: {model_group_retry_policy: {a: {max_retries: 3}}}", "router_settings.model_group_retry_policy.a.max_retries", "ignores"),
    "key in the file": ("general_settings: {master_key: sk-1234}", "general_settings.master_key", "is written in the file"),
    "sqlite": ("general_settings: {database_url: 'sqlite:///./litellm.db'}", "general_settings.database_url", "keeps no database"),
    "provider's key": ("model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: sk-proj-a81Bc93kQ0zX7}}]", "model_list.a.litellm_params.api_key", "is written in the file"),
    "setting of no release": ("litellm_settings: {default_model: a}", "litellm_settings.default_model", "ignores"),
    "top level of no release": ("admin_ui: {enabled: true}", "admin_ui", "ignores"),
    "Prometheus": ("litellm_settings: {success_callback: [prometheus]}", "litellm_settings.success_callback", "/metrics"),
    "Prometheus for services": ("litellm_settings: {service_callback: [prometheus_system]}", "litellm_settings.service_callback", "/metrics"),
    "values of a chart": ("proxy_config: {model_list: []}", "proxy_config", "a Helm chart's values"),
    "drain endpoint": ("general_settings: {enable_drain_endpoint: true}", "general_settings.enable_drain_endpoint", "drains on SIGTERM"),
    "alerts": ("general_settings: {alerting: [slack]}", "general_settings.alerting", "docs/notifications.md"),
    "models of a database": ("general_settings: {store_model_in_db: true}", "general_settings.store_model_in_db", "keeps no database"),
    "passed through": ("general_settings: {pass_through_endpoints: [{path: /x, target: 'http://y'}]}", "general_settings.pass_through_endpoints", "not available"),
    "master key by variable": ("environment_variables: {LITELLM_MASTER_KEY: sk-1234}", "environment_variables.LITELLM_MASTER_KEY", "ignored"),
    "fallback": ("router_settings: {fallbacks: [{a: [nowhere]}]}", "router_settings.fallbacks.a", "no group is called nowhere: without effect"),
    "fallback's source": ("router_settings: {fallbacks: [{gone: [a]}]}", "router_settings.fallbacks.gone", "gone"),
    "context fallback": ("router_settings: {context_window_fallbacks: [{a: [nowhere]}]}", "router_settings.context_window_fallbacks.a", "no group"),
    "default fallback": ("litellm_settings: {default_fallbacks: [nowhere]}", "litellm_settings.default_fallbacks", "no group"),
    "retries by another name": ("router_settings: {retry_policy: {retry_count: 2}}", "router_settings.retry_policy.retry_count", "write num_retries"),
    "retries' pause": ("router_settings: {retry_policy: {delay: 1.0}}", "router_settings.retry_policy.delay", "write router_settings.retry_after"),
    "key of another section": ("general_settings: {set_verbose: true}", "general_settings.set_verbose", "it belongs in litellm_settings"),
    "key above its section": ("drop_params: true", "drop_params", "it belongs in litellm_settings"),
    "limits above litellm_params": ("model_list: [{model_name: a, rpm: 3, litellm_params: {model: openai/a}}]", "model_list.a.rpm", "it belongs in litellm_params"),
    "key that resembles another": ("litellm_settings: {enable_prompt_caching: true}", "litellm_settings.enable_prompt_caching", "did you mean enable_anthropic_prompt_caching?"),
    "the opposite of a key": ("router_settings: {enable_cooldowns: true}", "router_settings.enable_cooldowns", "did you mean disable_cooldowns?"),
    "organization of no variable": ("model_list: [{model_name: a, litellm_params: {model: openai/a, organization: os.environ/NO_SUCH_NAME}}]", "model_list.a.litellm_params.organization", "called without it"),
    "models of LiteLLM's database": ("model_list: []", "model_list", "write them here"),
    "MCP": ("mcp_servers: {a: {url: 'http://b'}}", "mcp_servers", "not available"),
}  # fmt: skip
PROTECTING = {
    "own authentication": ("general_settings: {custom_auth: own.check}", "general_settings.custom_auth"),
    "JWT": ("general_settings: {enable_jwt_auth: true}", "general_settings.enable_jwt_auth"),
    "budget": ("litellm_settings: {max_budget: 10}", "litellm_settings.max_budget"),
    "size": ("general_settings: {max_request_size_mb: 5}", "general_settings.max_request_size_mb"),
    "addresses": ("general_settings: {allowed_ips: [10.0.0.1]}", "general_settings.allowed_ips"),
    "callers' names": ("general_settings: {enforce_user_param: true}", "general_settings.enforce_user_param"),
    "calls at once": ("general_settings: {global_max_parallel_requests: 9}", "general_settings.global_max_parallel_requests"),
}  # fmt: skip
QUIET = {
    "LiteLLM's parameters": "model_list: [{model_name: a, litellm_params: {model: openai/a, additional_drop_params: [temperature], realtime_protocol: GA}}]",
    "guardrails of the older form": "litellm_settings: {guardrails: [{injection: {callbacks: [lakera_prompt_injection], default_on: true}}]}",
    "master key of a shell": "general_settings: {master_key: '${LITELLM_MASTER_KEY}'}",
    "constants' keys": "general_settings: {dangerously_allow_mock_testing_request_params: true}",
    "keys read beside the proxy": "litellm_settings: {code_interpreter_interception_params: {}}",
    **{
        f"model {model}": f"model_list: [{{model_name: a, litellm_params: {{model: '{model}'}}}}]"
        for model in ("gpt-4o", "claude-3-haiku-20240307", "claude-opus-4-6", "o3", "gemini-1.5-pro", "*", "ft:gpt-4o:us::1", "anthropic.claude-9", "dall-e-3")
    },
    "endpoint that LiteLLM knows": "model_list: [{model_name: a, litellm_params: {model: any, api_base: 'https://api.groq.com/openai/v1'}}]",
    "provider beside the model": "model_list: [{model_name: a, litellm_params: {model: any, custom_llm_provider: openai}}]",
    "logs": "litellm_settings: {set_verbose: true, timezone: Europe/Berlin}",
    "sentinels": "litellm_settings: {cache_params: {type: redis, sentinel_nodes: [[h, 26379]], service_name: m}}",
    "nothing set": "general_settings: {database_url: null, custom_auth: null, allowed_ips: null, store_model_in_db: false}",
    "prompt caching": "model_list: [{model_name: a, litellm_params: {model: openai/a, cache_control_injection_points: [{location: message, role: system}]}}]",
    "described": "model_list: [{model_name: a, litellm_params: {model: openai/a}, model_info: {description: d, owner: o, access_groups: [x]}}]",
    "variable model": "model_list: [{model_name: a, litellm_params: {model: os.environ/MODEL_OF_A}}]",
    "credential": "credential_list: [{credential_name: c, credential_info: {}, credential_values: {api_key: os.environ/PATH}}]",
    **{
        f"key {key}": f"model_list: [{{model_name: a, litellm_params: {{model: openai/a, api_key: {key}}}}}]"
        for key in ("local", "none", "sk-bridge-noauth", "not-needed-for-this-1-server", "fake-key", "sk-no-key-required", "sk-1234")
    },
}  # fmt: skip


def written(line: str) -> str:
    """The valid file with one section replaced."""
    section = line.partition(":")[0]
    kept = [part for part in GOOD.strip().split("\n") if not part.startswith(f"{section}:")]
    if section == "model_list":
        kept = [part for part in kept if not part.startswith(" ")]
    return "\n".join([*kept, line])


@pytest.mark.parametrize(("line", "where", "expected"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_named(line: str, where: str, expected: str) -> None:
    """With its path and, where there is one, the key that was meant."""
    faults = [found for found in check_text(written(line)) if found.is_fault]
    assert [one for one in faults if one.path == where and expected in one.message], faults


@pytest.mark.parametrize(("line", "where", "expected"), NOTES.values(), ids=NOTES)
def test_what_works_here_without_effect_is_a_note(line: str, where: str, expected: str) -> None:
    """LiteLLM ignores it too, or this project has something else in its place."""
    found = check_text(written(line))
    assert [one for one in found if one.path == where and expected in one.message], found
    assert not [one for one in found if one.is_fault]


@pytest.mark.parametrize(("line", "where"), PROTECTING.values(), ids=PROTECTING)
def test_a_protection_without_effect_is_a_fault_unless_accepted(line: str, where: str) -> None:
    """In development it keeps no sidecar from starting."""
    [fault] = [one for one in check_text(written(line)) if one.is_fault]
    assert (fault.path, fault.prevents_start) == (where, False)
    assert f"--accept {where}" in fault.message
    assert not [one for one in check_text(written(line), accepted=[where]) if one.is_fault]


@pytest.mark.parametrize(
    ("accepted", "is_fault", "prevents_start"),
    [
        ("", True, True),
        ("general_settings.custom_auth", True, True),
        ("*", True, False),
        ("litellm_settings.max_budget", False, False),
    ],
)
def test_in_production_a_start_needs_the_operator_s_word(
    accepted: str,
    is_fault: bool,  # noqa: FBT001 -- a parameter
    prevents_start: bool,  # noqa: FBT001 -- the same
) -> None:
    """`LLM_PROXY_SIDECAR_ACCEPT` names the setting; `*` starts, and the check still tells it."""
    where = "litellm_settings.max_budget"
    variables = {
        "LLM_PROXY__ENVIRONMENT": "production",
        "LLM_PROXY_SIDECAR_ACCEPT": accepted,
    }
    text = "model_list: []\nlitellm_settings: {max_budget: 5}\n"
    [found] = [one for one in check_text(text, variables) if one.path == where]
    assert (found.is_fault, found.prevents_start) == (is_fault, prevents_start)


@pytest.mark.parametrize("line", QUIET.values(), ids=QUIET)
def test_what_works_as_written_is_not_found(line: str) -> None:
    """Each was a false finding in somebody's file."""
    assert check_text(written(line), {"PATH": "x", "MODEL_OF_A": "openai/gpt-4o"}) == []


def test_a_file_without_models_gets_a_hint() -> None:
    """Its owner keeps them in LiteLLM's database."""
    [note] = check_text("model_list: []")
    assert (note.is_fault, note.path) == (False, "model_list")
    assert "LiteLLM keeps in a database are not read" in note.message


def test_a_shell_reference_to_a_variable_that_is_not_set_leaves_the_deployment_out() -> None:
    """As a reference of LiteLLM's own does; a default is one."""
    text = "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: '${OPENAI_API_KEY}'}}]"
    [note] = check_text(text)
    assert (note.is_fault, note.message) == (False, "left out: OPENAI_API_KEY not set")
    assert check_text(text, {"OPENAI_API_KEY": "sk-x"}) == []
    assert check_text(text.replace("API_KEY}", "API_KEY:-none}")) == []


def test_a_variable_of_the_file_itself_is_set() -> None:
    """`environment_variables` is read before deployments are."""
    text = (
        "environment_variables: {A_KEY_OF_MINE: x}\n"
        "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: os.environ/A_KEY_OF_MINE}}]"
    )
    assert check_text(text, {}) == []


def test_a_module_that_nobody_supplies_prevents_the_start(tmp_path: Path) -> None:
    """One beside the file is found, and so is one of a folder."""
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "own.py").write_text("")
    for name, found in (("hooks.own.one", []), ("nowhere_to_be_found.one", ["litellm_settings.callbacks"])):
        text = written(f"litellm_settings: {{callbacks: [{name}]}}")
        findings = check_text(text, {"PATH": "x"}, tmp_path)
        assert [one.path for one in findings if one.prevents_start] == found


def test_a_guardrail_that_could_not_be_set_up_prevents_the_start_unless_accepted() -> None:
    """In development too; LiteLLM would serve without it."""
    text = written(
        "guardrails: [{guardrail_name: g, litellm_params: {guardrail: none_such, mode: pre_call}}]"
    )
    for accept, kept in (("", True), ("*", True), ("*,guardrails.g", False)):
        [found] = check_text(text, {"PATH": "x", "LLM_PROXY_SIDECAR_ACCEPT": accept})
        assert (found.is_fault, found.prevents_start) == (kept, kept)


def test_presidio_as_its_owners_set_it_up_is_no_finding(tmp_path: Path) -> None:
    """Its services named by the environment, as in LiteLLM's documents; a file of recognizers that is there."""
    own = tmp_path / "recognizers.json"
    own.write_text("[]")
    names = {
        "PATH": "x",
        "PRESIDIO_ANALYZER_API_BASE": "http://a",
        "PRESIDIO_ANONYMIZER_API_BASE": "http://b",
    }
    for file, expected in ((own, []), (tmp_path / "gone.json", ["guardrails.g"])):
        line = (
            "guardrails: [{guardrail_name: g, litellm_params: {guardrail: presidio, mode: pre_call, "
            f"presidio_ad_hoc_recognizers: '{file}'}}}}]"
        )
        found = check_text(written(line), names, tmp_path)
        assert [one.path for one in found if one.path.startswith("guardrails")] == expected


def test_a_valid_file_has_no_findings() -> None:
    """No fault and no note."""
    assert check_text(GOOD) == []


def test_an_unset_key_is_a_note() -> None:
    """The deployment is left out at the start, which is no fault."""
    text = "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: os.environ/NO_SUCH_KEY}}]"
    assert [(one.is_fault, one.message) for one in check_text(text)] == [
        (False, "left out: NO_SUCH_KEY not set")
    ]


OWN = "{model_name: own, litellm_params: {model: ollama_chat/x, api_base: os.environ/OLLAMA_API_BASE}}"
ALIKE = "{model_name: alike, litellm_params: {model: openai/x, api_base: 'http://10.1.2.3:8000/v1'}}"
FAR = "{model_name: far, litellm_params: {model: openai/x}}"
BOTH = "{model_name: own, litellm_params: {model: openai/x}}"
WILD = "{model_name: wild/*, litellm_params: {model: openrouter/*}}"
CROSSING = {
    "fallbacks": ("{fallbacks: [{own: [far]}]}", "router_settings.fallbacks.own"),
    "context": ("{context_window_fallbacks: [{own: [far]}]}", "router_settings.context_window_fallbacks.own"),
    "policy": ("{content_policy_fallbacks: [{alike: [far]}]}", "router_settings.content_policy_fallbacks.alike"),
    "default": ("{default_fallbacks: [far]}", "router_settings.default_fallbacks"),
    "any": ("{fallbacks: [{'*': [far]}]}", "router_settings.fallbacks.*"),
    "alias": ("{fallbacks: [{mine: [theirs]}], model_group_alias: {mine: own, theirs: far}}", "router_settings.fallbacks.mine"),
    "wildcard": ("{fallbacks: [{own: [wild/name]}]}", "router_settings.fallbacks.own"),
    "with other fields": ("{fallbacks: [{own: [{model: far, temperature: 0}]}]}", "router_settings.fallbacks.own"),
}  # fmt: skip


@pytest.mark.parametrize(("router", "where"), CROSSING.values(), ids=CROSSING)
def test_a_fallback_from_local_to_remote_is_a_note(router: str, where: str) -> None:
    """A local server that is down must not send private prompts elsewhere unnoticed."""
    text = f"model_list: [{OWN}, {ALIKE}, {FAR}, {WILD}]\nrouter_settings: {router}"
    assert where in [one.path for one in check_text(text) if "leaves the machine" in one.message]


def test_other_fallbacks_are_no_note() -> None:
    """From local to local, and from remote to any."""
    rules = "{fallbacks: [{own: [alike]}, {far: [own, wild/x]}]}"
    text = f"model_list: [{OWN}, {ALIKE}, {FAR}, {WILD}]\nrouter_settings: {rules}"
    assert not [one for one in check_text(text) if "remote" in one.message]


def test_a_public_address_is_remote_whatever_its_variable() -> None:
    """The variable of a local server may hold a public address."""
    text = f"model_list: [{OWN}, {FAR}]\nrouter_settings: {{fallbacks: [{{own: [far]}}]}}"
    given = {"OLLAMA_API_BASE": "https://ollama.com"}
    assert not [one for one in check_text(text, given) if "remote" in one.message]


def test_a_group_of_local_and_remote_deployments_is_a_note() -> None:
    """Its calls are shared between them."""
    found = check_text(f"model_list: [{OWN}, {BOTH}]")
    assert [one.path for one in found if "either gets a prompt" in one.message] == ["model_list.own"]


def test_a_custom_tokenizer_is_a_note() -> None:
    """Nothing is loaded from a hub during calls."""
    info = "{id: one, custom_tokenizer: {identifier: some/model, revision: main, auth_token: null}}"
    text = f"model_list: [{{model_name: a, litellm_params: {{model: openai/a}}, model_info: {info}}}]"
    found = [(one.is_fault, one.path) for one in check_text(text)]
    assert found == [(False, "model_list.a.model_info.custom_tokenizer")]


def test_retries_of_a_caller_s_error_are_a_note() -> None:
    """They are never made."""
    text = "router_settings: {retry_policy: {BadRequestErrorRetries: 3, TimeoutErrorRetries: 1}}"
    [note] = check_text(written(text))
    assert (note.is_fault, note.path) == (False, "router_settings.retry_policy.BadRequestErrorRetries")


def test_an_unknown_parameter_is_a_note() -> None:
    """LiteLLM sends it to the provider; several share a note."""
    text = "model_list: [{model_name: a, litellm_params: {model: openai/a, min_p: 1, num_ctx: 4096}}]"
    assert [(one.is_fault, one.path) for one in check_text(text)] == [(False, "model_list.a")]


def test_an_unset_variable_of_a_section_is_a_note() -> None:
    """Deployments with unset variables are left out."""
    for text, path in (
        ("litellm_settings: {cache_params: {ssl: os.environ/NO_SUCH_NAME}}", "litellm_settings.cache_params"),
        (
            "guardrails: [{guardrail_name: g, litellm_params: {guardrail: lakera_v2, mode: a, api_key: os.environ/NO_SUCH_NAME}}]",
            "guardrails.g",
        ),
    ):
        [note] = check_text(written(text))
        assert (note.is_fault, note.path) == (False, path)
        assert "NO_SUCH_NAME" in note.message


@pytest.mark.parametrize(("name", "package"), [("mlflow", "mlflow"), ("arize", "grpc")])
def test_a_callback_whose_package_nobody_installs_prevents_the_start(
    name: str, package: str, tmp_path: Path
) -> None:
    """A package beside the file is one."""
    text = written(f"litellm_settings: {{success_callback: [{name}]}}")
    found = [one for one in check_text(text, {"PATH": "x"}, tmp_path) if one.prevents_start]
    assert [one.path for one in found] == ["litellm_settings.success_callback"]
    assert f"no module {package}" in found[0].message
    (tmp_path / package).mkdir()
    assert check_text(text, {"PATH": "x"}, tmp_path) == []


def test_included_files_are_checked_too(tmp_path: Path) -> None:
    """A fallback may lead to a group of another file; a fault in that file is found."""
    (tmp_path / "more.yaml").write_text(
        "model_list: [{model_name: b, litellm_params: {model: openai/b}}]\nrouter_settings: {num_retrys: 2}"
    )
    text = "include: [more.yaml]\nmodel_list: []\nlitellm_settings: {fallbacks: [{b: [b]}]}"
    assert [one.path for one in check_text(text, {}, tmp_path)] == ["router_settings.num_retrys"]
    gone = check_text("include: [gone.yaml]\nmodel_list: []", {}, tmp_path)
    assert [one.is_fault for one in gone] == [True]
    assert "gone.yaml" in gone[0].message


def test_deployments_left_out_for_one_reason_share_a_line() -> None:
    """Fifty lines would hide the important one."""
    models = "".join(
        f"  - {{model_name: {name}, litellm_params: {{model: openai/{name}, api_key: os.environ/{key}}}}}\n"
        for name, key in (("a", "ONE_KEY"), ("b", "OTHER_KEY"), ("c", "ONE_KEY"), ("d", "LOCAL_CHAT_BASE"))
    )
    found = check_text(f"model_list:\n{models}router_settings: {{num_retrys: 1}}", {})
    assert list(format_findings(found, Path("x.yaml"))) == [
        "fault  router_settings.num_retrys: LiteLLM ignores this key; did you mean num_retries?",
        "note   left out: ONE_KEY not set: a, c",
        "note   left out: OTHER_KEY not set: b",
        "note   left out: LOCAL_CHAT_BASE not set (`llm-proxy up` sets it): d",
    ]


def test_the_command_s_exit_code_depends_on_the_findings(tmp_path: Path) -> None:
    """1 with a fault, 0 with notes only, 2 and one line for a missing file."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD)
    (tmp_path / "x.py").write_text("")
    bad.write_text(written(FAULTS["router"][0]))
    for file, code, expected in (
        (good, 0, "0 faults"),
        (bad, 1, "1 faults"),
        (tmp_path / "no.yaml", 2, "cannot be read"),
    ):
        command = [sys.executable, "-m", "llm_proxy", "config", "check", str(file)]
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        assert done.returncode == code
        assert expected in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("model", "address", "leaves"),
    [
        ("hosted_vllm/x", "https://llm.example.com/v1", True),
        ("ollama/x", "https://8.8.8.8", True),
        ("hosted_vllm/x", "http://10.0.0.7:8000/v1", False),
        ("openai/x", "http://gpu/v1", False),
        ("ollama/x", None, False),
    ],
)
def test_an_address_decides_before_a_protocol(model: str, address: str | None, *, leaves: bool) -> None:
    """A self-hosted server's protocol may be served in public."""
    at = f", api_base: '{address}'" if address else ""
    other = f"{{model_name: other, litellm_params: {{model: {model}{at}}}}}"
    text = f"model_list: [{OWN}, {other}]\nrouter_settings: {{fallbacks: [{{own: [other]}}]}}"
    assert any("leaves the machine" in one.message for one in check_text(text)) is leaves
