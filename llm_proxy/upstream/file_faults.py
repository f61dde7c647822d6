"""Files of a request that did not come as far as the provider: which place is at fault, and why.

Pure. Invariants: LiteLLM fetches a link that the provider does not read itself, and reads a data URL; a place
is named as the chat that is sent names it; only the first one is named.
"""

import re

import orjson

from llm_proxy.dialects.request.url_guard import fetched_strings
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import as_object

NOT_FETCHED = "url_not_fetched"
"""The code of a link whose file could not be fetched."""
_REASONS = (
    ("exceeds maximum allowed size", "Its file is too large."),
    ("content type", "The type of its file is not known."),
    ("download is disabled", "Links are not fetched for this model."),
)
"""What LiteLLM's message says -> the reason; the network's own error is kept from the caller."""
_FILE_FIELDS = re.compile(r"\.(?:(?:image|video|audio|document)_url(?:\.url)?|file_data)")
_LINK = re.compile(r"(?:https?|gs|s3)://|data:[^;,/]+/[^;,]+;base64,")


def link_error(reason: str, body: bytes) -> BadRequest:
    """Returns the error of a link that LiteLLM did not fetch; its message stands in `reason`."""
    files = [(path, text) for path, text in fetched_strings(_parsed(body)) if text.startswith("http")]
    param = next((path for path, text in files if reason.endswith(f"url={text}")), None)
    if param is None and len(files) == 1:
        [(param, _)] = files
    link = f"The link in '{param}'" if param else "A link"
    why = next((text for words, text in _REASONS if words in reason), "")
    message = f"{link} could not be fetched for the provider. {why}".rstrip()
    return BadRequest(message, param=param, code=NOT_FETCHED)


def malformed_file(body: bytes) -> str | None:
    """Returns the place of the first file that is neither a link nor a data URL with base64; None without."""
    for path, text in fetched_strings(_parsed(body)):
        field = _FILE_FIELDS.search(path)
        if field is not None and field.end() == len(path) and _LINK.match(text) is None:
            return path
    return None


def _parsed(body: bytes) -> dict[str, object]:
    try:
        return as_object(orjson.loads(body))
    except orjson.JSONDecodeError:
        return {}  # a form
