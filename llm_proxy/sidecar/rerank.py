"""Answers of rerank models in one shape that Cohere's, Jina's and vLLM's clients read.

Pure. Invariants: every result has the index of a document that was sent, once, and a finite score; documents
are in the answer if the caller requested them, never if it refused them, else if the provider sends them;
what the provider says of its answer (`meta`, `usage`) stays; nothing that it does not state is counted.
Source: https://docs.cohere.com/v1/reference/rerank, https://api.jina.ai/scalar (rerank).
"""

import math

from llm_proxy.json_access import Json, as_list, as_object, is_array, is_object, read_object
from llm_proxy.token_details import first_count


def rerank_answer(parsed: Json, raw: bytes | None, request: Json, model: str) -> Json | None:
    """Return the answer to send; None if it does not rank the request's documents.

    Args:
        parsed: LiteLLM's answer.
        raw: The provider's, of which LiteLLM keeps a part; None if it is not known.
        request: The request's body.
        model: The model group that answered.
    """
    results = _results(parsed, as_list(request.get("documents")), request.get("return_documents"))
    if results is None:
        return None
    original = read_object(raw or b"")
    usage, stated = as_object(original.get("usage")), as_object(original.get("meta"))
    invented = raw is not None and not usage and not stated  # LiteLLM counts where nothing is stated
    meta = {} if invented else as_object(parsed.get("meta")) | stated
    billed, counted = _known(meta.get("billed_units")), _known(meta.pop("tokens", None))
    total = first_count(counted.get("input_tokens"), usage.get("total_tokens"), billed.get("total_tokens"))
    body: Json = {"id": parsed.get("id"), "object": "list", "model": model, "results": results}
    if total is not None and "search_units" not in billed:
        billed = {"input_tokens": total, **billed}
    body["meta"] = _known(meta) | {"billed_units": billed}
    if total is not None:
        body["meta"]["tokens"] = {"input_tokens": total} | counted
        body["usage"] = {"total_tokens": total} | usage
    return body


def _known(values: object) -> Json:
    return {name: value for name, value in as_object(values).items() if value is not None}


def _results(parsed: Json, documents: list[object], wanted: object) -> list[Json] | None:
    given: object = parsed.get("results")
    if not is_array(given):
        return None
    found = [_result(as_object(one), documents, wanted) for one in given]
    results = [one for one in found if one is not None]
    if len(results) != len(found) or len({one["index"] for one in results}) != len(results):
        return None
    return results


def _result(given: Json, documents: list[object], wanted: object) -> Json | None:
    index, score = given.get("index"), given.get("relevance_score")
    if type(index) is not int or not 0 <= index < len(documents):
        return None
    if not isinstance(score, int | float) or not math.isfinite(score):
        return None
    result: Json = {"index": index, "relevance_score": score}
    if wanted is True or (wanted is None and given.get("document")):
        sent = documents[index]
        result["document"] = given.get("document") or (sent if is_object(sent) else {"text": sent})
    return result
