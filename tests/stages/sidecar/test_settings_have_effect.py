"""Settings that the lists of settings call honoured: each does here what LiteLLM's documentation says of it.

One sidecar has them all; a group of its own for each that would disturb the others.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sidecars import Json, Provider, Sidecar, deployment, run_sidecar

MODULE = """
from litellm.integrations.custom_logger import CustomLogger


class Seen(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        print("SUCCESS", kwargs["model"], flush=True)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        print("FAILURE", kwargs["model"], flush=True)


seen = Seen()


def refuse_mice(text):
    return {"decision": "mouse" not in text, "message": "No mice"}
"""
PARAMS: dict[str, Json] = {
    "headed": {"extra_headers": {"x-own": "of the file"}, "organization": "org-own"},
    "bodied": {"extra_body": {"own_field": 7}, "temperature": 0.25, "max_tokens": 9, "stop": ["END"]},
    "dropped": {"additional_drop_params": ["temperature"], "drop_params": True},
    "mocked": {"mock_response": "of the file"},
    "keyed": {"api_key": None},
    "dear": {"max_budget": 0.0000001, "budget_duration": "1d"},
    "typed": {"custom_llm_provider": "openai"},
}


@pytest.fixture(scope="module")
def settled(provider: Provider, service_folder: Path) -> Iterator[Sidecar]:
    """The sidecar."""
    folder = service_folder / "settings-have-effect"
    folder.mkdir()
    (folder / "own_seen.py").write_text(MODULE)
    models = [deployment(name, f"openai/{name}", provider, **params) for name, params in PARAMS.items()]
    del models[list(PARAMS).index("keyed")]["litellm_params"]["api_key"]
    models[list(PARAMS).index("typed")]["litellm_params"]["model"] = "plain-name"
    first = deployment("ordered", "openai/ordered-first", provider, id="first", order=1)
    second = deployment("ordered", "openai/ordered-second", provider, id="second", order=2)
    small = deployment("sized", "openai/sized-small", provider, id="small")
    small["model_info"]["max_input_tokens"] = 20
    large = deployment("sized", "openai/sized-large", provider, id="large")
    large["model_info"]["max_input_tokens"] = 100_000
    models += [
        first,
        second,
        small,
        large,
        deployment("tagged", "openai/tagged-paid", provider, id="paid", tags=["paid"]),
        deployment("tagged", "openai/tagged-default", provider, id="default", tags=["default"]),
        deployment("patient", "openai/patient", provider),
        deployment("sound", "openai/sound", provider),
        deployment("failing", "openai/failing", provider),
        deployment("budgeted", "groq/budgeted", provider, api_base=f"{provider.url}/v1"),
    ]
    config: Json = {
        "model_list": models,
        "litellm_settings": {
            "callbacks": ["own_seen.seen"],
            "openai_key": "sk-of-the-settings",
            "default_fallbacks": ["sound"],
            "drop_params": True,
        },
        "router_settings": {
            "num_retries": 0,
            "enable_pre_call_checks": True,
            "disable_cooldowns": True,
            "enable_tag_filtering": True,
            "model_group_retry_policy": {"patient": {"InternalServerErrorRetries": 2}},
            "provider_budget_config": {"groq": {"budget_limit": 0.0000001, "time_period": "1d"}},
        },
    }
    with run_sidecar(config, provider, folder) as started:
        yield started


async def _sent(settled: Sidecar, model: str, fields: Json | None = None) -> Json:
    """The call that the provider saw."""
    mark = str(uuid4())
    answer = await settled.chat(model, mark, fields=fields, do="ok")
    assert answer.status == 200, answer.text
    [call] = await settled.provider.calls(mark)
    return call


async def test_a_deployment_s_headers_and_organization_are_sent(settled: Sidecar) -> None:
    """`extra_headers`, `organization`."""
    headers = (await _sent(settled, "headed"))["headers"]
    assert (headers["x-own"], headers["openai-organization"]) == ("of the file", "org-own")


async def test_a_deployment_s_fields_are_the_call_s_defaults(settled: Sidecar) -> None:
    """`extra_body` and OpenAI's fields; the caller's own value wins."""
    body = (await _sent(settled, "bodied"))["body"]
    assert (body["own_field"], body["temperature"], body["max_tokens"], body["stop"]) == (7, 0.25, 9, ["END"])
    assert (await _sent(settled, "bodied", {"temperature": 0.5}))["body"]["temperature"] == 0.5


async def test_a_field_is_dropped_where_the_file_says_so(settled: Sidecar) -> None:
    """`additional_drop_params`."""
    assert "temperature" not in (await _sent(settled, "dropped", {"temperature": 0.5}))["body"]


async def test_a_mock_answers_without_a_provider(settled: Sidecar) -> None:
    """`mock_response`."""
    mark = str(uuid4())
    answer = await settled.chat("mocked", mark)
    assert answer.json["choices"][0]["message"]["content"] == "of the file"
    assert await settled.provider.calls(mark) == []


async def test_a_key_of_the_settings_is_used_where_a_deployment_has_none(settled: Sidecar) -> None:
    """`litellm_settings.openai_key` stands for the keys of all providers."""
    assert (await _sent(settled, "keyed"))["headers"]["authorization"] == "Bearer sk-of-the-settings"


async def test_a_provider_may_be_named_apart_from_the_model(settled: Sidecar) -> None:
    """`custom_llm_provider`."""
    assert (await _sent(settled, "typed"))["body"]["model"] == "plain-name"


async def test_the_first_in_order_serves(settled: Sidecar) -> None:
    """`order`."""
    assert {(await _sent(settled, "ordered"))["body"]["model"] for _ in range(6)} == {"ordered-first"}


async def test_untagged_calls_go_to_the_default(settled: Sidecar) -> None:
    """`enable_tag_filtering` with `tags`; a caller's own tags choose nothing here."""
    assert {(await _sent(settled, "tagged"))["body"]["model"] for _ in range(6)} == {"tagged-default"}


async def test_a_prompt_goes_where_it_fits(settled: Sidecar) -> None:
    """`enable_pre_call_checks` with `model_info.max_input_tokens`."""
    long = {"messages": [{"role": "user", "content": "word " * 200}]}
    answers = [await settled.chat("sized", fields=long) for _ in range(6)]
    assert {one.headers["x-litellm-model-id"] for one in answers} == {"large"}


async def test_default_fallbacks_answer(settled: Sidecar) -> None:
    """`litellm_settings.default_fallbacks`."""
    mark = str(uuid4())
    answer = await settled.chat("failing", mark, do="flaky", key=mark, fails=1)
    assert (answer.status, answer.headers["x-litellm-model-group"]) == (200, "sound")


async def test_a_group_s_retry_policy_counts(settled: Sidecar) -> None:
    """`model_group_retry_policy`, over `num_retries: 0`."""
    mark = str(uuid4())
    answer = await settled.chat("patient", mark, do="flaky", key=mark, fails=2)
    assert (answer.status, len(await settled.provider.calls(mark))) == (200, 3)


@pytest.mark.parametrize("model", ["dear", "budgeted"])
async def test_a_spent_budget_of_a_deployment_or_a_provider_ends_its_calls(
    settled: Sidecar, model: str
) -> None:
    """`max_budget` with `budget_duration`, and `provider_budget_config`: a fallback answers then."""
    groups: list[str] = []
    async with asyncio.timeout(20):
        while not groups or groups[-1] == model:
            answer = await settled.chat(model, str(uuid4()), do="ok")
            groups.append(answer.headers["x-litellm-model-group"])
            await asyncio.sleep(0.1)
    assert (groups[0], groups[-1]) == (model, "sound")


async def test_callbacks_see_what_became_of_calls(settled: Sidecar) -> None:
    """`callbacks`."""
    await settled.chat("headed", str(uuid4()), do="ok")
    await settled.chat("headed", str(uuid4()), do="status-400")
    seen = [""]
    async with asyncio.timeout(20):
        while "SUCCESS headed" not in seen or "FAILURE headed" not in seen:
            await asyncio.sleep(0.1)
            seen = settled.log.read_text().splitlines()
    assert {one for one in seen if one.endswith(" headed")} == {"SUCCESS headed", "FAILURE headed"}
