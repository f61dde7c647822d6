"""Errors in Google's envelope, with its states and details.

Source: https://cloud.google.com/apis/design/errors, https://ai.google.dev/gemini-api/docs/troubleshooting.
"""

import math

from llm_proxy.errors import AgentLoopDetected, APIError, BudgetExceeded, RunBudgetExceeded, Unauthorized
from llm_proxy.json_access import Json

_STATES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}
_BAD_REQUEST, _FIRST_OF_SERVER_ERRORS = 400, 500
_TYPE = "type.googleapis.com/google.rpc."
_KEY_PLACE = (
    " Send the key in the header `x-goog-api-key`. A key in the address (`?key=`) is not read, because "
    "addresses are logged on their way."
)
_MADE_OF = {
    "frequency_penalty": "generationConfig.frequencyPenalty",
    "logprobs": "generationConfig.responseLogprobs",
    "max_tokens": "generationConfig.maxOutputTokens",
    "max_completion_tokens": "generationConfig.maxOutputTokens",
    "messages": "contents",
    "modalities": "generationConfig.responseModalities",
    "n": "generationConfig.candidateCount",
    "presence_penalty": "generationConfig.presencePenalty",
    "reasoning_effort": "generationConfig.thinkingConfig",
    "response_format": "generationConfig.responseSchema",
    "seed": "generationConfig.seed",
    "service_tier": "serviceTier",
    "stop": "generationConfig.stopSequences",
    "temperature": "generationConfig.temperature",
    "thinking": "generationConfig.thinkingConfig",
    "tool_choice": "toolConfig.functionCallingConfig",
    "top_k": "generationConfig.topK",
    "top_logprobs": "generationConfig.logprobs",
    "top_p": "generationConfig.topP",
}
"""Fields of a translated chat, and the caller's."""


def render_error(error: APIError) -> Json:
    """Returns the envelope of an error."""
    message = error.message
    field = _MADE_OF.get(error.param or "", error.param)
    if field != error.param:
        message = message.replace(f"'{error.param}'", f"'{field}'")
    if isinstance(error, Unauthorized):
        message += _KEY_PLACE
    document: Json = {"code": error.status, "message": message, "status": error_state(error)}
    details = _details(error, field, message)
    return {"error": document | ({"details": details} if details else {})}


def error_state(error: APIError) -> str:
    """Returns Google's word for the status of an error."""
    fallback = "INTERNAL" if error.status >= _FIRST_OF_SERVER_ERRORS else "INVALID_ARGUMENT"
    return _STATES.get(error.status, fallback)


def _details(error: APIError, field: str | None, message: str) -> list[Json]:
    details: list[Json] = []
    if error.code:
        reason = error.code.upper()
        details.append({"@type": f"{_TYPE}ErrorInfo", "reason": reason, "domain": "llm-proxy"})
    if error.status == _BAD_REQUEST and field:
        violations = [{"field": field, "description": message}]
        details.append({"@type": f"{_TYPE}BadRequest", "fieldViolations": violations})
    if isinstance(error, BudgetExceeded | RunBudgetExceeded | AgentLoopDetected):
        violation = {
            "subject": error.reached_limit.subject if error.reached_limit else "",
            "description": message,
        }
        details.append({"@type": f"{_TYPE}QuotaFailure", "violations": [violation]})
    if error.retry_after_s is not None:
        delay = max(math.ceil(error.retry_after_s), 1)
        details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{delay}s"})
    return details
