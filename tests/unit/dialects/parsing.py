"""Parsing a body in a test: a default body and catalog, the call or the error."""

import json
from typing import Any

import pytest

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request_options import NO_OPTIONS, RequestOptions
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest

MODELS = ModelIndex(
    "the-default", {"gpt": frozenset({"openai"}), "claude": frozenset({"anthropic"})}, ("openai/*",)
)
HELLO = [{"role": "user", "content": "Hello"}]
REQUIRED_FIELDS: dict[Endpoint, dict[str, Any]] = {
    "chat.completions": {"messages": HELLO},
    "completions": {"prompt": "x"},
    "embeddings": {"input": "x"},
}
ENDPOINT_NAMES: tuple[Endpoint, ...] = ("chat.completions", "completions", "embeddings")


def parse(
    endpoint: Endpoint = "chat.completions", options: RequestOptions = NO_OPTIONS, /, **body: Any
) -> Call:
    """The call of a chat that says hello, or of these fields."""
    required = REQUIRED_FIELDS[endpoint]
    fields = {"model": "gpt", **required, **body}
    encoded = json.dumps({name: value for name, value in fields.items() if value != ...}).encode()
    return OPENAI.parse(endpoint, encoded, options, MODELS, BodyLimits(max_messages=50))


def error_of(endpoint: Endpoint = "chat.completions", /, **body: Any) -> BadRequest:
    """The error of these fields."""
    with pytest.raises(BadRequest) as caught:
        parse(endpoint, **body)
    assert caught.value.message
    return caught.value
