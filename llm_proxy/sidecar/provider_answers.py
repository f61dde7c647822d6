"""Checks a provider's complete answer with status 200 before LiteLLM parses it, and repairs what it needs.

Pure. Invariants: only values that LiteLLM's parsers fail on (missing, null) are filled in; an answer in
OpenAI's format is also returned unchanged; a body of an unknown format passes unchanged.
"""

import json
from typing import NamedTuple

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import embeddings, json_repair, openai_repair
from llm_proxy.sidecar.provider_errors import Failure, failure_in

GEMINI_COUNTS = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")


def repair_gemini(answer: Json) -> None:
    """Arguments of a tool that takes none, the sum of tokens."""
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
    """The message of a last line that only counts, and the names around it."""
    answer["message"] = as_object(answer.get("message"))
    answer["message"].setdefault("role", "assistant")
    answer["message"].setdefault("content", "")
    answer["model"] = answer.get("model") or ""
    answer["done"] = answer.get("done") is True
    for name in ("prompt_eval_count", "eval_count"):
        if answer.get(name) is None:
            answer.pop(name, None)


OPENAI_S, EMBEDDINGS = "/completions", "/embeddings"
ANTHROPIC_S, GEMINI_S, OLLAMA_S = "/messages", ":generateContent", "/api/chat"
USAGE_OF = {
    OPENAI_S: ("usage",),
    EMBEDDINGS: ("usage",),
    ANTHROPIC_S: ("usage",),
    GEMINI_S: ("usageMetadata",),
    OLLAMA_S: ("prompt_eval_count", "eval_count"),
}
"""End of a path -> the wire's fields that count tokens."""
USAGE_MARKS = (b'"usage', b'eval_count"', b'token_count"')
"""Of the wires that are not read here."""
NO_ANSWER = Failure(502, {"error": {"message": "the provider's answer has no choice with a message"}})
NO_VECTORS = Failure(502, {"error": {"message": "the provider's answer has not one vector for each input"}})


class Checked(NamedTuple):
    """A whole answer that was read.

    Attributes:
        body: What LiteLLM is to read; None for what came.
        counted: It states tokens.
        said: The answer as it was said, on OpenAI's wire.
        failure: The failure it states.
    """

    body: bytes | None = None
    counted: bool = False
    said: Json | None = None
    failure: Failure | None = None


def check(path: str, raw: bytes, request: bytes = b"") -> Checked:
    """Read the body of an answer from a path of a provider's; of the request only embeddings need a look."""
    wire = next((end for end in USAGE_OF if path.endswith(end)), None)
    inputs = embeddings.inputs_of(request) if wire == EMBEDDINGS else None
    if wire == EMBEDDINGS and embeddings.are_in_order(raw, inputs):
        return Checked(counted=True)
    odd = json_repair.ODD.search(raw) is not None
    if wire is None and not odd:
        return Checked(counted=any(mark in raw for mark in USAGE_MARKS))
    try:
        document: object = json.loads(raw, strict=False)
        if odd and wire != EMBEDDINGS:  # whose numbers are judged
            document = json_repair.sound(document)
    except (ValueError, RecursionError):
        return Checked()
    answer = as_object(document)
    failure = failure_in(answer)
    if failure is None and wire == OPENAI_S and not openai_repair.is_answer(answer):
        failure = NO_ANSWER
    if failure is None and wire == EMBEDDINGS and not embeddings.put_in_order(answer, inputs):
        failure = NO_VECTORS
    if failure is not None and wire is not None:
        return Checked(failure=failure)
    if wire is None or not answer:
        return Checked(json.dumps(document).encode(), any(mark in raw for mark in USAGE_MARKS))
    said = json.loads(json.dumps(answer)) if wire == OPENAI_S else None
    counted = _repair(wire, answer)
    return Checked(json.dumps(answer).encode(), counted, said)


def _repair(wire: str, answer: Json) -> bool:
    """Fill in what LiteLLM cannot do without; whether the answer states tokens."""
    if wire == OPENAI_S:
        openai_repair.repair_answer(answer)
        return "usage" in answer
    if wire == EMBEDDINGS:
        answer["object"] = answer.get("object") or "list"
        openai_repair.repair_usage(answer)
        return "usage" in answer
    for name in USAGE_OF[wire]:
        if answer.get(name) is None:
            answer.pop(name, None)
    counted = any(answer.get(name) for name in USAGE_OF[wire])
    if wire == ANTHROPIC_S:
        answer["model"] = answer.get("model") or ""
        answer["usage"] = {"input_tokens": 0, "output_tokens": 0} | as_object(answer.get("usage"))
    elif wire == GEMINI_S:
        repair_gemini(answer)
        answer["usageMetadata"] = as_object(answer.get("usageMetadata"))
    else:
        repair_ollama(answer)
    return counted
