"""A body of `generateContent`, read, as the body of a chat completion.

Pure. Invariants: each field is carried, rejected with its path, or named in `docs/gemini.md` as having
no effect here; what the answer needs to know of the request is its `GeminiContext`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import orjson

from llm_proxy.dialects.gemini.contents import ContentsTranslator
from llm_proxy.dialects.gemini.fields import invalid
from llm_proxy.dialects.gemini.schema import SERVER_TOOLS
from llm_proxy.dialects.gemini.structured import Unwraps, is_no_object, wrapped
from llm_proxy.dialects.translation.carried import Carried, not_carried
from llm_proxy.dialects.translation.chat_request import (
    ToolNames,
    effort_of_budget,
    function_choice,
    function_tool,
    is_strict_schema,
    json_schema_format,
)
from llm_proxy.json_access import Json, is_object

OUTPUT_NAME = "output"
"""The name of a structured output, which OpenAI requires and Google does not have."""
USUAL: Mapping[str, float] = {"temperature": 1, "top_p": 0.95, "top_k": 64}
"""What Google's models sample with, and its clients send by default."""
MIN_CLAUDE_BUDGET = 1024
_SAME = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_tokens",
    "stopSequences": "stop",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "seed": "seed",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
}
_REFUSED = {
    "audioTimestamp": "Times in a sound",
    "audioTranscriptionConfig": "A transcription",
    "enableAffectiveDialog": "Affective dialog",
    "enableEnhancedCivicAnswers": "Enhanced civic answers",
    "imageConfig": "A setting of images",
    "modelSelectionConfig": "The choice of a model",
    "responseFormat": "A list of formats",
    "routingConfig": "The routing to a model",
    "speechConfig": "Speech",
    "translationConfig": "A translation",
}
_TIERS = {"FLEX": "flex", "PRIORITY": "priority", "STANDARD": "default"}
_CHOICES = {"AUTO": "auto", "VALIDATED": "auto", "ANY": "required", "NONE": "none"}
_UNSET = ("MODE_UNSPECIFIED", "MODALITY_UNSPECIFIED", "THINKING_LEVEL_UNSPECIFIED")
_JSON, _TEXT, _ENUM = "application/json", "text/plain", "text/x.enum"
_RETURNS = "\n\nReturns: "


@dataclass(frozen=True, slots=True)
class GeminiContext:
    """What an answer needs of its request.

    Attributes:
        is_native: The provider speaks this API, so that its answer passes.
        is_array: A stream is one JSON array, not events.
        tool_names: The caller's name of each function that was sent under another.
        shows_thoughts: The request wants to see thoughts.
        candidates: How many answers it asks for.
        unwraps: What is taken out of the object that the model was to write.
    """

    is_native: bool = False
    is_array: bool = False
    tool_names: Mapping[str, str] = field(default_factory=dict[str, str])
    shows_thoughts: bool = False
    candidates: int = 1
    unwraps: Unwraps = ""


def translate_request(body: Json, carried: Carried) -> tuple[Json, GeminiContext]:
    """Returns the chat body of a body that `schema.read_body` read, and what its answer needs.

    Raises `BadRequest`, naming what chat completions have no place for.
    """
    config: Json = body.get("generationConfig", {})
    _refuse(body, config)
    translator = ContentsTranslator(carried, ToolNames(), config.get("mediaResolution", ""))
    choosing: Json = body.get("toolConfig", {}).get("functionCallingConfig", {})
    tools = [*_tools(body.get("tools", ()), choosing, translator.names)]
    if choosing.get("mode") == "ANY" and not tools:
        raise invalid(
            "toolConfig.functionCallingConfig", "mode ANY needs a declared function that is allowed."
        )
    chat: Json = {sent: config[name] for name, sent in _SAME.items() if name in config}
    chat = {name: value for name, value in chat.items() if not _is_unwanted(name, value, carried)}
    chat["messages"] = [
        *translator.system(body.get("systemInstruction", {})),
        *translator.messages(body["contents"]),
    ]
    if tools:
        chat |= {"tools": tools, **_tool_choice(choosing, tools)}
    thinking: Json = config.get("thinkingConfig", {})
    output, unwraps = _output(config, carried)
    chat |= _thinking(thinking, config.get("maxOutputTokens"), carried) | output
    chat |= _others(body, config, carried)
    context = GeminiContext(
        tool_names=translator.names.originals,
        shows_thoughts=bool(thinking.get("includeThoughts")),
        candidates=chat.get("n", 1),
        unwraps=unwraps,
    )
    return chat, context


def _is_unwanted(name: str, value: object, carried: Carried) -> bool:
    """Whether a provider rejects a client's default: OpenAI `top_k`, Claude two of the three."""
    if value != USUAL.get(name):
        return False
    return carried.thinking_blocks or (carried.openai and name == "top_k")


def _refuse(body: Json, config: Json) -> None:
    for name, what in _REFUSED.items():
        if config.get(name):
            raise not_carried(f"generationConfig.{name}", what)
    for name, what in (("labels", "A label"), ("store", "Storing"), ("modelArmorConfig", "Model Armor")):
        if body.get(name):
            raise not_carried(name, what)
    tool_config: Json = body.get("toolConfig", {})
    if tool_config.get("retrievalConfig"):
        raise not_carried("toolConfig.retrievalConfig", "A place for Google's tools")
    if tool_config.get("functionCallingConfig", {}).get("streamFunctionCallArguments"):
        path = "toolConfig.functionCallingConfig.streamFunctionCallArguments"
        raise not_carried(path, "A call in pieces")


