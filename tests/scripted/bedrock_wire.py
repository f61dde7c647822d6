"""Bedrock's wire: `/model/{id}/converse`, whole answers alone."""

from scripted.script import Json, Script


def message(script: Script, body: Json, number: int) -> Json:  # noqa: ARG001 -- every wire's signature
    """A whole answer."""
    usage = {
        "inputTokens": script.prompt_tokens,
        "outputTokens": script.completion_tokens,
        "totalTokens": script.prompt_tokens + script.completion_tokens,
    }
    said = {"role": "assistant", "content": [{"text": "".join(script.words())}]}
    return {
        "output": {"message": said},
        "stopReason": "end_turn",
        "usage": usage,
        "metrics": {"latencyMs": 1},
    }


def error(status: int, kind: str) -> Json:  # noqa: ARG001 -- the same
    """An error body."""
    return {"message": f"Scripted status {status}."}


def error_frame() -> bytes:
    """Never sent: nothing is streamed."""
    return b""
