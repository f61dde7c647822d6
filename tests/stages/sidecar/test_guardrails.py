"""Guardrails of a file, as owners write them: services on the network, LiteLLM's own, and classes of theirs.

Each runs before, during or after a call, whole or streamed; what it masks is masked, what it blocks blocked.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from scan_service import BLOCKED_REASON, MASK, Scanner, run_scan_service
from sidecars import Answer, Json, Mode, Provider, Sidecar, deployment, run_sidecar

MODULE = """
from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.integrations.custom_logger import CustomLogger


class Judge(CustomGuardrail):
    async def apply_guardrail(self, inputs, request_data, input_type, logging_obj=None):
        texts = inputs.get("texts") or []
        if any("gnu" in one for one in texts):
            raise HTTPException(status_code=451, detail={"error": "No gnus"})
        if any("crash" in one for one in texts):
            raise RuntimeError("the judge lost its way")
        inputs["texts"] = [one.replace("secret", "[hidden]") for one in texts]
        return inputs


class Passthrough(CustomGuardrail):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        if "llama" in str(data["messages"]):
            self.raise_passthrough_exception("We do not speak of llamas.", data)
        return data


class Chunks(CustomLogger):
    async def async_post_call_streaming_hook(self, user_api_key_dict, response):
        if "emu" in response:
            raise HTTPException(status_code=422, detail={"error": "No emus"})


