"""The rerank wires: Cohere's, Jina's, Voyage's, vLLM's, Together's and Infinity's and TEI's answers.

Which one it is, the model's name says; Cohere's unless it names another. The last document is the best.
"""

from typing import Any

from scripted.script import Json, Script

WIRES = {
    "jina": "jina",
    "rerank-2": "voyage",
    "vllm": "vllm",
    "together": "together",
    "bge": "infinity",
}  # TEI names no model
"""A part of a model's name -> its wire."""


def _text(document: Any) -> str:
    return document if isinstance(document, str) else str(document.get("text", document))


def _ranked(body: Json, *, with_documents: bool) -> list[Json]:
    documents: list[Any] = body.get("documents") or body["texts"]
    best = [
        {"index": at, "relevance_score": round(0.9 - 0.1 * rank, 6)}
        | ({"document": {"text": _text(documents[at])}} if with_documents else {})
        for rank, at in enumerate(reversed(range(len(documents))))
    ]
    return best[: body.get("top_n") or body.get("top_k") or len(best)]


def rerank(script: Script, body: Json, number: int) -> Any:
    """An answer in the shape of the model's provider; TEI's is a list."""
    wire = next((WIRES[name] for name in WIRES if name in body["model"]), "cohere")
    if "texts" in body:
        return _tei(body)
    total = script.prompt_tokens
    usage: Json = {"total_tokens": total, "prompt_tokens": total} if script.counted else {}
    wanted = bool(body.get("return_documents", wire in {"jina", "vllm"}))
    results = _ranked(body, with_documents=wanted)
    named: Json = {"id": f"rerank-{number}", "model": body["model"], "results": results, "usage": usage}
    texts = [one | ({"document": one["document"]["text"]} if wanted else {}) for one in results]
    shapes: dict[str, Json] = {
        "vllm": named,
        "jina": {"object": "list", **{name: named[name] for name in ("model", "results", "usage")}},
        "voyage": {"object": "list", "data": texts, "model": body["model"], "usage": {"total_tokens": total}},
        "together": {"object": "rerank", **named, "usage": usage | {"completion_tokens": 0}},
        "infinity": {"object": "rerank", **named, "results": texts},
    }
    return shapes.get(wire) or _cohere(script, body, results, number)


def _tei(body: Json) -> list[Json]:
    ranked = _ranked(body, with_documents=bool(body.get("return_text")))
    return [
        {"index": one["index"], "score": one["relevance_score"]}
        | ({"text": one["document"]["text"]} if "document" in one else {})
        for one in ranked
    ]


def _cohere(script: Script, body: Json, results: list[Json], number: int) -> Json:
    billed: Json = {"search_units": -(-len(body["documents"]) // 100)} if script.counted else {}
    meta = {
        "api_version": {"version": script.text or "1"},
        "billed_units": billed,
        "warnings": ["a warning"],
    }
    return {"id": f"rerank-{number}", "results": results, "meta": meta}


def error(status: int, kind: str) -> Json:
    """Cohere's error: a message and an id."""
    words = {"context": "too many tokens: size limit exceeded by 812 tokens", "quota": "trial key exhausted"}
    plain = {
        400: "invalid request: documents must not be empty",
        401: "invalid api token: sk-canary-of-provider",
        404: "model 'x' not found",
        429: "slow down",
    }
    message = words.get(kind) or plain.get(status) or "internal server error"
    return {"id": "err-1", "message": message}
