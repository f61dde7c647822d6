"""Bodies of `generateContent` read, and translated into chat bodies."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects.dialect import BodyLimits
from llm_proxy.dialects.gemini.request import GeminiContext, translate_request
from llm_proxy.dialects.gemini.schema import read_body
from llm_proxy.dialects.gemini.signatures import open_blocks, seal_blocks
from llm_proxy.dialects.request.openai_schema import parse_messages
from llm_proxy.dialects.translation.carried import carried_by
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json

CLAUDE, COMPATIBLE, OPENAI, GOOGLE = ("anthropic",), ("hosted_vllm",), ("openai",), ("gemini",)
HELLO = [{"role": "user", "parts": [{"text": "Hi"}]}]
FUNCTION: Json = {
    "name": "look_up",
    "parameters": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
}
FUNCTIONS: Json = {"tools": [{"functionDeclarations": [FUNCTION, {"name": "write"}]}]}
THINKING = st.fixed_dictionaries(
    {
        "type": st.just("thinking"),
        "thinking": st.text(st.characters(codec="utf-8"), max_size=9),
        "signature": st.text("ab+/=", max_size=4),
    }
)


def translated(providers: tuple[str, ...] = COMPATIBLE, /, **fields: Any) -> tuple[Json, GeminiContext]:
    """The chat body of a body with these fields, which passes OpenAI's schema."""
    parsed = {"contents": HELLO, **fields}
    before = orjson.dumps(parsed)
    body, context = translate_request(read_body(parsed, BodyLimits()), carried_by(providers))
    assert orjson.dumps(parsed) == before
    parse_messages(body["messages"], 100)
    return body, context


def configured(providers: tuple[str, ...] = COMPATIBLE, /, **config: Any) -> Json:
    """The fields of a chat that a `generationConfig` makes."""
    body, _ = translated(providers, generationConfig=config)
    return {name: value for name, value in body.items() if name != "messages"}


def messages_of(*contents: Json, providers: tuple[str, ...] = COMPATIBLE) -> list[Json]:
    """The chat messages of contents."""
    found: list[Json] = translated(providers, contents=list(contents))[0]["messages"]
    return found


def user(*parts: Json) -> Json:
    """A user's content."""
    return {"role": "user", "parts": list(parts)}


def model(*parts: Json) -> Json:
    """A model's content."""
    return {"role": "model", "parts": list(parts)}


def call(name: str = "look_up", /, **fields: Any) -> Json:
    """A part with a call."""
    return {"functionCall": {"name": name, "args": {"a": "b"}, **fields}}


def output(response: Json, name: str = "look_up", /, **fields: Any) -> Json:
    """A part with what a function returned."""
    return {"functionResponse": {"name": name, "response": response, **fields}}


def fault(**fields: Any) -> tuple[str | None, str | None]:
    """The path and the code of a refused body."""
    with pytest.raises(BadRequest) as caught:
        translated(**fields)
    return caught.value.param, caught.value.code


FAULTS: list[tuple[Json, str]] = [
    ({"contents": []}, "contents"),
    ({"contents": "Hi"}, "contents"),
    ({"contents": [user({"text": 1})]}, "contents[0].parts[0].text"),
    ({"contents": [user({"inlineData": {}})]}, "contents[0].parts[0].inlineData.mimeType"),
    ({"contents": [user({"text": "a", "functionCall": {"name": "b"}})]}, "contents[0].parts[0]"),
    ({"contents": [user({})]}, "contents[0].parts[0]"),
    ({"contents": [user({"txt": "a"})]}, "contents[0].parts[0].txt"),
    ({"contents": [{"role": "assistant", "parts": [{"text": "a"}]}]}, "contents[0].role"),
    (
        {"contents": [user({"inlineData": {"mimeType": "image/png", "data": "*"}})]},
        "contents[0].parts[0].inlineData.data",
    ),
    ({"generationConfig": {"temperature": 3}}, "generationConfig.temperature"),
    ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
    ({"generationConfig": {"candidateCount": True}}, "generationConfig.candidateCount"),
    ({"generationConfig": {"responseSchema": {"type": "x"}}}, "generationConfig.responseSchema.type"),
    ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
    ({"bogus": 1}, "bogus"),
]


