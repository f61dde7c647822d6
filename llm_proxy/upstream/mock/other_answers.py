"""Canned answers of mock mode for rerank and moderations: the same call gets the same answer.

Documents that hold the query's words rank first; a text is flagged if it holds the word `mock-flagged`.
"""

import orjson

from llm_proxy.dialects import Call
from llm_proxy.json_access import Json, as_list, as_objects, is_array
from llm_proxy.quantities import NOTHING, encode_usage

FLAG_WORD = "mock-flagged"
CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
    "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence",
    "violence/graphic",
)  # fmt: skip


def other_answer(call: Call) -> tuple[Json, str] | None:
    """Returns the answer, and the usage the sidecar would state; None for any other operation."""
    if call.endpoint == "rerank":
        return _rerank(call), encode_usage({}, call.quantities, 0)
    if call.endpoint == "moderations":
        return _moderation(call), encode_usage({}, NOTHING, 0)
    return None


def _rerank(call: Call) -> Json:
    documents = as_list(call.body["documents"])
    words = set(_words(call.body["query"]))
    shared = [len(words.intersection(_words(one))) for one in documents]
    ranked = sorted(range(len(documents)), key=lambda at: (-shared[at], at))
    wanted = call.body.get("return_documents") is True
    results: list[Json] = [
        {"index": at, "relevance_score": round(shared[at] / max(1, len(words)), 6)}
        | (
            {"document": {"text": documents[at]} if isinstance(documents[at], str) else documents[at]}
            if wanted
            else {}
        )
        for at in ranked[: call.body.get("top_n") or len(ranked)]
    ]
    billed = {"search_units": call.quantities.search_units}
    meta = {"api_version": {"version": "2"}, "billed_units": billed}
    return {"id": "mock", "object": "list", "model": call.group, "results": results, "meta": meta}


def _words(value: object) -> list[str]:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return "".join(sign if sign.isalnum() else " " for sign in text.lower()).split()


def _moderation(call: Call) -> Json:
    given: object = call.body["input"]
    several = is_array(given) and all(isinstance(one, str) for one in given)
    results = [_judged(one) for one in (as_list(given) if several else [given])]
    return {"id": "modr-mock", "model": call.group, "results": results}


def _judged(given: object) -> Json:
    flagged = FLAG_WORD in orjson.dumps(given).decode()
    scores = dict.fromkeys(CATEGORIES, 0.0) | {"violence": 1.0 if flagged else 0.0}
    looked_at = (
        ["text", "image"] if any(one.get("type") == "image_url" for one in as_objects(given)) else ["text"]
    )
    return {
        "flagged": flagged,
        "categories": {name: score > 0 for name, score in scores.items()},
        "category_scores": scores,
        "category_applied_input_types": dict.fromkeys(CATEGORIES, looked_at),
    }
