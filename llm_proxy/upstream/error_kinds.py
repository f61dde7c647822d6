"""What kind of failure a provider's error is, and which field it is about, by status and wording.

Pure. Invariants: the first rule that matches decides; a field is named only if the request has it; an
ordinary English word counts as a field only in quotes or at the head of the message.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

_ORDINARY_WORDS = frozenset(
    {
        *("audio", "echo", "functions", "input", "messages", "metadata", "modalities", "model", "n"),
        *("prediction", "prompt", "stop", "store", "stream", "suffix", "thinking", "tools", "user"),
    }
)
_PATH = re.compile(r"^[A-Za-z_]\w*(?:\.\w+|\[\d+\]){0,12}")
_MAX_PATH_CHARS, _MAX_MESSAGE_CHARS = 100, 4_000
_WHOLE_PROMPT_FIELDS = frozenset({"contents", "input", "inputs", "messages", "model", "prompt"})
"""Fields that are the whole prompt."""
_PART_FIELDS = frozenset(
    {
        *("function_call", "functions", "instructions", "logit_bias", "metadata", "modalities", "name"),
        *("prompt_cache_key", "response_format", "safety_identifier", "stop", "stop_sequences", "suffix"),
        *("system", "tool_choice", "tools", "user"),
    }
)
_QUOTED = re.compile(r"['\"`#/]([A-Za-z_]\w*)((?:\.\w+|\[\d+\]|/\w+){0,12})(?==|:|['\"`])")
_QUOTED_NAME = re.compile(r"['\"`]([\w-]++)((?:\.\w++|\[\d++\]){0,12})(?==|['\"`])")
_NAME = re.compile(r"(?<![\w.-])[\w-]++")
_HEAD = re.compile(r"^(?:Invalid )?([A-Za-z_]\w*)((?:\.\w+|\[\d+\]){0,12}):")
_OUTPUT_TOKENS = re.compile(r"^\W*max\w*_tokens\b(?!.*\b(?:context|input|prompt)\b)", re.DOTALL)


def find_named_field(message: str, fields: Collection[str]) -> str | None:
    """The field a message names, with its path where it has one; None when it names none of the request's.

    The work grows with the message alone: a caller chooses how many fields a request has.
    """
    message = message[:_MAX_MESSAGE_CHARS]
    path = _PATH.match(message)
    if path is not None and message[path.end() : path.end() + 1] == ":":
        top = re.split(r"[.\[]", path[0], maxsplit=1)[0]
        if top in fields:
            return path[0][:_MAX_PATH_CHARS]
    positions: dict[str, tuple[int, str]] = {}
    for quoted in _QUOTED_NAME.finditer(message):
        if quoted[1] in fields:
            positions.setdefault(quoted[1], (quoted.start(), quoted[1] + quoted[2]))
    for word in _NAME.finditer(message):
        if word[0] in fields and word[0] not in _ORDINARY_WORDS:
            positions.setdefault(word[0], (word.start(), word[0]))
    return min(positions.values())[1][:_MAX_PATH_CHARS] if positions else None


def concerns_one_field(message: str, param: str | None, fields: Collection[str]) -> bool:
    """Whether an error is about one named field that is not the whole prompt."""
    named = _PATH.match(param) if param else None
    if named is not None and _is_one_field(_split_path(named[0])):
        return True
    message = message[:_MAX_MESSAGE_CHARS]
    positions: list[tuple[str, str]] = [*_QUOTED.findall(message), *_HEAD.findall(message)]
    return bool(_OUTPUT_TOKENS.search(message)) or any(
        _is_known(position[0], fields) and _is_one_field(position) for position in positions
    )


def _split_path(path: str) -> tuple[str, str]:
    top = re.split(r"[.\[]", path, maxsplit=1)[0]
    return top, path[len(top) :]


def _is_known(top: str, fields: Collection[str]) -> bool:
    return top in _PART_FIELDS or top in _WHOLE_PROMPT_FIELDS or top in fields


def _is_one_field(position: tuple[str, str]) -> bool:
    top, below = position
    return bool(below) or not (top in _WHOLE_PROMPT_FIELDS or top.endswith("tokens"))


FailureKind = Literal[
    "quota", "flagged", "credentials", "rate_limit", "context", "timeout", "overload", "request", "failure"
]

FORWARDED_STATUSES = frozenset({400, 403, 404, 409, 413, 415, 422})
"""Statuses that a caller gets as the provider sent them, with the provider's message."""