class TestSpellings:
    """Protobuf's JSON has several forms of one value."""

    def test_both_spellings_of_names_are_one_body(self) -> None:
        """Also below names that are a caller's own, which stay as they are."""
        camel = {
            "systemInstruction": {"parts": [{"text": "s"}]},
            "tools": [{"functionDeclarations": [FUNCTION]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
            "generationConfig": {"maxOutputTokens": 7, "responseMimeType": "application/json"},
            "contents": [user({"inlineData": {"mimeType": "image/png", "data": "/+8="}}), model(call()),
                         user(output({"kept_name": 1}))],
        }  # fmt: skip
        snake = {
            "system_instruction": {"parts": {"text": "s"}},
            "tools": {"function_declarations": FUNCTION},
            "tool_config": {"function_calling_config": {"mode": "any"}},
            "generation_config": {"max_output_tokens": "7", "response_mime_type": "application/json"},
            "contents": [
                user({"inline_data": {"mime_type": "image/png", "data": "_-8"}}),
                model({"function_call": {"name": "look_up", "args": {"a": "b"}}}),
                user({"function_response": {"name": "look_up", "response": {"kept_name": 1}}}),
            ],
        }
        assert translated(**camel) == translated(**snake)
        assert translated(**camel)[0]["messages"][-1]["content"] == '{"kept_name":1}'

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"generationConfig": {"topK": 1, "top_k": 1}}, "generationConfig.topK"),
            ({"systemInstruction": {"parts": []}, "system_instruction": {"parts": []}}, "systemInstruction"),
        ],
    )
    def test_a_field_under_both_names_is_refused(self, fields: Json, path: str) -> None:
        """Which of them would count?"""
        assert fault(**fields) == (path, "duplicate_parameter")

    @pytest.mark.parametrize(("fields", "path"), FAULTS)
    def test_an_error_names_the_field(self, fields: Json, path: str) -> None:
        """As Google names fields."""
        assert fault(**fields)[0] == path

    @given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
                        lambda inner: st.lists(inner, max_size=3)
                        | st.dictionaries(st.sampled_from(["contents", "parts", "text", "role", "x"]), inner),
                        max_leaves=12))  # fmt: skip
    def test_any_json_is_a_body_or_a_fault(self, value: Any) -> None:
        """Never another exception."""
        with suppress(BadRequest):
            assert translated(contents=value)[0]["messages"]


