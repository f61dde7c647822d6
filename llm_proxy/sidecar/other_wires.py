"""Google's and Ollama's answers and frames: what LiteLLM's readers cannot do without, where it is missing.

Pure. Invariants: only what is missing or null is filled in; nothing that was said is changed.
"""

from llm_proxy.json_access import Json
from llm_proxy.sidecar.shapes import items, mapping

COUNTS = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")


def repair_gemini(answer: Json) -> None:
    """Arguments of a tool that takes none, the sum of tokens."""
    for candidate in map(mapping, items(answer.get("candidates"))):
        for part in map(mapping, items(mapping(candidate.get("content")).get("parts"))):
            call = mapping(part.get("functionCall"))
            if call:
                call["args"] = mapping(call.get("args"))
    usage = mapping(answer.get("usageMetadata"))
    for name in [name for name, value in usage.items() if value is None]:
        del usage[name]
    if usage:
        usage.setdefault("totalTokenCount", sum(usage.get(name) or 0 for name in COUNTS))


def repair_ollama(answer: Json) -> None:
    """The message of a last line that only counts, and the names around it."""
    answer["message"] = mapping(answer.get("message"))
    answer["message"].setdefault("role", "assistant")
    answer["message"].setdefault("content", "")
    answer["model"] = answer.get("model") or ""
    answer["done"] = answer.get("done") is True
    for name in ("prompt_eval_count", "eval_count"):
        if answer.get(name) is None:
            answer.pop(name, None)
