"""The inference paths, and the error in a response of any of them, in the shape of its dialect."""

import json

import httpx
from running_stack import Json

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
OWN, GENERATE, STREAM = "/internal/llm/proxy", "/llm-proxy/generate", "/llm-proxy/stream"
INFERENCE_PATHS = (CHAT, TEXT, VECTORS, OWN, GENERATE, STREAM)
OTHER_PATHS = ("/v1/rerank", "/v1/moderations", "/v1/audio/speech")
"""What takes neither a conversation nor a prompt."""


def error_of(response: httpx.Response) -> Json:
    """The error, with `message`, `code` and `param`; asserts that its shape is complete."""
    reported: Json = response.json()
    if response.request.url.path.startswith("/llm-proxy/"):
        assert set(reported) == {"statusCode", "message", "error", "code", "param"}
        assert reported["statusCode"] == response.status_code
        assert reported["message"]
        return reported
    error: Json = reported["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"]
    if response.request.url.path.startswith("/internal/"):
        assert reported["detail"] == error["message"]
    return error


def error_code(body: bytes) -> str:
    """The code of an error body; `?` when it has none."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "?"
