"""The fields of rerank and of moderations, each with its validator, in the order they are sent.

Rerank's are Cohere's of both versions and Jina's; a provider's own field beside them is passed on.
Invariants: the number and the size of documents and inputs are bounded; a document that is an object stays.
Source: https://docs.cohere.com/v1/reference/rerank, https://docs.cohere.com/v2/reference/rerank,
https://api.jina.ai/redoc (rerank), https://platform.openai.com/docs/api-reference/moderations.
"""

from typing import Any

from llm_proxy.dialects.request.validators import (
    Validator,
    array_of,
    boolean,
    either,
    integer,
    invalid,
    object_with,
    string,
    tagged,
    wrong_type,
)
from llm_proxy.json_access import is_array, is_object

MAX_DOCUMENTS = 10_000
"""Of one request; Cohere's own bound. Other providers have less."""
MAX_DOCUMENT_CHARS = 1_000_000
MAX_INPUTS = 2048
MAX_PARTS = 256
DOCUMENTS_PER_SEARCH_UNIT = 100
"""As Cohere bills: https://cohere.com/pricing."""
_name = string(max_length=256, min_length=1)
_text = string()
_document = string(max_length=MAX_DOCUMENT_CHARS)
_STRING_OR_OBJECT = "a string or an object"
_INPUT = "a string, or an array of strings or of parts"


def _object_document(value: Any, path: str) -> Any:  # noqa: ANN401 -- unchecked JSON
    size = sum(len(text) for text in value.values() if isinstance(text, str))
    if size > MAX_DOCUMENT_CHARS:
        reason = f"texts too long. Expected at most {MAX_DOCUMENT_CHARS} characters, but got {size}."
        raise invalid(path, reason, "string_above_max_length")
    return value


RERANK_FIELDS: dict[str, Validator] = {
    "model": _name,
    "query": either(_STRING_OR_OBJECT, string=string(min_length=1), object=object_with()),
    "documents": array_of(
        either(_STRING_OR_OBJECT, string=_document, object=_object_document),
        min_length=1,
        max_length=MAX_DOCUMENTS,
    ),
    "max_chunks_per_doc": integer(1),
    "max_tokens_per_doc": integer(1),
    "rank_fields": array_of(string(min_length=1), min_length=1, max_length=256),
    "return_documents": boolean,
    "top_n": integer(1),
    "user": _text,
}

_part = tagged(
    object_with(
        type_required=string(min_length=1),
        text=_text,
        image_url=object_with(url_required=string(min_length=1)),
    ),
    "text",
    "image_url",
)


def _inputs(value: Any, path: str) -> Any:  # noqa: ANN401 -- unchecked JSON
    """A text, texts, or the parts of one input; never mixed."""
    if type(value) is str:
        return value
    if not is_array(value):
        raise wrong_type(path, _INPUT, value)
    if all(is_object(one) for one in value):
        return array_of(_part, min_length=1, max_length=MAX_PARTS)(value, path)
    return array_of(_text, min_length=1, max_length=MAX_INPUTS)(value, path)


MODERATION_FIELDS: dict[str, Validator] = {"model": _name, "input": _inputs, "user": _text}
