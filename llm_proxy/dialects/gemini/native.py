"""Bodies for a provider that speaks Google's API: they reach it as they were sent.

Invariants: the provider judges the body, but for what is rejected for every caller; names at the top and in
`generationConfig` are `camelCase` from here on, so that no field is there twice.
"""

from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.gemini.fields import named, whole
from llm_proxy.dialects.gemini.request import GeminiContext
from llm_proxy.dialects.gemini.schema import MAX_CANDIDATES, linked_files
from llm_proxy.dialects.request import ParseContext
from llm_proxy.dialects.request.field_policy import reject_litellm_names
from llm_proxy.dialects.request.kept_at_google import refuse_kept, refuse_kept_file, refuse_other_model
from llm_proxy.dialects.request.native_call import build_native_call
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.identity import NO_ATTRIBUTION
from llm_proxy.json_access import Json, as_object, as_objects, is_array

_CONFIG, _MOST = "generationConfig", "maxOutputTokens"
_candidates = whole(1, MAX_CANDIDATES)
_length = whole(1)


def native_call(
    parsed: Json, context: ParseContext, options: RequestOptions, models: ModelIndex, limits: BodyLimits
) -> Call:
    """Returns the call of a body in Google's own form; raises `BadRequest` or `ModelNotFound`."""
    reject_litellm_names(parsed, frozenset())
    body = {name: value for name, value in named(parsed, "").items() if name != "model"}
    refuse_kept(body)
    for link, path in linked_files(body):
        refuse_kept_file(link, path)
    config: Json = {}
    if body.get(_CONFIG) is not None:
        body[_CONFIG] = config = named(body[_CONFIG], _CONFIG)
        refuse_other_model(config, _CONFIG)
        if config.get(_MOST) is not None:
            config[_MOST] = _length(config[_MOST], f"{_CONFIG}.{_MOST}")
    path = f"{_CONFIG}.candidateCount"
    choices = _candidates(config["candidateCount"], path) if config.get("candidateCount") is not None else 1
    call = build_native_call(body, context, options, models, limits, NO_ATTRIBUTION)
    return call._replace(choices=choices, context=GeminiContext(is_native=True))


def counted_contents(body: Json) -> Json:
    """Returns what counts of a native body: its contents, system instruction and functions.

    The functions are in the words of LiteLLM's counter, the instruction is its text.
    """
    contents = body["contents"]
    found: Json = {"contents": contents if is_array(contents) else [contents]}
    instruction = as_object(body.get("systemInstruction")).get("parts")
    parts = instruction if is_array(instruction) else [instruction]
    if text := "".join(str(as_object(part).get("text") or "") for part in parts):
        found["system"] = text
    functions = [
        {
            "name": str(one.get("name")),
            "description": str(one.get("description") or ""),
            "input_schema": as_object(one.get("parametersJsonSchema") or one.get("parameters")),
        }
        for tool in as_objects(body.get("tools"))
        for one in as_objects(named(tool, "tools").get("functionDeclarations"))
    ]
    return found | ({"tools": functions} if functions else {})