chunks = Chunks()
"""
AWAY = "http://127.0.0.1:9"
LONG = "and so on and on and on, with many more words, until every piece of it has been said at last"
MODES: tuple[Mode, ...] = ("chat", "stream")


@pytest.fixture(scope="module")
def scans() -> Iterator[Scanner]:
    """The scan service."""
    with run_scan_service() as service:
        yield service


@pytest.fixture(scope="module")
def guarded(provider: Provider, scans: Scanner, service_folder: Path) -> Iterator[Sidecar]:
    """A sidecar with a guardrail of each kind and mode; a call names the one it is to be checked by."""
    folder = service_folder / "guardrails-of-a-file"
    folder.mkdir()
    (folder / "own_judge.py").write_text(MODULE)
    config: Json = {
        "model_list": [
            deployment("model", "openai/model", provider, num_retries=0),
            deployment("azure", "azure/scripted", provider, api_version="2025-04-01-preview"),
            deployment("text", "text-completion-openai/scripted", provider, num_retries=0),
            deployment("embed", "openai/embed", provider, num_retries=0),
            deployment("paint", "openai/gpt-image-1.5", provider, num_retries=0),
        ],
        "litellm_settings": {"callbacks": ["own_judge.chunks"]},
        "guardrails": [
            {"guardrail_name": name, "litellm_params": params}
            for name, params in _guardrails(scans.url).items()
        ],
    }
    with run_sidecar(config, provider, folder) as started:
        yield started


def _guardrails(url: str) -> dict[str, Json]:
    service = {"guardrail": "generic_guardrail_api", "api_base": url}
    away = {**service, "api_base": AWAY}
    presidio = {
        "guardrail": "presidio",
        "presidio_analyzer_api_base": url,
        "presidio_anonymizer_api_base": url,
    }
    patterns = [
        {"pattern_type": "prebuilt", "pattern_name": "us_ssn", "action": "BLOCK"},
        {"pattern_type": "prebuilt", "pattern_name": "email", "action": "MASK"},
    ]
    own = {"guardrail": "own_judge.Judge"}
    return {
        "service-before": {**service, "mode": "pre_call"},
        "service-during": {**service, "mode": "during_call"},
        "service-after": {**service, "mode": "post_call"},
        "service-log": {**service, "mode": "logging_only"},
        "away-open": {**away, "mode": ["pre_call", "post_call"], "unreachable_fallback": "fail_open"},
        "away-closed": {**away, "mode": "pre_call", "unreachable_fallback": "fail_closed"},
        "away-after": {**away, "mode": "post_call"},
        "presidio-before": {**presidio, "mode": "pre_call"},
        "presidio-after": {**presidio, "mode": "post_call", "apply_to_output": True},
        "presidio-unmask": {
            **presidio,
            "mode": "pre_call",
            "output_parse_pii": True,
            "presidio_filter_scope": "input",
        },
        "presidio-block": {**presidio, "mode": "pre_call", "pii_entities_config": {"EMAIL_ADDRESS": "BLOCK"}},
        "filter": {
            "guardrail": "litellm_content_filter",
            "mode": ["pre_call", "post_call"],
            "patterns": patterns,
        },
        "own-before": {**own, "mode": "pre_call"},
        "own-during": {**own, "mode": "during_call"},
        "own-after": {**own, "mode": "post_call"},
        "pass": {"guardrail": "own_judge.Passthrough", "mode": "pre_call"},
    }


async def _ask(
    sidecar: Sidecar, mode: Mode, guardrail: str, said: str, text: str = "fine"
) -> tuple[Answer, list[Json]]:
    """The answer, and what the provider was sent."""
    mark = str(uuid4())
    fields = {"guardrails": [guardrail]}
    ask = sidecar.stream if mode == "stream" else sidecar.chat
    answer = await ask("model", f"{said} {mark}", fields=fields, do="ok", text=text)
    return answer, await sidecar.provider.calls(mark)


def _text(answer: Answer, mode: Mode) -> str:
    if mode == "stream":
        return answer.content
    said: str = answer.json["choices"][0]["message"]["content"]
    return said


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("guardrail", "said", "status", "message"),
    [
        ("service-before", "a weapon", 400, BLOCKED_REASON),
        ("presidio-block", "me@example.com", 400, "Blocked entity detected: EMAIL_ADDRESS"),
        ("filter", "123-45-6789", 400, "Content blocked: us_ssn pattern detected"),
        ("own-before", "a gnu", 451, "No gnus"),
    ],
)
async def test_a_blocked_prompt_reaches_no_provider(
    guarded: Sidecar, mode: Mode, guardrail: str, said: str, status: int, message: str
) -> None:
    """Whatever raises it: its status and its text, and who rejected."""
    answer, calls = await _ask(guarded, mode, guardrail, said)
    assert (answer.status, calls) == (status, [])
    assert answer.headers["x-llmp-origin"] == "guardrail"
    assert answer.headers["x-llmp-guardrail-status"] == str(status)
    assert answer.headers["x-llmp-message"].startswith(message)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("guardrail", "said", "status"), [("service-during", "a weapon", 400), ("own-during", "a gnu", 451)]
)
async def test_a_guardrail_beside_the_call_holds_its_answer(
    guarded: Sidecar, mode: Mode, guardrail: str, said: str, status: int
) -> None:
    """`during_call`: nothing of the answer leaves before its word, of a stream neither."""
    answer, _ = await _ask(guarded, mode, guardrail, said)
    assert (answer.status, answer.headers["x-llmp-origin"]) == (status, "guardrail")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("guardrail", "text", "status", "message"),
    [
        ("service-after", f"take a weapon {LONG}", 400, BLOCKED_REASON),
        ("own-after", f"take a gnu {LONG}", 451, "No gnus"),
    ],
)
async def test_a_blocked_answer_does_not_leave(
    guarded: Sidecar, mode: Mode, guardrail: str, text: str, status: int, message: str
) -> None:
    """Nor the part of a stream that the guardrail has not seen; what it used is stated for the bill."""
    answer, calls = await _ask(guarded, mode, guardrail, "hi", text)
    assert answer.status == status, answer.text
    assert answer.headers["x-llmp-origin"] == "guardrail"
    assert answer.headers["x-llmp-message"].startswith(message)
    assert len(calls) == 1
    assert mode == "stream" or '"completion_tokens"' in answer.headers["x-llmp-usage"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("guardrail", "said", "sent"),
    [
        ("service-before", "write to me@example.com", f"write to {MASK}"),
        ("presidio-before", "write to me@example.com", f"write to {MASK}"),
        ("filter", "write to me@example.com", "write to [EMAIL_REDACTED]"),
        ("own-before", "a secret", "a [hidden]"),
    ],
)
async def test_a_masked_prompt_is_masked(
    guarded: Sidecar, mode: Mode, guardrail: str, said: str, sent: str
) -> None:
    """The provider gets the mask and not what it stands for."""
    answer, [call] = await _ask(guarded, mode, guardrail, said)
    assert _text(answer, mode) == "fine"
    assert call["body"]["messages"][0]["content"].startswith(sent)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("operation", ["generations", "edits"])
async def test_the_prompt_of_an_image_is_checked_and_masked(
    guarded: Sidecar, operation: str, *, stream: bool
) -> None:
    """Though the rest of an edit is sent as it came; the answer has its pictures."""
    body: Json = {"model": "paint", "stream": stream, "guardrails": ["own-before"]}
    if operation == "edits":
        body["images"] = [{"image_url": "https://images.example/a.png"}]
    mark = str(uuid4())
    answer = await guarded.post(f"/v1/images/{operation}", body | {"prompt": f"a secret\nö {mark}"})
    assert answer.status == 200, answer.text
    assert re.search(r'"b64_json": ?"iVBOR', answer.text)
    [call] = await guarded.provider.calls(mark)
    assert call["body"]["prompt"] == f"a [hidden]\nö {mark}"
    refused = await guarded.post(f"/v1/images/{operation}", body | {"prompt": f"a gnu {mark}"})
    assert (refused.status, refused.headers["x-llmp-origin"]) == (451, "guardrail")
    assert len(await guarded.provider.calls(mark)) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("guardrail", "text", "masked"),
    [
        ("service-after", f"write to me@example.com {LONG}", f"write to {MASK} {LONG}"),
        ("service-after", f"{LONG} to me@example.com", f"{LONG} to {MASK}"),
        ("presidio-after", f"write to me@example.com {LONG}", f"write to {MASK} {LONG}"),
        ("own-after", f"a secret {LONG} secret {LONG}", f"a [hidden] {LONG} [hidden] {LONG}"),
    ],
)
async def test_a_masked_answer_is_masked(
    guarded: Sidecar, mode: Mode, guardrail: str, text: str, masked: str
) -> None:
    """Of a stream too, wherever its pieces are cut: LiteLLM alone would send it as the model wrote it."""
    answer, _ = await _ask(guarded, mode, guardrail, "hi", text)
    assert _text(answer, mode) == masked
    assert mode == "chat" or (answer.events[-1] == "[DONE]" and '"finish_reason":"stop"' in answer.text)


@pytest.mark.parametrize("mode", MODES)
async def test_what_presidio_masked_in_a_prompt_is_put_back_in_the_answer(
    guarded: Sidecar, mode: Mode
) -> None:
    """`output_parse_pii`: the provider saw the mask, the caller sees the address."""
    answer, [call] = await _ask(
        guarded, mode, "presidio-unmask", "I am me@example.com", f"{MASK[:-1]}_1> is yours"
    )
    assert "me@example.com" not in call["body"]["messages"][0]["content"]
    assert _text(answer, mode) == "me@example.com is yours"


@pytest.mark.parametrize("mode", MODES)
async def test_a_service_that_is_away_lets_pass_where_the_file_says_so(guarded: Sidecar, mode: Mode) -> None:
    """`unreachable_fallback: fail_open`, before and after the call."""
    answer, [_] = await _ask(guarded, mode, "away-open", "hi")
    assert _text(answer, mode) == "fine"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("guardrail", "said", "calls"),
    [("away-closed", "hi", 0), ("away-after", "hi", 1), ("own-before", "crash", 0)],
)
async def test_a_guardrail_that_fails_lets_nothing_pass(
    guarded: Sidecar, mode: Mode, guardrail: str, said: str, calls: int
) -> None:
    """A service that is away, without a word in the file, and a class that raises anything."""
    answer, made = await _ask(guarded, mode, guardrail, said)
    assert (answer.status, len(made)) == (500, calls)
    assert answer.headers["x-llmp-origin"] == "guardrail"
    assert answer.headers["x-llmp-guardrail-status"] == "500"


@pytest.mark.parametrize("mode", MODES)
async def test_a_guardrail_may_answer_itself(guarded: Sidecar, mode: Mode) -> None:
    """Its text is the answer, and no provider is asked."""
    answer, calls = await _ask(guarded, mode, "pass", "a llama")
    assert (answer.status, calls) == (200, [])
    assert _text(answer, mode) == "We do not speak of llamas."


@pytest.mark.parametrize(
    ("guardrail", "word", "message"),
    [("service-after", "weapon", BLOCKED_REASON), ("own-after", "gnu", "No gnus")],
)
async def test_an_answer_that_is_blocked_late_ends_in_the_guardrail_s_error(
    guarded: Sidecar, guardrail: str, word: str, message: str
) -> None:
    """Its beginning has left as a stream; the error says that a guardrail ended it."""
    answer, _ = await _ask(guarded, "stream", guardrail, "hi", f"{LONG} {LONG} {LONG} a {word} {LONG}")
    assert answer.status == 200, answer.text
    end = answer.events[-1]
    assert isinstance(end, dict)
    said = end["error"]["provider"]
    assert (said["x-llmp-origin"], said["x-llmp-message"]) == ("guardrail", message)
    assert word not in answer.content


async def test_a_callback_that_ends_a_stream_is_heard(guarded: Sidecar) -> None:
    """A class of `callbacks` that reads each piece of a stream rejects as a guardrail does."""
    answer, _ = await _ask(guarded, "stream", "pass", "hi", f"one emu {LONG}")
    told = f"{answer.headers}{answer.text}"
    assert "No emus" in told
    assert re.search(r"'?x-llmp-origin\W+guardrail", told)


@pytest.mark.parametrize(
    ("path", "field", "model"), [("completions", "prompt", "text"), ("embeddings", "input", "embed")]
)
async def test_other_endpoints_are_guarded_too(guarded: Sidecar, path: str, field: str, model: str) -> None:
    """A prompt and an input are blocked and masked as a chat's message is."""
    mark = str(uuid4())
    body: Json = {"model": model, "guardrails": ["service-before"]}
    blocked = await guarded.post(f"/v1/{path}", body | {field: f"a weapon {mark}"})
    assert (blocked.status, blocked.headers["x-llmp-origin"]) == (400, "guardrail")
    assert await guarded.provider.calls(mark) == []
    masked = await guarded.post(f"/v1/{path}", body | {field: f"me@example.com {mark}"})
    [call] = await guarded.provider.calls(mark)
    assert (masked.status, call["body"][field]) == (200, f"{MASK} {mark}")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_text_completion_is_judged_and_masked(guarded: Sidecar, *, streamed: bool) -> None:
    """Streamed too, which LiteLLM alone sends unseen."""
    script = {"do": "ok", "text": f"a weapon {LONG}"}
    body: Json = {"model": "text", "stream": streamed, "guardrails": ["service-after"]}
    blocked = await guarded.post("/v1/completions", body | {"prompt": json.dumps(script)})
    assert (blocked.status, blocked.headers["x-llmp-origin"]) == (400, "guardrail")
    script["text"] = f"me@example.com {LONG}"
    masked = await guarded.post("/v1/completions", body | {"prompt": json.dumps(script)})
    answers = masked.events[:-1] if streamed else [masked.json]
    choices = [choice for one in answers if isinstance(one, dict) for choice in one["choices"]]
    assert "".join(one.get("text") or "" for one in choices) == f"{MASK} {LONG}"
    assert [one["finish_reason"] for one in choices if one.get("finish_reason")] == ["stop"]


