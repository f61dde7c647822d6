"""What one call is to be answered with: read from the model's name or from its last user message.

A model named `x--cut` or `cut` plays `cut`; a message holding `{"do": "cut", "after": 2}` does too, with the
fields of `Script`. The directive wins. Tokens are the script's own statement, never counted from text.
"""

import json
import os
import random
from dataclasses import dataclass, fields, replace
from typing import Any

from scripted.agent import Call, next_calls

Json = dict[str, Any]

PLAYS = frozenset(
    {
        "ok",
        "slow-first",  # first byte after `first_ms`
        "slow",  # `gap_ms` between frames
        "cut",  # TCP connection closed after `after` frames, in the middle of the body
        "cut-once",  # `cut` at the first `fails` calls of `key`, later ones are good
        "reset",  # the same by a TCP reset
        "eof",  # the body ends properly after `after` frames: no finish reason, no [DONE]
        "stays-open",  # a stream's last event, but neither the body nor the connection ends
        "torn-end",  # a stream's last event, and the connection closed before the body's end
        "no-done",  # a finish reason, but no [DONE]
        "garbage",  # a frame that is not JSON after `after` frames; non-streamed: not JSON
        "half-frame",  # the body ends properly in the middle of a frame
        "not-sse",  # 200 with a page of HTML
        "error-in-200",  # an error object where a frame or the answer should be
        "silence",  # nothing more after `after` frames, the connection stays open
        "hang",  # not one byte
        "drop",  # the connection closes before the status line
        "empty",  # 200 and no body
        "html-502",
        "context",
        "quota",
        "policy",
        "flaky",  # the first `fails` calls of `key` answer `status`, later ones are good
        "helpful",  # `tools` when tools are offered, else text
        "tools",  # calls, then, when a tool has answered, text
        "agent",  # the calls of `steps`, a step a turn, then text; see `scripted/agent.py`
        "refusal",
        "filtered",  # finish reason content_filter
        "raw",  # the bytes of `raw`: a stream's writes, or a whole body
        "raw-error",  # the same with `status`
        "prefix",  # prompts that begin alike are billed as cached; see `scripted/prefix_cache.py`
        "echo",  # a `status` whose message repeats what the user said
    }
)
CAST: dict[str, str] = json.loads(os.environ.get("SCRIPTED_CAST", "{}"))
"""What models play whose names do not say it, for callers whose code is given: `{"gpt-4": "helpful"}`."""
# fmt: off
WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "juniper", "kelp",
    "lagoon", "meadow", "nectar", "opal", "pebble", "quartz", "river", "stone", "timber", "umber",
    "valley", "willow",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Script:
    """One performance.

    Attributes:
        do: One of `PLAYS`, or `status-NNN`, or `says-NAME` for one of `failures.FAILURES`, or `echo`.
        frames: Content frames of a stream, and words of an answer.
        after: Content frames sent before a fault.
        retry_after: Sent as it is in `Retry-After`.
        key: What `fails` is counted by; the model's name when empty.
        cache_write_tokens: Prompt tokens written to the provider's cache, those for an hour among them.
        service_tier: The tier that an answer on OpenAI's wire states.
        image_bytes: The size of a picture's file, at least.
        image_tokens: Prompt tokens of pictures among them.
        counted: Chats on OpenAI's and Ollama's wires state their tokens; many small servers do not.
        raw: Bytes to send as they are, one write each; a character of Latin-1 stands for a byte.
        repeat: How often each piece of `raw` stands in its write.
        at_once: A stream is one write, with its head.
        encoding: The `Content-Encoding` that `raw` is said to have.
        calls: What an agent's turn calls; where it is empty, `tools` calls the first tool that is offered.
    """

    do: str = "ok"
    frames: int = 8
    after: int = 3
    first_ms: int = 0
    gap_ms: int = 0
    status: int = 500
    retry_after: str = ""
    fails: int = 1
    key: str = ""
    text: str = ""
    finish: str = "stop"
    prompt_tokens: int = 17
    completion_tokens: int = 23
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    service_tier: str = "default"
    dimensions: int = 8
    image_bytes: int = 0
    image_tokens: int = 0
    counted: bool = True
    raw: tuple[str, ...] = ()
    repeat: int = 1
    at_once: bool = False
    encoding: str = ""
    calls: tuple[Call, ...] = ()

    def headers(self) -> dict[str, str]:
        """The headers of a `raw` answer."""
        encoding = {"content-encoding": self.encoding} if self.encoding else {}
        return {"x-said": "größer 日本"} | encoding

    def writes(self) -> list[bytes]:
        """The writes of a `raw` answer."""
        return [piece.encode("latin-1") * self.repeat for piece in self.raw]

    def words(self, choice: int = 0) -> list[str]:
        """The pieces of the answer, different for each choice, joined without a separator."""
        if self.text:
            return [self.text[at : at + 5] for at in range(0, len(self.text), 5)]
        draw = random.Random(f"{self.key}{self.frames}{choice}")  # noqa: S311 -- a script, not a secret
        return [("" if at == 0 else " ") + draw.choice(WORDS) + str(at) for at in range(self.frames)]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") if hasattr(part, "get") else str(part) for part in content or ())