_TIMEOUTS = frozenset({408, 504, 522, 524})
_OVERLOADS = frozenset({498, 503, 529})
_UNREADABLE = ("Error converting to valid response block", "Error processing=")
"""What LiteLLM makes a 422 of: an answer with status 200 that it cannot read."""


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_CONTEXT_CODES = _any_of(
    r"context_?(?:length|window)_?exceeded",
    r"exceed_context_size",
    r"input_too_large",
    r"max_prompt_tokens_exceeded",
    r"tokens_limit_reached",
)
_CONTEXT = _any_of(
    r"context_?length_?exceeded",
    r"contextwindowexceeded",
    r"maximum context (?:length|limit|window)",
    r"exceeds? (?:the )?(?:\w+ )?context (?:size|length|limit|window)",
    r"exceeds the maximum number of tokens",
    r"prompt (?:is |was )?too long",
    r"input is too long",
    r"longer than the (?:model's context|maximum model length)",
    r"maximum prompt length",
    r"exceeded max(?:imum)? context",
    r"context (?:size|length|window) has been exceeded",
    r"too many tokens: ",
    r"context shift is disabled",
    r"(?:requested|input) tokens exceed",
    r"current length is \d+ while limit is",
    r"maximum input length is \d+ tokens",
    r"`?inputs`? (?:tokens \+ `?max_new_tokens`? must be|must have less than)",
    r"reduce the length of the (?:input )?(?:messages|prompt|input)",
    r"too large for model with",
    r"exceeds the model'?s? (?:max|context)",
    r"(?:maximum|max) allowed (?:input|sequence|context|prompt) length",
    r"\b(?:input|prompt|sequence|context)\b[^.]{0,60}(?:maximum|max) allowed (?:content )?length",
    r"too long to fit into the model",
    r"too many input tokens",
    r"context length of only",
    r"input token count is \d+ but (?:the )?model only supports",
    r"exceeded model token limit",
    r"prompt token count of \d+ exceeds",
    r"range of input length should be",
    r"exceeded this model context window",
    r"context window exceeds",
    r"prompt exceeds max(?:imum)? length",
    r"malformed input request: (?:#/(?:inputText|prompt): )?expected maxlength: \d+, actual",
    r"max size: \d+ tokens",
    r"input (?:\(\d+ tokens\) )?is too large to process",
)
FLAGGED_CONTENT = _any_of(
    r"contentpolicyviolation",
    r"content_?policy",
    r"content_filter",
    r"content management policy",
    r"responsibleaipolicy",
    r"content exists risk",
    r"data_inspection_failed",
    r"safety system",
    r"safety_check",
    r"blocked by content filtering",
    r"\bflagged\b",
    r"violates? (?:\w+ ){0,3}(?:usage (?:guidelines|policy|policies)|content polic)",
    r"inappropriate content",
)
_QUOTA = _any_of(
    r"insufficient[_ ](?:quota|balance|credits?|funds)",
    r"billing_hard_limit",
    r"credit balance is too low",
    r"(?:doesn't|does not) have any credits",
    r"used all available credits",
    r"monthly spending limit",
    r"requires more credits",
    r"payment required",
    r"account (?:is )?(?:overdue|in arrears)",
)
_CLASS = re.compile(r"\blitellm\.(\w+Error)\b")
_FLAGGED = _any_of(FLAGGED_CONTENT.pattern, r"\bmoderation\b", r"\bsafety\b", r"content filter")
_QUOTA_EXCEEDED = _any_of(r"exceeded your current quota")
_INVALID_KEY = _any_of(
    r"api[ _]key (?:not valid|expired|is invalid)", r"api_key_invalid", r"(?:incorrect|invalid) api[ _]key"
)
_OVERLOAD = _any_of(
    r"overloaded_error",
    r"\boverloaded\b",
    r"capacity_exceeded",
    r"serviceunavailableexception",
    r"\bUNAVAILABLE\b",
)


@dataclass(frozen=True, slots=True)
class FailureFacts:
    """What is known of a failed call.

    Attributes:
        status: The provider's, where one answered, else the sidecar's.
        message: The provider's or guardrail's message, not cleaned; None when unknown.
        reason: What failed where no provider rejected the call, for the record alone.
        wait_s: Seconds to wait, where stated.
        origin: Who rejected: `provider`, or a value of the sidecar's provider_errors; empty when unknown.
        full_text: The sidecar's complete error text, for LiteLLM's own conditions.
        fields: The names of the request's fields.
    """

    status: int
    code: str | None
    type: str | None
    param: str | None
    message: str | None
    reason: str | None
    wait_s: float | None
    origin: str
    full_text: str
    fields: Collection[str]

    @property
    def classified_text(self) -> str:
        """The text that errors are classified by; LiteLLM's classes stand in its own text alone."""
        classes = " ".join(_CLASS.findall(self.full_text))
        return f"{self.code} {self.type} {self.message or self.full_text} {classes}"

    @property
    def is_unreadable(self) -> bool:
        """Whether LiteLLM could not read an answer whose status was good."""
        return any(words in self.full_text for words in _UNREADABLE)


def _is_context_exceeded(failure: FailureFacts) -> bool:
    """Whether the whole prompt is longer than the model takes; LiteLLM says the same of long names."""
    if _CONTEXT_CODES.search(f"{failure.code} {failure.type}"):
        return True
    words = failure.message or failure.full_text
    return bool(_CONTEXT.search(words)) and not concerns_one_field(words, failure.param, failure.fields)


_RULES: tuple[tuple[FailureKind, Callable[[FailureFacts], object]], ...] = (
    ("quota", lambda failure: failure.status == 402 or _QUOTA.search(failure.classified_text)),
    ("quota", lambda failure: failure.wait_s is None and _QUOTA_EXCEEDED.search(failure.classified_text)),
    ("flagged", lambda failure: failure.status == 403 and _FLAGGED.search(failure.classified_text)),
    ("credentials", lambda failure: failure.status in (401, 403)),
    ("credentials", lambda failure: failure.status == 400 and _INVALID_KEY.search(failure.classified_text)),
    ("rate_limit", lambda failure: failure.status == 429),
    ("context", lambda failure: not failure.is_unreadable and _is_context_exceeded(failure)),
    ("timeout", lambda failure: failure.status in _TIMEOUTS),
    (
        "timeout",
        lambda failure: (
            "APITimeoutError" in failure.classified_text or "litellm.Timeout" in failure.full_text
        ),
    ),
    ("overload", lambda failure: failure.status in _OVERLOADS and failure.origin == "provider"),
    ("overload", lambda failure: failure.status >= 500 and _OVERLOAD.search(failure.classified_text)),
    ("failure", lambda failure: failure.is_unreadable or failure.status == 424),
    ("request", lambda failure: 400 <= failure.status < 500),
)


def classify_failure(failure: FailureFacts) -> FailureKind:
    """Returns the kind of a provider's failure."""
    for kind, matches in _RULES:
        if matches(failure):
            return kind
    return "failure"
