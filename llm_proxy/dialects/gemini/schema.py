"""The body of `generateContent`: its messages, and the links and names that no request may have.

Invariants: a body that passes is read into one form (`camelCase`, enums in capitals, standard base64, JSON
schemas); what the translation rejects by name is read here all the same. Source:
https://ai.google.dev/api/generate-content, https://ai.google.dev/api/caching, google-genai 3.6.
"""

from collections.abc import Iterator
from typing import Any

from llm_proxy.dialects.dialect import BodyLimits
from llm_proxy.dialects.gemini.fields import (
    Message,
    anything,
    encoded,
    filled,
    flag,
    invalid,
    list_of,
    number,
    struct,
    text,
    whole,
    word_of,
)
from llm_proxy.dialects.gemini.json_schema import read_schema
from llm_proxy.dialects.request.kept_at_google import refuse_kept, refuse_kept_file
from llm_proxy.dialects.request.url_guard import url_error
from llm_proxy.dialects.request.validators import Validator
from llm_proxy.json_access import Json, is_array, is_object

MAX_TOOLS = 512
MAX_CANDIDATES = 8
_LINKS = frozenset({"fileUri", "file_uri"})
_OPAQUE = frozenset({"args", "response", "partMetadata", "part_metadata"})
"""Fields whose names are a caller's own."""

_blob = Message({"mimeType": filled, "data": encoded, "displayName": text}, "mimeType", "data")
_file = Message({"mimeType": text, "fileUri": filled, "displayName": text}, "fileUri")
_resolution = Message({"level": text, "numTokens": whole(0)})
_media_part = Message({"inlineData": _blob, "fileData": _file, "mediaResolution": _resolution})
_function_call = Message(
    {"id": text, "name": filled, "args": struct, "partialArgs": anything, "willContinue": flag}, "name"
)
_function_response = Message(
    {
        "id": text,
        "name": filled,
        "response": struct,
        "parts": list_of(_media_part),
        "willContinue": flag,
        "scheduling": text,
    },
    "name",
)
DATA_KINDS: dict[str, Validator] = {
    "text": text,
    "inlineData": _blob,
    "fileData": _file,
    "functionCall": _function_call,
    "functionResponse": _function_response,
    "executableCode": struct,
    "codeExecutionResult": struct,
    "toolCall": struct,
    "toolResponse": struct,
}
"""What a part is: one of these."""
_part = Message(
    {
        **DATA_KINDS,
        "thought": flag,
        "thoughtSignature": encoded,
        "videoMetadata": struct,
        "mediaResolution": _resolution,
        "partMetadata": struct,
    }
)


def _one_part(value: Any, path: str) -> Json:  # noqa: ANN401 -- unchecked JSON
    part = _part(value, path)
    kinds = [name for name in part if name in DATA_KINDS]
    if len(kinds) > 1:
        raise invalid(path, f"oneof field 'data' is already set. Cannot set '{kinds[1]}'")
    if not kinds:
        if not part.get("thoughtSignature"):
            raise invalid(path, "required oneof field 'data' must have one initialized field")
        part["text"] = ""
    return part


_ROLES = ("user", "model", "function")