class TestContents:
    """Parts, turns, calls and their outputs."""

    def test_media_by_type(self) -> None:
        """Images, sounds, texts and files, inline and by address."""
        inline = [
            ("image/png", "AA=="),
            ("audio/mpeg", "AA=="),
            ("text/csv", "YSxi"),
            ("application/pdf", "AA=="),
        ]
        parts = [{"inlineData": {"mimeType": kind, "data": data}} for kind, data in inline]
        parts += [
            {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://a.example/b"}},
            {"fileData": {"fileUri": "https://a.example/b.PNG?c"}},
            {"fileData": {"mimeType": "application/pdf", "fileUri": "https://a.example/c"}},
        ]
        assert messages_of(user(*parts))[0]["content"] == [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}},
            {"type": "text", "text": "a,b"},
            {
                "type": "file",
                "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "file.pdf"},
            },
            {"type": "image_url", "image_url": {"url": "https://a.example/b"}},
            {"type": "image_url", "image_url": {"url": "https://a.example/b.PNG?c"}},
            {"type": "file", "file": {"file_id": "https://a.example/c"}},
        ]

    def test_the_resolution_of_media(self) -> None:
        """A part's own counts before the request's."""
        image: Json = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
        low = {**image, "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"}}
        config = {"mediaResolution": "MEDIA_RESOLUTION_HIGH"}
        parts = translated(contents=[user(image, low)], generationConfig=config)[0]["messages"][0]["content"]
        assert [part["image_url"]["detail"] for part in parts] == ["high", "low"]

    def test_chunks_of_one_answer_are_one_text(self) -> None:
        """As SDKs keep a streamed answer."""
        found = messages_of(
            user({"text": "a"}), model({"text": "b"}), model({"text": "c"}, {"text": ""}), user({"text": "d"})
        )
        assert [message["content"] for message in found] == ["a", "bc", "d"]

    def test_parallel_calls_without_ids(self) -> None:
        """Outputs find their calls by name and order; what else was written follows."""
        found = messages_of(
            user({"text": "a"}),
            model(call(), call(), call("write")),
            user(
                output({"output": "first"}),
                {"text": "and"},
                output({"x": 1}, "write"),
                output({"error": "no"}),
            ),
        )
        ids = [one["id"] for one in found[1]["tool_calls"]]
        assert len(set(ids)) == 3
        assert all(len(one) == 9 and one.isalnum() for one in ids)
        outputs = [(one["tool_call_id"], one["content"]) for one in found[2:5]]
        assert outputs == [(ids[0], "first"), (ids[2], '{"x":1}'), (ids[1], "Error: no")]
        assert found[5] == {"role": "user", "content": "and"}

    def test_ids_count_before_names(self) -> None:
        """The outputs of one function may come in any order."""
        calls = model(call(id="one"), call(id="two"))
        found = messages_of(user({"text": "a"}), calls, user(output({}, id="two"), output({}, id="one")))
        assert [one["tool_call_id"] for one in found[2:]] == ["two", "one"]

    def test_a_repeated_output_counts_once(self) -> None:
        """Gemini CLI repeats them in a conversation that goes on; another output of that call is refused."""
        once = output({"x": 1}, id="one")
        found = messages_of(user({"text": "a"}), model(call(id="one")), user(once, {"text": "b"}, once))
        assert [message["role"] for message in found] == ["user", "assistant", "tool", "user"]
        other = user(once, output({"x": 2}, id="one"))
        path = "contents[1].parts[1].functionResponse"
        assert fault(contents=[model(call(id="one")), other]) == (path, "invalid_value")

    def test_an_image_in_an_output(self) -> None:
        """Inside for Google and Claude, else right behind."""
        image = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
        turns = (user({"text": "a"}), model(call(id="c")), user(output({"output": "seen"}, parts=[image])))
        assert [part["type"] for part in messages_of(*turns, providers=CLAUDE)[2]["content"]] == [
            "text",
            "image_url",
        ]
        assert [message["role"] for message in messages_of(*turns)[2:]] == ["tool", "user"]

    def test_an_output_without_a_call_is_refused(self) -> None:
        """No provider takes it."""
        path = "contents[0].parts[0].functionResponse"
        assert fault(contents=[user(output({}))]) == (path, "invalid_value")

    @pytest.mark.parametrize(
        ("part", "kind"),
        [
            ({"executableCode": {"code": "1", "language": "PYTHON"}}, "executableCode"),
            ({"codeExecutionResult": {"outcome": "OUTCOME_OK"}}, "codeExecutionResult"),
            ({"toolCall": {}}, "toolCall"),
            ({"inlineData": {"mimeType": "image/png", "data": "AA=="}}, "inlineData"),
        ],
    )
    def test_what_only_google_knows_is_refused(self, part: Json, kind: str) -> None:
        """By its path."""
        assert fault(contents=[user({"text": "a"}), model(part), user({"text": "b"})]) == (
            f"contents[1].parts[0].{kind}",
            "unsupported_parameter",
        )

    @pytest.mark.parametrize(
        ("link", "code"),
        [
            ("http://10.0.0.1/a.png", "invalid_url"),
            ("file:///etc/passwd", "invalid_url"),
            ("https://generativelanguage.googleapis.com/v1beta/files/abc", "unsupported_parameter"),
            ("files/abc", "unsupported_parameter"),
        ],
    )
    def test_links_that_are_not_a_callers(self, link: str, code: str) -> None:
        """Into private networks, and into the operator's account at Google; in outputs of functions too."""
        part = {"fileData": {"fileUri": link}}
        assert fault(contents=[user(part)]) == ("contents[0].parts[0].fileData.fileUri", code)
        inside = [user({"text": "a"}), model(call()), user(output({}, parts=[part]))]
        assert fault(contents=inside) == (
            "contents[2].parts[0].functionResponse.parts[0].fileData.fileUri",
            code,
        )

    def test_cached_content_is_refused(self) -> None:
        """It belongs to the operator's account."""
        assert fault(cachedContent="cachedContents/a") == ("cachedContent", "unsupported_parameter")


class TestThoughts:
    """What was thought, and its signatures."""

    BLOCKS: tuple[Json, ...] = (
        {"type": "thinking", "thinking": "hm", "signature": "sig+/="},
        {"type": "redacted_thinking", "data": "xx"},
    )

    def test_claudes_thinking_goes_back_to_claude(self) -> None:
        """From the signature of the call, which clients keep; never to another."""
        turns = (
            user({"text": "a"}),
            model({**call(), "thoughtSignature": seal_blocks([*self.BLOCKS])}),
            user(output({})),
        )
        answer = messages_of(*turns, providers=CLAUDE)[1]
        assert answer["thinking_blocks"] == [*self.BLOCKS]
        assert "thinking_blocks" not in messages_of(*turns)[1]
        assert answer["tool_calls"][0]["id"] == "call00000"

    def test_text_of_thoughts_goes_where_it_is_read(self) -> None:
        """From a thought, or from a signature where clients dropped it."""
        thought = {"text": "hm", "thought": True}
        block = {"type": "thinking", "thinking": "hm", "signature": ""}
        for parts in ([thought, {"text": "b"}], [{"text": "b", "thoughtSignature": seal_blocks([block])}]):
            answer = messages_of(
                user({"text": "a"}), model(*parts), user({"text": "c"}), providers=("deepseek",)
            )[1]
            assert answer == {"role": "assistant", "content": "b", "reasoning_content": "hm"}

    def test_googles_signatures_go_back_to_google(self) -> None:
        """In the id of a call, as our sidecar reads it; nowhere else."""
        turns = (
            user({"text": "a"}),
            model({**call(id="c"), "thoughtSignature": "_-8"}),
            user(output({}, id="c")),
        )
        to_google = messages_of(*turns, providers=GOOGLE)
        assert to_google[1]["tool_calls"][0]["id"] == to_google[2]["tool_call_id"] == "c__thought__/+8="
        assert messages_of(*turns)[1]["tool_calls"][0]["id"] == "c"

    @given(st.lists(THINKING, max_size=4))
    def test_a_sealed_block_opens_unchanged(self, blocks: list[Json]) -> None:
        """Anything else is Google's own."""
        assert open_blocks(seal_blocks(blocks)) == blocks
        assert open_blocks("c2tpcA==") is None


