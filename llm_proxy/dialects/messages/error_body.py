"""Errors in Anthropic's envelope, with its types.

Source: https://platform.claude.com/docs/en/api/errors.
"""

import re

import orjson

from llm_proxy import sse
from llm_proxy.errors import (
    APIError,
    BudgetExceeded,
    ProviderOverloaded,
    ProviderQuotaExceeded,
    RunBudgetExceeded,
)
from llm_proxy.json_access import Json

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_FINAL = frozenset({400, 401, 403, 404, 405, 411, 413, 415, 417, 422, 431, 501})
_OVERLOADED = 529
_FIRST_OF_SERVER_ERRORS = 500
_MADE_OF = {
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "user": "metadata.user_id",
}
"""Fields of a translated chat, and the caller's."""
_CONTEXT = "context_length_exceeded"
_PROMPT_TOO_LONG = re.compile(r"prompt is too long: \d+ tokens > \d+ maximum")
_NUMBER = r"(\d[\d,]*)"
_MAXIMUM = re.compile(
    r"(?:maximum|limit|context (?:length|window|size)|n_ctx)\D{0,60}?" + _NUMBER, re.IGNORECASE
)
_COUNT = re.compile(_NUMBER)


def error_type(error: APIError) -> str:
    """Returns Anthropic's type of an error."""
    if isinstance(error, BudgetExceeded | RunBudgetExceeded | ProviderQuotaExceeded):
        return "billing_error"
    if isinstance(error, ProviderOverloaded):
        return "overloaded_error"
    fallback = "api_error" if error.status >= _FIRST_OF_SERVER_ERRORS else "invalid_request_error"
    return _TYPES.get(error.status, fallback)


def render_error(error: APIError, request_id: str = "") -> Json:
    """Returns the envelope of an error."""
    envelope: Json = {
        "type": "error",
        "error": {"type": error_type(error), "message": _message(error)},
    }
    return envelope | ({"request_id": request_id} if request_id else {})


def error_status(error: APIError) -> int:
    """Returns the HTTP status that goes with the type of an error."""
    return _OVERLOADED if error_type(error) == _TYPES[_OVERLOADED] else error.status


def is_final(error: APIError) -> bool:
    """Whether the same request cannot pass when it is sent again: clients repeat 400 and 404 otherwise."""
    return error.status in _FINAL and error.retry_after_s is None


def error_event(error: APIError) -> bytes:
    """The event that ends a stream that failed."""
    return sse.encode_event(orjson.dumps(render_error(error)), b"error")


def _message(error: APIError) -> str:
    """The message; of a prompt that is too long in the words that clients look for."""
    if error.code != _CONTEXT or _PROMPT_TOO_LONG.search(error.message):
        return _in_callers_terms(error)
    maximum = _MAXIMUM.search(error.message)
    limit = _tokens(maximum[1]) if maximum else 0
    asked = next((one for one in map(_tokens, _COUNT.findall(error.message)) if one > limit), 0)
    if not (limit and asked):
        return f"prompt is too long: {error.message}"
    return f"prompt is too long: {asked} tokens > {limit} maximum. {error.message}"


def _in_callers_terms(error: APIError) -> str:
    """The message of an error about a chat's field, with the name of the field that it was made of."""
    name = _MADE_OF.get(error.param or "")
    return error.message.replace(f"'{error.param}'", f"'{name}'") if name else error.message


def _tokens(digits: str) -> int:
    return int(digits.replace(",", ""))
