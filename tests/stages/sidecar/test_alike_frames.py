"""Frames that LiteLLM does not make are those it would make, and its log has the same."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from odd_provider_answers import DONE, USAGE, chunk, event, wire
from sidecar_parts import needs_parts
from sidecars import Answer, Json, Provider, Sidecar, deployment, run_sidecar

from llm_proxy.json_access import is_array, is_object

OWNERS_MODULE = """
import json
from collections import Counter
from pathlib import Path
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper

FILE, MADE, step = Path(__file__).with_name("events.jsonl"), Counter(), CustomStreamWrapper.__anext__


async def count(self):
    MADE[self.logging_obj.litellm_call_id] += 1
    return await step(self)


class Recording(CustomLogger):
    def write(self, kwargs):
        said = kwargs["standard_logging_object"]
        tokens = ("prompt_tokens", "completion_tokens")
        names = ("litellm_call_id", "status", "response", "response_cost", *tokens)
        line = {name: said.get(name) for name in names}
        line["made"] = MADE[line["litellm_call_id"]]
        with FILE.open("a") as file:
            file.write(json.dumps(line, default=str) + "\\n")

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.write(kwargs)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.write(kwargs)


CustomStreamWrapper.__anext__ = count
instance = Recording()
"""
"""An owner's module beside the file: it records each event, and how many frames LiteLLM made for the call."""
FAMILIES = ("openai", "anthropic", "gemini")
PINGED = "-pinged"
"""The group whose deployment has LiteLLM's pings: LiteLLM makes each frame of its streams itself."""
USAGE_FRAME = chunk(choices=[], usage=USAGE)
STOP = chunk({}, "stop")
UNSTATED = {"id", "created", "model", "system_fingerprint"}
"""Fields that LiteLLM makes anew for each call, or that name the group."""


@pytest.fixture(scope="module")
def recording(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sidecar, Path]]:
    """A sidecar with two groups for each family, and the file of its events."""
    folder = tmp_path_factory.mktemp("recording")
    (folder / "owners.py").write_text(OWNERS_MODULE, encoding="utf-8")
    config: Json = {
        "model_list": [
            deployment(family + kind, f"{family}/scripted", provider, stream_timeout=30, **more)
            for family in FAMILIES
            for kind, more in (("", {}), (PINGED, {"keepalive_seconds": 60}))
        ],
        "litellm_settings": {"callbacks": ["owners.instance"], "turn_off_message_logging": False},
        "router_settings": {"num_retries": 0},
    }
    with run_sidecar(config, provider, folder) as started:
        yield started, folder / "events.jsonl"


def lines_of(file: Path) -> list[Json]:
    """Return the events so far, without one that is being written."""
    written, _, _ = file.read_text().rpartition("\n") if file.exists() else ("", "", "")
    return [json.loads(line) for line in written.splitlines()]


async def logged(file: Path, call_id: str) -> Json:
    """Return the event of a call, once it is written."""
    async with asyncio.timeout(20):
        while True:
            found = [line for line in lines_of(file) if line["litellm_call_id"] == call_id]
            if found:
                return found[0]
            await asyncio.sleep(0.05)


def without(said: Any, names: set[str]) -> Any:
    """Return a document without fields of these names."""
    if is_object(said):
        return {key: without(one, names) for key, one in said.items() if key not in names}
    return [without(one, names) for one in said] if is_array(said) else said


async def streamed(
    sidecar: Sidecar, model: str, writes: list[str], gap_ms: int, more: Json
) -> tuple[str, Answer]:
    """Request a stream of these writes; return the call's id, too."""
    call_id = str(uuid4())
    directive = json.dumps({"do": "raw", "raw": writes, "gap_ms": gap_ms})
    body: Json = {"model": model, "stream": True, "messages": [{"role": "user", "content": directive}]}
    return call_id, await sidecar.post("/v1/chat/completions", body | more, **{"x-litellm-call-id": call_id})


async def compared(
    recording: tuple[Sidecar, Path], family: str, writes: list[str], *, gap_ms: int = 0, **more: Any
) -> tuple[Answer, Json]:
    """Assert that a stream and its event are those that LiteLLM makes alone; return them."""
    sidecar, file = recording
    asked = [streamed(sidecar, family + kind, writes, gap_ms, more) for kind in ("", PINGED)]
    (one, ours), (other, theirs) = await asyncio.gather(*asked)
    assert without(ours.events, UNSTATED) == without(theirs.events, UNSTATED)
    event_of_ours, event_of_theirs = await logged(file, one), await logged(file, other)
    dropped = {*UNSTATED, "litellm_call_id", "made"}
    assert without(event_of_ours, dropped) == without(event_of_theirs, dropped)
    return ours, event_of_ours


