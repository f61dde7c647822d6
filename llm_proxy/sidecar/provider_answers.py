"""A provider's whole answer with status 200, read before LiteLLM reads it: is it one, and is it readable?

Pure. Invariants: what is repaired is what LiteLLM's readers stumble over, missing or null; what the provider
said on OpenAI's wire is kept as it was said; a body that nobody here knows passes as it is.
"""

import json
from typing import NamedTuple

from llm_proxy.sidecar import openai_wire
from llm_proxy.sidecar.shapes import Json, mapping
from llm_proxy.sidecar.stated_failures import Failure, failure_in

OPENAI_S = "/completions"
ANTHROPIC_S, GEMINI_S, OLLAMA_S = "/messages", ":generateContent", "/api/chat"
USAGE_OF = {
    OPENAI_S: ("usage",),
    ANTHROPIC_S: ("usage",),
    GEMINI_S: ("usageMetadata",),
    OLLAMA_S: ("prompt_eval_count", "eval_count"),
}
"""End of a path -> the wire's fields that count tokens."""
USAGE_MARKS = (b'"usage', b'eval_count"', b'token_count"')
"""Of the wires that are not read here."""


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


def check(path: str, raw: bytes) -> Checked:
    """Read the body of an answer from a path of a provider's."""
    wire = next((end for end in USAGE_OF if path.endswith(end)), None)
    torn = openai_wire.HALF.search(raw) is not None
    if wire is None and not torn:
        return Checked(counted=any(mark in raw for mark in USAGE_MARKS))
    try:
        document: object = json.loads(raw)
    except (ValueError, RecursionError):
        return Checked()
    if torn:
        document = openai_wire.whole_text(document)
    answer = mapping(document)
    if wire is None or not answer:
        return Checked(json.dumps(document).encode(), any(mark in raw for mark in USAGE_MARKS))
    failure = failure_in(answer)
    if failure is not None:
        return Checked(failure=failure)
    counted = any(answer.get(name) is not None for name in USAGE_OF[wire])
    said = json.loads(json.dumps(answer)) if wire == OPENAI_S else None
    _repair(wire, answer)
    return Checked(json.dumps(answer).encode(), counted, said)


def _repair(wire: str, answer: Json) -> None:
    if wire == OPENAI_S:
        openai_wire.repair_answer(answer)
    elif wire == ANTHROPIC_S:
        answer["model"] = answer.get("model") or ""
        answer["usage"] = {"input_tokens": 0, "output_tokens": 0} | mapping(answer.get("usage"))
    elif wire == GEMINI_S:
        answer["usageMetadata"] = mapping(answer.get("usageMetadata"))
    else:
        for name in USAGE_OF[wire]:
            if answer.get(name) is None:
                answer.pop(name, None)