class TestTools:
    """Functions, and which of them a model may call."""

    def test_a_function(self) -> None:
        """Google's types in JSON schema's words, in the order that was requested; a JSON schema as it is."""
        schema = {
            "type": "OBJECT",
            "properties": {
                "b": {"type": "STRING", "nullable": True, "enum": ["x"], "format": "enum"},
                "a": {"type": "ARRAY", "items": {"type": "INTEGER", "minimum": 1}, "minItems": "2"},
                "c": {"anyOf": [{"type": "NUMBER"}, {"type": "NULL"}], "example": 4},
            },
            "propertyOrdering": ["a", "b"],
            "required": ["a"],
        }
        own = {"type": "object", "additionalProperties": False}
        declared = [
            {"name": "one", "description": "d", "parameters": schema, "response": {"type": "STRING"}},
            {"name": "two", "parametersJsonSchema": own},
            {"name": "three"},
        ]
        one, two, three = (
            tool["function"] for tool in translated(tools=[{"functionDeclarations": declared}])[0]["tools"]
        )
        assert one["description"] == 'd\n\nReturns: {"type":"string"}'
        assert orjson.dumps(one["parameters"]) == orjson.dumps(
            {
                "type": "object",
                "properties": {
                    "a": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2},
                    "b": {"type": ["string", "null"], "enum": ["x", None]},
                    "c": {"anyOf": [{"type": "number"}, {"type": "null"}], "examples": [4]},
                },
                "required": ["a"],
            }
        )
        assert two == {"name": "two", "parameters": own}
        assert three["parameters"] == {"type": "object", "properties": {}}

    @pytest.mark.parametrize(
        ("config", "names", "choice"),
        [
            ({}, ["look_up", "write"], None),
            ({"mode": "AUTO"}, ["look_up", "write"], "auto"),
            ({"mode": "NONE"}, ["look_up", "write"], "none"),
            ({"mode": "ANY"}, ["look_up", "write"], "required"),
            ({"mode": "VALIDATED", "allowedFunctionNames": ["write"]}, ["write"], "auto"),
            ({"mode": "ANY", "allowedFunctionNames": ["write"]}, ["write"],
             {"type": "function", "function": {"name": "write"}}),
        ],
    )  # fmt: skip
    def test_modes(self, config: Json, names: list[str], choice: Any) -> None:
        """A function that is not allowed is not offered."""
        body, _ = translated(**FUNCTIONS, toolConfig={"functionCallingConfig": config})
        assert [tool["function"]["name"] for tool in body["tools"]] == names
        assert body.get("tool_choice") == choice

    @pytest.mark.parametrize("fields", [{}, FUNCTIONS])
    def test_the_choice_of_no_function_is_refused(self, fields: Json) -> None:
        """A chat would answer without one."""
        config = {"mode": "ANY", "allowedFunctionNames": ["other"]}
        param = "toolConfig.functionCallingConfig"
        assert fault(**fields, toolConfig={"functionCallingConfig": config}) == (param, "invalid_value")

    @pytest.mark.parametrize("name", ["max_tokens", "maxTokens"])
    def test_an_unknown_name_is_shown_as_it_was_sent(self, name: str) -> None:
        with pytest.raises(BadRequest, match=f'Unknown name "{name}"'):
            translated(**{name: 5})

    @pytest.mark.parametrize(
        "name", ["googleSearch", "codeExecution", "urlContext", "mcpServers", "google_maps"]
    )
    def test_googles_own_tools_are_refused(self, name: str) -> None:
        """By their names."""
        path, code = fault(tools=[{name: {}}])
        assert (path, code) == (
            f"tools[0].{'googleMaps' if name == 'google_maps' else name}",
            "unsupported_parameter",
        )

    def test_long_names_come_back(self) -> None:
        """A name that OpenAI does not take is sent under another."""
        name = "mcp.server:" + "x" * 90
        body, context = translated(tools=[{"functionDeclarations": [{"name": name}]}])
        sent = body["tools"][0]["function"]["name"]
        assert len(sent) <= 64
        assert context.tool_names[sent] == name
