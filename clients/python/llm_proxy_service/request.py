"""What a caller asks for: chats and embeddings, in OpenAI's words.

Invariants: a field that is None is not sent; a prompt is sent as one user message.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from llm_proxy_service.catalog import LLMProvider, ModelCapability
from llm_proxy_service.errors import InvalidRequestError

Message = Mapping[str, object]
Function = Mapping[str, object]


@dataclass(slots=True, kw_only=True)
class LLMRequest:
    """One chat; make it with `create_chat_request` or `create_completion_request`, then change what you like.

    Attributes:
        model: The model's name; None lets the strategy choose among all registered models.
        prompt: Instead of `messages`: what the user says.
        messages: The conversation; a content may be a list of parts, images among them.
        max_tokens: The most tokens of the answer.
        stop: Texts at which the answer ends.
        stream: Kept for callers that set it; the method that is called decides.
        cache_enabled: False neither reads nor keeps a cached answer.
        functions: Functions the model may call, in the older form; `LLMResponse.function_call` has the call.
        function_call: `"auto"`, `"none"` or `{"name": …}`.
        tools: Tools the model may call, in today's form; `LLMResponse.tool_calls` has the calls.
        tool_choice: `"auto"`, `"none"`, `"required"` or one tool.
        response_format: OpenAI's; for a pydantic model call `generate_structured`.
        provider: Only the provider of this registered name, or of this kind, unless it fails.
        timeout: Seconds without a byte after which the call is given up; None takes the service's.
        extra: Further fields of OpenAI's chat schema, such as `seed` or `reasoning_effort`.
        id: The caller's own id of the call.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Sequence[Message] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: str | Sequence[str] | None = None
    stream: bool = False
    cache_enabled: bool = True
    functions: Sequence[Function] | None = None
    function_call: str | Mapping[str, object] | None = None
    tools: Sequence[Mapping[str, object]] | None = None
    tool_choice: str | Mapping[str, object] | None = None
    response_format: Mapping[str, object] | None = None
    provider: LLMProvider | str | None = None
    timeout: float | None = None
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    id: str = field(default_factory=lambda: uuid4().hex)

    def body(self) -> dict[str, Any]:
        """The request in OpenAI's chat schema, `functions` as `tools`, without the model's name.

        Raises:
            InvalidRequestError: There is neither prompt nor messages, or both; or functions and tools.
        """
        named = ("temperature", "top_p", "max_tokens", "frequency_penalty", "presence_penalty", "stop")
        given = {name: getattr(self, name) for name in (*named, "response_format")}
        stated = {name: value for name, value in given.items() if value is not None}
        return {"messages": self._conversation(), **stated, **self._tool_fields(), **self.extra}

    def needs(self) -> set[ModelCapability]:
        """The capabilities without which a model cannot answer this."""
        needed: set[ModelCapability] = set()
        if self.functions or self.tools:
            needed.add(ModelCapability.FUNCTION_CALLING)
        parts = (part for message in self.messages or () for part in _parts(message.get("content")))
        if any(part.get("type") == "image_url" for part in parts):
            needed.add(ModelCapability.IMAGE_ANALYSIS)
        return needed

    def _conversation(self) -> list[dict[str, object]]:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequestError("a request has either a prompt or messages", code="invalid_request")
        if self.prompt is not None:
            return [{"role": "user", "content": self.prompt}]
        return list(_with_tool_calls(self.messages or ()))

    def _tool_fields(self) -> dict[str, object]:
        if self.functions and self.tools:
            raise InvalidRequestError("a request has either functions or tools", code="invalid_request")
        if self.functions:
            tools = [{"type": "function", "function": dict(function)} for function in self.functions]
            choice = self.function_call
            if isinstance(choice, Mapping):
                choice = {"type": "function", "function": dict(choice)}
            return {"tools": tools} if choice is None else {"tools": tools, "tool_choice": choice}
        fields = {"tools": self.tools, "tool_choice": self.tool_choice}
        return {name: value for name, value in fields.items() if value is not None}


def _with_tool_calls(messages: Sequence[Message]) -> Iterator[dict[str, object]]:
    """The messages with older calls of functions, and their results, in today's form: `functions` are too."""
    call_ids: dict[object, str] = {}
    for number, message in enumerate(messages):
        call = message.get("function_call")
        if isinstance(call, Mapping):
            function: dict[object, object] = dict(call)  # pyright: ignore[reportUnknownArgumentType] -- the caller's JSON
            call_id = call_ids[function.get("name")] = f"call_{number}"
            rest = {name: value for name, value in message.items() if name != "function_call"}
            yield {**rest, "tool_calls": [{"id": call_id, "type": "function", "function": function}]}
        elif message.get("role") == "function" and message.get("name") in call_ids:
            call_id = call_ids[message.get("name")]
            yield {"role": "tool", "tool_call_id": call_id, "content": message.get("content")}
        else:
            yield dict(message)


def _parts(content: object) -> list[Mapping[str, object]]:
    """The parts of a message's content; none where it is text."""
    listed: list[object] = list(content) if isinstance(content, (list, tuple)) else []  # pyright: ignore[reportUnknownArgumentType] -- the caller's JSON
    return [part for part in listed if isinstance(part, Mapping)]


@dataclass(slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to be turned into vectors.

    Attributes:
        dimensions: The length of the vectors, where the model lets it be chosen.
    """

    model: str
    inputs: Sequence[str]
    dimensions: int | None = None
    cache_enabled: bool = True
    provider: LLMProvider | str | None = None
    timeout: float | None = None
    id: str = field(default_factory=lambda: uuid4().hex)


def create_completion_request(
    prompt: str,
    model: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    **fields: Any,  # noqa: ANN401 -- any field of LLMRequest
) -> LLMRequest:
    """A request for the continuation of a prompt; `fields` are further ones of `LLMRequest`."""
    return LLMRequest(prompt=prompt, model=model, temperature=temperature, max_tokens=max_tokens, **fields)


def create_chat_request(
    messages: Sequence[Message],
    model: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    *,
    functions: Sequence[Function] | None = None,
    **fields: Any,  # noqa: ANN401 -- any field of LLMRequest
) -> LLMRequest:
    """A request for the next message of a conversation; `fields` are further ones of `LLMRequest`.

    The messages are copied: what is appended to the list later is not in the request.
    """
    return LLMRequest(
        messages=list(messages),
        model=model,
        temperature=temperature,
        max_tokens=max_tokens,
        functions=functions,
        **fields,
    )
