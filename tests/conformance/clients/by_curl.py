"""curl, as the README writes it."""

import json
import subprocess
from typing import Any

from report import API_KEY, BASE_URL, CITY, expect, left_by_the_caller, once, play, tell_version


def curl(path: str, body: object = None, key: str = API_KEY, *more: str) -> tuple[int, str]:
    """Status and body of one request."""
    words = ["curl", "-sN", "-w", "\n%{http_code}", BASE_URL + path, "-H", f"Authorization: Bearer {key}"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    answer = subprocess.run([*words, *more], capture_output=True, text=True, timeout=60, check=False)
    text, _, status = answer.stdout.rpartition("\n")
    return int(status), text


def ask(model: str = "p/ok", key: str = API_KEY, **more: Any) -> tuple[int, str]:
    """A chat completion; `said` is the message."""
    said = more.pop("said", play())
    return curl(
        "/chat/completions", {"model": model, "messages": [{"role": "user", "content": said}], **more}, key
    )


def chat() -> None:
    """Text."""
    status, text = ask()
    expect(status == 200 and json.loads(text)["choices"][0]["message"]["content"], text)


def stream() -> None:
    """Frames, and the end mark."""
    status, text = ask(stream=True)
    frames = [line for line in text.splitlines() if line.startswith("data: ")]
    expect(status == 200 and frames[-1] == "data: [DONE]" and len(frames) > 8, text)


def tools() -> None:
    """Calls."""
    _, text = ask("p/tools", said=play(do="tools"))
    expect(len(json.loads(text)["choices"][0]["message"]["tool_calls"]) == 2, text)


def structured() -> None:
    """JSON by a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object"}}}
    _, text = ask(said=play(text=CITY), response_format=form)
    expect(json.loads(json.loads(text)["choices"][0]["message"]["content"]) == {"city": "Oslo"}, text)


def embeddings() -> None:
    """Vectors."""
    _, text = curl("/embeddings", {"model": "p/ok", "input": ["a", "b"]})
    expect(len(json.loads(text)["data"]) == 2, text)


def models() -> None:
    """The list."""
    _, text = curl("/models")
    expect("plain" in {model["id"] for model in json.loads(text)["data"]}, text)


def cancel() -> None:
    """Interrupted in the middle of a stream."""
    body = {
        "model": "p/ok",
        "stream": True,
        "messages": [{"role": "user", "content": play(do="slow", frames=80)}],
    }
    words = ["curl", "-sN", BASE_URL + "/chat/completions", "-H", f"Authorization: Bearer {API_KEY}"]
    words += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as going:
        expect(going.stdout and going.stdout.read(30), "no frame")
        going.terminate()
    expect(left_by_the_caller(), "the provider went on")


def fails(want: int, said: str = "x", model: str = "p/ok", key: str = API_KEY) -> None:
    """The status, and OpenAI's envelope."""
    status, text = ask(model, key, said=said)
    expect(status == want, f"{status}: {text}")
    expect(set(json.loads(text)["error"]) == {"message", "type", "param", "code"}, text)


version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]  # noqa: S607
tell_version(
    "curl",
    version,
    {
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "embeddings": embeddings,
        "models": models,
        "cancel": cancel,
        "400": lambda: fails(400, play(do="status-400")),
        "401": lambda: fails(401, key="not-ours-0123456789"),
        "404": lambda: fails(404, model="nobody-has-this"),
        "429": lambda: fails(429, play(do="status-429")),
        "5xx": lambda: fails(502, play(do="status-500")),
        "once": once(lambda: fails(502, play(do="status-500"))),
    },
)
