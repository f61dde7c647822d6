"""Forms of the playground, and the programs that make their calls."""

import ast
import base64
import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.console.playground_call import FILE_PATHS, GEMINI_PATH, PATHS, CallFile, PlaygroundForm
from llm_proxy.console.playground_keys import key_name
from llm_proxy.console.playground_turns import ConversationTurn, parse_turns, text_of_answer, turns_text
from llm_proxy.console.snippets import shown_body, snippets_of
from llm_proxy.errors import BadRequest

TURNS = (ConversationTurn("user", "hi"), ConversationTurn("assistant", "hello"))
SAID = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
PNG = CallFile("a b.png", "image/png", b"\x89PNG")


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (
            PlaygroundForm(
                "/v1/chat/completions", "m", "be kind", "hi", "5", "0.5", '[{"type": "x"}]', stream=True
            ),
            {
                "model": "m",
                "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
                "max_tokens": 5,
                "temperature": 0.5,
                "tools": [{"type": "x"}],
                "stream": True,
            },
        ),
        (
            PlaygroundForm("/v1/responses", "m", "be kind", "hi", "5"),
            {"model": "m", "instructions": "be kind", "input": "hi", "max_output_tokens": 5},
        ),
        (
            PlaygroundForm("/v1/messages", "m", "", "hi"),
            {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 512},
        ),
        (
            PlaygroundForm("/v1/responses", "m", prompt="and?", turns=TURNS),
            {"model": "m", "input": [*SAID, {"role": "user", "content": "and?"}]},
        ),
        (
            PlaygroundForm("/v1/messages", "m", prompt="and?", turns=TURNS),
            {"model": "m", "messages": [*SAID, {"role": "user", "content": "and?"}], "max_tokens": 512},
        ),
        (
            PlaygroundForm(GEMINI_PATH, "m", "be kind", "and?", "5", "0.5", stream=True, turns=TURNS),
            {
                "contents": [
                    {"role": "user", "parts": [{"text": "hi"}]},
                    {"role": "model", "parts": [{"text": "hello"}]},
                    {"role": "user", "parts": [{"text": "and?"}]},
                ],
                "systemInstruction": {"parts": [{"text": "be kind"}]},
                "generationConfig": {"maxOutputTokens": 5, "temperature": 0.5},
            },
        ),
        (PlaygroundForm("/v1/embeddings", "m", prompt="hi", stream=True), {"model": "m", "input": "hi"}),
        (
            PlaygroundForm("/v1/rerank", "m", prompt="q\n\nd1\nd2"),
            {"model": "m", "query": "q", "documents": ["d1", "d2"]},
        ),
        (
            PlaygroundForm("/v1/completions", "m", prompt="x", more='{"model": "n", "stop": ["."]}'),
            {"model": "n", "prompt": "x", "stop": ["."]},
        ),
        (
            PlaygroundForm("/v1/images/edits", "m", prompt="x", file=PNG),
            {"model": "m", "prompt": "x"},
        ),
    ],
    ids=lambda one: one.path if isinstance(one, PlaygroundForm) else "",
)  # fmt: skip
def test_a_form_is_a_body_of_its_endpoint(form: PlaygroundForm, body: object) -> None:
    assert form.call().body == body


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", GEMINI_PATH])
def test_a_picture_is_sent_in_the_words_of_each_dialect(path: str) -> None:
    text = json.dumps(PlaygroundForm(path, "m", prompt="what?", file=PNG).call().body)
    assert base64.b64encode(PNG.data).decode() in text
    assert "image/png" in text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"path": "/v1/nothing"}, "path"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": "{}"}, "tools"),
        ({"tools": "["}, "tools"),
        ({"more": "[]"}, "more"),
        ({"more": "{"}, "more"),
        ({"path": "/v1/audio/transcriptions"}, "file"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(fields: dict[str, str], param: str) -> None:
    form = PlaygroundForm(**({"path": "/v1/chat/completions", "model": "m"} | fields))  # type: ignore[arg-type] # texts
    with pytest.raises(BadRequest) as raised:
        form.call()
    assert raised.value.param == param


ODD_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.sampled_from([*PATHS]), ODD_TEXTS, ODD_TEXTS, st.booleans())
def test_a_text_stays_a_text_in_every_language(path: str, prompt: str, system: str, streamed: bool) -> None:  # noqa: FBT001 -- hypothesis passes it by position
    file = CallFile("it's.wav", "audio/wav", b"x") if path in FILE_PATHS else None
    call = PlaygroundForm(path, "m'o\"d`$el", system, prompt, stream=streamed, file=file).call()
    curl, python, node = (one.text for one in snippets_of(call, "http://gateway"))
    words = shlex.split(curl)
    if file is None:
        assert json.loads(words[words.index("-d") + 1]) == call.body
        start = node.index("JSON.stringify(") + len("JSON.stringify(")
        assert json.JSONDecoder().raw_decode(node[start:])[0] == call.body
    else:
        assert f"prompt={prompt}" in words or not prompt
        assert f"{call.file_field}=@it's.wav" in words
    texts = {one.value for one in ast.walk(ast.parse(python)) if isinstance(one, ast.Constant)}
    assert {"m'o\"d`$el"} <= texts


