"""Answers as objects of a pydantic model; pydantic is the caller's, nothing here imports it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar

from llm_proxy_service.errors import InvalidResponseError
from llm_proxy_service.request import LLMRequest
from llm_proxy_service.response import LLMResponse


class PydanticModel(Protocol):
    """What is needed of a pydantic model's class."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """The model's JSON schema."""
        ...

    @classmethod
    def model_validate(cls, obj: Any) -> Self:  # noqa: ANN401 -- pydantic's signature
        """The object that some JSON describes."""
        ...


Model = TypeVar("Model", bound=PydanticModel)


def response_format_of(request: LLMRequest, model: type[PydanticModel]) -> LLMRequest:
    """The request, asking for JSON that fits the model."""
    schema = model.model_json_schema()
    strict = _closed(schema)
    named = {"name": model.__name__, "schema": schema, "strict": strict}
    return replace(request, response_format={"type": "json_schema", "json_schema": named})


def parse_answer(response: LLMResponse, model: type[Model]) -> Model:
    """The object that an answer holds.

    Raises:
        InvalidResponseError: It holds none that fits.
    """
    try:
        return model.model_validate(json.loads(response.content))
    except ValueError as fault:  # pydantic's ValidationError is one too
        reason = f"the model declined: {response.refusal}" if response.refusal else f"{fault}"
        error = InvalidResponseError(
            f"the answer is no {model.__name__}: {reason}",
            code="refused" if response.refusal else "invalid_response",
            request_id=response.request_id,
            provider=response.provider,
        )
        error.content = response.content
        raise error from fault


def _closed(schema: object) -> bool:
    """Close every object of the schema as strict mode demands; whether that was possible throughout."""
    if isinstance(schema, list):
        parts: list[object] = schema  # pyright: ignore[reportUnknownVariableType] -- a schema's JSON
        return False not in [_closed(part) for part in parts]
    if not isinstance(schema, dict):
        return True
    node: dict[str, Any] = schema  # pyright: ignore[reportUnknownVariableType] -- the same
    possible = False not in [_closed(part) for part in node.values()]
    if node.get("type") != "object":
        return possible
    if isinstance(node.get("additionalProperties"), Mapping) or "properties" not in node:
        return False
    node["additionalProperties"] = False
    return possible and set(node["properties"]) == set(node.get("required", ()))
