"""Parsing a body in a test: a default body and catalog, the call or the error."""

import json
from typing import Any

import pytest

from llm_proxy.dialects import NO_OPTIONS, OPENAI, BodyLimits, Call, ModelIndex, RequestOptions
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest

MODELS = ModelIndex(
    "the-default", {"gpt": frozenset({"openai"}), "claude": frozenset({"anthropic"})}, ("openai/*",)
)
HELLO = [{"role": "user", "content": "Hello"}]
LEAST: dict[Endpoint, dict[str, Any]] = {
    "chat.completions": {"messages": HELLO},
    "completions": {"prompt": "x"},
    "embeddings": {"input": "x"},
}
DOORS: tuple[Endpoint, ...] = ("chat.completions", "completions", "embeddings")


def read(door: Endpoint = "chat.completions", hints: RequestOptions = NO_OPTIONS, /, **body: Any) -> Call:
    """The call for a chat that says hello, or for these fields."""
    least = LEAST[door]
    asked = {"model": "gpt", **least, **body}
    given = json.dumps({name: value for name, value in asked.items() if value != ...}).encode()
    return OPENAI.parse(door, given, hints, MODELS, BodyLimits(max_messages=50))


def refused(door: Endpoint = "chat.completions", /, **body: Any) -> BadRequest:
    """The refusal of these fields."""
    with pytest.raises(BadRequest) as caught:
        read(door, **body)
    assert caught.value.message
    return caught.value