def test_a_persons_key_has_one_name() -> None:
    names = {key_name(person) for person in ("anna", "a/b", "a-b", "a b", "é" * 300)}
    assert len(names) == 5
    assert all("/" not in name and len(name) < 100 for name in names)
    assert key_name("anna") == "playground-anna"


def test_a_long_text_is_cut() -> None:
    assert "(10000 characters)" in shown_body({"a": [{"b": "x" * 10_000}]})


def test_googles_path_names_the_model_and_whether_the_answer_is_streamed() -> None:
    """A name with a slash is one segment."""
    form = PlaygroundForm(GEMINI_PATH, "a/b", prompt="hi")
    assert form.call().path == "/v1beta/models/a%2Fb:generateContent"
    streamed = PlaygroundForm(GEMINI_PATH, "a/b", prompt="hi", stream=True).call()
    assert (streamed.path, streamed.is_streamed) == (
        "/v1beta/models/a%2Fb:streamGenerateContent?alt=sse",
        True,
    )
    _, python, _ = snippets_of(streamed, "http://gateway")
    assert python.needs == "pip install google-genai"
    assert "models.generate_content_stream(\n    model='a/b'," in python.text
    ast.parse(python.text)


def test_a_conversation_goes_on_with_the_answers_text() -> None:
    """It is the form's field; an endpoint without conversations has none, what is none is rejected."""
    form = PlaygroundForm("/v1/messages", "m", prompt="hi", file=PNG).with_answer("hello")
    assert (form.turns, form.prompt, form.file) == (TURNS, "", None)
    assert parse_turns(turns_text(TURNS)) == TURNS
    assert parse_turns(" ") == ()
    assert PlaygroundForm("/v1/embeddings", "m", prompt="hi").with_answer("hello").turns == ()
    assert PlaygroundForm("/v1/messages", "m", prompt="hi").with_answer("").prompt == "hi"
    for wrong in ("{", "{}", "[1]", '[{"role": "system", "text": "x"}]', '[{"role": "user"}]', "1", '"a"'):
        with pytest.raises(BadRequest, match="not a conversation"):
            parse_turns(wrong)


@pytest.mark.parametrize(
    "events",
    [
        [
            {"choices": [{"delta": {"content": "hel"}}]},
            {"choices": [{"delta": {"content": "lo"}}]},
            {"choices": []},
        ],
        [
            {"type": "response.output_text.delta", "delta": "hel"},
            {"type": "response.output_text.delta", "delta": "lo"},
        ],
        [{"type": "content_block_delta", "delta": {"text": "hello"}}, {"type": "ping"}],
        [{"candidates": [{"content": {"parts": [{"text": "x", "thought": True}, {"text": "hello"}]}}]}],
    ],
)
def test_the_text_of_a_streamed_answer(events: list[object]) -> None:
    body = "".join(f"data: {json.dumps(one)}\n\n" for one in events) + "data: [DONE]\n\n"
    assert text_of_answer("text/event-stream; charset=utf-8", body.encode()) == "hello"


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "hello"}}]},
        {"content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "hello"}]},
        {"output": [{"type": "reasoning"}, {"content": [{"type": "output_text", "text": "hello"}]}]},
        {"candidates": [{"content": {"parts": [{"text": "hello"}]}}]},
    ],
)
def test_the_text_of_a_whole_answer(body: object) -> None:
    assert text_of_answer("application/json", json.dumps(body).encode()) == "hello"