def last_words(body: Json) -> str:
    """What the user said last, in any family's shape."""
    if "messages" in body:
        messages: list[Json] = body["messages"]
        said = [one for one in messages if one.get("role") == "user"]
        return _text(said[-1].get("content")) if said else ""
    if "contents" in body:
        return _text(body["contents"][-1].get("parts"))
    names = ("query", "prompt", "input", "inputs", "texts", "text")
    given = next((body[name] for name in names if body.get(name)), None)
    if "instances" in body:  # Imagen
        given = [one.get("prompt", "") for one in body["instances"]]
    items = _objects(given)
    if items:  # Responses
        said = [one for one in items if one.get("role") == "user"]
        return _text(said[-1].get("content")) if said else ""
    return _text(given)


def _objects(given: object) -> list[Json]:
    listed: list[Any] = list(given) if isinstance(given, list) else []  # pyright: ignore[reportUnknownArgumentType] -- JSON
    return [one for one in listed if isinstance(one, dict)]


def _told_by_a_tool(body: Json) -> bool:
    """Whether a tool has had its say since the user's: then the model answers."""
    said = _objects(body.get("messages") or body.get("input"))
    return bool(said) and (
        said[-1].get("role") == "tool" or str(said[-1].get("type")).endswith("_call_output")
    )


def _directive(said: str) -> Json:
    at = said.rfind('{"do"')
    if at < 0:
        return {}
    try:
        found: Json = json.JSONDecoder().raw_decode(said[at:])[0]
    except ValueError:
        return {}
    return found


def _by_name(model: str) -> str:
    name = CAST.get(model) or model.rsplit("/", 1)[-1].rsplit("--", 1)[-1]
    return name if name in PLAYS or name.startswith(("status-", "says-")) else "ok"


def read(model: str, body: Json) -> Script:
    """The script that a request asks for."""
    known = {field.name for field in fields(Script)} - {"calls"}
    plan, calls = next_calls(body, _directive)
    asked = {name: value for name, value in (_directive(last_words(body)) or plan).items() if name in known}
    script = replace(Script(do=_by_name(model)), **asked)
    if script.do == "agent":
        script = replace(script, do="tools" if calls else "ok", calls=calls)
    if script.do == "helpful":
        script = replace(script, do="tools" if body.get("tools") else "ok")
    if script.do == "tools" and not calls and _told_by_a_tool(body):
        script = replace(script, do="ok")
    if script.do == "slow-first" and not script.first_ms:
        script = replace(script, first_ms=1000)
    if script.do == "slow" and not script.gap_ms:
        script = replace(script, gap_ms=200)
    return script


def at_call(script: Script, calls_before: int) -> Script:
    """The script with its play chosen, where that goes by the calls so far."""
    if script.do != "cut-once":
        return script
    return replace(script, do="cut" if calls_before < script.fails else "ok")


def failure(script: Script, calls_before: int) -> tuple[int, str] | None:
    """The status and the kind of failure to answer with, or None for a 200."""
    named = {
        "html-502": (502, "html"),
        "context": (400, "context"),
        "quota": (429, "quota"),
        "policy": (400, "policy"),
    }
    if script.do in named:
        return named[script.do]
    if script.do.startswith("status-"):
        return int(script.do[7:]), "plain"
    if script.do == "echo":
        return script.status, "echo"
    if script.do == "flaky" and calls_before < script.fails:
        return script.status, "plain"
    return None
