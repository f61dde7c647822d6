"""Models as Anthropic lists them.

Source: https://platform.claude.com/docs/en/api/models-list.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from llm_proxy.dialects.dialect import ListedModel
from llm_proxy.dialects.messages.checks import invalid
from llm_proxy.json_access import Json

DEFAULT_LIMIT, MAX_LIMIT = 20, 1000


def model_page(listed: Sequence[ListedModel], query: Mapping[str, str]) -> Json:
    """Returns the page of models that `limit`, `after_id` and `before_id` ask for; raises `BadRequest`."""
    limit = _limit(query.get("limit"))
    names = [model.name for model in listed]
    start, end = 0, len(names)
    if (after := query.get("after_id")) is not None:
        start = _position(names, after, "after_id") + 1
    if (before := query.get("before_id")) is not None:
        end = _position(names, before, "before_id")
        start = max(start, end - limit)
    page = listed[start : min(end, start + limit)]
    has_more = start > 0 if before is not None else start + limit < end
    return {
        "data": [render_model(model) for model in page],
        "has_more": has_more,
        "first_id": page[0].name if page else None,
        "last_id": page[-1].name if page else None,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_LIMIT:
        raise invalid("limit", f"Input should be a valid integer from 1 to {MAX_LIMIT}")
    return int(text)


def _position(names: Sequence[str], name: str, path: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise invalid(path, "no such model is listed") from None


def render_model(model: ListedModel) -> Json:
    """One model as Anthropic lists it, with what is known of its sizes."""
    document: Json = {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
    }
    sizes = {"max_input_tokens": model.context_window, "max_tokens": model.max_output_tokens}
    return document | {name: value for name, value in sizes.items() if value is not None}