async def test_a_guardrail_for_the_log_alone_changes_nothing(guarded: Sidecar) -> None:
    """`logging_only`: prompt and answer pass as they are."""
    answer, [call] = await _ask(guarded, "chat", "service-log", "a weapon of me@example.com")
    assert _text(answer, "chat") == "fine"
    assert "me@example.com" in call["body"]["messages"][0]["content"]


async def test_the_catalog_names_the_guardrails(guarded: Sidecar) -> None:
    """With their modes, and whether they check every call."""
    listed = {one["name"]: one for one in (await guarded.get("/llmp/catalog")).json["guardrails"]}
    assert listed["service-during"] == {
        "name": "service-during",
        "modes": ["during_call"],
        "every_call": False,
    }
    assert listed["filter"]["modes"] == ["pre_call", "post_call"]
    assert listed["Chunks"]["every_call"]


async def test_no_call_passes_a_guardrail_by_in_its_provider_s_own_format(
    guarded: Sidecar, sidecar: Sidecar
) -> None:
    """Sent as it was it would reach the provider unmasked: with guardrails each call is translated."""
    native: list[object] = []
    for one, name in ((guarded, "azure"), (sidecar, "azure-new")):
        groups = (await one.get("/llmp/catalog")).json["groups"]
        native += [group["deployments"][0]["native"] for group in groups if group["name"] == name]
    assert native == [[], ["responses"]]
