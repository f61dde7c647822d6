"""Ollama's own wire: `/api/chat` and `/api/generate` in JSON lines, `/api/embed`, `/api/show`."""

import json

from scripted.script import Json, Script


def _line(body: Json, said: str, **more: object) -> Json:
    reply: Json = {
        "model": body["model"],
        "created_at": "2026-10-01T00:00:00Z",
        "message": {"role": "assistant", "content": said},
    }
    return reply | {"done": False} | more


def _end(script: Script) -> Json:
    ended: Json = {"done": True, "done_reason": script.finish, "total_duration": 1}
    if script.counted:
        ended |= {"prompt_eval_count": script.prompt_tokens, "eval_count": script.completion_tokens}
    return ended


def chat(script: Script, body: Json, number: int) -> Json:  # noqa: ARG001 -- one signature for every family
    """A whole answer."""
    return _line(body, "".join(script.words()), **_end(script))


def frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:  # noqa: ARG001 -- the same
    """The content lines and the closing line of a stream."""
    content = [json.dumps(_line(body, word)).encode() + b"\n" for word in script.words()]
    return content, [json.dumps(_line(body, "", **_end(script))).encode() + b"\n"]


def text(script: Script, body: Json, number: int) -> Json:
    """A whole answer of `/api/generate`."""
    return _as_text(chat(script, body, number))


def text_frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:
    """The content lines and the closing line of its stream."""
    content, [end] = frames(script, body, number)
    lines = [json.dumps(_as_text(json.loads(line))).encode() + b"\n" for line in (*content, end)]
    return lines[:-1], lines[-1:]


def _as_text(line: Json) -> Json:
    kept = {name: value for name, value in line.items() if name != "message"}
    return kept | {"response": line["message"]["content"]}


def embeddings(script: Script, body: Json, number: int) -> Json:  # noqa: ARG001 -- the same
    """Vectors, one for each input."""
    inputs = body["input"] if isinstance(body.get("input"), list) else [body.get("input", "")]
    return {
        "model": body["model"],
        "embeddings": [[0.25] * script.dimensions for _ in inputs],
        "prompt_eval_count": script.prompt_tokens,
    }


def error(status: int, kind: str) -> Json:
    """An error body."""
    return {"error": f"Scripted status {status}, {kind}."}


def error_frame() -> bytes:
    """An error where a stream's line should be."""
    return b'{"error": "model runner has unexpectedly stopped"}\n'