def _tools(tools: list[Json], choosing: Json, names: ToolNames) -> Iterator[Json]:
    """Yields the functions, of which a request may allow only some."""
    allowed = choosing.get("allowedFunctionNames")
    for at, tool in enumerate(tools):
        for name in SERVER_TOOLS:
            if name in tool:
                raise not_carried(f"tools[{at}].{name}", f"Google's tool '{name}'")
        for number, declared in enumerate(tool.get("functionDeclarations", ())):
            path = f"tools[{at}].functionDeclarations[{number}]"
            function = _function(declared, path, names, validated=choosing.get("mode") == "VALIDATED")
            if not allowed or declared["name"] in allowed:
                yield function


def _function(declared: Json, path: str, names: ToolNames, *, validated: bool) -> Json:
    if declared.get("behavior") == "NON_BLOCKING":
        raise not_carried(f"{path}.behavior", "A function that does not block")
    if "parameters" in declared and "parametersJsonSchema" in declared:
        raise invalid(f"{path}.parameters", "given beside 'parametersJsonSchema'.")
    schema = declared.get("parametersJsonSchema", declared.get("parameters"))
    if schema is not None and not is_object(schema):
        raise invalid(f"{path}.parametersJsonSchema", "expected an object.", "invalid_type")
    description = declared.get("description", "")
    returns = declared.get("responseJsonSchema", declared.get("response"))
    if returns is not None:
        description += _RETURNS + orjson.dumps(returns).decode()
    schema = schema or {"type": "object", "properties": {}}
    strict = True if validated and is_strict_schema(schema) else None
    return function_tool(names.sent(declared["name"]), description, schema, strict=strict)


def _tool_choice(choosing: Json, tools: list[Json]) -> Json:
    mode = choosing.get("mode", _UNSET[0])
    if mode in _UNSET:
        return {}
    if mode == "ANY" and len(tools) == 1:
        return {"tool_choice": function_choice(tools[0]["function"]["name"])}
    return {"tool_choice": _CHOICES[mode]}


def _thinking(config: Json, max_tokens: int | None, carried: Carried) -> Json:
    """A level as an effort; a budget as Claude's own, or as an effort; 0 and none have no effect."""
    level, budget = config.get("thinkingLevel", _UNSET[2]), config.get("thinkingBudget")
    if level not in _UNSET:
        return {"reasoning_effort": level.lower()}
    if not budget:
        return {}
    if budget < 0:
        return {"reasoning_effort": "medium"}
    if not carried.thinking_field:
        return {"reasoning_effort": effort_of_budget(budget)}
    most = budget if max_tokens is None else min(budget, max_tokens - 1)
    if most < MIN_CLAUDE_BUDGET:
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": most}}


def _output(config: Json, carried: Carried) -> tuple[Json, Unwraps]:
    schema, path = config.get("responseJsonSchema"), "generationConfig.responseJsonSchema"
    if schema is None:
        schema, path = config.get("responseSchema"), "generationConfig.responseSchema"
    elif "responseSchema" in config:
        raise invalid("generationConfig.responseSchema", "given beside 'responseJsonSchema'.")
    kind = config.get("responseMimeType", "") or _TEXT
    if schema is not None:
        if kind not in {_JSON, _ENUM}:
            raise invalid("generationConfig.responseMimeType", f"a schema needs '{_JSON}'.")
        if not is_object(schema):
            raise invalid(path, "expected an object.", "invalid_type")
        unwraps: Unwraps = ""
        if kind == _ENUM or (is_no_object(schema) and not carried.safety_settings):
            schema, unwraps = wrapped(schema), "word" if kind == _ENUM else "json"
        strict = is_strict_schema(schema)
        return {"response_format": json_schema_format(OUTPUT_NAME, schema, strict=strict)}, unwraps
    if kind not in {_JSON, _TEXT}:
        raise not_carried("generationConfig.responseMimeType", f"An answer of type '{kind[:64]}'")
    return ({"response_format": {"type": "json_object"}} if kind == _JSON else {}), ""


def _others(body: Json, config: Json, carried: Carried) -> Json:
    found: Json = {}
    if config.get("candidateCount", 1) > 1:
        found["n"] = config["candidateCount"]
    modalities = [one.lower() for one in config.get("responseModalities", ()) if one not in _UNSET]
    if not {"text", "image"}.issuperset(modalities):
        raise not_carried("generationConfig.responseModalities", "An answer as sound or video")
    if modalities and modalities != ["text"]:
        found["modalities"] = modalities
    tier = str(body.get("serviceTier", "")).upper().removeprefix("SERVICE_TIER_")
    if tier in _TIERS:
        found["service_tier"] = _TIERS[tier]
    elif tier not in {"", "UNSPECIFIED"}:
        raise invalid("serviceTier", f"expected one of {', '.join(_TIERS)}.")
    if carried.safety_settings and body.get("safetySettings"):
        found["safety_settings"] = body["safetySettings"]
    return found