def said(*texts: str, name: str = "content", **more: Any) -> list[Json]:
    """A first frame, and one for each text."""
    return [
        chunk({"role": "assistant", "content": ""}, **more),
        *(chunk({name: one}, **more) for one in texts),
    ]


WORDS = [f" word{at}" for at in range(12)]
ODD_TEXTS = [
    *WORDS[:4],
    '"',
    "\n\t\\",
    "é",
    "\U0001f600",
    "",
    "x" * 2000,
    "\ud83d",
    "\ude00",
    " end",
    *WORDS[4:],
]


def call(arguments: str, at: int = 0, **more: Any) -> Json:
    """A piece of a tool call."""
    return chunk({"tool_calls": [{"index": at, "function": {"arguments": arguments}, **more}]})


CALLS = [
    chunk({"role": "assistant", "content": None}),
    *(
        piece
        for at in range(2)
        for piece in (
            chunk(
                {
                    "tool_calls": [
                        {
                            "index": at,
                            "id": f"call_{at}",
                            "type": "function",
                            "function": {"name": "w", "arguments": ""},
                        }
                    ]
                }
            ),
            *(call(one, at) for one in ('{"', "city", '": "', "Oslo", '", "', "then", '": "', '\\n"}')),
        )
    ),
    chunk({}, "tool_calls"),
]
LOGPROBS: Json = {"content": [{"token": "w", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
AZURE = {"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}
OPENAI: dict[str, Sequence[Json | str]] = {
    "plain": [*said(*WORDS), STOP, USAGE_FRAME],
    "odd texts": [*said(*ODD_TEXTS), STOP, USAGE_FRAME],
    "long ids": [*said(*WORDS, id="chatcmpl-1"), STOP, USAGE_FRAME],
    "half a character": [*said("a\ud83d", "b", "c", id="chatcmpl-2")[1:], STOP, USAGE_FRAME],
    "no usage": [*said(*WORDS), STOP],
    "usage in each frame": [
        *(one | {"usage": USAGE | {"completion_tokens": at}} for at, one in enumerate(said(*WORDS))),
        STOP,
    ],
    "usage is null": [
        *said(*WORDS, usage=None, service_tier="flex"),
        STOP,
        USAGE_FRAME | {"service_tier": "flex"},
    ],
    "padding": [
        *(one | {"obfuscation": "x" * at, "created": at} for at, one in enumerate(said(*WORDS))),
        STOP,
        USAGE_FRAME,
    ],
    "cost": [*said(*WORDS), STOP, chunk(choices=[], usage=USAGE | {"cost": 0.25})],
    "end in a text": [*said(*WORDS), chunk({"content": " last"}, "length"), USAGE_FRAME],
    "reasoning": [*said(*WORDS, name="reasoning_content"), *said(*WORDS)[1:], STOP, USAGE_FRAME],
    "reasoning under two names": [
        *(chunk({"reasoning": one, "reasoning_content": one}) for one in WORDS),
        *said(*WORDS),
        STOP,
    ],
    "calls": [*CALLS, USAGE_FRAME],
    "choices": [
        *(chunk({"content": one}, choice={"index": at}) for one in WORDS for at in range(3)),
        *(chunk({}, "stop", choice={"index": at}) for at in range(3)),
    ],
    "probabilities": [*said(*WORDS, choice={"logprobs": LOGPROBS}), STOP, USAGE_FRAME],
    "a refusal": [*said("I", " will", " not", name="refusal"), STOP, USAGE_FRAME],
    "fields beyond": [*said(*WORDS, choice=AZURE, provider="x"), STOP, USAGE_FRAME],
    "fields that change": [
        one for at, each in enumerate(WORDS) for one in (*said(each)[1:], *said(each, note=at)[1:])
    ]
    + [STOP],
    "repeated": [*said(*[" again"] * 12), STOP, USAGE_FRAME],
    "comments": [one for each in said(*WORDS) for one in (": wait\n\n", event(each))] + [STOP, USAGE_FRAME],
    "an error": [*said(*WORDS), {"error": {"message": "overloaded", "code": 529}}],
    "an error event": [*said(*WORDS), 'event: error\ndata: {"message": "no"}\n\n'],
    "a failure as its end": [*said(*WORDS), chunk({}, "error")],
    "unreadable": [*said(*WORDS), 'data: {"id": "c", "choi\n\n', *said(*WORDS), STOP],
    "truncated": [*said(*WORDS)],
    "no empty lines": ["".join(f"data: {json.dumps(one)}\n" for one in [*said(*WORDS), STOP, USAGE_FRAME])],
    "bytes that are no UTF-8": [
        *said(*WORDS),
        event(chunk({"content": "a?b"})).replace("?", "\udcff"),
        *said(*WORDS)[1:],
        STOP,
    ],
}


async def in_all_shapes(recording: tuple[Sidecar, Path], family: str, parts: list[str], **more: Any) -> Json:
    """Compare a stream, its events apart, in one write, cut, and with other line ends; return its log."""
    wired = [wire(one).replace("\xed\xb3\xbf", "\xff") for one in parts]
    whole = "".join(wired)
    cut = [whole[at : at + 97] for at in range(0, len(whole), 97)]
    usage: Json = {"stream_options": {"include_usage": True}}
    (_, found), *_ = await asyncio.gather(
        compared(recording, family, wired, gap_ms=2, **more, **usage),
        compared(recording, family, [whole], **more, **usage),
        compared(recording, family, [whole], **more),
        compared(recording, family, cut, gap_ms=1, **more, **usage),
        compared(recording, family, [whole.replace("\n", "\r\n")], **more, **usage),
    )
    return found


@pytest.mark.parametrize("name", OPENAI)
async def test_streams_of_openai_are_the_same(recording: tuple[Sidecar, Path], name: str) -> None:
    """Whatever comes between the texts, and however the stream ends."""
    parts = [one if isinstance(one, str) else event(one) for one in OPENAI[name]]
    asked: Json = {"n": 3} if name == "choices" else {}
    found = await in_all_shapes(recording, "openai", parts + [DONE] * (name != "truncated"), **asked)
    if name in {"plain", "usage in each frame"}:
        assert found["response"]["choices"][0]["message"]["content"] == "".join(WORDS)


def named(said: Json) -> str:
    """An event with its name, as Anthropic sends it."""
    return f"event: {said['type']}\n{event(said, escaped=False)}"


def block(at: int, kind: Json, *deltas: Json) -> list[str]:
    """A content block of Anthropic's, in pieces."""
    start = {"type": "content_block_start", "index": at, "content_block": kind}
    pieces = [{"type": "content_block_delta", "index": at, "delta": one} for one in deltas]
    return [named(one) for one in (start, *pieces, {"type": "content_block_stop", "index": at})]


def texts(name: str, kind: str, values: list[str]) -> list[Json]:
    """Deltas of one kind."""
    return [{"type": kind, name: one} for one in values]


MESSAGE: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
BEGIN = [
    named({"type": "message_start", "message": MESSAGE | {"usage": {"input_tokens": 17, "output_tokens": 1}}})
]
END = [
    named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 23}}),
    named({"type": "message_stop"}),
]
TEXT_BLOCK: Json = {"type": "text", "text": ""}
SPOKEN = [one for one in ODD_TEXTS if one.isprintable() or one.isspace()]
ARGUMENTS = ["", '{"city', '": "', "Oslo", '", "', "then", '": "', '\\n"}']
THOUGHT = [*texts("thinking", "thinking_delta", WORDS), {"type": "signature_delta", "signature": "c2ln"}]
ANTHROPIC: dict[str, list[str]] = {
    "plain": [*BEGIN, *block(0, TEXT_BLOCK, *texts("text", "text_delta", WORDS)), *END],
    "odd texts": [*BEGIN, *block(0, TEXT_BLOCK, *texts("text", "text_delta", SPOKEN)), *END],
    "thinking": [
        *BEGIN,
        *block(0, {"type": "thinking", "thinking": "", "signature": ""}, *THOUGHT),
        *block(1, TEXT_BLOCK, *texts("text", "text_delta", WORDS)),
        *END,
    ],
    "calls": [
        *BEGIN,
        *block(0, TEXT_BLOCK, *texts("text", "text_delta", WORDS)),
        *block(
            1,
            {"type": "tool_use", "id": "t1", "name": "w", "input": {}},
            *texts("partial_json", "input_json_delta", ARGUMENTS),
        ),
        *block(
            2,
            {"type": "tool_use", "id": "t2", "name": "w", "input": {}},
            *texts("partial_json", "input_json_delta", ARGUMENTS),
        ),
        *END,
    ],
    "pings": [
        *BEGIN,
        *(
            one
            for each in block(0, TEXT_BLOCK, *texts("text", "text_delta", WORDS))
            for one in (named({"type": "ping"}), each)
        ),
        *END,
    ],
    "an error": [
        *BEGIN,
        *block(0, TEXT_BLOCK, *texts("text", "text_delta", WORDS))[:-1],
        named({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    ],
    "truncated": [*BEGIN, *block(0, TEXT_BLOCK, *texts("text", "text_delta", WORDS))[:-1]],
}


@pytest.mark.parametrize("name", ANTHROPIC)
async def test_streams_of_anthropic_are_the_same(recording: tuple[Sidecar, Path], name: str) -> None:
    """Texts, thoughts, calls; pings between them; errors."""
    await in_all_shapes(recording, "anthropic", ANTHROPIC[name])


def google(*parts: Json, at: int = 0, **more: Any) -> str:
    """A frame of Google's."""
    counts = {"promptTokenCount": 17, "candidatesTokenCount": at, "totalTokenCount": 17 + at}
    candidate = {"content": {"role": "model", "parts": [*parts]}, "index": 0} | more
    return event(
        {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "g", "responseId": "r"},
        escaped=False,
    )


LAST = google({"text": " last"}, at=99, finishReason="STOP")
SOUND = google({"text": "data:audio/wav;base64,QUJD"})
GEMINI: dict[str, list[str]] = {
    "plain": [*(google({"text": one}, at=at) for at, one in enumerate(WORDS)), LAST],
    "odd texts": [*(google({"text": one}, at=at) for at, one in enumerate(SPOKEN)), SOUND, LAST],
    "thoughts": [
        *(google({"text": one, "thought": True}, at=at) for at, one in enumerate(WORDS)),
        *(google({"text": one}, at=at) for at, one in enumerate(WORDS)),
        LAST,
    ],
    "a call": [
        *(google({"text": one}, at=at) for at, one in enumerate(WORDS)),
        google({"functionCall": {"name": "w", "args": {"text": "Oslo"}}}, at=9, finishReason="STOP"),
    ],
    "two parts": [*(google({"text": one}, {"text": f"{one}."}, at=at) for at, one in enumerate(WORDS)), LAST],
    "an error": [
        *(google({"text": one}, at=at) for at, one in enumerate(WORDS)),
        event({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}),
    ],
    "truncated": [google({"text": one}, at=at) for at, one in enumerate(WORDS)],
}


@pytest.mark.parametrize("name", GEMINI)
async def test_streams_of_google_are_the_same(recording: tuple[Sidecar, Path], name: str) -> None:
    """Counts in each frame, thoughts, calls, errors."""
    await in_all_shapes(recording, "gemini", GEMINI[name])


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        pytest.param("openai", OPENAI, marks=needs_parts("frames")),
        ("anthropic", ANTHROPIC),
        ("gemini", GEMINI),
    ],
)
async def test_most_frames_are_not_made_by_litellm(
    recording: tuple[Sidecar, Path], family: str, parts: Any
) -> None:
    """It makes the first few and the last."""
    sidecar, file = recording
    writes = [wire(one if isinstance(one, str) else event(one)) for one in parts["plain"]]
    call_id, answer = await streamed(sidecar, family, writes, 2, {})
    made = (await logged(file, call_id))["made"]
    assert len(answer.events) > 12
    assert made <= len(answer.events) - len(WORDS) + 5


async def test_a_call_that_the_caller_left_is_logged_with_all_texts(recording: tuple[Sidecar, Path]) -> None:
    """LiteLLM counts what was sent."""
    sidecar, file = recording
    found = list[Json]()
    for kind in ("", PINGED):
        call_id = str(uuid4())
        directive = json.dumps({"do": "silence", "after": 12, "frames": 14, "gap_ms": 5, "key": "left"})
        body: Json = {
            "model": f"openai{kind}",
            "stream": True,
            "messages": [{"role": "user", "content": directive}],
        }
        await sidecar.leave_stream(body, 12, **{"x-litellm-call-id": call_id})
        found.append(await logged(file, call_id))
    ours, theirs = (without(one, {*UNSTATED, "litellm_call_id", "made"}) for one in found)
    assert ours == theirs
    assert ours["completion_tokens"] > 10
