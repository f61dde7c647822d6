"""Answers of moderation models, as the provider sent them.

Pure. LiteLLM writes every category twice, once by a name of its own, and drops what it does not know.
Invariant: an answer has one result for each input; an input of parts is one.
"""

from llm_proxy.json_access import Json, as_list, as_object, read_object


def moderation_answer(raw: bytes, request: Json) -> bytes | None:
    """Return the provider's answer; None if it does not judge each input of the request.

    Args:
        raw: The answer; LiteLLM's own if the provider's is not known.
        request: The request's body.
    """
    given = as_list(request.get("input"))
    inputs = len(given) if given and all(isinstance(one, str) for one in given) else 1
    results = as_list(read_object(raw).get("results"))
    complete = len(results) == inputs and all(as_object(one).get("categories") for one in results)
    return raw if complete else None
