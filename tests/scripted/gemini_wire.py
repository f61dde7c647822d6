"""Google's wire: `:generateContent`, `:streamGenerateContent`, and its embeddings."""

import json

from scripted.openai_wire import THOUGHT, hash_of
from scripted.script import Json, Script

STATES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
MESSAGES = {
    "context": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "quota": "You exceeded your current quota, please check your plan and billing details.",
    "policy": "Prompt blocked.",
}


def usage(script: Script) -> Json:
    """The script's tokens as Gemini states them."""
    return {
        "promptTokenCount": script.prompt_tokens,
        "candidatesTokenCount": script.completion_tokens - script.reasoning_tokens,
        "thoughtsTokenCount": script.reasoning_tokens,
        "cachedContentTokenCount": script.cached_tokens,
        "totalTokenCount": script.prompt_tokens + script.completion_tokens,
    }


def _parts(script: Script, body: Json) -> list[Json]:
    if script.do != "tools":
        return [{"text": "".join(script.words())}]
    if script.calls:
        made: list[Json] = [{"functionCall": {"name": name, "args": given}} for name, given in script.calls]
        return [{"text": THOUGHT}, *made]
    tools: list[Json] = body.get("tools") or []
    declared: list[Json] = [
        one for tool in tools for key, many in tool.items() if "eclarations" in key for one in many
    ]
    name = declared[0]["name"] if declared else "look_up"
    return [{"functionCall": {"name": name, "args": {"city": city}}} for city in ("Oslo", "Turku")]


def _finish(script: Script) -> str:
    return {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}.get(script.finish, "STOP")


def _reply(model: str, number: int, parts: list[Json], finish: str | None, counts: Json) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": counts,
        "modelVersion": model,
        "responseId": f"g{number}",
        "providerAddition": {"kept": None},
    }


def content(script: Script, body: Json, number: int) -> Json:
    """A whole answer."""
    reply = _reply(body["model"], number, _parts(script, body), _finish(script), usage(script))
    reply["candidates"][0]["citationMetadata"] = {"citationSources": [{"uri": "https://a.example"}]}
    return reply


def frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:
    """The content frames and the closing frame of a streamed answer."""
    partial = {"promptTokenCount": script.prompt_tokens, "totalTokenCount": script.prompt_tokens}
    pieces = (
        [[part] for part in _parts(script, body)]
        if script.do == "tools"
        else [[{"text": word}] for word in script.words()]
    )
    replies = [_reply(body["model"], number, piece, None, partial) for piece in pieces[:-1]]
    last = _reply(body["model"], number, pieces[-1], _finish(script), usage(script))
    return [_frame(reply) for reply in replies], [_frame(last)]


def _frame(reply: Json) -> bytes:
    return b"data: " + json.dumps(reply).encode() + b"\r\n\r\n"


def embeddings(script: Script, body: Json, number: int) -> Json:
    """Vectors in the shape of the method that was called."""
    size = script.dimensions
    if "instances" in body:
        tokens = {"token_count": script.prompt_tokens, "truncated": False}
        one = [
            {"embeddings": {"values": [0.1 * number % 1] * size, "statistics": tokens}}
            for _ in body["instances"]
        ]
        return {"predictions": one}
    asked = body.get("requests") or [body]
    vectors = [{"values": [round(hash_of(json.dumps(item)) % 97 / 97, 4)] * size} for item in asked]
    return {"embeddings": vectors} if "requests" in body else {"embedding": vectors[0]}


def error(status: int, kind: str) -> Json:
    """An error body."""
    said = MESSAGES.get(kind, f"Scripted status {status}.")
    return {"error": {"code": status, "message": said, "status": STATES.get(status, "INTERNAL")}}


def error_frame() -> bytes:
    """An error where a stream's frame should be."""
    return b"data: " + json.dumps(error(503, "plain")).encode() + b"\r\n\r\n"


def count(script: Script, body: Json, number: int) -> Json:
    """A count of a prompt's tokens: of the whole request where one was sent."""
    del script, number
    return {"totalTokens": 1000 + len(json.dumps(body.get("generateContentRequest") or body["contents"]))}
