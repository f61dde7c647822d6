"""Requests as they are sent, and the settings a service takes from the environment."""

import pytest
from pydantic import BaseModel

from llm_proxy_service import (
    ConfigurationError,
    InvalidRequestError,
    InvalidResponseError,
    LLMProxyService,
    LLMResponse,
    LoadBalanceStrategy,
    ModelCapability,
    Usage,
    create_chat_request,
    create_completion_request,
)
from llm_proxy_service.options import ServiceOptions, complete
from llm_proxy_service.structured import parse_answer, response_format_of

WEATHER = {"name": "get_weather", "description": "The weather now"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


class City(BaseModel):
    """A schema that strict mode takes."""

    name: str
    people: int


class Town(BaseModel):
    """One that it does not: a field may be missing."""

    name: str
    mayor: str | None = None


def test_a_prompt_is_one_user_message() -> None:
    request = create_completion_request("Say hi", model="gpt-3.5-turbo", temperature=0.7, max_tokens=200)
    assert request.body() == {
        "messages": [{"role": "user", "content": "Say hi"}],
        "temperature": 0.7,
        "max_tokens": 200,
    }


def test_what_is_appended_later_is_not_in_the_request() -> None:
    conversation = [{"role": "user", "content": "one"}]
    request = create_chat_request(conversation, model="gpt-4")
    conversation.append({"role": "user", "content": "two"})
    assert request.body() == {"messages": [{"role": "user", "content": "one"}]}


def test_functions_are_sent_as_tools() -> None:
    request = create_chat_request(
        [{"role": "user", "content": "hi"}], functions=[WEATHER], function_call={"name": "get_weather"}
    )
    body = request.body()
    assert body["tools"] == [{"type": "function", "function": WEATHER}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert request.needs() == {ModelCapability.FUNCTION_CALLING}


def test_older_calls_of_functions_and_their_results_are_sent_as_today_s() -> None:
    """What names no call that was made stays as it is."""
    call = {"name": "get_weather", "arguments": "{}"}
    result = {"role": "function", "name": "get_weather", "content": "12 °C"}
    request = create_chat_request(
        [{"role": "assistant", "content": None, "function_call": call}, result, {**result, "name": "other"}]
    )
    tool_call = {"id": "call_0", "type": "function", "function": call}
    assert request.body()["messages"] == [
        {"role": "assistant", "content": None, "tool_calls": [tool_call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "12 °C"},
        {**result, "name": "other"},
    ]


async def test_without_litellm_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here LiteLLM is not there."""
    monkeypatch.delenv("LLM_PROXY_URL", raising=False)
    with pytest.raises(ConfigurationError, match=r"llm-proxy-service\[litellm\]"):
        await LLMProxyService().start()


def test_an_image_needs_a_model_that_sees() -> None:
    request = create_chat_request([{"role": "user", "content": [{"type": "text", "text": "?"}, IMAGE]}])
    assert request.needs() == {ModelCapability.IMAGE_ANALYSIS}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": None},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"functions": [WEATHER], "tools": [{"type": "function", "function": WEATHER}]},
    ],
)
def test_a_request_that_contradicts_itself_is_rejected(fields: dict[str, object]) -> None:
    request = create_completion_request("hi")
    for name, value in fields.items():
        setattr(request, name, value)
    with pytest.raises(InvalidRequestError):
        request.body()


def test_an_argument_wins_over_the_environment() -> None:
    environment = {
        "LLM_PROXY_CACHE_SIZE": "7",
        "LLM_PROXY_CACHE_TTL": "1.5",
        "LLM_PROXY_MAX_RETRIES": "0",
        "LLM_PROXY_LOAD_BALANCE": "COST_OPTIMIZED",
        "LLM_PROXY_URL": "http://gateway:7007",
        "LLM_PROXY_API_KEY": "sk-env",
    }
    options = complete(ServiceOptions(cache_size=9), environment)
    assert options == ServiceOptions(
        cache_size=9,
        cache_ttl=1.5,
        max_retries=0,
        load_balance_strategy=LoadBalanceStrategy.COST_OPTIMIZED,
        base_url="http://gateway:7007",
        api_key="sk-env",
    )
    assert "sk-env" not in repr(options)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("LLM_PROXY_CACHE_SIZE", "many", "LLM_PROXY_CACHE_SIZE is 'many', not a number"),
        ("LLM_PROXY_LOAD_BALANCE", "BEST", "strategy is 'BEST', not one of ROUND_ROBIN, LEAST_LOADED"),
        ("LLM_PROXY_MAX_RETRIES", "-1", "max_retries is -1, not 0 or more"),
    ],
)
def test_a_value_that_is_not_valid_is_named(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        complete(ServiceOptions(), {name: text})


def test_a_model_becomes_a_closed_schema() -> None:
    request = response_format_of(create_completion_request("Where?"), City)
    schema_sent = request.body()["response_format"]["json_schema"]
    assert (schema_sent["name"], schema_sent["strict"]) == ("City", True)
    assert schema_sent["schema"]["additionalProperties"] is False
    open_one = response_format_of(create_completion_request("Where?"), Town)
    assert open_one.body()["response_format"]["json_schema"]["strict"] is False


def test_an_answer_is_an_object_of_the_model_or_an_error_that_has_it() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
    good = LLMResponse(content='{"name": "Paris", "people": 2}', model="m", provider="p", usage=usage)
    assert parse_answer(good, City) == City(name="Paris", people=2)
    bad = LLMResponse(content="Paris", model="m", provider="p", usage=usage, request_id="r1")
    with pytest.raises(InvalidResponseError, match="City") as caught:
        parse_answer(bad, City)
    assert (caught.value.content, caught.value.request_id) == ("Paris", "r1")
