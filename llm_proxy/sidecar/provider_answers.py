"""Checks a provider's complete answer with status 200 before LiteLLM parses it, and repairs what it needs.

Pure. Invariants: only values that LiteLLM's parsers fail on (missing, null) are filled in; an answer in
OpenAI's format is also returned unchanged; a body of an unknown format passes unchanged.
"""

import json
from typing import NamedTuple

from llm_proxy.json_access import Json, as_list, as_object, is_array
from llm_proxy.sidecar import embeddings, json_repair, openai_repair
from llm_proxy.sidecar.provider_errors import StatedFailure, find_failure

OPENAI_PATH, EMBEDDINGS_PATH = "/completions", "/embeddings"
ANTHROPIC_PATH, GEMINI_PATH, OLLAMA_PATH = "/messages", ":generateContent", "/api/chat"
USAGE_FIELDS = {
    OPENAI_PATH: ("usage",),
    EMBEDDINGS_PATH: ("usage",),
    ANTHROPIC_PATH: ("usage",),
    GEMINI_PATH: ("usageMetadata",),
    OLLAMA_PATH: ("prompt_eval_count", "eval_count"),
}
"""End of a provider's path, which identifies its format -> the fields that state tokens."""
GEMINI_COUNTS = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
JUDGED_PATHS = ("/rerank", "/moderations")
"""Ends of the paths of answers that are lists of results, in every provider's format."""
USAGE_MARKS = (b'"usage', b'eval_count"', b'token_count"')
"""Parts of an answer that states tokens in another format."""
NO_CHOICE = StatedFailure(502, {"error": {"message": "the provider's answer has no choice with a message"}})
NO_RESULTS = StatedFailure(502, {"error": {"message": "the provider's answer has no results"}})
NO_VECTORS = StatedFailure(
    502, {"error": {"message": "the provider's answer has not one vector for each input"}}
)

_LENIENT = json.JSONDecoder(strict=False)
"""Strings may hold control characters; `json.loads` would make a decoder for each body."""


class CheckedResponse(NamedTuple):
    """A complete answer, checked.

    Attributes:
        repaired: The repaired answer; None if the body stays as it is.
        states_tokens: Whether the answer states its tokens.
        original: The answer as sent, if it is in OpenAI's format.
        failure: The failure it states.
    """

    repaired: object = None
    states_tokens: bool = False
    original: Json | None = None
    failure: StatedFailure | None = None


def check_response(path: str, raw: bytes, request: bytes = b"") -> CheckedResponse:
    """Check and repair a complete answer.

    Args:
        path: The path of the provider's URL; its end tells the format.
        raw: The body of the answer.
        request: The body of the request; only embeddings need it.
    """
    path_end = next((end for end in USAGE_FIELDS if path.endswith(end)), None)
    inputs = embeddings.count_request_inputs(request) if path_end == EMBEDDINGS_PATH else None
    if path_end == EMBEDDINGS_PATH and embeddings.is_well_formed(raw, inputs):
        return CheckedResponse(states_tokens=True)
    needs_repair = json_repair.needs_repair(raw)
    ranks = path.endswith(JUDGED_PATHS)
    if ranks or (path_end is None and not needs_repair):
        states_tokens = any(mark in raw for mark in USAGE_MARKS)
        failure = _failure_of_results(raw) if ranks else None
        return CheckedResponse(states_tokens=states_tokens, failure=failure)
    try:
        document = _read(raw, repairs=needs_repair and path_end != EMBEDDINGS_PATH)
    except (ValueError, RecursionError):
        return CheckedResponse()
    answer = as_object(document)
    failure = find_failure(answer)
    if failure is None and path_end == OPENAI_PATH and not openai_repair.is_completion(answer):
        failure = NO_CHOICE
    if failure is None and path_end == EMBEDDINGS_PATH and not embeddings.sort_vectors(answer, inputs):
        failure = NO_VECTORS
    if failure is not None and path_end is not None:
        return CheckedResponse(failure=failure)
    if path_end is None or not answer:
        return CheckedResponse(document, any(mark in raw for mark in USAGE_MARKS))
    original = as_object(_read(raw, repairs=needs_repair)) if path_end == OPENAI_PATH else None
    states_tokens = _repair(path_end, answer)
    return CheckedResponse(answer, states_tokens, original)


def _read(raw: bytes, *, repairs: bool) -> object:
    """Return the document of a body; `sort_vectors` checks the numbers of embeddings itself."""
    document: object = _LENIENT.decode(raw.decode(json.detect_encoding(raw), "surrogatepass"))
    return json_repair.repair_value(document) if repairs else document


def _failure_of_results(raw: bytes) -> StatedFailure | None:
    """Return the failure of an answer that should be results; what is no JSON is left to LiteLLM."""
    try:
        document: object = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    answer = as_object(document)
    results: object = answer.get("results", answer.get("data"))
    return None if is_array(document) or is_array(results) else find_failure(answer) or NO_RESULTS


def _repair(path_end: str, answer: Json) -> bool:
    """Fill in the values LiteLLM's parsers need; return whether the answer states tokens."""
    if path_end == OPENAI_PATH:
        openai_repair.repair_completion(answer)
        return "usage" in answer
    if path_end == EMBEDDINGS_PATH:
        answer["object"] = answer.get("object") or "list"
        openai_repair.repair_usage(answer)
        return "usage" in answer
    for name in USAGE_FIELDS[path_end]:
        if answer.get(name) is None:
            answer.pop(name, None)
    states_tokens = any(answer.get(name) for name in USAGE_FIELDS[path_end])
    if path_end == ANTHROPIC_PATH:
        answer["model"] = answer.get("model") or ""
        answer["usage"] = {"input_tokens": 0, "output_tokens": 0} | as_object(answer.get("usage"))
    elif path_end == GEMINI_PATH:
        repair_gemini(answer)
        answer["usageMetadata"] = as_object(answer.get("usageMetadata"))
    else:
        repair_ollama(answer)
    return states_tokens


def repair_gemini(answer: Json) -> None:
    """Fill in what LiteLLM's parser for Gemini needs: empty arguments of a tool call, the sum of tokens."""
    for candidate in map(as_object, as_list(answer.get("candidates"))):
        for part in map(as_object, as_list(as_object(candidate.get("content")).get("parts"))):
            call = as_object(part.get("functionCall"))
            if call:
                call["args"] = as_object(call.get("args"))
    usage = as_object(answer.get("usageMetadata"))
    for name in [name for name, value in usage.items() if value is None]:
        del usage[name]
    if usage:
        usage.setdefault("totalTokenCount", sum(usage.get(name) or 0 for name in GEMINI_COUNTS))


def repair_ollama(answer: Json) -> None:
    """Fill in what LiteLLM's parser for Ollama needs: the message and the fields beside it."""
    answer["message"] = as_object(answer.get("message"))
    answer["message"].setdefault("role", "assistant")
    answer["message"].setdefault("content", "")
    answer["model"] = answer.get("model") or ""
    answer["done"] = answer.get("done") is True
    for name in ("prompt_eval_count", "eval_count"):
        if answer.get(name) is None:
            answer.pop(name, None)