def _role(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    if value not in ("", *_ROLES):
        raise invalid(path, "Please use a valid role: user, model.")
    return value


content = Message({"role": _role, "parts": list_of(_one_part)})
_system = Message({"role": text, "parts": list_of(_one_part)}, "parts")


def _parameters(value: Any, path: str) -> Json:  # noqa: ANN401 -- unchecked JSON
    return read_schema(value, path)


_declaration = Message(
    {
        "name": filled,
        "description": text,
        "behavior": word_of("UNSPECIFIED", "BLOCKING", "NON_BLOCKING"),
        "parameters": _parameters,
        "parametersJsonSchema": anything,
        "response": _parameters,
        "responseJsonSchema": anything,
    },
    "name",
)
SERVER_TOOLS = (
    "googleSearch", "googleSearchRetrieval", "codeExecution", "urlContext", "computerUse", "fileSearch",
    "googleMaps", "retrieval", "enterpriseWebSearch", "parallelAiSearch", "exaAiSearch", "mcpServers",
)  # fmt: skip
"""Tools that Google runs itself."""
_tool = Message(
    {"functionDeclarations": list_of(_declaration, 0, MAX_TOOLS), **dict.fromkeys(SERVER_TOOLS, anything)}
)
_calling = Message(
    {
        "mode": word_of("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"),
        "allowedFunctionNames": list_of(text),
        "streamFunctionCallArguments": flag,
    }
)
_tool_config = Message(
    {
        "functionCallingConfig": _calling,
        "retrievalConfig": struct,
        "includeServerSideToolInvocations": flag,
    }
)
_safety = Message({"category": filled, "threshold": filled, "method": text}, "category", "threshold")
_thinking = Message(
    {
        "includeThoughts": flag,
        "thinkingBudget": whole(-1),
        "thinkingLevel": word_of("THINKING_LEVEL_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"),
    }
)
_penalty = number(-2, 2)
GENERATION_FIELDS: dict[str, Validator] = {
    "audioTimestamp": flag,
    "audioTranscriptionConfig": struct,
    "candidateCount": whole(1, MAX_CANDIDATES),
    "enableAffectiveDialog": flag,
    "enableEnhancedCivicAnswers": flag,
    "frequencyPenalty": _penalty,
    "imageConfig": struct,
    "logprobs": whole(0, 20),
    "maxOutputTokens": whole(1),
    "mediaResolution": text,
    "modelSelectionConfig": struct,
    "presencePenalty": _penalty,
    "responseFormat": anything,
    "responseJsonSchema": anything,
    "responseLogprobs": flag,
    "responseMimeType": text,
    "responseModalities": list_of(word_of("MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "AUDIO", "VIDEO")),
    "responseSchema": read_schema,
    "routingConfig": struct,
    "seed": whole(-(2**31), 2**31 - 1),
    "speechConfig": struct,
    "stopSequences": list_of(text),
    "temperature": number(0, 2),
    "thinkingConfig": _thinking,
    "topK": whole(1),
    "topP": number(0, 1),
    "translationConfig": struct,
}
FIELDS: dict[str, Validator] = {
    "model": text,
    "contents": list_of(content, 1),
    "systemInstruction": _system,
    "tools": list_of(_tool),
    "toolConfig": _tool_config,
    "safetySettings": list_of(_safety),
    "generationConfig": Message(GENERATION_FIELDS),
    "cachedContent": text,
    "labels": struct,
    "serviceTier": text,
    "store": flag,
    "modelArmorConfig": struct,
}
"""Every published field of a body."""
_body = Message(FIELDS, "contents")


def read_body(parsed: Json, limits: BodyLimits) -> Json:
    """Returns a body in the form of this module; it is not changed. Raises `BadRequest` for the field."""
    body = _body(parsed, "")
    refuse_kept(body)
    contents = body["contents"]
    if len(contents) > limits.max_messages:
        reason = f"must have at most {limits.max_messages} items."
        raise invalid("contents", reason, "array_above_max_length")
    for link, path in linked_files(body):
        refuse_kept_file(link, path)
        if not limits.private_urls and (error := url_error(link)) is not None:
            raise invalid(path, error, "invalid_url")
    return body


def linked_files(body: Json) -> Iterator[tuple[str, str]]:
    """Yields the links of the files of a body, in either spelling and unread too, each with its path."""
    waiting = [(name, body.get(name)) for name in ("systemInstruction", "contents")]
    while waiting:
        path, value = waiting.pop()
        if is_array(value):
            waiting += reversed([(f"{path}[{at}]", one) for at, one in enumerate(value)])
        elif is_object(value):
            for name, inner in value.items():
                if name in _LINKS and isinstance(inner, str):
                    yield inner, f"{path}.{name}"
                elif name not in _OPAQUE:
                    waiting.append((f"{path}.{name}", inner))
