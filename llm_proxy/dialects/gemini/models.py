"""Models as Google lists them.

Source: https://ai.google.dev/api/models.
"""

from collections.abc import Mapping, Sequence

from llm_proxy.dialects.dialect import ListedModel
from llm_proxy.dialects.gemini.fields import invalid
from llm_proxy.endpoints import ENDPOINTS
from llm_proxy.json_access import Json

DEFAULT_PAGE, MAX_PAGE = 50, 1000
PREFIX = "models/"
"""Of a model's name as a resource."""
_METHODS = (
    ("chat.completions", ("generateContent", "streamGenerateContent", "countTokens")),
    ("embeddings", ("embedContent", "batchEmbedContents")),
)


def model_page(listed: Sequence[ListedModel], query: Mapping[str, str]) -> Json:
    """Returns the page of models that `pageSize` and `pageToken` ask for; raises `BadRequest`."""
    size = _number(query, "pageSize", DEFAULT_PAGE) or DEFAULT_PAGE
    start = _number(query, "pageToken", 0)
    end = start + min(size, MAX_PAGE)
    page: Json = {"models": [render_model(model) for model in listed[start:end]]}
    return page | ({"nextPageToken": str(end)} if end < len(listed) else {})


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal():
        raise invalid(name, "expected a whole number.")
    return int(text[:9])


def render_model(model: ListedModel) -> Json:
    """One model as Google lists it, with what is known of its sizes."""
    methods = [method for endpoint, ones in _METHODS if _serves(model, endpoint) for method in ones]
    document: Json = {
        "name": PREFIX + model.name,
        "version": model.provider_model or model.name,
        "displayName": model.name,
        "supportedGenerationMethods": methods,
    }
    sizes = {"inputTokenLimit": model.context_window, "outputTokenLimit": model.max_output_tokens}
    return document | {name: value for name, value in sizes.items() if value is not None}


def _serves(model: ListedModel, endpoint: str) -> bool:
    return any(spec.path in model.endpoints for name, spec in ENDPOINTS.items() if name == endpoint)
